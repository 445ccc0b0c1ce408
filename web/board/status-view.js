// The state of the connection in words, and why prices may be old.

import { setAttribute, setText } from './dom.js';

const TEXTS = {
  connecting: 'Connecting',
  live: 'Live',
  stale: 'Prices may be old',
  silent: 'No answer',
  waiting: 'Disconnected',
  hidden: 'Paused',
  refused: 'Signed out',
};
const BANNERS = {
  connecting: 'Connecting. The prices shown may be old, and no bet can be placed.',
  stale: 'The server receives no changes at the moment. The prices shown may be old, and no bet is accepted.',
  silent: 'The server has not answered for ten seconds. The prices shown may be old.',
  refused: 'The server shows its odds only to users with a token. Sign in to see them.',
  hidden: 'This page was in the background. It continues where it stopped.',
};

/** What the page says about the connection: `live` only if every change arrives. */
export function statusOf(connection, isFeedStale) {
  if (connection !== 'open') return connection;
  return isFeedStale ? 'stale' : 'live';
}

/** Shows the status. */
export class StatusView {
  constructor({ pill, text, banner }) {
    this.pill = pill;
    this.text = text;
    this.banner = banner;
  }

  /** `seconds` is the time until the next attempt. */
  show(status, seconds) {
    setAttribute(this.pill, 'data-state', status);
    setText(this.text, TEXTS[status]);
    const waiting = `Disconnected. Trying again in ${seconds} s. The prices shown may be old, and no bet can be placed.`;
    const banner = status === 'waiting' ? waiting : (BANNERS[status] ?? '');
    this.banner.hidden = banner === '';
    setText(this.banner, banner);
  }
}
