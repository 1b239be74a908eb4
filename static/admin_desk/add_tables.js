// The page that makes many pipelines: search, select all, suggestions for the schema.
import "./schedule_page.js";
import { suggestSchemas } from "./schemas.js";

const where = document.getElementById("where");
where?.addEventListener("change", (event) => {
  if (event.target.name === "source") where.querySelector("[name=dataset]")?.remove();
  where.requestSubmit();
});

const destination = document.querySelector("[name=destination]");
if (destination) suggestSchemas(destination);

const table = document.querySelector("[data-desk-tables]");
if (table) {
  const rows = [...table.tBodies[0].rows];
  const tools = document.querySelector("[data-desk-tools]");
  const search = tools.querySelector("[data-desk-search]");
  const all = tools.querySelector("[data-desk-all]");
  const count = tools.querySelector("[data-desk-count]");
  const box = (row) => row.querySelector("[name=tables]");
  const shown = () => rows.filter((row) => !row.hidden);
  tools.hidden = false;

  function tell() {
    const ticked = rows.filter((row) => box(row).checked).length;
    count.textContent = `${ticked} of ${rows.length} chosen`;
    all.checked = shown().length > 0 && shown().every((row) => box(row).checked);
    all.indeterminate = !all.checked && shown().some((row) => box(row).checked);
  }

  search.addEventListener("input", () => {
    const text = search.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.dataset.name.toLowerCase().includes(text);
    tell();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault();
  });
  all.addEventListener("change", () => {
    for (const row of shown()) box(row).checked = all.checked;
    tell();
  });
  table.addEventListener("change", tell);
  tell();
}
