// A form that was refused: the first field with an error is in sight, and has the focus, which says the error as well.
document.addEventListener("DOMContentLoaded", () => {
  const wrong = [...document.querySelectorAll("#content-main [aria-invalid=true]")];
  for (const field of wrong) field.closest("details")?.setAttribute("open", "");
  // What a widget of several inputs, or of a script's own, hides is no place for the focus.
  const first = wrong.find((field) => field.type !== "hidden" && field.getClientRects().length);
  const seen = first ?? document.querySelector("#content-main .errorlist, #content-main .errornote");
  seen?.scrollIntoView({ block: "center" });
  first?.focus({ preventScroll: true });
});
