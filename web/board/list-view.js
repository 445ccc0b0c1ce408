// A list that grows by pages, newest first: bets, and the ledger.

import { element } from './dom.js';

/** The entries of a list, in `root`. */
export class ListView {
  #entries = [];
  #cursor = null;
  #request = 0;

  /** `read(cursor)` reads a page, `show(entry)` makes the item of an entry. */
  constructor(root, { read, show, idOf, nothing }) {
    this.read = read;
    this.show = show;
    this.idOf = idOf;
    this.nothing = nothing;
    this.list = element('ul', { class: 'list' });
    this.note = element('p', { class: 'note' });
    this.more = element('button', { type: 'button', class: 'quiet', hidden: true }, 'More');
    this.more.addEventListener('click', () => this.#readMore());
    root.append(this.list, this.note, this.more);
  }

  /** Reads the first page again; entries of further pages stay. */
  async refresh() {
    const page = await this.#read(null);
    if (page === undefined) return;
    const fresh = new Set(page.entries.map(this.idOf));
    const older = this.#entries.filter((entry) => !fresh.has(this.idOf(entry)));
    const isFirst = this.#entries.length === 0;
    this.#entries = [...page.entries, ...older];
    if (isFirst) this.#cursor = page.nextCursor;
    this.#draw();
  }

  /** Empties the list, for another user. */
  clear() {
    this.#request += 1;
    this.#entries = [];
    this.#cursor = null;
    this.#draw();
  }

  async #readMore() {
    const page = await this.#read(this.#cursor);
    if (page === undefined) return;
    this.#entries = [...this.#entries, ...page.entries];
    this.#cursor = page.nextCursor;
    this.#draw();
  }

  /** A page; undefined if it cannot be read, or if another request was made or another user came. */
  async #read(cursor) {
    this.#request += 1;
    const request = this.#request;
    const page = await this.read(cursor);
    if (request !== this.#request) return undefined;
    if (page !== null) return page;
    this.#say('This list cannot be read now');
    return undefined;
  }

  #draw() {
    this.list.replaceChildren(...this.#entries.map(this.show));
    this.more.hidden = !this.#cursor;
    this.#say(this.#entries.length === 0 ? this.nothing : '');
  }

  #say(text) {
    this.note.textContent = text;
    this.note.hidden = text === '';
  }
}
