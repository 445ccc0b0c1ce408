//! The client's view of the odds: takes server messages and returns the events to print.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::line::Change;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::json;
use crate::domain::odds::update::OddsUpdate;

/// An event to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ViewEvent {
    /// A market is new or changed.
    Change(Box<Change>),
    /// The server has no market of the event yet.
    NothingKnown(EventId),
    /// After a reconnect the server sent only this many markets, which have changed.
    Resumed(EventId, usize),
    /// After a reconnect the server sent every market.
    Replaced(EventId),
    /// Prices may be stale from now on (`true`), or are live again (`false`).
    Stale(bool),
    /// A source is lost (`true`), or live again (`false`).
    SourceStale(String, bool),
    /// The server stops: the client has to connect elsewhere within this time.
    Reconnect(Duration),
    /// The server rejected a request.
    Refused {
        /// The error code.
        code: String,
        /// The error message.
        message: String,
        /// The event that the error concerns.
        event_id: Option<EventId>,
    },
}

/// Why a server message cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unreadable message from the server: {0}")]
pub(crate) struct Unreadable(String);

/// A server message of any type. A message without a `type` is an update from the original.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMessage<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    event_id: Option<EventId>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    conflated: bool,
    #[serde(default, borrow)]
    markets: Option<Vec<WireMarket<'a>>>,
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default, borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(default)]
    epoch: Option<String>,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    heartbeat_ms: Option<u32>,
    #[serde(default)]
    stale: Option<bool>,
    #[serde(default)]
    resumable: Option<bool>,
    #[serde(default)]
    within_ms: Option<u64>,
}

#[derive(Deserialize)]
struct WireMarket<'a> {
    seq: u64,
    #[serde(default)]
    stale: bool,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// The printed state of an event.
#[derive(Default)]
struct PrintedEvent {
    /// Whether this connection has brought its snapshot.
    has_snapshot: bool,
    snapshot_seq: u64,
    markets: HashMap<MarketKey, Printed>,
    /// From where the event can be resumed.
    token: Option<Token>,
}

/// The client has every change of an event up to `since`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The number of the last change.
    pub since: u64,
    /// The epoch of the numbers.
    pub epoch: String,
}

struct Printed {
    seq: u64,
    update: OddsUpdate,
}

/// The printed state of all events. It outlives a connection, so that after a reconnect only
/// changes are printed.
pub(crate) struct View {
    events: HashMap<EventId, PrintedEvent>,
    is_stale: bool,
    stale_sources: BTreeSet<String>,
    /// How often the server sends a heartbeat.
    heartbeat: Option<Duration>,
}

/// How many heartbeats may be missing before the server counts as dead.
const MISSING_HEARTBEATS: u32 = 3;

impl View {
    /// Creates an empty view. Messages about other events are ignored.
    pub(crate) fn new(events: &[EventId]) -> View {
        View {
            events: events
                .iter()
                .map(|event| (event.clone(), PrintedEvent::default()))
                .collect(),
            is_stale: false,
            stale_sources: BTreeSet::new(),
            heartbeat: None,
        }
    }

    /// A new connection was opened. What was stale is reported again.
    pub(crate) fn connected(&mut self) {
        let events = self.events.values_mut();
        events.for_each(|event| event.has_snapshot = false);
        self.is_stale = false;
        self.stale_sources.clear();
    }

