//! The odds book of one event: the latest state of each market, and the sequence number that orders
//! its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strum::{IntoStaticStr, VariantNames};

use super::continuity::Continuity;
use super::status::MarketStatus;
use super::update::{OddsUpdate, Revision};
use super::version_stamp::VersionStamp;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::timestamp::Timestamp;

/// Maximum number of markets of one event. A feed that invents names must not fill memory or the
/// database.
pub const MAX_MARKETS: usize = 10_000;

/// How far the numbers of an event jump when records are lost on the bus. A process that follows the
/// bus may have shown lost records that others have not read. Numbers follow offsets, so it can be
/// ahead by as many as the partition has received since the event's last record.
pub const LOST_NUMBERS: u64 = 100_000_000;

/// Whether the number `seq` of a state that had the number `before` is a jump over lost ones. A book
/// may have numbered some more records by the time it learns of the jump.
pub fn is_jump(before: u64, seq: u64) -> bool {
    seq.saturating_sub(before) >= SMALLEST_JUMP
}

/// The smallest difference that is a jump over lost numbers.
pub const SMALLEST_JUMP: u64 = LOST_NUMBERS / 2;

/// The state of a market in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketState {
    /// The latest update of the market.
    pub update: OddsUpdate,
    /// The event's sequence number of that change.
    pub seq: u64,
}

/// Why a book rejects an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum Rejection {
    /// The market already has a later revision.
    #[error("older than the revision in the book")]
    Older,
    /// The market already has exactly this revision.
    #[error("already in the book")]
    Duplicate,
    /// The update belongs to another event.
    #[error("belongs to another event")]
    WrongEvent,
    /// The market is new, and the event already has [`MAX_MARKETS`].
    #[error("new market, but the event already has {MAX_MARKETS}")]
    TooManyMarkets,
}

impl Rejection {
    /// The metric label.
    pub fn reason(self) -> &'static str {
        self.into()
    }
}

/// Decides whether an update replaces the state of a market, and returns its sequence number.
///
/// `head` is the market's current revision, `last_seq` the event's last sequence number, and
/// `position` the offset of the update in its bus partition. The number always grows, is the same
/// wherever the same records are read, and keeps growing if the bus restarts at offset 0. The live
/// path and the store path both use this function, so they agree.
pub fn decide(
    head: Option<Revision>,
    last_seq: u64,
    update: Revision,
    position: u64,
) -> Result<u64, Rejection> {
    match head.map(|head| update.cmp(&head)) {
        Some(std::cmp::Ordering::Less) => Err(Rejection::Older),
        Some(std::cmp::Ordering::Equal) => Err(Rejection::Duplicate),
        Some(std::cmp::Ordering::Greater) | None => Ok(last_seq.max(position).saturating_add(1)),
    }
}

/// The sequence number of a change that carries none, as in the original's broadcasts: its time in
/// milliseconds. It grows with the revision, is the same in every process, and does not restart
/// with a new book.
pub fn number_of(revision: Revision) -> u64 {
    u64::try_from(revision.updated_at.micros() / 1_000).unwrap_or(0)
}

/// The book of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    event_id: EventId,
    seq: u64,
    markets: BTreeMap<MarketKey, Arc<MarketState>>,
    continuity: Continuity,
}

/// A book at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The event.
    pub event_id: EventId,
    /// The sequence number of its last change; 0 if there was none.
    pub seq: u64,
    /// Its markets, ordered by key.
    pub markets: Vec<Arc<MarketState>>,
    /// Whether it may lack changes that other processes know.
    pub is_stale: bool,
    /// Shows whether the book has changed since.
    pub validity: VersionStamp,
    /// Which sequence numbers a client can resume from.
    pub continuity: Continuity,
}

impl Snapshot {
    /// The market that the original shows for the event: the latest `1x2`, or else the market that
    /// changed last.
    pub fn headline(&self) -> Option<&Arc<MarketState>> {
        let by_seq = |state: &&Arc<MarketState>| state.seq;
        self.markets
            .iter()
            .filter(|state| state.update.market.name.as_str() == "1x2")
            .max_by_key(by_seq)
            .or_else(|| self.markets.iter().max_by_key(by_seq))
    }
}

impl Book {
    /// An empty book.
    pub fn new(event_id: EventId) -> Book {
        Book {
            event_id,
            seq: 0,
            markets: BTreeMap::new(),
            continuity: Continuity::default(),
        }
    }

