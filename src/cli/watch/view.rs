//! What a client knows: server messages in, what there is to say out.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::line::Change;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::json;
use crate::domain::odds::update::OddsUpdate;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewEvent {
    /// A market is new or has changed.
    Change(Box<Change>),
    /// The server knows no market of the event yet.
    NothingKnown(EventId),
    /// Prices may be old from now on (`true`), or are live again (`false`).
    Stale(bool),
    /// The server refused something.
    Refused {
        /// Its code.
        code: String,
        /// Its words.
        message: String,
        /// The event that it is about.
        event_id: Option<EventId>,
    },
}

/// Why a server message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server sent what cannot be read: {0}")]
pub struct Unreadable(String);

/// A server message of any type. Without a `type` it is an update of the original.
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

/// What was printed of an event.
#[derive(Default)]
struct Known {
    snapshot_seq: u64,
    markets: HashMap<MarketKey, Printed>,
}

struct Printed {
    seq: u64,
    update: OddsUpdate,
}

/// What was printed so far. It outlives a connection, so that only what has changed meanwhile is
/// printed after it.
pub struct View {
    events: HashMap<EventId, Known>,
}

impl View {
    /// Nothing is printed yet. Messages of other events than these are passed over.
    pub fn new(events: &[EventId]) -> View {
        View {
            events: events
                .iter()
                .map(|event| (event.clone(), Known::default()))
                .collect(),
        }
    }

    /// Takes a server message. What is not newer than its snapshot is dropped.
    pub fn take(&mut self, text: &str) -> Result<Vec<ViewEvent>, Unreadable> {
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
            // `pong`, `unsubscribed`, and what later servers may add.
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
        // The snapshot is the truth, also where the server has begun to count anew.
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

impl Known {
    /// Notes the market's state; tells it unless `only_if_new` and the same was printed before.
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::odds::book::Book;
    use crate::domain::odds::update::testing::*;
    use crate::domain::streaming::protocol::{
        FeedStatus, Refusal, UpdateFrame, error_message, feed_message, pong_message,
        snapshot_message, unsubscribed_message,
    };

    fn event() -> EventId {
        EventId::new("MATCH_001").unwrap()
    }

    fn view() -> View {
        View::new(&[event()])
    }

    /// Versions of the changes that a message leads to, with whether there was one before.
    fn told(view: &mut View, text: &str) -> Vec<(i64, bool, bool)> {
        let said = view.take(text).unwrap();
        let change = |one: ViewEvent| match one {
            ViewEvent::Change(change) => (
                change.update.revision.version,
                change.before.is_some(),
                change.conflated,
            ),
            other => panic!("{other:?}"),
        };
        said.into_iter().map(change).collect()
    }

    #[test]
    fn a_snapshot_then_what_is_newer_than_it() {
        let (mut view, mut book) = (view(), Book::new(event()));
        let nothing = vec![ViewEvent::NothingKnown(event())];
        assert_eq!(
            view.take(&snapshot_message(&book.snapshot(), false))
                .unwrap(),
            nothing
        );
        let first = UpdateFrame::new(&book.apply(update(1, 1, 1), 10).unwrap());
        let second = UpdateFrame::new(&book.apply(update(1, 1, 2), 11).unwrap());
        assert_eq!(
            told(&mut view, &snapshot_message(&book.snapshot(), false)),
            [(2, false, false)]
        );
        assert_eq!(told(&mut view, first.text(false)), []);
        assert_eq!(told(&mut view, second.text(false)), []);
        let third = UpdateFrame::new(&book.apply(update(1, 1, 3), 12).unwrap());
        assert_eq!(told(&mut view, third.text(true)), [(3, true, true)]);
        assert_eq!(told(&mut view, third.text(false)), []);
    }

    #[test]
    fn after_a_reconnect_only_what_changed_meanwhile_is_told() {
        let (mut view, mut book) = (view(), Book::new(event()));
        book.apply(market_update("MATCH_001", "1x2", None, 1, 1), 100)
            .unwrap();
        book.apply(market_update("MATCH_001", "btts", None, 1, 2), 101)
            .unwrap();
        assert_eq!(
            told(&mut view, &snapshot_message(&book.snapshot(), false)).len(),
            2
        );
        // The server comes back with a count that starts anew.
        let mut again = Book::new(event());
        again
            .apply(market_update("MATCH_001", "1x2", None, 1, 1), 0)
            .unwrap();
        again
            .apply(market_update("MATCH_001", "btts", None, 2, 7), 1)
            .unwrap();
        assert_eq!(
            told(&mut view, &snapshot_message(&again.snapshot(), false)),
            [(7, true, false)]
        );
        let next = UpdateFrame::new(&again.apply(update(1, 3, 9), 2).unwrap());
        assert_eq!(told(&mut view, next.text(false)), [(9, true, false)]);
    }

    #[test]
    fn says_when_prices_may_be_old_and_when_they_are_live_again() {
        let mut view = view();
        for (status, said) in [
            (FeedStatus::Stale, ViewEvent::Stale(true)),
            (FeedStatus::Live, ViewEvent::Stale(false)),
        ] {
            assert_eq!(view.take(&feed_message(status)).unwrap(), [said]);
        }
        assert_eq!(
            view.take(r#"{"type":"feed","status":"of a later server"}"#)
                .unwrap(),
            []
        );
    }

    #[test]
    fn reads_the_originals_updates() {
        let mut view = view();
        for version in [1, 2] {
            let text = format!(
                r#"{{"eventId":"MATCH_001","payload":{}}}"#,
                update(1, 1, version).to_json()
            );
            assert_eq!(told(&mut view, &text), [(version, version == 2, false)]);
        }
    }

    #[test]
    fn passes_over_events_that_nobody_asked_for() {
        let mut view = View::new(&[EventId::new("MATCH_002").unwrap()]);
        let mut book = Book::new(event());
        let frame = UpdateFrame::new(&book.apply(update(1, 1, 1), 0).unwrap());
        assert_eq!(told(&mut view, frame.text(false)), []);
        assert_eq!(
            told(&mut view, &snapshot_message(&book.snapshot(), false)),
            []
        );
    }

    #[test]
    fn tells_refusals_and_passes_over_the_rest() {
        let mut view = view();
        let refusal = Refusal::SnapshotUnavailable(event());
        let said = view.take(&error_message(&refusal)).unwrap();
        assert_eq!(
            said,
            [ViewEvent::Refused {
                code: "SNAPSHOT_UNAVAILABLE".to_owned(),
                message: refusal.to_string(),
                event_id: Some(event())
            }]
        );
        assert_eq!(view.take(&pong_message()).unwrap(), []);
        assert_eq!(view.take(&unsubscribed_message(&event())).unwrap(), []);
        assert_eq!(view.take(r#"{"type":"of_tomorrow","seq":1}"#).unwrap(), []);
        assert_eq!(
            view.take("{}").unwrap_err().to_string(),
            "the server sent what cannot be read: an update without payload"
        );
        assert!(view.take(r#"{"type":"snapshot","markets":[]}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_but_never_panics(text in ".{0,80}") {
            let _ = view().take(&text);
        }
    }
}
