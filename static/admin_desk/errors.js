// A form that was refused: the first field with an error is in sight, and has the focus, which says the error as well.
document.addEventListener("DOMContentLoaded", () => {
  const wrong = [...document.querySelectorAll("#content-main [aria-invalid=true]")];
  for (const field of wrong) field.closest("details")?.setAttribute("open", "");
  // What a widget of several inputs, or of a script's own, hides is no place for the focus.
  const first = wrong.find((field) => field.type !== "hidden" && field.getClientRects().length);
  const seen = first ?? document.querySelector("#content-main .errorlist, #content-main .errornote");
  const show = () => {
    seen?.scrollIntoView({ block: "center" });
    first?.focus({ preventScroll: true });
  };
  show();
  // The admin's own script puts the focus into an add form's first field, whenever it is loaded.
  const begun = new AbortController();
  for (const kind of ["keydown", "pointerdown", "wheel"]) {
    addEventListener(kind, () => begun.abort(), { once: true, capture: true, signal: begun.signal });
  }
  addEventListener("load", show, { once: true, signal: begun.signal });
});
