// The schedule picker: writes the plain fields (kind, cron, zone, every_s), and reads them back as they are typed.
import { ask, el, later, urls } from "./desk.js";

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MODES = {
  "": "Choose…",
  minutes: "Every N minutes",
  hourly: "Hourly",
  daily: "Daily",
  weekdays: "Weekdays",
  weekly: "Weekly",
  monthly: "Monthly",
  interval: "Every so often",
  cron: "Cron text",
};
const UNITS = { 1: "seconds", 60: "minutes", 3600: "hours", 86400: "days" };
// Which inputs a mode asks for.
const PARTS = {
  minutes: ["every"],
  hourly: ["minute"],
  daily: ["time"],
  weekdays: ["time"],
  weekly: ["days", "time"],
  monthly: ["day", "time"],
  interval: ["every", "unit"],
};

/** What the picker shows for a rule: {mode, every, unit, minute, time, days, day}. */
export function read({ kind, cron, every_s: seconds }) {
  if (kind === "interval") {
    const whole = Number(seconds);
    if (!whole) return { mode: "interval" };
    const unit = [86400, 3600, 60, 1].find((length) => whole % length === 0);
    return unit === 60 ? { mode: "minutes", every: whole / 60 } : { mode: "interval", every: whole / unit, unit };
  }
  const fields = cron.trim().split(/\s+/);
  if (fields.length !== 5) return { mode: cron.trim() ? "cron" : "" };
  const [minute, hour, day, month, weekday] = fields;
  const number = (text, most) => (/^\d{1,2}$/.test(text) && Number(text) <= most ? Number(text) : null);
  const step = /^\*\/(\d{1,2})$/.exec(minute);
  const anyDay = day === "*" && month === "*" && weekday === "*";
  if (hour === "*" && anyDay && (minute === "*" || (step && 60 % step[1] === 0))) {
    return { mode: "minutes", every: step ? Number(step[1]) : 1 };
  }
  if (number(minute, 59) === null) return { mode: "cron" };
  if (hour === "*" && anyDay) return { mode: "hourly", minute: Number(minute) };
  if (number(hour, 23) === null || month !== "*") return { mode: "cron" };
  const time = `${hour.padStart(2, "0")}:${minute.padStart(2, "0")}`;
  if (anyDay) return { mode: "daily", time };
  if (day === "*" && weekday === "1-5") return { mode: "weekdays", time };
  if (day === "*" && /^[0-6](,[0-6])*$/.test(weekday)) return { mode: "weekly", time, days: weekday.split(",").map(Number) };
  if (weekday === "*" && number(day, 31) > 0) return { mode: "monthly", time, day: Number(day) };
  return { mode: "cron" };
}

/** The rule for what the picker shows, or null while something is missing. */
export function write({ mode, every, unit, minute, time, days, day }) {
  const cron = (text) => ({ kind: "cron", cron: text, every_s: "" });
  const [hour, min] = (time || "06:00").split(":").map(Number);
  if (mode === "minutes") {
    if (!every) return null;
    // Cron can only say minutes that divide the hour; others are an interval.
    if (every < 60 && 60 % every === 0) return cron(every === 1 ? "* * * * *" : `*/${every} * * * *`);
    return { kind: "interval", cron: "", every_s: every * 60 };
  }
  if (mode === "interval") return every ? { kind: "interval", cron: "", every_s: every * unit } : null;
  if (mode === "hourly") return cron(`${minute} * * * *`);
  if (mode === "daily") return cron(`${min} ${hour} * * *`);
  if (mode === "weekdays") return cron(`${min} ${hour} * * 1-5`);
  if (mode === "weekly") return days.length ? cron(`${min} ${hour} * * ${days.join(",")}`) : null;
  if (mode === "monthly") return cron(`${min} ${hour} ${day} * *`);
  return null;
}

const drawn = new WeakSet();

