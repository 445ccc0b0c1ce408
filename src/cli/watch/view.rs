//! The client's view of the odds: takes server messages and returns the events to print.

use std::borrow::Cow;
use std::collections::HashMap;

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
    /// Prices may be stale from now on (`true`), or are live again (`false`).
    Stale(bool),
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
struct WireMessage<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(rename = "eventId", default)]
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
}

#[derive(Deserialize)]
struct WireMarket<'a> {
    seq: u64,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// The printed state of an event.
#[derive(Default)]
struct PrintedEvent {
    snapshot_seq: u64,
    markets: HashMap<MarketKey, Printed>,
}

struct Printed {
    seq: u64,
    update: OddsUpdate,
}

/// The printed state of all events. It outlives a connection, so that after a reconnect only
/// changes are printed.
pub(crate) struct View {
    events: HashMap<EventId, PrintedEvent>,
}

impl View {
    /// Creates an empty view. Messages about other events are ignored.
    pub(crate) fn new(events: &[EventId]) -> View {
        View {
            events: events
                .iter()
                .map(|event| (event.clone(), PrintedEvent::default()))
                .collect(),
        }
    }

    /// Processes a server message. Updates that are not newer than the snapshot are dropped.
    pub(crate) fn take(&mut self, text: &str) -> Result<Vec<ViewEvent>, Unreadable> {
        let wire: WireMessage<'_> =
            json::from_str(text).map_err(|error| Unreadable(error.to_string()))?;
        match wire.kind.as_deref() {
            Some("snapshot") => self.snapshot(&wire),
            Some("update") | None => self.update(&wire),
            Some("feed") => Ok(match wire.status.as_deref() {
                Some("stale") => vec![ViewEvent::Stale(true)],
                Some("live") => vec![ViewEvent::Stale(false)],
                _ => Vec::new(),
            }),
            Some("error") => Ok(vec![ViewEvent::Refused {
                code: wire.code.unwrap_or_default(),
                message: wire.message.unwrap_or_default(),
                event_id: wire.event_id,
            }]),
            // `pong`, `unsubscribed`, and types that later servers may add.
            Some(_) => Ok(Vec::new()),
        }
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
            .map(|market| Ok((market.seq, read(market.payload)?)));
        let markets = markets.collect::<Result<Vec<_>, Unreadable>>()?;
        let Some(known) = self.events.get_mut(&event_id) else {
            return Ok(Vec::new());
        };
        // The snapshot is authoritative, even if the server's sequence numbers restarted.
        known.snapshot_seq = wire.seq.unwrap_or(0);
        known
            .markets
            .values_mut()
            .for_each(|printed| printed.seq = 0);
        if markets.is_empty() {
            return Ok(vec![ViewEvent::NothingKnown(event_id)]);
        }
        Ok(markets
            .into_iter()
            .filter_map(|(seq, update)| known.print(seq, update, false, true))
            .collect())
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
            if seq <= known.snapshot_seq || seq <= last {
                return Ok(Vec::new());
            }
        }
        Ok(known
            .print(wire.seq.unwrap_or(0), update, wire.conflated, false)
            .into_iter()
            .collect())
    }
}

impl PrintedEvent {
    /// Stores the market's state. Returns it as a change, unless `only_if_new` is set and the same
    /// state was printed before.
    fn print(
        &mut self,
        seq: u64,
        update: OddsUpdate,
        conflated: bool,
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
        })))
    }
}

fn read(payload: &RawValue) -> Result<OddsUpdate, Unreadable> {
    OddsUpdate::from_json(payload.get().as_bytes()).map_err(|error| Unreadable(error.to_string()))
}

#[cfg(test)]
mod tests;
