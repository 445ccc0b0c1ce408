//! What the platform restricts, independently of the state that the source sends: markets of sources
//! that are not live, and markets that an operator holds.
//!
//! A restricted market is shown as suspended, and no bet on it is accepted. The restriction changes
//! neither the stored state nor its sequence number, so every process shows the same as soon as it
//! ends.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::book::MarketState;
use super::hold::Hold;
use super::source_status::{SourceState, SourceStatus};
use super::status::{MarketStatus, SelectionStatus};
use super::version_stamp::{VersionCounter, VersionStamp};
use crate::domain::ids::Source;
use crate::domain::timestamp::Timestamp;

/// The restrictions in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// The state of each source that is reported.
    pub sources: BTreeMap<Source, SourceStatus>,
    /// The lowest sequence number of a market that is trusted although its source was never
    /// reported. On the embedded bus every source that speaks is reported, so a market whose last
    /// change is from before this process started is not confirmed. 0 if an `ingest` of an
    /// earlier version may run: its sources are judged by their updates alone.
    pub unreported_from: u64,
    /// The holds in force.
    pub holds: Vec<Hold>,
    /// How often what is shown has changed in this process. [`CurrentRestrictions`] counts it.
    pub version: u64,
}

/// Why a market is restricted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// Its source is not live: the price may be stale.
    Stale,
    /// An operator holds it.
    Held,
}

impl Restrictions {
    /// Whether a source was reported, and is not live.
    pub fn is_lost(&self, source: &Source) -> bool {
        let status = self.sources.get(source);
        status.is_some_and(|status| status.state != SourceState::Live)
    }

    /// Whether the state of a market is not confirmed now. A market that has ended is not stale: it
    /// offers nothing.
    pub fn is_stale(&self, market: &MarketState) -> bool {
        if market.update.status.has_ended() {
            return false;
        }
        let source = &market.update.source;
        let is_unreported = || !self.sources.contains_key(source);
        self.is_lost(source) || market.seq < self.unreported_from && is_unreported()
    }

    /// Whether every market is shown as with `other`. How recently a live source has confirmed its
    /// data does not matter.
    pub fn shows_like(&self, other: &Restrictions) -> bool {
        self.unreported_from == other.unreported_from
            && self.holds == other.holds
            && self.shown_sources().eq(other.shown_sources())
    }

    fn shown_sources(&self) -> impl Iterator<Item = (&Source, SourceState, Option<Timestamp>)> {
        self.sources.iter().map(|(source, status)| {
            let at = status.at.filter(|_| status.state != SourceState::Live);
            (source, status.state, at)
        })
    }

    /// Until when a source has confirmed its data, if it is reported.
    pub fn confirmed_until(&self, source: &Source) -> Option<Timestamp> {
        self.sources.get(source)?.at
    }

    /// Why a market is restricted; `None` if it is not. A market that is both stale and held counts
    /// as stale.
    pub fn on_market(&self, market: &MarketState) -> Option<Restriction> {
        if self.is_stale(market) {
            return Some(Restriction::Stale);
        }
        let is_held = self
            .holds
            .iter()
            .any(|hold| hold.scope.covers_market(&market.update));
        is_held.then_some(Restriction::Held)
    }

    /// The state as it is shown: an open market is suspended if it is restricted, and so are the
    /// active selections that are held.
    pub fn shown<'a>(&self, state: &'a Arc<MarketState>) -> Cow<'a, Arc<MarketState>> {
        let suspends = state.update.status == MarketStatus::Open && self.on_market(state).is_some();
        let held: Vec<_> = self
            .holds
            .iter()
            .filter_map(|hold| hold.scope.selection_of(&state.update))
            .collect();
        if !suspends && held.is_empty() {
            return Cow::Borrowed(state);
        }
        let mut update = state.update.clone();
        if suspends {
            update.status = MarketStatus::Suspended;
        }
        for selection in &mut update.selections {
            if selection.status == SelectionStatus::Active && held.contains(&&selection.id) {
                selection.status = SelectionStatus::Suspended;
            }
        }
        let seq = state.seq;
        Cow::Owned(Arc::new(MarketState { update, seq }))
    }
}

/// The current restrictions of this process. One actor changes them; everybody who shows prices or
/// takes bets reads them.
#[derive(Debug, Default)]
pub struct CurrentRestrictions {
    current: RwLock<Arc<Restrictions>>,
    version: VersionCounter,
}

impl CurrentRestrictions {
    /// The restrictions in force now.
    pub fn get(&self) -> Arc<Restrictions> {
        self.current.read().clone()
    }

    /// Shows whether a market may be shown in another way since. Take it before reading the
    /// restrictions.
    pub fn stamp(&self) -> VersionStamp {
        self.version.stamp()
    }

    /// Replaces the restrictions and returns the earlier ones.
    pub fn set(&self, mut restrictions: Restrictions) -> Arc<Restrictions> {
        let mut current = self.current.write();
        // A stamp that is taken from here on is followed by a read, which waits for the lock.
        restrictions.version = match restrictions.shows_like(&current) {
            true => current.version,
            false => self.version.changed(),
        };
        std::mem::replace(&mut *current, Arc::new(restrictions))
    }
}

#[cfg(test)]
mod tests;