/** Draw the picker over the plain fields inside `place`, once. */
export function pickSchedule(place) {
  const field = (name) => place.querySelector(`[name$="-${name}"]`);
  const plain = { kind: field("kind"), cron: field("cron"), zone: field("zone"), every_s: field("every_s") };
  if (!plain.kind || !plain.cron || drawn.has(plain.cron)) return;
  drawn.add(plain.cron);
  // What goes with a rule, and is told in its meaning, but picked by nobody.
  const others = ["active_from", "active_until", "calendar", "jitter_s"].map(field).filter(Boolean);
  // The admin copies rows as text when one above is removed: what it copied of a picker is dead.
  place.querySelector(".desk-picker")?.remove();
  const inputs = makeInputs();
  const { labels } = inputs;
  const picker = el("div", { class: "desk-picker" }, ...Object.values(labels));
  rowOf(plain.kind).before(picker);
  rowOf(plain.kind).hidden = rowOf(plain.every_s).hidden = true;

  function show(state) {
    inputs.set(state);
    const parts = PARTS[state.mode] ?? [];
    for (const [name, label] of Object.entries(labels)) label.hidden = name !== "mode" && !parts.includes(name);
  }

  function picked() {
    const state = inputs.get();
    show(state);
    if (state.mode === "cron") {
      plain.kind.value = "cron";
      plain.every_s.value = "";
      plain.cron.focus();
    }
    const rule = write(state);
    if (rule) for (const [name, value] of Object.entries(rule)) plain[name].value = value;
    explain();
  }

  function typed() {
    plain.kind.value = "cron";
    plain.every_s.value = "";
    show(read(rule()));
    explain();
  }

  const rule = () => Object.fromEntries(Object.entries(plain).map(([name, input]) => [name, input.value]));
  const more = () => Object.fromEntries(others.map((input) => [input.name.replace(/^.*-/, ""), input.value]));
  const say = explainer(place, () => ({ ...rule(), ...more() }));

  function explain() {
    // Such a copy also takes attributes, not values: keep them the same.
    for (const option of plain.kind.options) option.toggleAttribute("selected", option.selected);
    for (const input of [plain.cron, plain.zone, plain.every_s, ...others]) {
      if (input.options) for (const option of input.options) option.toggleAttribute("selected", option.selected);
      else input.setAttribute("value", input.value);
    }
    // An interval knows no zone.
    rowOf(plain.zone).hidden = plain.kind.value === "interval";
    say();
  }

  picker.addEventListener("input", picked);
  // A number or a time that cannot be changes no rule: once it is left, the rule shows again.
  picker.addEventListener("focusout", ({ target }) => {
    if (!target.checkValidity()) show(read(rule()));
  });
  plain.cron.addEventListener("input", typed);
  for (const input of [plain.zone, ...others]) input.addEventListener("input", explain);
  show(read(rule()));
  explain();
}

function makeInputs() {
  const choice = (options) => el("select", { class: "desk-input" }, ...options.map(([value, text]) => el("option", { value }, text)));
  const number = (min, max, value) => el("input", { class: "desk-input", type: "number", min, max, value, required: true });
  const boxes = DAYS.map((name, index) => el("input", { type: "checkbox", value: index }));
  const input = {
    mode: choice(Object.entries(MODES)),
    every: number(1, 527040, 15),
    unit: choice(Object.entries(UNITS)),
    minute: number(0, 59, 0),
    day: number(1, 31, 1),
    time: el("input", { class: "desk-input", type: "time", value: "06:00", required: true }),
  };
  input.unit.value = "60";
  boxes[1].checked = true;
  const label = (text, control) => el("label", {}, text, control);
  const labels = {
    mode: label("Repeat", input.mode),
    every: label("Every", input.every),
    unit: label("Unit", input.unit),
    minute: label("At minute", input.minute),
    days: el("fieldset", {}, el("legend", {}, "On"),
      ...boxes.map((box, index) => el("label", { class: "desk-check" }, box, DAYS[index].slice(0, 3)))),
    day: label("On day", input.day),
    time: label("At", input.time),
  };
  return {
    labels,
    get: () => ({
      mode: input.mode.value,
      every: Math.max(0, Math.trunc(Number(input.every.value))),
      unit: Number(input.unit.value),
      minute: clamp(input.minute, 0, 59),
      day: clamp(input.day, 1, 31),
      time: input.time.value,
      days: boxes.filter((box) => box.checked).map((box) => Number(box.value)),
    }),
    set: (state) => {
      for (const [name, control] of Object.entries(input)) {
        // Never under the fingers of whoever types in it.
        if (state[name] !== undefined && control !== document.activeElement) control.value = state[name];
      }
      if (state.days) for (const box of boxes) box.checked = state.days.includes(Number(box.value));
    },
  };
}

function clamp(input, least, most) {
  return Math.min(most, Math.max(least, Math.trunc(Number(input.value)) || least));
}

/** Says the rule in words with its next times, a moment after the last key. */
function explainer(place, rule) {
  const spot = place.querySelector("[data-desk-meaning]");
  if (!spot) return () => {};
  spot.setAttribute("aria-live", "polite");
  let asked = null;
  return later(250, async () => {
    asked?.abort();
    const now = rule();
    if (now.kind === "interval" ? !now.every_s : !now.cron.trim()) return spot.replaceChildren();
    asked = new AbortController();
    try {
      const answer = await ask(`${urls().schedule}?${new URLSearchParams(now)}`, { signal: asked.signal });
      if (answer.error) return spot.replaceChildren(el("span", { class: "desk-error" }, `${answer.error.message} ${answer.error.hint ?? ""}`));
      const rest = [answer.ends, answer.change].filter(Boolean).map((text) => el("p", {}, text));
      spot.replaceChildren(el("strong", {}, answer.words), el("ol", {}, ...answer.next.map(timeOf)), ...rest);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  });
}

/** One of the next times: on the clocks of the zone, in UTC, and what clocks or a calendar do to it. */
function timeOf({ local, utc, note, closed }) {
  const notes = [closed, note].filter(Boolean).join(", ");
  return el("li", closed ? { class: "desk-closed" } : {}, el("span", {}, local),
    ...(utc ? [el("span", {}, utc)] : []), ...(notes ? [el("em", {}, notes)] : []));
}

/** The row in which the admin, or one of our pages, draws a field. */
function rowOf(input) {
  return input.closest(".form-row .form-row, .field-row, .group") ?? input.parentElement;
}
