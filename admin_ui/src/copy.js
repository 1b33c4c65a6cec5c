// A button with data-copy="#id" copies the text of that field and says so.
import { announce } from "./announce.js";

export function startCopyButtons() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    const field = button && document.querySelector(button.dataset.copy);
    if (!field) return;
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(field.value);
      button.textContent = "Copied";
      announce("The link was copied.");
      setTimeout(() => (button.textContent = label), 3000);
    } catch {
      // The clipboard needs https or a loopback address; with the text selected, the keyboard can copy it anyway.
      field.focus();
      field.select();
      announce("The link is selected. Press Control and C to copy it.");
    }
  });
  // Without this script a copy button could do nothing, so it is hidden until now.
  document.querySelectorAll("[data-copy][hidden]").forEach((button) => (button.hidden = false));
}
