// What every page needs: themes, times in the reader's words, questions before what cannot be undone,
// and fetching the parts of a page that change.

// Times --------------------------------------------------------------------------------------------

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function relative(seconds) {
  const size = Math.abs(seconds);
  if (size < 5) return "now";
  const [length, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([length]) => size >= length);
  const amount = `${Math.round(size / length)} ${unit}`;
  return seconds > 0 ? `in ${amount}` : `${amount} ago`;
}

export function tellTimes(root = document) {
  for (const time of root.querySelectorAll("time[data-ago]")) {
    const moment = new Date(time.dateTime);
    time.textContent = relative((moment - Date.now()) / 1000);
    time.title = clock.format(moment);
  }
  for (const time of root.querySelectorAll("time[data-when]")) {
    const moment = new Date(time.dateTime);
    const day = Math.abs(moment - Date.now()) < 6 * 86400000 ? { weekday: "short" } : { day: "numeric", month: "short" };
    time.textContent = moment.toLocaleString(undefined, { ...day, hour: "2-digit", minute: "2-digit" });
    time.title = clock.format(moment);
  }
  for (const time of root.querySelectorAll("time[data-clock]")) {
    time.title ||= time.textContent;
    time.textContent = clock.format(new Date(time.dateTime));
  }
}

// Amounts, as runs/templatetags/pages.py says them --------------------------------------------------

export const count = (value) => Math.round(value).toLocaleString("en-US");

export function size(value) {
  const [length, unit] = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]].find(([l]) => value >= l) ?? [1, "B"];
  return `${unit === "B" ? Math.round(value) : Number((value / length).toPrecision(3))} ${unit}`;
}

export function span(seconds) {
  if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const pair = (big, bigUnit, small, smallUnit) => (small ? `${big} ${bigUnit} ${small} ${smallUnit}` : `${big} ${bigUnit}`);
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return pair(minutes, "min", Math.round(seconds) % 60, "s");
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? pair(hours, "h", minutes % 60, "min") : pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

// Parts of a page that change -----------------------------------------------------------------------

const isElement = (node) => node.nodeType === Node.ELEMENT_NODE;
const keyOf = (node) => (isElement(node) ? (node.dataset.key ?? node.dataset.live) : undefined);
const isAlike = (one, other) => one.nodeName === other.nodeName && keyOf(one) === keyOf(other) && one.classList?.[0] === other.classList?.[0];

// Make `old` look like `fresh`, and return what stands in its place. Nodes that stay alike stay where they
// are: focus, scroll positions and half-pressed buttons survive.
function morph(old, fresh) {
  if (!isAlike(old, fresh)) {
    old.replaceWith(fresh);
    return fresh;
  }
  if (!isElement(old)) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return old;
  }
  if (old.nodeName === "TIME" && old.dateTime === fresh.dateTime) return old;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  morphChildren(old, fresh);
  return old;
}

function morphChildren(old, fresh) {
  const keyed = new Map([...old.children].map((child) => [keyOf(child), child]));
  const kept = new Set();
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    let twin;
    if (keyOf(child) !== undefined) {
      twin = keyed.get(keyOf(child));
      if (twin && twin !== place) old.insertBefore(twin, place);
    } else {
      twin = place;
      while (isElement(child) && twin && !isAlike(twin, child)) twin = twin.nextSibling;
      if (twin && !isAlike(twin, child)) twin = null;
      // What is between is gone in `fresh`; what has a key may come later.
      while (twin && place !== twin) place = place.nextSibling;
    }
    if (!twin) {
      kept.add(old.insertBefore(child, place));
      continue;
    }
    if (twin === place) place = place.nextSibling;
    kept.add(morph(twin, child));
  }
  for (const child of [...old.childNodes]) {
    if (!kept.has(child)) child.remove();
  }
}

export class Refused extends Error {}

// Fetch this page's live parts and show them; throws Refused when the reader may not see them any more.
export async function refresh() {
  const answer = await fetch(location.href, { headers: { "X-Fragment": "1" }, redirect: "manual", signal: AbortSignal.timeout(15000) });
  if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) throw new Refused();
  if (!answer.ok) throw new Error(`The page answered ${answer.status}.`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const old = document.querySelector(`[data-live="${part.dataset.live}"]`);
    if (old) morph(old, part);
  }
  tellTimes();
}

export function sayLoggedOut() {
  if (document.querySelector("[data-logged-out]")) return;
  const note = document.createElement("p");
  note.className = "message error";
  note.dataset.loggedOut = "";
  const link = document.createElement("a");
  link.href = location.href;
  link.textContent = "Log in again";
  note.append("You are logged out, or may not see this any more. ", link);
  document.querySelector(".messages").append(note);
}

export function socketUrl(path) {
  return `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}${path}`;
}

// Milliseconds until the next attempt to connect: 0.5 s, 1 s, 2 s … 30 s, and not everyone at once.
export const backoff = (failures) => Math.min(30000, 500 * 2 ** failures) * (0.5 + Math.random());

// Every page ----------------------------------------------------------------------------------------

function startThemeSwitch() {
  const button = document.querySelector("[data-theme-switch]");
  if (!button) return;
  const themes = { system: ["half", "as the system"], light: ["sun", "light"], dark: ["moon", "dark"] };
  const show = () => {
    const [icon, name] = themes[document.documentElement.dataset.theme ?? "system"];
    const use = button.querySelector("use");
    use.setAttribute("href", use.getAttribute("href").replace(/#.*/, `#${icon}`));
    button.setAttribute("aria-label", `Theme: ${name}`);
    button.title = `Theme: ${name}`;
  };
  button.addEventListener("click", () => {
    const next = { system: "light", light: "dark", dark: "system" }[document.documentElement.dataset.theme ?? "system"];
    if (next === "system") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("theme");
    } else {
      document.documentElement.dataset.theme = next;
      localStorage.setItem("theme", next);
    }
    show();
  });
  button.hidden = false;
  show();
}

document.addEventListener("click", (event) => {
  const asks = event.target.closest("[data-confirm]");
  if (asks && !confirm(asks.dataset.confirm)) event.preventDefault();
  const copies = event.target.closest("[data-copy]");
  if (copies) {
    navigator.clipboard.writeText(document.getElementById(copies.dataset.copy).textContent).then(() => {
      copies.textContent = "Copied";
    });
  }
});

// A second press while the first is on its way would start a second run.
document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (button) setTimeout(() => (button.disabled = true));
});
addEventListener("pageshow", (event) => {
  if (event.persisted) document.querySelectorAll("button:disabled").forEach((button) => (button.disabled = false));
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-filter] select")) event.target.form.requestSubmit();
});

// On a phone the tabs scroll: the one of this page is in sight.
const tab = document.querySelector(".tabs [aria-current]");
if (tab) tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.offsetLeft - 40;
startThemeSwitch();
tellTimes();
setInterval(() => tellTimes(), 5000);
if (navigator.clipboard) document.querySelectorAll("[data-copy]").forEach((button) => (button.hidden = false));
