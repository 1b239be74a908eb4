// What a run would do to the target, by the form as it stands; nothing is saved.
import { ask, busy, el, note, urls } from "./desk.js";

const METHODS = {
  create: "Makes a new table", rename: "Replaces the table by renaming", in_place: "Replaces the rows in place",
  append: "Appends rows", merge: "Merges rows", history: "Adds versions to a history",
};

/** Put a button under the row of `field`, and the answer under that. */
export function showForecast(field) {
  if (!field) return;
  const place = el("div", { class: "desk-finder desk-wide", "aria-live": "polite" });
  const button = el("button", { type: "button", class: "desk-button", onclick: () => busy(button, look) }, "What will a run do?");
  field.closest(".field-row").after(el("div", { class: "desk-forecast" }, button, place));

  async function look() {
    place.replaceChildren(el("p", { class: "desk-quiet" }, "Looking…"));
    const data = new FormData(field.form);
    data.set("pipeline", location.pathname.match(/[0-9a-f-]{36}/)?.[0] ?? "");
    const answer = await ask(urls().forecast, { data });
    place.replaceChildren(...(answer.error ? [note(answer.error)] : told(answer)));
  }
}

function told({ forecast, findings, cost = [] }) {
  const against = findings.map(note);
  if (!forecast) return [...against, ...cost.map((text) => el("p", {}, text))];
  const { method, why, dependents, makes, waits, minds, last_lock: last } = forecast;
  const lines = [["Who waits", waits], ["Depends on it", dependents], ["Will be made", makes], ["To mind", minds], ["Costs", cost]];
  if (last) lines.splice(1, 0, ["The last run", [`Others waited for at most ${ms(last.held_ms)}; it waited ${ms(last.wait_ms)} for the lock.`]]);
  return [
    ...against,
    el("p", {}, el("strong", {}, `${METHODS[method] ?? method}. `), why),
    el("dl", { class: "desk-facts" }, ...lines.filter(([, texts]) => texts.length).flatMap(([name, texts]) =>
      [el("dt", {}, name), el("dd", {}, el("ul", {}, ...texts.map((text) => el("li", {}, text))))])),
  ];
}

function ms(value) {
  return `${value.toLocaleString("en", { maximumFractionDigits: 1 })} ms`;
}
