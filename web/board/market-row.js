// One market of the board: its name, its selections, its state, and its history on request.

import { drawing, element, setAttribute, setText } from './dom.js';
import { marketName } from './format.js';
import { PriceCell } from './price-cell.js';

/** The row of a market. */
export class MarketRow {
  #cells = new Map();
  #ids = '';

  /** `onPick(key, selectionId)` is called for a selection, `onHistory(row)` for the chart. */
  constructor(market, { onPick, onHistory }) {
    this.key = market.key;
    this.title = marketName(market.name, market.line);
    this.cells = element('div', { class: 'prices', role: 'group', 'aria-label': this.title });
    this.state = element('span', { class: 'state' });
    const icon = drawing('svg', { viewBox: '0 0 16 12', 'aria-hidden': 'true' },
      drawing('polyline', { points: '1,10 5,5 9,8 15,1' }));
    this.toggle = element('button', { type: 'button', class: 'chart-toggle', 'aria-expanded': 'false',
      'aria-label': `History of ${this.title}` }, icon);
    const label = element('div', { class: 'market-label' },
      element('span', { class: 'market-name' }, this.title), this.state);
    this.node = element('div', { class: 'market' }, label, this.cells, this.toggle);
    this.history = null;
    this.cells.addEventListener('click', (event) => {
      const cell = event.target.closest('.price');
      if (cell && cell.getAttribute('aria-disabled') !== 'true') onPick(this.key, cell.dataset.selection);
    });
    this.toggle.addEventListener('click', () => onHistory(this));
  }

  /** Shows the market. Returns whether a cell is lit. */
  show(market, { isStale, canFlash }, now) {
    this.#arrange(market.selections);
    const state = stateOf(market, isStale);
    setAttribute(this.node, 'data-state', state);
    setText(this.state, state === 'open' ? '' : state);
    let isLit = false;
    for (const selection of market.selections) {
      const isOffered = market.status === 'open' && selection.status === 'active' && selection.price !== null
        && selection.price !== undefined;
      const cell = this.#cells.get(selection.id);
      isLit = cell.show(selection, { isOffered, canFlash }, now) || isLit;
    }
    this.history?.changed(market);
    return isLit;
  }

  /** Time passes. Returns whether a cell is still lit. */
  tick(now) {
    let isLit = false;
    for (const cell of this.#cells.values()) isLit = cell.tick(now) || isLit;
    return isLit;
  }

  /** Opens the history, or closes it if there is one. */
  showHistory(history) {
    this.history?.node.remove();
    this.history = history;
    if (history) this.node.append(history.node);
    setAttribute(this.toggle, 'aria-expanded', history ? 'true' : 'false');
  }

  /** Makes the cells those of these selections, in their order. */
  #arrange(selections) {
    const ids = selections.map((selection) => selection.id).join('\u0000');
    if (ids === this.#ids) return;
    this.#ids = ids;
    const cells = new Map();
    for (const selection of selections) {
      cells.set(selection.id, this.#cells.get(selection.id) ?? new PriceCell(selection));
    }
    this.#cells = cells;
    this.cells.replaceChildren(...[...cells.values()].map((cell) => cell.node));
  }
}

/** How a market is shown: its status, or `stale` while its prices may be old. */
function stateOf(market, isStale) {
  if (market.status !== 'open') return market.status;
  return isStale ? 'stale' : 'open';
}
