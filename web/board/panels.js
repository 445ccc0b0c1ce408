// The panels: on a phone one at a time, on a wide screen the board and one other.

const buttons = () => [...document.querySelectorAll('.tabs button')];

/** Shows a panel. */
export function showPanel(name) {
  document.body.dataset.panel = name;
  for (const button of buttons()) {
    if (button.dataset.panel === name) button.setAttribute('aria-current', 'true');
    else button.removeAttribute('aria-current');
  }
}

/** Makes the buttons work. */
export function startPanels() {
  for (const button of buttons()) button.addEventListener('click', () => showPanel(button.dataset.panel));
  const isWide = matchMedia('(min-width: 60rem)').matches;
  showPanel(isWide ? 'slip' : 'board');
}
