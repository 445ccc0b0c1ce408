// The geometry of a market's history: prices over time as steps. Positions are for the eye only, so
// floating point is good enough here.

import { thousandths } from './format.js';

/** The most points of a chart; older ones are left out. */
export const MAX_POINTS = 1500;

/** The points of a page of history. */
export function pointsOf(entries) {
  return entries.map((entry) => pointOf(entry.updatedAt, entry.selections, entry.status));
}

/** One point: when, and the price of each selection that had one. */
export function pointOf(time, selections, status) {
  const prices = new Map();
  for (const { id, price } of selections) {
    const value = thousandths(price);
    if (value !== null) prices.set(id, Number(value) / 1000);
  }
  return { at: Date.parse(time), prices, isOpen: status === 'open' };
}

/** Adds a point if it is newer than the last one. */
export function append(points, point) {
  const last = points.at(-1);
  if (Number.isNaN(point.at) || (last && point.at <= last.at)) return points;
  return [...points, point].slice(-MAX_POINTS);
}

/** The lines of a chart of this size, or null if there is nothing to draw. */
export function layout(points, selectionIds, { width, height }, now) {
  const prices = points.flatMap((point) => [...point.prices.values()]);
  if (prices.length === 0) return null;
  const scale = scaleOf(points, prices, { width, height }, now);
  const lines = selectionIds.map((id) => ({ id, path: pathOf(points, id, scale) }));
  return {
    lines: lines.filter((line) => line.path !== ''),
    low: Math.min(...prices),
    high: Math.max(...prices),
    from: points[0].at,
    to: Math.max(now, points.at(-1).at),
  };
}

function scaleOf(points, prices, { width, height }, now) {
  const low = Math.min(...prices);
  const high = Math.max(...prices);
  const from = points[0].at;
  const span = Math.max(now, points.at(-1).at) - from || 1;
  const range = high - low || 1;
  return {
    x: (at) => round(((at - from) / span) * width),
    y: (price) => round(high === low ? height / 2 : height - ((price - low) / range) * height),
    end: width,
  };
}

/** A price holds until the next one. */
function pathOf(points, id, scale) {
  const corners = [];
  let last = null;
  for (const point of points) {
    const price = point.prices.get(id);
    if (price === undefined) continue;
    const x = scale.x(point.at);
    if (last !== null) corners.push(`${x},${last}`);
    last = scale.y(price);
    corners.push(`${x},${last}`);
  }
  if (last !== null) corners.push(`${scale.end},${last}`);
  return corners.join(' ');
}

function round(value) {
  return Math.round(value * 10) / 10;
}
