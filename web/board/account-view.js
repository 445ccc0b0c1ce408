// What belongs to the user: bets, balances, ledger.

import { element, setText } from './dom.js';
import { cents, formatCents, formatDay, formatPrice, formatReason, marketName } from './format.js';
import { ListView } from './list-view.js';

const PAGE = 20;
const STATUSES = new Map([
  ['PENDING_CONFIRMATION', 'Pending'],
  ['CONFIRMED', 'Confirmed'],
  ['REJECTED', 'Rejected'],
]);
const OUTCOMES = new Map([
  ['won', 'Won'],
  ['lost', 'Lost'],
  ['void', 'Void'],
  ['half_won', 'Half won'],
  ['half_lost', 'Half lost'],
  ['dead_heat', 'Dead heat'],
  ['partial', 'Part returned'],
]);
const KINDS = new Map([
  ['deposit', 'Deposit'],
  ['withdraw', 'Withdrawal'],
  ['reserve', 'Stake held'],
  ['commit', 'Stake paid'],
  ['refund', 'Stake given back'],
  ['expire', 'Hold expired'],
  ['settle', 'Bet settled'],
  ['unsettle', 'Bet open again'],
  ['payout', 'Payout'],
  ['clawback', 'Payout taken back'],
  ['owe', 'Payout owed back'],
  ['recover', 'Debt paid off'],
]);

/** The panels of the user's bets and wallet. */
export class AccountView {
  #userId = null;
  #currency = '';

  /** `nameOf(bet)` gives the names of a bet's event and selection as far as they are known. */
  constructor({ bets, wallet, balance }, api, nameOf) {
    this.api = api;
    this.balance = balance;
    this.available = wallet.querySelector('#available');
    this.pending = wallet.querySelector('#pending');
    this.note = wallet.querySelector('#wallet-note');
    this.bets = new ListView(bets, {
      read: (cursor) => page(api.bets(this.#userId, cursor, PAGE)),
      show: (bet) => betItem(bet, nameOf(bet), this.#currency),
      idOf: (bet) => bet.betId,
      nothing: 'No bets yet',
    });
    this.ledger = new ListView(wallet, {
      read: (cursor) => page(api.ledger(this.#userId, cursor, PAGE)),
      show: (transfer) => transferItem(transfer, this.#currency),
      idOf: (transfer) => transfer.id,
      nothing: 'No movements yet',
    });
  }

  /** The currency of the wallet. */
  get currency() {
    return this.#currency;
  }

  /** Shows another user's account, or nobody's. */
  async showUser(userId) {
    this.#userId = userId;
    this.bets.clear();
    this.ledger.clear();
    this.#showBalances(null, userId ? '' : 'Sign in to see your wallet');
    await this.refresh();
  }

  /** Reads everything again. */
  async refresh() {
    const userId = this.#userId;
    if (!userId) return;
    const { status, body } = await this.api.wallet(userId);
    if (userId !== this.#userId) return;
    if (status === 200) {
      this.#currency = body.currency;
      this.#showBalances(body, debtNote(body));
    } else {
      this.#showBalances(null, walletNote(status, body));
    }
    await Promise.all([this.bets.refresh(), this.ledger.refresh()]);
  }

  #showBalances(wallet, note) {
    const available = formatCents(cents(wallet?.balance_cents), wallet?.currency);
    setText(this.available, available);
    setText(this.pending, formatCents(cents(wallet?.reserved_cents), wallet?.currency));
    setText(this.balance, wallet ? available : '');
    setText(this.note, note);
    this.note.hidden = note === '';
  }
}

/** A page of a list; null if it cannot be read. A user without a wallet has no entries. */
async function page(answer) {
  const { status, body } = await answer;
  if (status === 404) return { entries: [], nextCursor: null };
  return status === 200 ? body : null;
}

/** What the user owes; empty if nothing. */
function debtNote(wallet) {
  const owed = cents(wallet.owed_cents ?? '0');
  return owed ? `You owe ${formatCents(owed, wallet.currency)}: later payouts pay it off` : '';
}

function walletNote(status, body) {
  if (status === 404) return 'No wallet yet: the first deposit creates it';
  return body?.message ?? 'The wallet cannot be read now';
}

function betItem(bet, names, currency) {
  const reason = bet.reason ? element('p', { class: 'note' }, formatReason(bet.reason)) : null;
  return element('li', { 'data-bet': bet.betId, 'data-status': bet.status },
    element('div', { class: 'line' },
      element('strong', {}, names.selection),
      element('span', { class: 'badge', 'data-status': bet.status, 'data-outcome': bet.outcome ?? '' }, stateName(bet))),
    element('p', { class: 'note' }, `${marketName(bet.market, bet.line)} · ${names.event}`),
    element('div', { class: 'line numbers' },
      element('span', {}, `${formatCents(cents(bet.stake_cents), currency)} at ${formatPrice(bet.odd_value)}`),
      element('span', {}, payout(bet))),
    reason,
    element('p', { class: 'note' }, formatDay(bet.placedAt)));
}

function stateName(bet) {
  return OUTCOMES.get(bet.outcome) ?? STATUSES.get(bet.status) ?? bet.status;
}

function payout(bet) {
  return bet.status === 'SETTLED'
    ? `paid ${formatCents(cents(bet.payout_cents))}`
    : `pays ${formatCents(cents(bet.potential_payout_cents))}`;
}

function transferItem(transfer, currency) {
  const amount = cents(transfer.amount_cents);
  const isIncome = transfer.credit === 'available';
  const isOutgo = transfer.debit === 'available';
  const sign = isIncome ? '+' : isOutgo ? '−' : '';
  return element('li', { 'data-kind': transfer.kind },
    element('div', { class: 'line' },
      element('strong', {}, KINDS.get(transfer.kind) ?? transfer.kind),
      element('span', { class: 'amount', 'data-sign': sign }, `${sign}${formatCents(amount, currency)}`)),
    element('div', { class: 'line note' },
      element('span', {}, formatDay(transfer.at)),
      element('span', {}, `balance ${formatCents(cents(transfer.balance_cents))}`)));
}
