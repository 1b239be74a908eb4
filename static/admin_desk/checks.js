// Checks in the pipeline form: of each, only what its kind goes by is asked for.

/** Draw every check that is there, and those that are added. */
export function showChecks() {
  document.querySelectorAll("#checks-group select[name$='-kind']").forEach(follow);
}

const followed = new WeakSet();

function follow(kind) {
  if (followed.has(kind)) return show(kind);
  followed.add(kind);
  kind.addEventListener("change", () => show(kind));
  show(kind);
}

function show(kind) {
  const uses = JSON.parse(kind.dataset.deskUses ?? "{}")[kind.value];
  const prefix = kind.name.slice(0, -"kind".length);
  for (const input of kind.form.querySelectorAll(`[name^="${prefix}"]`)) {
    const name = input.name.slice(prefix.length);
    if (["kind", "id", "pipeline", "DELETE"].includes(name)) continue;
    const place = input.closest(".field-line, .form-row .form-row, .field-row, .group") ?? input.parentElement;
    const isUsed = (uses ?? ["name", "severity", "time_limit_s"]).includes(name);
    place.hidden = !isUsed && !place.querySelector(".errorlist");
  }
}
