// The button of one selection: its name, its price, the direction of the last change.

import { element, setAttribute, setText } from './dom.js';
import { Flash } from './flash.js';
import { direction, formatPrice } from './format.js';

/** A selection that can be picked while its market is open. */
export class PriceCell {
  #flash = new Flash();
  #price;

  constructor(selection) {
    this.name = element('span', { class: 'selection' }, selection.name || selection.id);
    this.value = element('span', { class: 'value' });
    this.node = element('button', { type: 'button', class: 'price', 'data-selection': selection.id },
      this.name, this.value);
  }

  /** Shows the selection. Returns whether the cell is lit. */
  show(selection, { isOffered, canFlash }, now) {
    const price = selection.price ?? null;
    if (price !== this.#price) {
      this.#move(this.#price, price, canFlash, now);
      this.#price = price;
      setText(this.value, formatPrice(price));
    }
    setAttribute(this.node, 'aria-disabled', isOffered ? null : 'true');
    return this.#flash.lit !== null;
  }

  /** Time passes. Returns whether the cell is still lit. */
  tick(now) {
    if (this.#flash.tick(now)) setAttribute(this.node, 'data-lit', this.#flash.lit);
    return this.#flash.lit !== null;
  }

  #move(earlier, later, canFlash, now) {
    const moved = direction(earlier, later);
    if (moved === 'same') return;
    setAttribute(this.node, 'data-move', moved);
    if (canFlash && this.#flash.moved(moved, now)) {
      setAttribute(this.node, 'data-lit', this.#flash.lit);
    }
  }
}
