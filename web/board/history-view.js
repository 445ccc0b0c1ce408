// The history of one market as a small chart, which goes on with the market.

import { append, layout, pointOf, pointsOf } from './chart.js';
import { drawing, element, setText } from './dom.js';
import { formatTime } from './format.js';

const SIZE = { width: 600, height: 120 };
/** How far back a chart begins. */
const SPAN_MS = 15 * 60_000;
const PAGE = 1000;
/** The most pages that are read; a market that moves faster is shown from its first pages on. */
const MAX_PAGES = 3;
/** The shortest time between two drawings. */
const DRAW_MS = 1000;

/** Reads the last minutes of a market; null if the server does not answer. */
export async function readHistory(api, market, now) {
  const from = new Date(now - SPAN_MS).toISOString();
  let points = [];
  let cursor;
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const { status, body } = await api.history(market, { from, cursor, limit: PAGE });
    if (status !== 200) return null;
    points = [...points, ...pointsOf(body.entries)];
    cursor = body.nextCursor;
    if (!cursor) break;
  }
  return points;
}

/** The chart below a row. */
export class HistoryView {
  #points = [];
  #drawnAt = 0;

  constructor(market, clock) {
    this.clock = clock;
    this.market = market;
    this.note = element('p', { class: 'note' }, 'Loading the history…');
    this.chart = drawing('svg', { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, preserveAspectRatio: 'none',
      class: 'chart', role: 'img', 'aria-label': 'Prices of the last 15 minutes' });
    this.legend = element('ul', { class: 'legend' });
    this.node = element('div', { class: 'history' }, this.legend, this.chart, this.note);
  }

  /** Shows the history that was read; null says that it cannot be read. */
  show(points) {
    if (points === null) return setText(this.note, 'The history cannot be read now');
    this.#points = [...points, ...this.#points.filter((point) => point.at > (points.at(-1)?.at ?? 0))];
    this.#draw();
  }

  /** The market has changed. */
  changed(market) {
    this.market = market;
    this.#points = append(this.#points, pointOf(market.updatedAt, market.selections, market.status));
    if (this.clock() - this.#drawnAt >= DRAW_MS) this.#draw();
  }

  #draw() {
    const now = this.clock();
    this.#drawnAt = now;
    const ids = this.market.selections.map((selection) => selection.id);
    const picture = layout(this.#points, ids, SIZE, now);
    if (!picture) return setText(this.note, 'No prices in the last 15 minutes');
    const lines = picture.lines.map((line) => drawing('polyline', { points: line.path,
      class: `series series-${ids.indexOf(line.id) % 6}`, 'vector-effect': 'non-scaling-stroke' }));
    this.chart.replaceChildren(...lines);
    this.#name(ids);
    const [low, high] = [picture.low.toFixed(2), picture.high.toFixed(2)];
    setText(this.note, `${formatTime(picture.from)} – ${formatTime(picture.to)}, from ${low} to ${high}`);
  }

  #name(ids) {
    if (this.legend.children.length === ids.length) return;
    const items = this.market.selections.map((selection, index) => element('li',
      { class: `series-${index % 6}` }, selection.name || selection.id));
    this.legend.replaceChildren(...items);
  }
}
