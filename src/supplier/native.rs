//! The native format: one JSON update per frame, text or binary.

pub(crate) mod by_market;
mod market;
mod messages;
mod recovery;
mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::by_market::ByMarket;
pub(super) use self::market::next_revision;
use self::market::{OpenMarket, OwnRevisions, Received, Trust, may_follow, revision_after};
use self::messages::{Alive, BetStop, Named, NativeMessage, without_handover};
use self::recovery::{Answer, Recovery};
use super::{AddedMarkets, Decoded, Decoder, FrameFault, FrameSource, Refused, future_time_detail};
use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::{DecodeError, OddsUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// The maximum number of sources of one connection whose state is reported.
pub(crate) const MAX_SOURCES: usize = 32;
/// A recovery overlaps with what was received before: updates of one source need not arrive in the
/// order of their times.
const RECOVERY_OVERLAP: Duration = Duration::from_secs(10);

/// Decodes the native format. It tracks the open markets so that it can suspend them.
#[derive(Debug, Default)]
pub struct NativeDecoder {
    open: ByMarket<OpenMarket>,
    /// The revisions of suspensions that the source's next update may have to follow: those in the
    /// database, and bet stops.
    suspended: ByMarket<Revision>,
    own_revisions: OwnRevisions,
    latest: Option<Timestamp>,
    /// Rejected updates without a readable event: each may concern any market.
    unnamed: u64,
    /// The number of connections so far.
    connection: u64,
    recovery: Recovery,
    /// The sources heard, and the latest time that each has named.
    sources: BTreeMap<Source, Timestamp>,
    /// The sources that are silent while their connection is not.
    silent: BTreeSet<Source>,
    /// Markets without [`Trust::Confirmed`] may exist.
    has_unconfirmed: bool,
}

impl NativeDecoder {
    /// A decoder that requests what was missed after each connect, if `requests_recovery`.
    /// `is_selected` is whether a selector reads the updates.
    pub(crate) fn new(requests_recovery: bool, is_selected: bool) -> NativeDecoder {
        NativeDecoder {
            recovery: Recovery::new(requests_recovery),
            own_revisions: if is_selected {
                OwnRevisions::Repeated
            } else {
                OwnRevisions::Later
            },
            ..NativeDecoder::default()
        }
    }

    fn hear(&mut self, source: &Source, time: Timestamp) {
        if let Some(known) = self.sources.get_mut(source) {
            *known = time.max(*known);
        } else if self.sources.len() < MAX_SOURCES {
            self.sources.insert(source.clone(), time);
        }
    }

    /// Everything up to this time is known of every source.
    fn known_until(&self) -> Option<Timestamp> {
        let earliest = self.sources.values().min()?;
        Some(earliest.earlier_by(RECOVERY_OVERLAP))
    }

    fn on_update(&mut self, update: OddsUpdate, is_handed_over: bool, frame: &[u8]) -> Decoded {
        if let Some(detail) = future_time_detail(update.revision.updated_at, self.latest) {
            return self.refuse("future", detail, frame);
        }
        self.hear(&update.source, update.revision.updated_at);
        let heard = Some(FrameSource::Message(update.source.clone()));
        let (update, is_late) = self.track(update);
        let handed_over = update.iter().filter(|_| is_handed_over);
        Decoded {
            handed_over: handed_over.map(super::MarketRevision::of).collect(),
            heard,
            updates: update.into_iter().collect(),
            late: u64::from(is_late),
            ..Decoded::default()
        }
    }

    /// Tracks an update, and returns it as it is published, if it is, and whether it is late.
    fn track(&mut self, mut update: OddsUpdate) -> (Option<OddsUpdate>, bool) {
        let revision = update.revision;
        if let Some(market) = self.open.get_mut(&update) {
            match market.receive(&mut update, self.connection) {
                Received::Late => return (Some(update), true),
                Received::Repeated => return (Some(update), false),
                Received::Doubted => return (None, false),
                Received::Changed => {}
            }
        } else if let Some(suspended) = self.suspended.get(&update) {
            if revision < *suspended {
                if !may_follow(*suspended, revision) {
                    return (Some(update), true);
                }
                update.revision = revision_after(*suspended, revision.version);
            }
            self.suspended.remove(&update);
        }
        if update.status == MarketStatus::Open {
            let market = OpenMarket::sent(
                revision,
                update.clone(),
                self.unnamed,
                self.connection,
                self.own_revisions,
            );
            self.open.insert(&update, market);
        } else {
            self.open.remove(&update);
        }
        (Some(update), false)
    }

    /// Suspends the open markets that a rejected update may concern: it may have been a suspension.
    fn suspend_named(&mut self, frame: &[u8]) -> Vec<OddsUpdate> {
        let Some(named) = Named::read(frame) else {
            self.unnamed += 1;
            return Vec::new();
        };
        let markets = self.open.of_event(&named.event, named.source.as_ref());
        let concerned = markets.filter(|(key, _)| named.matches(key));
        concerned.filter_map(|(_, market)| market.doubt()).collect()
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
            NativeMessage::Alive(alive) => self.on_alive(alive),
            NativeMessage::Recovered(recovered) => self.on_recovered(&recovered.request),
            NativeMessage::BetStop(stop) => self.on_bet_stop(&stop, frame),
        }
    }

    /// A time in the future is not noted: it would hide what was missed. The source is heard anyway.
    fn on_alive(&mut self, Alive { at, source }: Alive) -> Decoded {
        let is_plausible = future_time_detail(at, self.latest).is_none();
        if let Some(source) = source.as_ref().filter(|_| is_plausible) {
            self.hear(source, at);
        }
        Decoded {
            heard: source.map(FrameSource::Alive),
            ..Decoded::default()
        }
    }

    /// Opens the markets that have not changed while they were not watched.
    fn on_recovered(&mut self, request: &str) -> Decoded {
        let Some(answer) = self.recovery.answered(request) else {
            return Decoded::default();
        };
        let connection = self.connection;
        let silent = &self.silent;
        let unchanged = self.open.values_mut().filter(|market| {
            answer == Answer::Changes
                && market.trust != Trust::Stored
                && market.heard_on != connection
        });
        let mut opened = Vec::new();
        for market in unchanged {
            if silent.contains(&market.shown.source) {
                market.missed_nothing(connection);
            } else {
                opened.extend(market.confirm(connection));
            }
        }
        Decoded {
            updates: opened,
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
        let markets = self.open.of_event(&stop.event_id, stop.source.as_ref());
        let stopped = markets
            .filter(|(key, market)| stop.concerns(key) && market.source_revision <= Some(revision));
        let updates: Vec<_> = stopped
            .map(|(_, market)| market.stopped(revision))
            .collect();
        for update in &updates {
            self.open.remove(update);
            self.suspended.insert(update, update.revision);
        }
        Decoded {
            updates,
            heard: stop.source.clone().map(FrameSource::Message),
            ..Decoded::default()
        }
    }

    /// Adds a market that is not ended in the database. Returns whether the source has not sent it,
    /// and the update that opens or suspends it if the database has a later suspension or opening of
    /// ours.
    fn add_row(&mut self, row: OddsUpdate) -> (bool, Option<OddsUpdate>) {
        let is_selected = self.own_revisions == OwnRevisions::Repeated;
        if let Some(market) = self.open.get_mut(&row) {
            let is_sent = market.trust != Trust::Stored;
            // A selector's revisions say nothing about what the source has sent.
            if row.revision <= market.shown.revision || (is_sent && is_selected) {
                return (false, None);
            }
            let is_own = |known| may_follow(row.revision, known);
            if is_sent && market.source_revision.is_some_and(is_own) {
                return (false, market.adopt(&row));
            }
            self.open.remove(&row);
        }
        if row.status != MarketStatus::Open {
            if !is_selected {
                self.suspended.insert(&row, row.revision);
            }
            return (false, None);
        }
        let market = OpenMarket::stored(row.clone(), self.unnamed, self.own_revisions);
        let is_added = self.open.insert(&row, market);
        self.suspended.remove(&row);
        (is_added, None)
    }
}

impl Decoder for NativeDecoder {
    fn on_connected(&mut self) -> Vec<String> {
        self.connection += 1;
        for market in self.open.values_mut() {
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
                None if results::is_result(kind) => results::decode(frame, self.latest),
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
        let markets = self.open.values_mut();
        markets.for_each(|market| market.silence(connection));
        self.has_unconfirmed = true;
    }

    fn record_source_silence(&mut self, source: &Source) {
        let connection = self.connection;
        let markets = self.open.values_mut();
        markets
            .filter(|market| market.shown.source == *source)
            .for_each(|market| market.silence(connection));
        self.silent.insert(source.clone());
        self.has_unconfirmed = true;
    }

    // Each frame is a full market, so a missed frame does not affect later ones.
    fn record_loss(&mut self, _: bool) {}

    fn on_resumed(&mut self) -> Vec<OddsUpdate> {
        let connection = self.connection;
        let resumed = self.open.values_mut().filter(|market| {
            market.trust == Trust::Silent && !self.silent.contains(&market.shown.source)
        });
        resumed
            .filter_map(|market| market.confirm(connection))
            .collect()
    }

    fn on_source_resumed(&mut self, source: &Source) -> Vec<OddsUpdate> {
        self.silent.remove(source);
        self.on_resumed()
    }

    fn confirmed_open(&self, source: &Source) -> Vec<OddsUpdate> {
        let confirmed = self.open.of_source(source).filter(|market| {
            market.trust == Trust::Confirmed && market.shown.status == MarketStatus::Open
        });
        confirmed.map(|market| market.shown.clone()).collect()
    }

    fn give_up_recovery(&mut self) -> bool {
        if !self.recovery.is_running() {
            return false;
        }
        self.recovery.give_up();
        let connection = self.connection;
        for market in self.open.values_mut() {
            if market.heard_on != connection && market.trust == Trust::Confirmed {
                market.trust = Trust::Missed;
            }
        }
        self.has_unconfirmed = true;
        true
    }

    fn add_stored(&mut self, stored: Vec<OddsUpdate>) -> AddedMarkets {
        let mut added = AddedMarkets::default();
        for row in stored {
            let (is_unsent, update) = self.add_row(row);
            added.unsent += usize::from(is_unsent);
            added.updates.extend(update);
        }
        self.has_unconfirmed = true;
        added
    }

    fn forget_stored(&mut self, is_forgotten: &dyn Fn(&OddsUpdate) -> bool) {
        if self.has_unconfirmed {
            self.open
                .retain(|market| market.trust != Trust::Stored || !is_forgotten(&market.shown));
        }
    }

    fn suspend_unconfirmed(&mut self, is_spared: &dyn Fn(&Source) -> bool) -> Vec<OddsUpdate> {
        if !self.has_unconfirmed {
            return Vec::new();
        }
        let mut spared = false;
        let suspended = self
            .open
            .values_mut()
            .filter(|market| market.trust != Trust::Confirmed)
            .filter(|market| {
                let is_spared = is_spared(&market.shown.source);
                spared |= is_spared;
                !is_spared
            })
            .filter_map(OpenMarket::suspend)
            .collect();
        self.has_unconfirmed = spared;
        suspended
    }

    fn unnamed_refusals(&self) -> u64 {
        self.unnamed
    }

    fn suspend_after_refusals(&mut self, refusals: u64) -> Vec<OddsUpdate> {
        let unconfirmed = self
            .open
            .values_mut()
            .filter(|market| market.unnamed_before < refusals);
        unconfirmed.filter_map(OpenMarket::doubt).collect()
    }

    // The supplier does not resend everything. The suspensions may be unpublished too, so all are
    // sent.
    fn on_unpublished(&mut self) -> Vec<OddsUpdate> {
        self.open
            .values_mut()
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