    /// Loads stored states. For each market the later revision wins; for equal revisions, the
    /// higher sequence number. States of another event are ignored.
    ///
    /// Clients drop numbers that are not above the last one of the event. So a state that a book
    /// with markets did not know, and that is stored with such a number, gets the next number.
    pub fn restore(&mut self, states: impl IntoIterator<Item = Arc<MarketState>>) {
        let was_empty = self.is_empty();
        let before = self.seq;
        let published = if was_empty { 0 } else { self.seq };
        let mut states: Vec<_> = states
            .into_iter()
            .filter(|state| state.update.event_id == self.event_id)
            .collect();
        states.sort_by_key(|state| state.seq);
        self.seq = states
            .last()
            .map_or(self.seq, |last| self.seq.max(last.seq));
        let stored = self.seq;
        let rank = |state: &MarketState| (state.update.revision, state.seq);
        for state in states {
            match self.markets.get(&state.update.market) {
                Some(held) if rank(held) >= rank(&state) => continue,
                None if self.markets.len() >= MAX_MARKETS => continue,
                _ => {}
            }
            let state = if state.seq > published {
                state
            } else {
                self.seq = self.seq.saturating_add(1);
                Arc::new(MarketState {
                    update: state.update.clone(),
                    seq: self.seq,
                })
            };
            self.markets.insert(state.update.market.clone(), state);
        }
        if was_empty {
            self.continuity.load(self.seq, stored);
            self.skip_jumps();
        } else if self.seq != before {
            self.continuity.advance(self.seq, stored);
        }
    }

    /// A number of a client between two states that are far apart may be that of a lost record.
    fn skip_jumps(&mut self) {
        let mut seqs: Vec<_> = self.markets.values().map(|state| state.seq).collect();
        seqs.sort_unstable();
        let mut jumps = seqs.windows(2).filter(|pair| is_jump(pair[0], pair[1]));
        if let Some(first) = jumps.next() {
            let last = jumps.next_back().unwrap_or(first);
            self.continuity.skip(first[0], last[1]);
        }
    }

    /// From now on the book publishes no number below `seq`, which may have been published before.
    /// An empty book is not changed.
    pub fn continue_from(&mut self, seq: u64) {
        if !self.is_empty() && self.seq < seq {
            self.seq = seq;
            self.continuity.advance(seq, seq);
        }
    }

    /// Applies the update at offset `position` of its bus partition, and returns the market's new
    /// state.
    pub fn apply(
        &mut self,
        update: OddsUpdate,
        position: u64,
    ) -> Result<Arc<MarketState>, Rejection> {
        if update.event_id != self.event_id {
            return Err(Rejection::WrongEvent);
        }
        let head = self.head(&update.market)?;
        self.seq = decide(head, self.seq, update.revision, position)?;
        self.continuity.advance(self.seq, self.seq);
        Ok(self.set(update))
    }

    /// The revision of a market; `None` if the market is new and the event has room for it.
    fn head(&self, market: &MarketKey) -> Result<Option<Revision>, Rejection> {
        match self.markets.get(market) {
            Some(state) => Ok(Some(state.update.revision)),
            None if self.markets.len() >= MAX_MARKETS => Err(Rejection::TooManyMarkets),
            None => Ok(None),
        }
    }

    /// Stores an update as the state of its market, with the book's current sequence number.
    fn set(&mut self, update: OddsUpdate) -> Arc<MarketState> {
        let state = Arc::new(MarketState {
            update,
            seq: self.seq,
        });
        self.markets
            .insert(state.update.market.clone(), state.clone());
        state
    }

    /// Applies a change that another process published with its sequence number, and returns the
    /// market's new state. The later revision wins, as in [`Book::apply`]. The number is the
    /// published one, raised if necessary so that it grows: clients drop changes whose number does
    /// not.
    pub fn mirror(
        &mut self,
        update: OddsUpdate,
        seq: Option<u64>,
    ) -> Result<Arc<MarketState>, Rejection> {
        if update.event_id != self.event_id {
            return Err(Rejection::WrongEvent);
        }
        let head = self.head(&update.market)?;
        let published = seq.unwrap_or_else(|| number_of(update.revision));
        self.seq = decide(head, self.seq, update.revision, published.saturating_sub(1))?;
        self.continuity.advance(self.seq, published);
        Ok(self.set(update))
    }