    /// The events whose snapshot this connection has not brought yet.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &EventId> {
        let awaited = self.events.iter().filter(|(_, event)| !event.has_snapshot);
        awaited.map(|(event_id, _)| event_id)
    }

    /// From where an event can be resumed.
    pub(crate) fn token(&self, event_id: &EventId) -> Option<Token> {
        self.events.get(event_id)?.token.clone()
    }

    /// How long the server may be silent, at most `limit`. While prices are stale it sends no
    /// heartbeats.
    pub(crate) fn silence_limit(&self, limit: Duration) -> Duration {
        match self.heartbeat {
            Some(heartbeat) if !self.is_stale => limit.min(heartbeat * MISSING_HEARTBEATS),
            _ => limit,
        }
    }

    /// Processes a server message. Updates that are not newer than the snapshot are dropped.
    pub(crate) fn take(&mut self, text: &str) -> Result<Vec<ViewEvent>, Unreadable> {
        let wire: WireMessage<'_> =
            json::from_str(text).map_err(|error| Unreadable(error.to_string()))?;
        match wire.kind.as_deref() {
            Some("snapshot") => self.snapshot(&wire),
            Some("update") | None => self.update(&wire),
            Some("feed") => Ok(self.feed(&wire).into_iter().collect()),
            Some("error") => Ok(vec![ViewEvent::Refused {
                code: wire.code.unwrap_or_default(),
                message: wire.message.unwrap_or_default(),
                event_id: wire.event_id,
            }]),
            Some("reconnect") => {
                let within = Duration::from_millis(wire.within_ms.unwrap_or(0));
                Ok(vec![ViewEvent::Reconnect(within)])
            }
            // `pong`, `unsubscribed`, and types that later servers may add.
            Some(_) => Ok(Vec::new()),
        }
    }

    fn feed(&mut self, wire: &WireMessage<'_>) -> Option<ViewEvent> {
        let is_stale = match wire.status.as_deref() {
            Some("stale") => true,
            Some("live") => false,
            _ => return None,
        };
        let Some(source) = wire.source.as_deref() else {
            self.is_stale = is_stale;
            return Some(ViewEvent::Stale(is_stale));
        };
        // The message comes once for each event.
        let is_new = if is_stale {
            self.stale_sources.insert(source.to_owned())
        } else {
            self.stale_sources.remove(source)
        };
        is_new.then(|| ViewEvent::SourceStale(source.to_owned(), is_stale))
    }

    fn snapshot(&mut self, wire: &WireMessage<'_>) -> Result<Vec<ViewEvent>, Unreadable> {
        let event_id = wire
            .event_id
            .clone()
            .ok_or_else(|| Unreadable("a snapshot without eventId".to_owned()))?;
        let markets = wire
            .markets
            .iter()
            .flatten()
            .map(|market| Ok((market.seq, read(market.payload)?, market.stale)));
        let markets = markets.collect::<Result<Vec<_>, Unreadable>>()?;
        let Some(known) = self.events.get_mut(&event_id) else {
            return Ok(Vec::new());
        };
        self.heartbeat = wire
            .heartbeat_ms
            .map(|millis| Duration::from_millis(millis.into()));
        known.has_snapshot = true;
        known.snapshot_seq = wire.seq.unwrap_or(0);
        let since = known.snapshot_seq;
        let epoch = wire.epoch.clone();
        let earlier =
            std::mem::replace(&mut known.token, epoch.map(|epoch| Token { since, epoch }));
        let mut view_events = Vec::new();
        if wire.recovered {
            view_events.push(ViewEvent::Resumed(event_id, markets.len()));
        } else {
            // The snapshot is authoritative, even if the server's sequence numbers restarted.
            known
                .markets
                .values_mut()
                .for_each(|printed| printed.seq = 0);
            if markets.is_empty() {
                return Ok(vec![ViewEvent::NothingKnown(event_id)]);
            }
            view_events.extend(earlier.map(|_| ViewEvent::Replaced(event_id)));
        }
        let changes = markets
            .into_iter()
            .filter_map(|(seq, update, stale)| known.print(seq, update, (false, stale), true));
        view_events.extend(changes);
        Ok(view_events)
    }

    fn update(&mut self, wire: &WireMessage<'_>) -> Result<Vec<ViewEvent>, Unreadable> {
        let payload = wire
            .payload
            .ok_or_else(|| Unreadable("an update without payload".to_owned()))?;
        let update = read(payload)?;
        let Some(known) = self.events.get_mut(&update.event_id) else {
            return Ok(Vec::new());
        };
        if let Some(seq) = wire.seq {
            let last = known
                .markets
                .get(&update.market)
                .map_or(0, |printed| printed.seq);
            // A state that is shown in another way is sent again with its number.
            let is_restated = wire.stale.is_some() && seq >= last;
            if (seq <= known.snapshot_seq || seq <= last) && !is_restated {
                return Ok(Vec::new());
            }
            known.advance(seq, wire.resumable);
        }
        let marks = (wire.conflated, wire.stale == Some(true));
        Ok(known
            .print(wire.seq.unwrap_or(0), update, marks, false)
            .into_iter()
            .collect())
    }
}

impl PrintedEvent {
    /// A change was received.
    fn advance(&mut self, seq: u64, resumable: Option<bool>) {
        match &mut self.token {
            _ if resumable == Some(false) => self.token = None,
            Some(token) => token.since = token.since.max(seq),
            None => {}
        }
    }

    /// Stores the market's state. Returns it as a change, unless `only_if_new` is set and the same
    /// state was printed before.
    fn print(
        &mut self,
        seq: u64,
        update: OddsUpdate,
        (conflated, stale): (bool, bool),
        only_if_new: bool,
    ) -> Option<ViewEvent> {
        let printed = Printed {
            seq,
            update: update.clone(),
        };
        let before = self
            .markets
            .insert(update.market.clone(), printed)
            .map(|printed| printed.update);
        if only_if_new && before.as_ref() == Some(&update) {
            return None;
        }
        Some(ViewEvent::Change(Box::new(Change {
            update,
            before,
            conflated,
            stale,
        })))
    }
}

fn read(payload: &RawValue) -> Result<OddsUpdate, Unreadable> {
    OddsUpdate::from_json(payload.get().as_bytes()).map_err(|error| Unreadable(error.to_string()))
}

#[cfg(test)]
mod tests;
