// A click anywhere in a row follows the row's own link, but selecting text or clicking another link does not.
export function startRows() {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0) return;
    const row = event.target.closest("tr[data-row]");
    if (!row || event.target.closest("a, button, input, label")) return;
    if (window.getSelection()?.toString()) return;
    const link = row.querySelector("a[data-row-link]");
    if (!link) return;
    if (event.metaKey || event.ctrlKey) window.open(link.href, "_blank", "noopener");
    else link.click();
  });
}
