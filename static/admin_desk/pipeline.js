// The pipeline form: browse to a table and look at its first rows, check a query, pick schedules.
import { showChecks } from "./checks.js";
import { showColumns } from "./columns.js";
import { showForecast } from "./forecast.js";
import { ask, busy, el, note, rowsTable, size, urls } from "./desk.js";
import { pickSchedule } from "./schedule.js";
import { suggestSchemas } from "./schemas.js";

const source = document.getElementById("id_source");
const table = document.getElementById("id_source_table");
const query = document.getElementById("id_source_query");
const destination = document.getElementById("id_destination");

const rules = document.getElementById("id_column_rules");

if (source && table && query) browse();
if (source && table && query && rules) showColumns(rules, source, reads);
if (destination) suggestSchemas(destination);
if (destination) showForecast(document.getElementById("id_write_disposition"));
whichRows(document.getElementById("id_write_disposition"));
onlyInRealtime(document.getElementById("id_mode"));
pickSchedules();
showChecks();
document.addEventListener("formset:added", showChecks);
document.addEventListener("formset:added", pickSchedules);
document.addEventListener("formset:removed", pickSchedules);

/** The table or the query: the one that is shown will be sent. */
function reads() {
  const isQuery = table.closest(".field-row").hidden || (!table.value.trim() && query.value.trim());
  return isQuery ? asked() : { table: table.value };
}

/** The query with what it may name. */
function asked() {
  return { query: query.value, parameters: document.getElementById("id_parameters")?.value ?? "" };
}

function pickSchedules() {
  document.querySelectorAll("#schedules-group .form-group:not(.empty-form)").forEach(pickSchedule);
}

/** Key, cursor and what is new are asked for where they mean something; what was typed is not sent with another mode. */
function whichRows(mode) {
  const onlyNew = document.getElementById("id_incremental");
  const uses = {
    merge_key: (how) => how === "merge" || how === "history" || how === "replace",
    deletes: (how, isNew) => how === "merge" && !isNew,
    incremental: (how) => how === "merge" || how === "history" || how === "append",
    cursor_column: (how, isNew) => how === "merge" || how === "history" || isNew,
    lookback: (how, isNew) => isNew && (how === "merge" || how === "history"),
    settle: (how, isNew) => isNew && how === "append",
    initial_value: (how, isNew) => isNew,
  };
  const fields = Object.keys(uses).map((name) => document.getElementById(`id_${name}`));
  if (!mode || fields.includes(null)) return;
  const groups = new Set(fields.map((field) => field.closest("fieldset")));
  const show = () => {
    const isNew = onlyNew.checked && uses.incremental(mode.value);
    for (const field of fields) {
      const row = field.closest(".field-row");
      row.hidden = !uses[field.name](mode.value, isNew) && !row.querySelector(".errorlist");
    }
    for (const group of groups) group.hidden = fields.every((field) => field.closest("fieldset") !== group || field.closest(".field-row").hidden);
  };
  mode.addEventListener("change", show);
  onlyNew.addEventListener("change", show);
  mode.form.addEventListener("formdata", ({ formData }) => {
    for (const field of fields) {
      if (!field.closest(".field-row").hidden) continue;
      if (field.type === "checkbox") formData.delete(field.name);
      else formData.set(field.name, { lookback: "0", deletes: "keep" }[field.name] ?? "");
    }
  });
  show();
}

/** How often the source is asked means something in near real time only. */
function onlyInRealtime(mode) {
  const rows = ["poll_every_s", "stream_every_s", "force_read_every"].map((name) => document.getElementById(`id_${name}`)?.closest(".field-row"));
  if (!mode || rows.includes(undefined)) return;
  const show = () => {
    for (const row of rows) row.hidden = mode.value !== "realtime" && !row.querySelector(".errorlist");
  };
  mode.addEventListener("change", show);
  show();
}

