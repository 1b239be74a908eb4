// The form of an alert rule: what it says in words, as it is typed.
import { ask, later } from "./desk.js";

const place = document.querySelector("[data-alert-words]");
const form = document.getElementById("alertrule_form");
if (place && form) {
  let asked = 0;
  const tell = later(250, async () => {
    const mine = ++asked;
    const answer = await ask(place.dataset.alertWords, { data: new FormData(form) });
    if (mine === asked && answer.words) place.textContent = answer.words;
  });
  form.addEventListener("input", tell);
  form.addEventListener("change", tell);
  // The chooser of pipelines tells only jQuery.
  window.django?.jQuery?.(form).on("change", "select", tell);
  tell();
}
