// Says a sentence to those who cannot see that something changed.
export function announce(text) {
  const said = document.querySelector("#announcement");
  if (said) said.textContent = text;
}
