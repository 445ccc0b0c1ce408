//! The native form: one JSON update a frame, text or binary.

use std::collections::HashMap;

use super::{Decoded, Decoder, FrameFault, from_the_future};
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::status::MarketStatus;
use crate::domain::timestamp::Timestamp;
use crate::domain::update::{OddsUpdate, Revision};

/// Open markets that are kept track of, to be suspended when the supplier is gone. Those beyond stay as they are.
const MAX_TRACKED: usize = 100_000;

/// Reads the native form. It keeps the open markets, so that it can suspend them.
#[derive(Debug, Default)]
pub struct NativeDecoder {
    open: HashMap<(EventId, MarketKey), OpenMarket>,
    latest: Option<Timestamp>,
}

/// A market that the supplier last called open.
#[derive(Debug)]
struct OpenMarket {
    /// The supplier's revision of it.
    told: Revision,
    /// As it went out last, with our revision where we had to make one.
    shown: OddsUpdate,
}

/// The first revision after another one that no supplier's later change comes before.
fn just_after(revision: Revision) -> Revision {
    let updated_at = Timestamp::from_micros(revision.updated_at.micros() + 1).unwrap_or(revision.updated_at);
    Revision { updated_at, ..revision }
}

impl NativeDecoder {
    /// Keeps track of an update. What a supplier sends after we suspended its market, were it the very same again,
    /// opens the market: it needs a revision after the suspension's, or it would look old.
    fn track(&mut self, mut update: OddsUpdate) -> OddsUpdate {
        let key = (update.event_id.clone(), update.market.clone());
        let told = update.revision;
        if let Some(market) = self.open.get(&key) {
            let suspended_by_us = market.shown.status == MarketStatus::Suspended;
            if told < market.told || (told == market.told && !suspended_by_us) {
                return update;
            }
            if told <= market.shown.revision {
                update.revision = just_after(market.shown.revision);
            }
        }
        if update.status != MarketStatus::Open {
            self.open.remove(&key);
        } else if self.open.contains_key(&key) || self.open.len() < MAX_TRACKED {
            self.open.insert(key, OpenMarket { told, shown: update.clone() });
        }
        update
    }
}

impl Decoder for NativeDecoder {
    fn on_connected(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault> {
        let update = OddsUpdate::from_json(frame)
            .map_err(|error| FrameFault::Unreadable { reason: error.reason(), detail: error.to_string() })?;
        match from_the_future(update.revision.updated_at, self.latest) {
            Some(detail) => Err(FrameFault::Unreadable { reason: "future", detail }),
            None => Ok(Decoded { updates: vec![self.track(update)], ..Decoded::default() }),
        }
    }

    fn refuse_after(&mut self, latest: Timestamp) {
        self.latest = Some(latest);
    }

    fn on_stale(&mut self) -> Vec<OddsUpdate> {
        let live = self.open.values_mut().filter(|market| market.shown.status == MarketStatus::Open);
        let suspend = |market: &mut OpenMarket| {
            market.shown.status = MarketStatus::Suspended;
            market.shown.revision = just_after(market.shown.revision);
            market.shown.clone()
        };
        live.map(suspend).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::book::{Book, Rejection};
    use crate::domain::update::testing::{market_update, update};

    fn read(decoder: &mut NativeDecoder, update: &OddsUpdate) -> OddsUpdate {
        decoder.on_frame(update.to_json().as_bytes()).unwrap().updates.remove(0)
    }

    #[test]
    fn a_frame_is_an_update() {
        let sent = update(1, 10, 5);
        let mut decoder = NativeDecoder::default();
        assert!(decoder.on_connected().is_empty());
        assert_eq!(read(&mut decoder, &sent), sent);
    }

    #[test]
    fn a_bad_frame_says_why() {
        let mut decoder = NativeDecoder::default();
        let fault = decoder.on_frame(b"hello").unwrap_err();
        assert!(matches!(&fault, FrameFault::Unreadable { reason: "malformed", .. }), "{fault}");
        assert!(matches!(decoder.on_frame(b"\xff").unwrap_err(), FrameFault::Unreadable { reason: "malformed", .. }));
    }

    #[test]
    fn a_frame_from_the_future_is_refused_and_not_kept_track_of() {
        let mut decoder = NativeDecoder::default();
        read(&mut decoder, &update(1, 10, 5));
        decoder.refuse_after(update(1, 20, 1).revision.updated_at);
        let future = decoder.on_frame(update(1, 21, 1).to_json().as_bytes()).unwrap_err();
        assert!(matches!(&future, FrameFault::Unreadable { reason: "future", .. }), "{future}");
        assert_eq!(read(&mut decoder, &update(1, 11, 1)), update(1, 11, 1), "the true one goes on");
        assert!(decoder.on_stale()[0].revision < update(1, 12, 1).revision, "of what was taken, not what was refused");
    }

    #[test]
    fn a_supplier_that_is_gone_leaves_no_market_open_and_each_word_of_it_opens_its_market_again() {
        let mut decoder = NativeDecoder::default();
        let mut book = Book::new(EventId::new("MATCH_001").unwrap());
        let mut position = 0;
        let mut status = |book: &mut Book, update: OddsUpdate| {
            position += 1;
            book.apply(update, position).map(|state| state.update.status)
        };
        let (same, changed) = (update(1, 10, 5), market_update("MATCH_001", "btts", None, 10, 5));
        let closed = OddsUpdate { status: MarketStatus::Closed, ..market_update("MATCH_001", "over", None, 10, 5) };
        for sent in [&same, &changed, &closed] {
            status(&mut book, read(&mut decoder, sent)).unwrap();
        }
        for round in 0..3 {
            let suspended = decoder.on_stale();
            assert_eq!(suspended.len(), 2, "round {round}: a market that is closed is not touched");
            for update in suspended {
                assert_eq!(status(&mut book, update), Ok(MarketStatus::Suspended));
            }
            assert!(decoder.on_stale().is_empty(), "once a loss");
            assert!(status(&mut book, read(&mut decoder, &update(1, 9, 9))).is_err(), "an old word opens nothing");
            assert_eq!(status(&mut book, read(&mut decoder, &same)), Ok(MarketStatus::Open), "the same again");
            assert_eq!(status(&mut book, read(&mut decoder, &same)), Err(Rejection::Older), "but only once");
            let next = market_update("MATCH_001", "btts", None, 11 + round, 1);
            assert_eq!(status(&mut book, read(&mut decoder, &next)), Ok(MarketStatus::Open), "a new one");
        }
    }
}
