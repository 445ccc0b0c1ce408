// Messages as the server sends them.

/** A payload of `/ws/odds`. */
export function payload(event, price = 2.1, more = {}) {
  return {
    event_id: event, home_team: 'Flamengo', away_team: 'Palmeiras', market: '1x2',
    selections: [{ id: 'home', name: 'Flamengo', price, status: 'active' }],
    status: 'open', updated_at: '2026-11-22T21:36:31.720060Z', source: 'a', version: 1, ...more,
  };
}

/** A snapshot with these markets, as `[seq, payload, more]`. */
export function snapshot(event, seq, markets, more = {}) {
  return {
    type: 'snapshot', eventId: event, seq, epoch: 'e1', recovered: false, conflateMs: 0,
    markets: markets.map(([number, body, extra]) => ({ seq: number, payload: body, ...extra })), ...more,
  };
}

/** An update. */
export function update(event, seq, body, more = {}) {
  return { type: 'update', eventId: event, seq, payload: body, ...more };
}
