// The state of the followed events, built from snapshots and updates.

// No id contains control characters, so this cannot be part of one.
const SEPARATOR = '\u0000';

/** The key of a market of an event. */
export function marketKey(eventId, name, line) {
  return `${eventId}${SEPARATOR}${name}${SEPARATOR}${line ?? ''}`;
}

function marketOf(message, eventId, known) {
  const { payload } = message;
  const line = payload.line ?? null;
  return {
    key: marketKey(eventId, payload.market, line),
    eventId,
    name: payload.market,
    line,
    home: payload.home_team,
    away: payload.away_team,
    status: payload.status,
    inPlay: payload.in_play === true,
    selections: payload.selections ?? [],
    updatedAt: payload.updated_at,
    seq: message.seq,
    // The source is lost.
    isSourceLost: message.stale ?? known?.isSourceLost ?? false,
    // The server may have missed changes when it sent this state.
    isUnconfirmed: false,
  };
}

/** The books of all followed events. */
export class Books {
  #events = new Map();

  /** Whether the server says that changes cannot arrive now. */
  isFeedStale = false;

  /** The markets of an event, by name and line. */
  marketsOf(eventId) {
    const markets = [...(this.#events.get(eventId)?.markets.values() ?? [])];
    const order = (market) => [market.name, Number(market.line ?? 0)];
    return markets.sort((one, other) => {
      const [name, line] = order(one);
      const [otherName, otherLine] = order(other);
      return name === otherName ? line - otherLine : name < otherName ? -1 : 1;
    });
  }

  /** A market by its key. */
  market(key) {
    const [eventId] = key.split(SEPARATOR);
    return this.#events.get(eventId)?.markets.get(key);
  }

  /** Whether the price of a market may be old. */
  isStale(market) {
    return this.isFeedStale || market.isUnconfirmed || market.isSourceLost;
  }

  /** From where a subscription to this event resumes; null if it cannot. */
  resumePoint(eventId) {
    const event = this.#events.get(eventId);
    return event?.epoch ? { since: event.since, epoch: event.epoch } : null;
  }

  /** Forgets an event that is not followed any more. */
  forget(eventId) {
    this.#events.delete(eventId);
  }

  /** Applies a snapshot. Returns the keys of the markets that may look different now. */
  applySnapshot(message) {
    const { eventId } = message;
    const earlier = this.#events.get(eventId);
    // A snapshot that resumes holds only what was missed; any other one replaces the event.
    const isResumed = message.recovered === true;
    // The answer to a subscription that ended in the meantime; the answer to its successor follows.
    if (isResumed && !earlier) return new Set();
    const markets = isResumed ? earlier.markets : new Map();
    for (const part of message.markets) {
      const market = marketOf({ ...part, stale: part.stale === true }, eventId);
      market.isUnconfirmed = message.stale === true;
      markets.set(market.key, market);
    }
    const changed = new Set([...(earlier?.markets.keys() ?? []), ...markets.keys()]);
    this.#events.set(eventId, {
      markets,
      snapshotSeq: message.seq,
      since: message.seq,
      epoch: message.epoch ?? null,
    });
    return changed;
  }

  /** Applies an update. Returns the key of its market, or null if the update is not newer. */
  applyUpdate(message) {
    const event = this.#events.get(message.eventId);
    if (!event || !message.payload) return null;
    const key = marketKey(message.eventId, message.payload.market, message.payload.line);
    const known = event.markets.get(key);
    // An update that repeats the number of its market shows the same state in another way.
    const isRepeated = known !== undefined && message.seq === known.seq;
    const isNewer = message.seq > event.snapshotSeq && message.seq > (known?.seq ?? 0);
    if (!isRepeated && !isNewer) return null;
    event.markets.set(key, marketOf(message, message.eventId, known));
    event.since = Math.max(event.since, message.seq);
    if (message.resumable === false) event.epoch = null;
    return key;
  }

  /** Applies the status of the path of changes. Returns whether it is another one. */
  setFeed(status) {
    const isStale = status === 'stale';
    if (!isStale) {
      for (const event of this.#events.values()) {
        for (const market of event.markets.values()) market.isUnconfirmed = false;
      }
    }
    const isOther = this.isFeedStale !== isStale;
    this.isFeedStale = isStale;
    return isOther;
  }

  /** The keys of all markets. */
  keys() {
    return [...this.#events.values()].flatMap((event) => [...event.markets.keys()]);
  }
}