/** A table or a query: one of the two is shown, and only that one is sent. */
function browse() {
  const place = { table: el("div", { class: "desk-finder", "aria-live": "polite" }), query: el("div", { class: "desk-finder", "aria-live": "polite" }) };
  const under = (input, ...parts) => input.closest(".grow.relative").append(...parts);
  under(table, el("div", { class: "desk-row" }, button("Browse tables", datasets), button("Preview", () => preview({ table: table.value }, place.table))), place.table);
  under(query, el("div", { class: "desk-row" }, button("Check query", check), button("Preview", () => preview(asked(), place.query))), place.query);

  const rows = { table: table.closest(".field-row"), query: query.closest(".field-row") };
  const filter = document.getElementById("id_row_filter");
  const tabs = {
    table: el("button", { type: "button", class: "desk-button", onclick: () => choose("table") }, "A table"),
    query: el("button", { type: "button", class: "desk-button", onclick: () => choose("query") }, "A SELECT query"),
  };
  rows.table.before(el("div", { class: "desk-picker", role: "group", "aria-label": "What to read" }, tabs.table, tabs.query));
  // Both stay on the page while one of them has an error or both are filled in: nothing is hidden that needs a look.
  const both = table.value.trim() && query.value.trim();
  if (!both) choose(query.value.trim() ? "query" : "table");
  table.form.addEventListener("formdata", ({ formData }) => {
    if (rows.query.hidden) formData.set(query.name, "");
    if (rows.table.hidden) formData.set(table.name, "");
    if (filter?.closest(".field-row").hidden) formData.set(filter.name, "");
  });

  function choose(which) {
    for (const name of ["table", "query"]) {
      rows[name].hidden = name !== which;
      tabs[name].setAttribute("aria-pressed", String(name === which));
    }
    // A query has a WHERE of its own.
    const row = filter?.closest(".field-row");
    if (row) row.hidden = which === "query" && !row.querySelector(".errorlist");
  }

  async function datasets() {
    const answer = await ask(`${urls().datasets}?${new URLSearchParams({ connection: source.value })}`);
    if (answer.error) return place.table.replaceChildren(note(answer.error));
    if (!answer.datasets.length) return place.table.replaceChildren(el("p", { class: "desk-quiet" }, "This connection sees no datasets."));
    const select = el("select", { class: "desk-input", "aria-label": "Dataset" },
      el("option", { value: "" }, "Choose a dataset"), ...answer.datasets.map((name) => el("option", { value: name }, name)));
    const list = el("div", { class: "desk-finder" });
    select.addEventListener("change", () => tables(select.value, list));
    place.table.replaceChildren(select, list);
    if (answer.datasets.length === 1) {
      select.value = answer.datasets[0];
      await tables(select.value, list);
    }
    select.focus();
  }

  async function tables(dataset, list) {
    if (!dataset) return list.replaceChildren();
    list.replaceChildren(el("p", { class: "desk-quiet" }, "Looking…"));
    const answer = await ask(`${urls().tables}?${new URLSearchParams({ connection: source.value, dataset })}`);
    if (answer.error) return list.replaceChildren(note(answer.error));
    if (!answer.tables.length) return list.replaceChildren(el("p", { class: "desk-quiet" }, "This dataset has no tables."));
    const search = el("input", { type: "search", class: "desk-input", placeholder: "Search tables", "aria-label": "Search tables" });
    const buttons = answer.tables.map((found) => el("button", { type: "button", onclick: () => pick(dataset, found.name) },
      el("span", {}, found.name), el("small", {}, facts(found))));
    search.addEventListener("input", () => {
      const text = search.value.trim().toLowerCase();
      for (const one of buttons) one.hidden = !one.firstChild.textContent.toLowerCase().includes(text);
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") event.preventDefault();
    });
    list.replaceChildren(search, el("div", { class: "desk-choices" }, ...buttons));
  }

  async function pick(dataset, name) {
    table.value = `${dataset}.${name}`;
    table.dispatchEvent(new Event("input", { bubbles: true }));
    const target = document.getElementById("id_target_table");
    if (target && !target.value) target.value = name;
    const title = document.getElementById("id_name");
    if (title && !title.value) title.value = name;
    await preview({ table: table.value }, place.table);
  }

  async function preview(what, spot) {
    spot.replaceChildren(el("p", { class: "desk-quiet" }, "Reading the first rows…"));
    const answer = await ask(urls().preview, { data: { connection: source.value, ...what } });
    if (answer.error) return spot.replaceChildren(note(answer.error));
    spot.replaceChildren(rowsTable(answer));
  }

  async function check() {
    place.query.replaceChildren(el("p", { class: "desk-quiet" }, "Checking…"));
    const answer = await ask(urls().describe, { data: { connection: source.value, ...asked() } });
    if (answer.error) return place.query.replaceChildren(note(answer.error));
    const cost = answer.bytes === null ? "" : ` It reads ${size(answer.bytes)}.`;
    place.query.replaceChildren(
      el("p", {}, `The query is good: ${answer.columns.length === 1 ? "1 column" : `${answer.columns.length} columns`}.${cost}`),
      ...answer.warnings.map((warning) => el("div", { class: "desk-note desk-note-warn" }, warning)),
      el("div", { class: "desk-scroll" }, el("table", { class: "desk-table" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Column"), el("th", { scope: "col" }, "Type"))),
        el("tbody", {}, ...answer.columns.map(({ name, type }) => el("tr", {}, el("td", {}, name), el("td", {}, type)))))));
  }
}

function facts({ kind, rows, bytes }) {
  const parts = kind && kind !== "TABLE" ? [kind.toLowerCase()] : [];
  if (rows !== null) parts.push(`${rows.toLocaleString("en")} rows`);
  if (bytes !== null) parts.push(size(bytes));
  return parts.join(" · ");
}

function button(text, work) {
  const made = el("button", { type: "button", class: "desk-button", onclick: () => busy(made, work) }, text);
  return made;
}
