//! The native format: one JSON update per frame, text or binary.

mod market;
mod messages;
mod recovery;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

pub(super) use self::market::next_revision;
use self::market::{OpenMarket, Trust};
use self::messages::{Alive, BetStop, Named, NativeMessage, without_handover};
use self::recovery::{Answer, Recovery};
use super::{Decoded, Decoder, FrameFault, Refused, future_time_detail};
use crate::domain::ids::{EventId, MarketKey, Source};
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{DecodeError, OddsUpdate};
use crate::domain::timestamp::Timestamp;

/// The maximum number of open markets tracked for suspension when the supplier is gone. Markets
/// beyond this limit stay unchanged.
const MAX_TRACKED: usize = 100_000;
/// The maximum number of sources of one connection whose state is reported.
pub(crate) const MAX_SOURCES: usize = 32;
/// A recovery overlaps with what was received before: updates of one source need not arrive in the
/// order of their times.
const RECOVERY_OVERLAP: Duration = Duration::from_secs(10);

/// Decodes the native format. It tracks the open markets so that it can suspend them.
#[derive(Debug, Default)]
pub struct NativeDecoder {
    open: HashMap<EventId, HashMap<MarketKey, OpenMarket>>,
    /// The number of markets in `open`.
    tracked: usize,
    latest: Option<Timestamp>,
    /// Rejected updates without a readable event: each may concern any market.
    unnamed: u64,
    /// The number of connections so far.
    connection: u64,
    recovery: Recovery,
    /// The sources heard, and the latest time that each has named.
    sources: BTreeMap<Source, Timestamp>,
    /// Markets without [`Trust::Vouched`] may exist.
    has_unvouched: bool,
}

impl NativeDecoder {
    /// A decoder that requests what was missed after each connect, if `requests_recovery`.
    pub(crate) fn new(requests_recovery: bool) -> NativeDecoder {
        NativeDecoder {
            recovery: Recovery::new(requests_recovery),
            ..NativeDecoder::default()
        }
    }

    fn markets(&mut self) -> impl Iterator<Item = &mut OpenMarket> {
        self.open.values_mut().flat_map(HashMap::values_mut)
    }

    fn hear(&mut self, source: &Source, time: Timestamp) {
        if let Some(known) = self.sources.get_mut(source) {
            *known = time.max(*known);
        } else if self.sources.len() < MAX_SOURCES {
            self.sources.insert(source.clone(), time);
        }
    }

    /// Everything up to this time is known, whatever the source.
    fn known_until(&self) -> Option<Timestamp> {
        let earliest = self.sources.values().min()?;
        Some(earliest.earlier_by(RECOVERY_OVERLAP))
    }

    fn on_update(&mut self, update: OddsUpdate, is_handed_over: bool, frame: &[u8]) -> Decoded {
        if let Some(detail) = future_time_detail(update.revision.updated_at, self.latest) {
            return self.refuse("future", detail, frame);
        }
        self.hear(&update.source, update.revision.updated_at);
        let (update, is_late) = self.track(update);
        Decoded {
            handed_over: is_handed_over
                .then(|| super::MarketRevision::of(&update))
                .into_iter()
                .collect(),
            updates: vec![update],
            late: u64::from(is_late),
            ..Decoded::default()
        }
    }

    /// Tracks an update, and returns whether it is late. An update sent after we suspended its
    /// market opens the market, even if it repeats the last one. It then needs a revision after the
    /// suspension's, or it would count as old.
    fn track(&mut self, mut update: OddsUpdate) -> (OddsUpdate, bool) {
        let supplier_revision = update.revision;
        let connection = self.connection;
        let known = self
            .open
            .get_mut(&update.event_id)
            .and_then(|markets| markets.get_mut(&update.market));
        let is_known = known.is_some();
        if let Some(market) = known {
            if market.is_late(supplier_revision) {
                let is_own = market.shown.source == update.source;
                return (update, is_own);
            }
            if supplier_revision == market.supplier_revision {
                let opens_again =
                    market.shown.status == MarketStatus::Suspended && !market.in_doubt;
                if !market.in_doubt {
                    market.repeated(connection);
                }
                if !opens_again {
                    return (update, false);
                }
            }
            if supplier_revision <= market.shown.revision {
                update.revision = next_revision(market.shown.revision);
            }
        }
        if update.status == MarketStatus::Open {
            if is_known || self.tracked < MAX_TRACKED {
                self.tracked += usize::from(!is_known);
                let market = OpenMarket {
                    supplier_revision,
                    shown: update.clone(),
                    in_doubt: false,
                    unnamed_before: self.unnamed,
                    heard_on: connection,
                    trust: Trust::Vouched,
                };
                self.insert(market);
            }
        } else if is_known {
            self.forget(&update);
        }
        (update, false)
    }

