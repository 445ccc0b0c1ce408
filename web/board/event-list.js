// The list of events: filters and pages.

/** Events on one page: each is followed, and a session may follow 200. */
const PAGE = 100;
const SEARCH_MS = 250;

/** Reads the page of events that the filters select. */
export class EventList {
  #after = null;
  #request = 0;
  #typing = null;

  /** `show(events)` is called with each page that was read. */
  constructor(api, show) {
    this.api = api;
    this.show = show;
    this.search = document.getElementById('search');
    this.status = document.getElementById('event-status');
    this.note = document.getElementById('board-note');
    this.first = document.getElementById('first-page');
    this.next = document.getElementById('next-page');
  }

  start() {
    this.search.addEventListener('input', () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#goTo(null), SEARCH_MS);
    });
    this.status.addEventListener('change', () => this.#goTo(null));
    this.first.addEventListener('click', () => this.#goTo(null));
    this.next.addEventListener('click', () => this.#goTo(this.next.dataset.after));
    return this.refresh();
  }

  /** Reads the current page again. */
  async refresh() {
    this.#request += 1;
    const request = this.#request;
    const answer = await this.api.events({ status: this.status.value, q: this.search.value.trim(),
      after: this.#after, limit: PAGE });
    // A later request has been sent in the meantime.
    if (request !== this.#request) return;
    if (answer.status !== 200) {
      this.note.hidden = false;
      this.note.textContent = answer.body?.message ?? 'The events cannot be read now. Trying again.';
      return;
    }
    this.note.textContent = 'No events match.';
    this.first.hidden = this.#after === null;
    this.next.hidden = answer.next === null;
    this.next.dataset.after = answer.next ?? '';
    this.show(answer.body);
  }

  #goTo(after) {
    this.#after = after;
    return this.refresh();
  }
}
