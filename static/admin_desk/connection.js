// The connection form: "Test connection" tries what is typed, saved or not.
import { ask, busy, el, note } from "./desk.js";

const panel = document.getElementById("connection-test");
if (panel) {
  const button = panel.querySelector("[data-desk-test]");
  const result = panel.querySelector("[data-desk-result]");
  button.hidden = false;
  button.addEventListener("click", () => busy(button, async () => {
    result.replaceChildren(el("p", { class: "desk-quiet" }, "Testing…"));
    const answer = await ask(panel.dataset.url, { data: new FormData(button.form) });
    show(answer);
  }));

  function show(answer) {
    panel.querySelector("[data-desk-anyway]").hidden = !answer.undecided;
    if (answer.error) return result.replaceChildren(note(answer.error));
    result.replaceChildren(
      ...answer.errors.map((message) => note({ message })),
      ...(answer.message ? [note({ message: answer.message })] : []),
      el("ul", { class: "desk-steps" }, ...answer.steps.map(step)),
      ...(answer.ok ? [el("p", {}, "The connection works. Save to keep what you changed.")] : []),
    );
    panel.scrollIntoView({ block: "nearest" });
  }

  function step({ name, passed, detail, hint }) {
    const kind = passed ? "desk-good" : passed === null ? "desk-warn" : "desk-bad";
    return el("li", { class: kind }, el("strong", {}, name), detail ? `: ${detail}` : "", hint ? el("em", {}, hint) : null);
  }
}