    fn insert(&mut self, market: OpenMarket) {
        self.open
            .entry(market.shown.event_id.clone())
            .or_default()
            .insert(market.shown.market.clone(), market);
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
    fn suspend_named(&mut self, frame: &[u8]) -> Vec<OddsUpdate> {
        let Some(named) = Named::read(frame) else {
            self.unnamed += 1;
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
            updates: self.suspend_named(frame),
            refused: vec![Refused { reason, detail }],
            is_unreadable: true,
            ..Decoded::default()
        }
    }

    /// A message of an unknown type updates no market that its names do not identify.
    fn refuse_type(&mut self, error: &DecodeError, frame: &[u8]) -> Decoded {
        let unnamed = self.unnamed;
        let decoded = self.refuse(error.reason(), error.to_string(), frame);
        self.unnamed = unnamed;
        Decoded {
            is_unreadable: false,
            ..decoded
        }
    }

    fn on_message(&mut self, message: NativeMessage, frame: &[u8]) -> Decoded {
        match message {
            NativeMessage::Alive(Alive { at, source }) => {
                if let Some(source) = source.filter(|_| self.is_plausible(at)) {
                    self.hear(&source, at);
                }
                Decoded::default()
            }
            NativeMessage::Recovered(recovered) => self.on_recovered(&recovered.request),
            NativeMessage::BetStop(stop) => self.on_bet_stop(&stop, frame),
        }
    }

    fn is_plausible(&self, time: Timestamp) -> bool {
        future_time_detail(time, self.latest).is_none()
    }

    /// Opens the markets that have not changed while they were not watched.
    fn on_recovered(&mut self, request: &str) -> Decoded {
        let Some(answer) = self.recovery.answered(request) else {
            return Decoded::default();
        };
        let connection = self.connection;
        let unchanged = self.markets().filter(|market| {
            answer == Answer::Changes
                && market.trust != Trust::Stored
                && market.heard_on != connection
        });
        Decoded {
            updates: unchanged
                .filter_map(|market| market.vouch(connection))
                .collect(),
            is_recovered: true,
            ..Decoded::default()
        }
    }

    fn on_bet_stop(&mut self, stop: &BetStop, frame: &[u8]) -> Decoded {
        let revision = stop.revision();
        if let Some(detail) = future_time_detail(revision.updated_at, self.latest) {
            return self.refuse("future", detail, frame);
        }
        if let Some(source) = &stop.source {
            self.hear(source, revision.updated_at);
        }
        let markets = self.open.get(&stop.event_id).into_iter().flatten();
        let stopped = markets.filter(|(key, market)| {
            stop.concerns(key, &market.shown.source) && market.supplier_revision <= revision
        });
        let updates: Vec<_> = stopped
            .map(|(_, market)| OddsUpdate {
                status: MarketStatus::Suspended,
                revision: revision.max(next_revision(market.shown.revision)),
                ..market.shown.clone()
            })
            .collect();
        updates.iter().for_each(|update| self.forget(update));
        Decoded {
            updates,
            ..Decoded::default()
        }
    }
}

impl Decoder for NativeDecoder {
    fn on_connected(&mut self) -> Vec<String> {
        self.connection += 1;
        for market in self.markets() {
            if market.trust == Trust::Silent {
                market.trust = Trust::Missed;
            }
        }
        let after = self.known_until();
        self.recovery.connected(after).into_iter().collect()
    }