    /// Replaces the states of these markets with those of a source that is trusted more than the
    /// broadcasts, even by earlier revisions, and returns the changes. A market that the source
    /// does not know is suspended: it was broadcast, but nothing confirms it. If the source may
    /// hold only a part (the original keeps one market of each event), a market is suspended only
    /// if its time is after `latest`.
    pub fn correct(
        &mut self,
        doubtful: &BTreeSet<MarketKey>,
        trusted: &[Arc<MarketState>],
        latest: Timestamp,
    ) -> Vec<Arc<MarketState>> {
        let is_partial = trusted
            .iter()
            .all(|state| state.seq == number_of(state.update.revision));
        let mut changed = Vec::new();
        for market in doubtful {
            let Some(held) = self.markets.get(market).cloned() else {
                continue;
            };
            let found = trusted.iter().find(|state| state.update.market == *market);
            let (update, published) = match found {
                Some(state) if state.update == held.update => continue,
                Some(state) => (state.update.clone(), state.seq.saturating_sub(1)),
                None if held.update.status != MarketStatus::Open => continue,
                None if is_partial && held.update.revision.updated_at <= latest => continue,
                None => (
                    OddsUpdate {
                        status: MarketStatus::Suspended,
                        ..held.update.clone()
                    },
                    0,
                ),
            };
            self.seq = self.seq.max(published).saturating_add(1);
            self.continuity.advance(self.seq, published + 1);
            changed.push(self.set(update));
        }
        changed
    }

    /// Whether an update has the revision of the market's state but different content.
    pub fn contradicts(&self, update: &OddsUpdate) -> bool {
        let held = self.markets.get(&update.market).map(|state| &state.update);
        held.is_some_and(|held| held.revision == update.revision && !held.shows_the_same_as(update))
    }

    /// Whether the market's state is this update: the same revision with the same content.
    pub fn holds(&self, update: &OddsUpdate) -> bool {
        self.revision_of(&update.market) == Some(update.revision) && !self.contradicts(update)
    }

    /// The sequence number of the last change; 0 if there was none.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether the market's state is later than this update, which has the number `seq`: its
    /// revision is later and its number is higher.
    pub fn is_later_than(&self, update: &OddsUpdate, seq: u64) -> bool {
        self.markets
            .get(&update.market)
            .is_some_and(|held| held.seq > seq && held.update.revision > update.revision)
    }

    /// The revision of a market, if the book holds it.
    pub fn revision_of(&self, market: &MarketKey) -> Option<Revision> {
        self.markets.get(market).map(|state| state.update.revision)
    }

    /// Applies stored states after changes may have been missed, and returns the new ones in order
    /// of their sequence numbers. Each number is larger than any published before.
    pub fn catch_up(&mut self, mut states: Vec<Arc<MarketState>>) -> Vec<Arc<MarketState>> {
        // Of two states of one market, only the later one is published.
        states.sort_by_key(|state| std::cmp::Reverse(state.update.revision));
        let mut seen = BTreeSet::new();
        states.retain(|state| seen.insert(state.update.market.clone()));
        states.sort_by_key(|state| state.seq);
        let mut changed = Vec::new();
        for state in states {
            let update = &state.update;
            changed.extend(if self.holds(update) {
                self.agree(&update.market, state.seq)
            } else {
                self.mirror(update.clone(), Some(state.seq)).ok()
            });
        }
        changed
    }

    /// Another process gives the state of this market the number `seq`. If the numbers are equal,
    /// they are shared. A jump over lost numbers is taken over, and the renumbered state is returned.
    pub fn agree(&mut self, market: &MarketKey, seq: u64) -> Option<Arc<MarketState>> {
        let held = self.markets.get(market)?.clone();
        if is_jump(self.seq, seq) {
            self.seq = seq;
            self.continuity.skip_to(seq);
            return Some(self.set(held.update.clone()));
        }
        if held.seq == seq && self.seq == seq {
            self.continuity.advance(seq, seq);
        }
        None
    }

    /// Whether every process gives the last change the same sequence number.
    pub fn is_shared(&self) -> bool {
        self.continuity.is_shared(self.seq)
    }

    /// Whether the book holds no market.
    pub fn is_empty(&self) -> bool {
        self.markets.is_empty()
    }

    /// The book as it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            event_id: self.event_id.clone(),
            seq: self.seq,
            markets: self.markets.values().cloned().collect(),
            is_stale: false,
            validity: VersionStamp::default(),
            continuity: self.continuity,
        }
    }
}

#[cfg(test)]
mod tests;
