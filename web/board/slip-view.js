// The bet slip on the page.

import { setAttribute, setText } from './dom.js';
import { cents, direction, formatCents, formatPrice, formatReason, marketName, thousandths } from './format.js';
import * as slips from './slip.js';

const PHASES = {
  sending: 'Placing the bet…',
  placed: 'Waiting for the supplier…',
};

/** Shows a slip, and reports what the user does with it. */
export class SlipView {
  /** `actions` has `edit(change)`, `place()`, `retry()` and `clear()`. */
  constructor(root, actions) {
    this.hint = root.querySelector('#slip-empty');
    this.form = root.querySelector('#slip-form');
    this.title = root.querySelector('#slip-selection');
    this.details = root.querySelector('#slip-details');
    this.price = root.querySelector('#slip-price');
    this.moved = root.querySelector('#slip-moved');
    this.fields = root.querySelector('#slip-fields');
    this.stake = root.querySelector('#stake');
    this.policies = [...root.querySelectorAll('input[name=policy]')];
    this.payout = root.querySelector('#slip-payout');
    this.problem = root.querySelector('#slip-problem');
    this.place = root.querySelector('#place');
    this.clear = root.querySelector('#slip-clear');
    this.retry = root.querySelector('#slip-retry');
    this.result = root.querySelector('#slip-result');
    this.#listen(actions);
  }

  #listen(actions) {
    this.stake.addEventListener('input', () => actions.edit({ stake: this.stake.value }));
    this.policies.forEach((radio) => radio.addEventListener('change',
      () => actions.edit({ policy: radio.value })));
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      actions.place();
    });
    this.clear.addEventListener('click', () => actions.clear());
    this.retry.addEventListener('click', () => actions.retry());
  }

  /** Shows the slip. `offer` has the current `price` and `obstacle`, `currency` that of the wallet. */
  show(slip, offer) {
    const isEmpty = slip.phase === 'empty';
    this.hint.hidden = !isEmpty;
    this.form.hidden = isEmpty;
    if (isEmpty) return;
    setText(this.title, slip.selection.name);
    setText(this.details, `${marketName(slip.selection.market, slip.selection.line)} · ${slip.selection.event}`);
    this.#showPrice(slip, offer);
    this.#showFields(slip);
    const shown = slip.price ?? slip.request?.price ?? offer.price;
    setText(this.payout, formatCents(slips.winnings(slip, shown), offer.currency));
    this.#showAction(slip, offer);
    this.#showResult(slip);
  }

  #showPrice(slip, offer) {
    const isEditing = slip.phase === 'editing';
    const price = isEditing ? offer.price : (slip.price ?? slip.request.price);
    setText(this.price, formatPrice(price));
    const moved = isEditing ? direction(slip.pickedAt, price) : 'same';
    setAttribute(this.price, 'data-move', moved === 'same' ? null : moved);
    setText(this.moved, moved === 'same' ? '' : `was ${formatPrice(slip.pickedAt)}`);
  }

  #showFields(slip) {
    setAttribute(this.fields, 'disabled', slip.phase === 'editing' ? null : '');
    if (this.stake.value !== slip.stake) this.stake.value = slip.stake;
    this.policies.forEach((radio) => {
      radio.checked = radio.value === slip.policy;
    });
  }

  #showAction(slip, offer) {
    const isEditing = slip.phase === 'editing';
    this.place.hidden = !isEditing;
    setText(this.place, placeText(slip, offer));
    setAttribute(this.place, 'aria-disabled', offer.obstacle === null ? null : 'true');
    this.retry.hidden = slip.phase !== 'unknown';
    this.clear.hidden = slips.isBusy(slip);
    setText(this.clear, slip.phase === 'decided' ? 'New bet' : 'Remove');
    setText(this.problem, problemText(slip, offer));
  }

  #showResult(slip) {
    const text = resultText(slip);
    this.result.hidden = text === '';
    setAttribute(this.result, 'data-status', slip.status ?? slip.phase);
    setText(this.result, text);
  }
}

function placeText(slip, offer) {
  const isOther = slip.problem?.code === 'ODDS_CHANGED';
  return isOther ? `Accept ${formatPrice(offer.price)} and place` : 'Place bet';
}

function problemText(slip, offer) {
  if (slip.phase !== 'editing') return '';
  if (offer.obstacle !== null) return offer.obstacle;
  const { problem } = slip;
  if (!problem) return '';
  if (problem.code === 'ODDS_CHANGED') {
    return `The price changed from ${formatPrice(slip.pickedAt)} to ${formatPrice(problem.offered)}. Nothing was placed.`;
  }
  const limit = problem.limit === null ? '' : ` (${formatCents(cents(problem.limit))})`;
  return `${problem.message}${limit}`;
}

/** What a user should know about the outcome; also announced to screen readers. */
export function resultText(slip) {
  switch (slip.phase) {
    case 'unknown':
      return 'No answer yet. The bet may have been placed. The same request is sent again, which never places it twice.';
    case 'decided':
      // It may be settled already.
      return slip.status !== 'REJECTED'
        ? `Confirmed at ${formatPrice(slip.price)}`
        : `Rejected: ${formatReason(slip.reason)}. The stake was given back.`;
    default:
      return PHASES[slip.phase] ?? '';
  }
}

/** The price of a selection that can be bet on; null if there is none. */
export function offeredPrice(market, selectionId) {
  const selection = market?.selections.find((one) => one.id === selectionId);
  const isOffered = selection?.status === 'active' && thousandths(selection.price) !== null;
  return isOffered ? selection.price : null;
}
