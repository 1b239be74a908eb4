// The columns of a pipeline's source: what becomes of each, and rules for those that are to be different.
// The rules themselves stay in the plain field, as JSON.
import { ask, busy, el, later, note, rowsTable, urls } from "./desk.js";

const MASKS = { hmac: "HMAC, hexadecimal", hmac_base64: "HMAC, base64", redact: "Redact: ***", keep_last: "Keep the last characters" };
const KEPT = 4;

/** Put a button under the field of rules; `what` gives the table or query that the form reads. */
export function showColumns(field, source, what) {
  const place = el("div", { class: "desk-finder desk-wide", "aria-live": "polite" });
  const samples = el("div", { class: "desk-finder desk-wide", "aria-live": "polite" });
  const button = el("button", { type: "button", class: "desk-button", onclick: () => busy(button, look) }, "Look at columns");
  const preview = el("button", { type: "button", class: "desk-button", onclick: () => busy(preview, firstRows) }, "Preview by these rules");
  field.closest(".grow.relative").append(el("div", { class: "desk-row" }, button, preview), place, samples);
  const policy = document.getElementById("id_text_policy");
  let asked = 0;
  let putOff = null;

  const lookAgain = later(400, look);
  field.addEventListener("input", () => place.childElementCount && lookAgain());
  // Rows that were masked by other rules are not what these rules make.
  for (const event of ["input", "change"]) field.addEventListener(event, () => samples.replaceChildren());
  // Once the focus has moved on.
  place.addEventListener("focusout", () => setTimeout(() => putOff?.()));
  policy?.addEventListener("change", () => place.childElementCount && look());

  async function look() {
    const mine = (asked += 1);
    if (!place.childElementCount) place.replaceChildren(el("p", { class: "desk-quiet" }, "Looking…"));
    const data = { connection: source.value, rules: field.value, text_policy: policy?.value ?? "", ...what() };
    const answer = await ask(urls().columns, { data });
    if (mine === asked) show(answer); // else a newer question is under way
  }

  function show(answer) {
    const mine = asked;
    putOff = isTyped(document.activeElement) ? () => mine === asked && show(answer) : null;
    if (putOff) return;
    if (answer.error) return place.replaceChildren(note(answer.error));
    const chosen = document.activeElement?.dataset.deskColumn;
    place.replaceChildren(
      ...answer.errors.map((message) => note({ message })),
      el("div", { class: "desk-scroll" }, el("table", { class: "desk-table desk-rules" },
        el("thead", {}, el("tr", {}, ...["Column", "Name in the target", "Type", "Mask", "To mind"].map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, ...answer.columns.flatMap(rows)))));
    if (chosen) place.querySelector(`[data-desk-column="${CSS.escape(chosen)}"]`)?.focus();
  }

  /** Whether somebody types in it: a new table would take away what is not written into the field yet. */
  function isTyped(input) {
    return place.contains(input) && ["text", "number"].includes(input.type) && input.value !== input.defaultValue;
  }

  /** A row of the table, and below it what is wrong with the column. */
  function rows(column, number) {
    const rule = ruleFor(column.name);
    const read = el("input", { type: "checkbox", checked: !column.skip, "aria-label": `Read ${column.name}`, "data-desk-column": `${number} read` });
    read.addEventListener("change", () => write(column.name, read.checked ? null : { skip: true }));
    const name = el("th", { scope: "row" }, el("label", { class: "desk-check" }, read, column.name), el("small", {}, column.source_type));
    const shown = column.skip
      ? el("tr", { class: "desk-quiet" }, name, el("td", { colspan: 4 }, "Not read."))
      : el("tr", {}, name,
        el("td", {}, nameInput(column, rule, number), column.is_renamed ? el("small", {}, `called ${column.target_name}`) : null),
        el("td", {}, typeInput(column, rule, number), column.needs_zone ? zoneInput(column, rule, number) : null),
        el("td", {}, maskInput(column, rule, number), rule.mask === "keep_last" ? keepInput(column, rule, number) : null,
          column.source_type.includes("STRUCT<") ? el("small", {}, `Fields by their paths: "${column.name}.field": {"mask": "hmac"}`) : null),
        el("td", {}, minds(column), el("small", {}, `Compared ${column.compared === "counted only" ? "by counting NULLs only" : column.compared}`)));
    return column.error ? [shown, el("tr", {}, el("td", { colspan: 5 }, note({ message: column.error })))] : [shown];
  }

  function nameInput(column, rule, number) {
    const input = el("input", {
      class: "desk-input", value: rule.name ?? "", placeholder: column.usual_name, spellcheck: "false", autocomplete: "off",
      "aria-label": `Name of ${column.name}`, "data-desk-column": `${number} name`,
    });
    input.addEventListener("change", () => change(column.name, { name: input.value.trim() === column.usual_name ? "" : input.value.trim() }));
    return input;
  }

  function typeInput(column, rule, number) {
    const list = `desk-types-${number}`;
    const input = el("input", {
      class: "desk-input", list, value: rule.type ?? "", placeholder: column.target_type, spellcheck: "false", autocomplete: "off",
      "aria-label": `Type of ${column.name}`, "data-desk-column": `${number} type`, disabled: Boolean(rule.mask),
    });
    input.addEventListener("change", () => {
      const type = input.value.trim();
      change(column.name, { type: type === column.choices[0] ? "" : type, zone: column.needs_zone ? rule.zone : "" });
    });
    const options = column.choices.map((choice) => el("option", { value: choice }));
    return el("span", {}, input, el("datalist", { id: list }, ...options));
  }

  function zoneInput(column, rule, number) {
    const input = el("input", {
      class: "desk-input", list: "desk-zones", value: rule.zone ?? "", placeholder: "Time zone", autocomplete: "off",
      "aria-label": `Time zone of ${column.name}`, "data-desk-column": `${number} zone`,
    });
    input.addEventListener("change", () => change(column.name, { zone: input.value.trim() }));
    return input;
  }

  function maskInput(column, rule, number) {
    const offered = rule.mask && !column.masks.includes(rule.mask) ? [...column.masks, rule.mask] : column.masks;
    const select = el("select", { class: "desk-input", "aria-label": `Mask of ${column.name}`, "data-desk-column": `${number} mask` },
      el("option", { value: "" }, "None"), ...offered.map((mask) => el("option", { value: mask, selected: rule.mask === mask }, MASKS[mask] ?? mask)));
    // A mask is text: it leaves nothing of another type.
    select.addEventListener("change", () => change(column.name, {
      mask: select.value, keep: select.value === "keep_last" ? KEPT : 0, ...(select.value ? { type: "", zone: "" } : {}),
    }));
    return select;
  }

  function keepInput(column, rule, number) {
    const input = el("input", {
      class: "desk-input", type: "number", min: 1, max: 64, value: rule.keep ?? KEPT,
      "aria-label": `Characters kept of ${column.name}`, "data-desk-column": `${number} keep`,
    });
    input.addEventListener("change", () => change(column.name, { keep: Number(input.value) }));
    return input;
  }

  /** The first rows as the target would have them; the source is asked again, and masks are made where it answers. */
  async function firstRows() {
    samples.replaceChildren(el("p", { class: "desk-quiet" }, "Reading the first rows…"));
    const answer = await ask(urls().preview, { data: { connection: source.value, rules: field.value, ...what() } });
    if (answer.error) return samples.replaceChildren(note(answer.error));
    const hashed = field.value.includes('"hmac') ? " HMACs are made with a key of this one look." : "";
    samples.replaceChildren(rowsTable(answer, "as the target would have them." + hashed));
  }

  /** Change some of a column's rule; what is empty is left out. */
  function change(name, changes) {
    const rule = Object.entries({ ...ruleFor(name), ...changes }).filter(([, value]) => value);
    write(name, rule.length ? Object.fromEntries(rule) : null);
  }

  /** Write a rule into the field, or take it away. */
  function write(name, rule) {
    const input = document.activeElement;
    if (isTyped(input)) input.defaultValue = input.value; // it is written now
    const rules = read() ?? {};
    for (const key of Object.keys(rules)) if (key.toLowerCase() === name.toLowerCase()) delete rules[key];
    if (rule) rules[name] = rule;
    field.value = written(rules);
    field.dispatchEvent(new Event("change", { bubbles: true }));
    look();
  }

  function ruleFor(name) {
    const found = Object.entries(read() ?? {}).find(([key]) => key.toLowerCase() === name.toLowerCase());
    return found && typeof found[1] === "object" && found[1] ? found[1] : {};
  }

  function read() {
    try {
      const rules = JSON.parse(field.value || "{}");
      return rules && typeof rules === "object" && !Array.isArray(rules) ? rules : null;
    } catch {
      return null;
    }
  }
}

/** One rule a line. */
function written(rules) {
  const lines = Object.entries(rules).map(([name, rule]) => `${JSON.stringify(name)}: ${JSON.stringify(rule)}`);
  return lines.length ? `{${lines.join(",\n ")}}` : "";
}

function minds({ mind, cost }) {
  const told = [...mind];
  if (cost !== "low") told.push(cost === "high" ? "takes the most work to write" : "takes more work to write");
  return told.join("; ");
}