    fn on_frame(&mut self, frame: &[u8]) -> Result<Decoded, FrameFault> {
        let error = match OddsUpdate::from_json(frame) {
            Ok(update) => return Ok(self.on_update(update, false, frame)),
            Err(error) => error,
        };
        if let DecodeError::UnknownType(kind) = &error {
            return Ok(match messages::read(kind, frame) {
                None => self.refuse_type(&error, frame),
                Some(Ok(message)) => self.on_message(message, frame),
                Some(Err(detail)) => self.refuse("malformed", detail, frame),
            });
        }
        let handed_over = without_handover(frame).map(|frame| OddsUpdate::from_json(&frame));
        Ok(match handed_over {
            Some(Ok(update)) => self.on_update(update, true, frame),
            _ => self.refuse(error.reason(), error.to_string(), frame),
        })
    }

    fn refuse_after(&mut self, latest: Timestamp) {
        self.latest = Some(latest);
    }

    fn sources(&self) -> Vec<(Source, SourceState)> {
        let state = if self.recovery.is_running() {
            SourceState::Recovering
        } else {
            SourceState::Live
        };
        let sources = self.sources.keys();
        sources.map(|source| (source.clone(), state)).collect()
    }

    fn record_silence(&mut self) {
        let connection = self.connection;
        self.markets().for_each(|market| market.silence(connection));
        self.has_unvouched = true;
    }

    // Each frame is a full market, so a missed frame does not affect later ones.
    fn record_loss(&mut self, _: bool) {}

    fn on_resumed(&mut self) -> Vec<OddsUpdate> {
        let connection = self.connection;
        let silent = self
            .markets()
            .filter(|market| market.trust == Trust::Silent);
        silent
            .filter_map(|market| market.vouch(connection))
            .collect()
    }

    fn give_up_recovery(&mut self) -> bool {
        if !self.recovery.is_running() {
            return false;
        }
        self.recovery.give_up();
        let connection = self.connection;
        for market in self.markets() {
            if market.heard_on != connection && market.trust == Trust::Vouched {
                market.trust = Trust::Missed;
            }
        }
        self.has_unvouched = true;
        true
    }

    fn add_stored(&mut self, stored: Vec<OddsUpdate>) -> usize {
        let mut added = 0;
        for update in stored {
            let known = self
                .open
                .get(&update.event_id)
                .and_then(|markets| markets.get(&update.market));
            if known.is_some_and(|market| {
                market.trust == Trust::Vouched || market.shown.revision >= update.revision
            }) {
                continue;
            }
            if known.is_none() && self.tracked >= MAX_TRACKED {
                break;
            }
            self.tracked += usize::from(known.is_none());
            self.insert(OpenMarket::stored(update, self.unnamed));
            added += 1;
        }
        self.has_unvouched |= added > 0;
        added
    }

    fn suspend_unvouched(&mut self, is_spared: &dyn Fn(&Source) -> bool) -> Vec<OddsUpdate> {
        if !self.has_unvouched {
            return Vec::new();
        }
        let mut spared = false;
        let suspended = self
            .markets()
            .filter(|market| market.trust != Trust::Vouched)
            .filter(|market| {
                let is_spared = is_spared(&market.shown.source);
                spared |= is_spared;
                !is_spared
            })
            .filter_map(OpenMarket::suspend)
            .collect();
        self.has_unvouched = spared;
        suspended
    }

    fn unnamed_refusals(&self) -> u64 {
        self.unnamed
    }

    fn suspend_unconfirmed(&mut self, refusals: u64) -> Vec<OddsUpdate> {
        let unconfirmed = self
            .markets()
            .filter(|market| market.unnamed_before < refusals);
        let suspend = |market: &mut OpenMarket| {
            market.in_doubt = true;
            market.suspend()
        };
        unconfirmed.filter_map(suspend).collect()
    }

    // The supplier does not resend everything. The suspensions may be unpublished too, so all are
    // sent.
    fn on_unpublished(&mut self) -> Vec<OddsUpdate> {
        self.markets()
            .map(|market| {
                let _ = market.suspend();
                market.trust = Trust::Missed;
                market.shown.clone()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
