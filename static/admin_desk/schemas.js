// Suggests the schemas of the chosen destination.
import { ask, el, urls } from "./desk.js";

export function suggestSchemas(destination) {
  const list = document.getElementById("desk-schemas");
  async function fill() {
    list.replaceChildren();
    const connection = destination.value;
    if (!connection) return;
    const answer = await ask(`${urls().schemas}?${new URLSearchParams({ connection })}`);
    // Only a help while typing: what is wrong with the destination is said when the form is saved.
    if (!answer.error && destination.value === connection) {
      list.replaceChildren(...answer.schemas.map((name) => el("option", { value: name })));
    }
  }
  destination.addEventListener("change", fill);
  fill();
}
