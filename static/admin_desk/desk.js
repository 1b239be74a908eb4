// What the desk's pages share: making elements, asking the server, and links that send a POST.

/** Make an element; strings become text, never markup. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function csrfToken() {
  return document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "";
}

/** Ask for JSON; an error the server explains comes back as {error: {message, hint}}. */
export async function ask(url, { data, signal } = {}) {
  const options = { signal, headers: { Accept: "application/json" } };
  if (data) {
    options.method = "POST";
    options.headers["X-CSRFToken"] = csrfToken();
    options.body = data instanceof FormData ? data : new URLSearchParams(data);
  }
  try {
    const answer = await fetch(url, options);
    if (answer.headers.get("Content-Type")?.startsWith("application/json")) return await answer.json();
    if (answer.redirected) return refusal("You are logged out.", "Log in in another tab, then try again.");
    if (answer.status === 403) return refusal("You may not do this.", "Ask an administrator, or load the page again.");
    return refusal(`The server answered ${answer.status}.`, "Try again.");
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return refusal("The server cannot be reached.", "Check your connection, then try again.");
  }
}

function refusal(message, hint) {
  return { error: { message, hint } };
}

export function note(error) {
  return el("div", { class: "desk-note desk-note-error", role: "alert" }, [error.message, error.hint].filter(Boolean).join(" "));
}

/** The first rows of a source, with a sentence above them. */
export function rowsTable({ columns, rows }, words = "") {
  const cell = (value) => (value === null ? el("td", { class: "desk-null" }, "NULL") : el("td", { title: value }, value));
  const told = rows.length ? `The first ${rows.length} rows${words ? `, ${words}` : ""}` : "There are no rows.";
  return el("div", {},
    el("p", { class: "desk-quiet" }, told),
    el("div", { class: "desk-scroll" }, el("table", { class: "desk-table desk-preview" },
      el("thead", {}, el("tr", {}, ...columns.map(({ name, type }) => el("th", { scope: "col" }, name, el("small", {}, type))))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell)))))));
}

/** Run `work` while the button shows that it waits. */
export async function busy(button, work) {
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    return await work();
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

export function later(milliseconds, work) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}

export function urls() {
  const data = document.getElementById("desk-urls");
  return data ? JSON.parse(data.textContent) : {};
}

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let step = 0;
  for (; bytes >= 1000 && step < units.length - 1; step += 1) bytes /= 1000;
  return `${bytes.toLocaleString("en", { maximumFractionDigits: step ? 1 : 0 })} ${units[step]}`;
}

// Without this script such a link leads to a page that asks first.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-desk-post]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const form = el("form", { method: "post", action: link.href, hidden: true },
    el("input", { type: "hidden", name: "csrfmiddlewaretoken", value: csrfToken() }));
  document.body.append(form);
  form.submit();
});
