//! The native format: one JSON update per frame, text or binary.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Decoded, Decoder, FrameFault, Refused, future_time_detail};
use crate::domain::ids::{EventId, MarketKey, MarketName};
use crate::domain::odds::price::Line;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// The maximum number of open markets tracked for suspension when the supplier is gone. Markets
/// beyond this limit stay unchanged.
const MAX_TRACKED: usize = 100_000;

/// Decodes the native format. It tracks the open markets so that it can suspend them.
#[derive(Debug, Default)]
pub struct NativeDecoder {
    open: HashMap<EventId, HashMap<MarketKey, OpenMarket>>,
    /// The number of markets in `open`.
    tracked: usize,
    latest: Option<Timestamp>,
    /// Rejected updates without a readable event: each may concern any market.
    unnamed: u64,
}

/// A market that the supplier last reported as open.
#[derive(Debug)]
struct OpenMarket {
    /// The supplier's last revision of the market.
    told: Revision,
    /// The last published update, with our own revision if we had to create one.
    shown: OddsUpdate,
    /// A later update was rejected, so repeating the earlier one does not open the market again.
    in_doubt: bool,
    /// [`NativeDecoder::unnamed`] at the time of this update.
    unnamed_before: u64,
}

/// The market named by an update that cannot be decoded completely. An unreadable part matches any
/// value.
struct Named {
    event: EventId,
    market: Option<MarketName>,
    line: Option<Option<Line>>,
}

#[derive(Deserialize)]
struct WireNames<'a> {
    event_id: EventId,
    #[serde(default, borrow)]
    market: Option<&'a RawValue>,
    #[serde(default, borrow)]
    line: Option<&'a RawValue>,
}

impl Named {
    fn read(frame: &[u8]) -> Option<Named> {
        let wire: WireNames<'_> = serde_json::from_slice(frame).ok()?;
        Some(Named {
            event: wire.event_id,
            market: wire
                .market
                .and_then(|text| serde_json::from_str(text.get()).ok()),
            line: wire.line.map_or(Some(None), |text| {
                serde_json::from_str(text.get()).ok().map(Some)
            }),
        })
    }

    fn matches(&self, key: &MarketKey) -> bool {
        let Some(market) = &self.market else {
            return true;
        };
        *market == key.name && self.line.is_none_or(|line| line == key.line)
    }
}

/// The revision one microsecond after another one, so that later changes of the supplier do not
/// come before it.
fn next_revision(revision: Revision) -> Revision {
    let updated_at =
        Timestamp::from_micros(revision.updated_at.micros() + 1).unwrap_or(revision.updated_at);
    Revision {
        updated_at,
        ..revision
    }
}

impl OpenMarket {
    fn suspend(&mut self) -> Option<OddsUpdate> {
        if self.shown.status != MarketStatus::Open {
            return None;
        }
        self.shown.status = MarketStatus::Suspended;
        self.shown.revision = next_revision(self.shown.revision);
        Some(self.shown.clone())
    }
}

impl NativeDecoder {
    /// Tracks an update. An update sent after we suspended its market opens the market, even if it
    /// repeats the last one. It then needs a revision after the suspension's, or it would count as
    /// old.
    fn track(&mut self, mut update: OddsUpdate) -> OddsUpdate {
        let told = update.revision;
        let known = self
            .open
            .get_mut(&update.event_id)
            .and_then(|markets| markets.get_mut(&update.market));
        let is_known = known.is_some();
        if let Some(market) = known {
            let opens_again = market.shown.status == MarketStatus::Suspended && !market.in_doubt;
            if told < market.told || (told == market.told && !opens_again) {
                return update;
            }
            if told <= market.shown.revision {
                update.revision = next_revision(market.shown.revision);
            }
        }
        if update.status == MarketStatus::Open {
            if is_known || self.tracked < MAX_TRACKED {
                self.tracked += usize::from(!is_known);
                let unnamed_before = self.unnamed;
                let market = OpenMarket {
                    told,
                    shown: update.clone(),
                    in_doubt: false,
                    unnamed_before,
                };
                self.open
                    .entry(update.event_id.clone())
                    .or_default()
                    .insert(update.market.clone(), market);
            }
        } else if is_known {
            self.forget(&update);
        }
        update
    }

