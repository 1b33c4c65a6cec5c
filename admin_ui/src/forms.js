// Kindness in forms: the summary of errors gets the focus, a second click does not send twice, and on a narrow screen the
// search form starts folded when it holds nothing.
const NARROW = "(max-width: 63.99em)";

export function startForms() {
  document.querySelector("[data-error-summary]")?.focus();

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "true";
  });
  // A page that comes back from the browser's memory may be sent again.
  window.addEventListener("pageshow", () => {
    document.querySelectorAll("form[data-sent]").forEach((form) => delete form.dataset.sent);
  });

  // A search that was refused is loaded as a whole page: it shows each problem next to its field.
  document.addEventListener("htmx:before:response", (event) => {
    const { response, request } = event.detail.ctx;
    if (event.target.id === "search" && response.status >= 400) location.assign(request.action);
  });

  const filters = document.querySelector("details[data-fold-when-narrow]");
  if (filters && window.matchMedia(NARROW).matches) filters.open = false;
  // On a wide screen the fold has no handle, so it must be open there.
  window.matchMedia(NARROW).addEventListener("change", (change) => {
    if (filters && !change.matches) filters.open = true;
  });
}
