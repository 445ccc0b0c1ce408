// How the change of a price is shown: a cell lights up for a moment, and shows its direction by an
// arrow as well as by colour. It changes its light at most 2.5 times a second: more than three
// flashes a second are dangerous to some people (WCAG 2.3.1).

/** How long a cell is lit. */
export const LIT_MS = 800;
/** The shortest time between two changes of light. */
const LEAST_MS = 400;

/** The light of one cell. */
export class Flash {
  #changedAt = -Infinity;
  #until = 0;

  /** `up`, `down`, or null while the cell is not lit. */
  lit = null;

  /** The price went `direction`. Returns whether the light changes. */
  moved(direction, now) {
    if (direction === 'same') return false;
    if (this.lit === direction) {
      this.#until = now + LIT_MS;
      return false;
    }
    if (now - this.#changedAt < LEAST_MS) return false;
    this.#change(direction, now);
    this.#until = now + LIT_MS;
    return true;
  }

  /** Time passes. Returns whether the light changes. */
  tick(now) {
    if (this.lit === null || now < this.#until || now - this.#changedAt < LEAST_MS) return false;
    this.#change(null, now);
    return true;
  }

  #change(lit, now) {
    this.lit = lit;
    this.#changedAt = now;
  }
}