    fn forget(&mut self, update: &OddsUpdate) {
        let Some(markets) = self.open.get_mut(&update.event_id) else {
            return;
        };
        self.tracked -= usize::from(markets.remove(&update.market).is_some());
        if markets.is_empty() {
            self.open.remove(&update.event_id);
        }
    }

    /// Suspends the open markets that a rejected update may concern: it may have been a suspension.
    fn suspend_named(&mut self, reason: &'static str, frame: &[u8]) -> Vec<OddsUpdate> {
        let Some(named) = Named::read(frame) else {
            // A message of another type does not update any market.
            self.unnamed += u64::from(reason != "unknown_type");
            return Vec::new();
        };
        let markets = self.open.get_mut(&named.event).into_iter().flatten();
        let suspend = |(key, market): (&MarketKey, &mut OpenMarket)| {
            if !named.matches(key) {
                return None;
            }
            market.in_doubt = true;
            market.suspend()
        };
        markets.filter_map(suspend).collect()
    }

    fn refuse(&mut self, reason: &'static str, detail: String, frame: &[u8]) -> Decoded {
        Decoded {
            updates: self.suspend_named(reason, frame),
            send: Vec::new(),
            refused: vec![Refused { reason, detail }],
        }
    }
}

impl Decoder for NativeDecoder {
    fn on_connected(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault> {
        let update = match OddsUpdate::from_json(frame) {
            Ok(update) => update,
            Err(error) => return Ok(self.refuse(error.reason(), error.to_string(), frame)),
        };
        match future_time_detail(update.revision.updated_at, self.latest) {
            Some(detail) => Ok(self.refuse("future", detail, frame)),
            None => Ok(Decoded {
                updates: vec![self.track(update)],
                ..Decoded::default()
            }),
        }
    }

    fn refuse_after(&mut self, latest: Timestamp) {
        self.latest = Some(latest);
    }

    fn on_stale(&mut self) -> Vec<OddsUpdate> {
        self.open
            .values_mut()
            .flat_map(HashMap::values_mut)
            .filter_map(OpenMarket::suspend)
            .collect()
    }

    fn unnamed_refusals(&self) -> u64 {
        self.unnamed
    }

    fn suspend_unconfirmed(&mut self, refusals: u64) -> Vec<OddsUpdate> {
        let markets = self.open.values_mut().flat_map(HashMap::values_mut);
        let unconfirmed = markets.filter(|market| market.unnamed_before < refusals);
        let suspend = |market: &mut OpenMarket| {
            market.in_doubt = true;
            market.suspend()
        };
        unconfirmed.filter_map(suspend).collect()
    }

    // The supplier does not resend everything. The suspensions may be unpublished too, so all are
    // sent.
    fn on_unpublished(&mut self) -> Vec<OddsUpdate> {
        let _ = self.on_stale();
        self.open
            .values()
            .flat_map(HashMap::values)
            .map(|market| market.shown.clone())
            .collect()
    }

    // Each frame is a full market, so a missed frame does not affect later ones.
    fn on_lost(&mut self, _: bool) -> Vec<OddsUpdate> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::book::{Book, Rejection};
    use crate::domain::odds::update::testing::{market_update, update};

    fn read(decoder: &mut NativeDecoder, update: &OddsUpdate) -> OddsUpdate {
        decoder
            .on_frame(update.to_json().as_bytes())
            .unwrap()
            .updates
            .remove(0)
    }

    #[test]
    fn frame_is_decoded_as_update() {
        let sent = update(1, 10, 5);
        let mut decoder = NativeDecoder::default();
        assert!(decoder.on_connected().is_empty());
        assert_eq!(read(&mut decoder, &sent), sent);
    }

    #[test]
    fn bad_frame_is_rejected_with_reason() {
        let mut decoder = NativeDecoder::default();
        for frame in [&b"hello"[..], b"\xff"] {
            let decoded = decoder.on_frame(frame).unwrap();
            assert_eq!(
                (decoded.updates.len(), decoded.refused[0].reason),
                (0, "malformed")
            );
        }
    }

    #[test]
    fn frame_from_future_is_rejected() {
        let mut decoder = NativeDecoder::default();
        read(&mut decoder, &update(1, 10, 5));
        decoder.refuse_after(update(1, 20, 1).revision.updated_at);
        let future = decoder
            .on_frame(update(1, 21, 1).to_json().as_bytes())
            .unwrap();
        assert_eq!(future.refused[0].reason, "future");
        assert_eq!(
            future.updates[0].status,
            MarketStatus::Suspended,
            "it may have been a suspension"
        );
        assert_eq!(
            read(&mut decoder, &update(1, 11, 1)),
            update(1, 11, 1),
            "the correct update is accepted"
        );
        assert!(
            decoder.on_stale()[0].revision < update(1, 12, 1).revision,
            "based on the accepted update, not the rejected one"
        );
    }

    /// A lost supplier leaves no market open, and its next update of a market opens that market
    /// again.
    #[test]
    fn lost_supplier_suspends_until_next_update() {
        let mut decoder = NativeDecoder::default();
        let mut book = Book::new(EventId::new("MATCH_001").unwrap());
        let mut position = 0;
        let mut status = |book: &mut Book, update: OddsUpdate| {
            position += 1;
            book.apply(update, position)
                .map(|state| state.update.status)
        };
        let (same, changed) = (
            update(1, 10, 5),
            market_update("MATCH_001", "btts", None, 10, 5),
        );
        let closed = OddsUpdate {
            status: MarketStatus::Closed,
            ..market_update("MATCH_001", "over", None, 10, 5)
        };
        for sent in [&same, &changed, &closed] {
            status(&mut book, read(&mut decoder, sent)).unwrap();
        }
        for round in 0..3 {
            let suspended = decoder.on_stale();
            assert_eq!(
                suspended.len(),
                2,
                "round {round}: a closed market is unchanged"
            );
            for update in suspended {
                assert_eq!(status(&mut book, update), Ok(MarketStatus::Suspended));
            }
            assert!(decoder.on_stale().is_empty(), "once per loss");
            assert!(
                status(&mut book, read(&mut decoder, &update(1, 9, 9))).is_err(),
                "an old update opens nothing"
            );
            assert_eq!(
                status(&mut book, read(&mut decoder, &same)),
                Ok(MarketStatus::Open),
                "the same update again"
            );
            assert_eq!(
                status(&mut book, read(&mut decoder, &same)),
                Err(Rejection::Older),
                "only once"
            );
            let next = market_update("MATCH_001", "btts", None, 11 + round, 1);
            assert_eq!(
                status(&mut book, read(&mut decoder, &next)),
                Ok(MarketStatus::Open),
                "a new update"
            );
        }
    }

    fn json(update: &OddsUpdate, from: &str, to: &str) -> String {
        let json = update.to_json();
        assert!(json.contains(from), "{json}");
        json.replace(from, to)
    }

    /// The later update may have been a suspension, so no bet may use the price before it.
    #[test]
    fn unreadable_update_suspends_its_market() {
        let next = update(1, 11, 1);
        let unreadable = [
            json(&next, r#""status":"open""#, r#""status":"halted""#),
            json(&next, r#""status":"active""#, r#""status":"napping""#),
            json(&next, r#""price":3.2"#, r#""price":"3.2""#),
            json(&next, r#""price":3.2"#, r#""price":0"#),
            json(&next, r#""price":3.2"#, r#""price":-3.2"#),
            json(&next, r#""price":3.2"#, r#""price":1e999"#),
            json(&next, r#""price":3.2"#, r#""price":[]"#),
            json(&next, r#""version":1"#, r#""version":"1""#),
            json(&next, r#""version":1"#, r#""version":1,"in_play":"yes""#),
            json(&next, r#""source":"test""#, r#""sauce":"test""#),
            json(&next, r#""updated_at":""#, r#""updated_at":"at "#),
            json(&next, "Z\"", "\""),
            json(&next, r#""selections":["#, r#""selections":[7,"#),
            json(&next, r#""home_team":"Flamengo""#, r#""home_team":7"#),
            r#"{"event_id":"MATCH_001","market":"1x2"}"#.to_owned(),
            r#"{"event_id":"MATCH_001"}"#.to_owned(),
            json(&next, r#""market":"1x2""#, r#""market":7"#),
            json(
                &next,
                r#""market":"1x2""#,
                r#""market":"1x2","line":"none""#,
            ),
        ];
        for frame in unreadable {
            let mut decoder = NativeDecoder::default();
            read(&mut decoder, &update(1, 10, 5));
            read(&mut decoder, &update(2, 10, 5));
            let decoded = decoder.on_frame(frame.as_bytes()).unwrap();
            assert_eq!(decoded.refused.len(), 1, "{frame}");
            let shown: Vec<_> = decoded
                .updates
                .iter()
                .map(|u| (u.event_id.as_str(), u.status))
                .collect();
            assert_eq!(shown, [("MATCH_001", MarketStatus::Suspended)], "{frame}");
            assert!(decoded.updates[0].revision > update(1, 10, 5).revision);
            assert!(
                decoder
                    .on_frame(frame.as_bytes())
                    .unwrap()
                    .updates
                    .is_empty(),
                "once: {frame}"
            );
            let repeated = read(&mut decoder, &update(1, 10, 5));
            assert!(
                repeated.revision < decoded.updates[0].revision,
                "an earlier update opens nothing: {frame}"
            );
            assert_eq!(
                read(&mut decoder, &next),
                next,
                "a later update opens it: {frame}"
            );
        }
    }

    #[test]
    fn unreadable_line_suspends_every_line() {
        let mut decoder = NativeDecoder::default();
        for (market, line) in [
            ("total", Some("1.5")),
            ("total", Some("2.5")),
            ("total", None),
            ("btts", None),
        ] {
            read(&mut decoder, &market_update("E", market, line, 10, 5));
        }
        let suspended = |decoder: &mut NativeDecoder, frame: &str| {
            let updates = decoder.on_frame(frame.as_bytes()).unwrap().updates;
            let mut keys: Vec<_> = updates
                .iter()
                .map(|update| update.market.to_string())
                .collect();
            keys.sort();
            keys
        };
        assert_eq!(
            suspended(
                &mut decoder,
                r#"{"event_id":"E","market":"total","line":2.5}"#
            ),
            ["total@2.5"]
        );
        assert_eq!(
            suspended(
                &mut decoder,
                r#"{"event_id":"E","market":"total","line":"x"}"#
            ),
            ["total", "total@1.5"]
        );
        assert_eq!(suspended(&mut decoder, r#"{"event_id":"F"}"#), [""; 0]);
        assert_eq!(suspended(&mut decoder, r#"{"event_id":"E"}"#), ["btts"]);
    }

    /// An unreadable frame without an event may concern any market until the market's next update.
    #[test]
    fn unnamed_refusal_suspends_unconfirmed_markets() {
        let mut decoder = NativeDecoder::default();
        let names = |updates: Vec<OddsUpdate>| {
            let mut names: Vec<_> = updates
                .iter()
                .map(|update| update.event_id.as_str().to_owned())
                .collect();
            names.sort();
            names
        };
        for event in ["A", "B"] {
            read(&mut decoder, &market_update(event, "1x2", None, 10, 1));
        }
        // A message of another type is not an update.
        assert_eq!(
            decoder
                .on_frame(br#"{"type":"heartbeat"}"#)
                .unwrap()
                .refused[0]
                .reason,
            "unknown_type"
        );
        assert_eq!(decoder.unnamed_refusals(), 0);
        for frame in [
            "{garbage",
            r#"{"market":"1x2"}"#,
            r#"{"event_id":7,"market":"1x2"}"#,
        ] {
            assert_eq!(decoder.on_frame(frame.as_bytes()).unwrap().refused.len(), 1);
        }
        assert_eq!(decoder.unnamed_refusals(), 3);
        read(&mut decoder, &market_update("B", "1x2", None, 11, 1));
        assert_eq!(names(decoder.suspend_unconfirmed(3)), ["A"]);
        assert_eq!(names(decoder.suspend_unconfirmed(3)), [""; 0], "once");
        let repeated = read(&mut decoder, &market_update("A", "1x2", None, 10, 1));
        assert_eq!(
            repeated.revision.updated_at,
            update(1, 10, 1).revision.updated_at,
            "the same update opens nothing"
        );
        decoder.on_frame(b"{garbage").unwrap();
        assert_eq!(names(decoder.suspend_unconfirmed(4)), ["B"]);
    }

    #[test]
    fn unpublished_updates_leave_no_market_open() {
        let mut decoder = NativeDecoder::default();
        read(&mut decoder, &update(1, 10, 5));
        let suspended = decoder.on_unpublished();
        assert_eq!(suspended[0].status, MarketStatus::Suspended);
        // The bus did not accept the suspension either.
        assert_eq!(decoder.on_unpublished(), suspended);
        let next = update(1, 11, 1);
        assert_eq!(read(&mut decoder, &next), next);
        assert_eq!(decoder.on_stale().len(), 1, "it is still tracked");
    }
}
