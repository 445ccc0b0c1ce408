// Writes changes to the page once per frame. A change only marks its market, so however many arrive
// while the page is busy or hidden, each market is written once.

/** Paints the marked keys in the next frame. */
export class Painter {
  #marked = new Set();
  #isScheduled = false;
  #isPaused = false;

  /** `paint(keys, now)` writes markets; it returns whether it wants to be called again. */
  constructor(requestFrame, paint) {
    this.requestFrame = requestFrame;
    this.paint = paint;
  }

  /** Marks markets. */
  mark(keys) {
    for (const key of keys) this.#marked.add(key);
    this.#schedule();
  }

  /** Stops or continues painting; what changes in between is painted later. */
  pause(isPaused) {
    this.#isPaused = isPaused;
    this.#schedule();
  }

  #schedule() {
    if (this.#isScheduled || this.#isPaused) return;
    this.#isScheduled = true;
    this.requestFrame((now) => this.#frame(now));
  }

  #frame(now) {
    this.#isScheduled = false;
    if (this.#isPaused) return;
    const keys = this.#marked;
    this.#marked = new Set();
    const wantsMore = this.paint(keys, now);
    if (wantsMore || this.#marked.size > 0) this.#schedule();
  }
}
