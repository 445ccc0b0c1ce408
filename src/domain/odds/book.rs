//! The odds book of one event: the latest state of each market, and the sequence number that orders
//! its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::status::MarketStatus;
use super::update::{OddsUpdate, Revision};
use super::version_stamp::VersionStamp;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::timestamp::Timestamp;

/// Maximum number of markets of one event. A feed that invents names must not fill memory or the
/// database.
pub const MAX_MARKETS: usize = 10_000;

/// The state of a market in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketState {
    /// The latest update of the market.
    pub update: OddsUpdate,
    /// The event's sequence number of that change.
    pub seq: u64,
}

/// Why a book rejects an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// All rejections.
    pub const ALL: [Rejection; 4] = [
        Rejection::Older,
        Rejection::Duplicate,
        Rejection::WrongEvent,
        Rejection::TooManyMarkets,
    ];

    /// The metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Rejection::Older => "older",
            Rejection::Duplicate => "duplicate",
            Rejection::WrongEvent => "wrong_event",
            Rejection::TooManyMarkets => "too_many_markets",
        }
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
}

impl Snapshot {
    /// The market that the original shows for the event: the latest `1x2`, or else the market that
    /// changed last.
    pub fn headline(&self) -> Option<&Arc<MarketState>> {
        let by_seq = |state: &&Arc<MarketState>| state.seq;
        let main = |state: &&Arc<MarketState>| state.update.market.name.as_str() == "1x2";
        self.markets
            .iter()
            .filter(main)
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
        }
    }

    /// Loads stored states. For each market the later revision wins; for equal revisions, the
    /// higher sequence number. States of another event are ignored.
    pub fn restore(&mut self, states: impl IntoIterator<Item = Arc<MarketState>>) {
        for state in states {
            if state.update.event_id != self.event_id {
                continue;
            }
            self.seq = self.seq.max(state.seq);
            let rank = |state: &MarketState| (state.update.revision, state.seq);
            match self.markets.get(&state.update.market) {
                Some(held) if rank(held) >= rank(&state) => {}
                None if self.markets.len() >= MAX_MARKETS => {}
                _ => {
                    self.markets.insert(state.update.market.clone(), state);
                }
            }
        }
    }

    /// From now on the book publishes no number below `seq`, which may have been published before.
    /// An empty book is not changed.
    pub fn continue_from(&mut self, seq: u64) {
        if !self.is_empty() {
            self.seq = self.seq.max(seq);
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
        Ok(self.set(update))
    }

    /// Replaces the states of these markets with those of a source that is trusted more than the
    /// broadcasts, even by earlier revisions, and returns what changed. A market that the source
    /// does not know is suspended: it was broadcast, but nothing confirms it. If the source may
    /// hold only a part (the original keeps one market of each event), a market is suspended only
    /// if its time is after `latest`.
    pub fn correct(
        &mut self,
        doubtful: &BTreeSet<MarketKey>,
        known: &[Arc<MarketState>],
        latest: Timestamp,
    ) -> Vec<Arc<MarketState>> {
        let is_partial = known
            .iter()
            .all(|state| state.seq == number_of(state.update.revision));
        let mut changed = Vec::new();
        for market in doubtful {
            let Some(held) = self.markets.get(market).cloned() else {
                continue;
            };
            let found = known.iter().find(|state| state.update.market == *market);
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
            changed.push(self.set(update));
        }
        changed
    }

    /// Whether an update has the revision of the market's state but different content.
    pub fn contradicts(&self, update: &OddsUpdate) -> bool {
        let held = self.markets.get(&update.market).map(|state| &state.update);
        held.is_some_and(|held| held.revision == update.revision && !held.shows_the_same_as(update))
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
        states
            .iter()
            .filter_map(|state| self.mirror(state.update.clone(), Some(state.seq)).ok())
            .collect()
    }

    /// Whether the book holds no market.
    pub fn is_empty(&self) -> bool {
        self.markets.is_empty()
    }

    /// The book as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let markets = self.markets.values().cloned().collect();
        let (event_id, validity) = (self.event_id.clone(), VersionStamp::default());
        Snapshot {
            event_id,
            seq: self.seq,
            markets,
            is_stale: false,
            validity,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::odds::update::testing::*;

    fn book() -> Book {
        Book::new(EventId::new("MATCH_001").unwrap())
    }

    fn held(update: OddsUpdate, seq: u64) -> Arc<MarketState> {
        Arc::new(MarketState { update, seq })
    }

    #[test]
    fn later_revision_wins() {
        let mut book = book();
        assert_eq!(book.apply(update(1, 10, 5), 0).unwrap().seq, 1);
        assert_eq!(book.apply(update(1, 10, 5), 1), Err(Rejection::Duplicate));
        assert_eq!(book.apply(update(1, 10, 4), 2), Err(Rejection::Older));
        assert_eq!(book.apply(update(1, 9, 99), 3), Err(Rejection::Older));
        assert_eq!(book.apply(update(1, 10, 6), 4).unwrap().seq, 5);
        assert_eq!(book.apply(update(2, 10, 6), 5), Err(Rejection::WrongEvent));
    }

    /// A supplier that restarts counts versions from 1 again, with a later time.
    #[test]
    fn restarted_supplier_is_followed() {
        let mut book = book();
        book.apply(update(1, 10, 978), 0).unwrap();
        assert!(book.apply(update(1, 11, 1), 1).is_ok());
    }

    #[test]
    fn markets_and_lines_are_separate() {
        let mut book = book();
        book.apply(market_update("MATCH_001", "1x2", None, 1, 1), 0)
            .unwrap();
        book.apply(
            market_update("MATCH_001", "total_goals", Some("2.5"), 1, 1),
            1,
        )
        .unwrap();
        book.apply(
            market_update("MATCH_001", "total_goals", Some("3.5"), 1, 1),
            2,
        )
        .unwrap();
        let snapshot = book.snapshot();
        let keys: Vec<_> = snapshot
            .markets
            .iter()
            .map(|state| state.update.market.to_string())
            .collect();
        assert_eq!(keys, ["1x2", "total_goals@2.5", "total_goals@3.5"]);
        assert_eq!(snapshot.seq, 3);
        assert_eq!(
            snapshot.headline().unwrap().update.market.to_string(),
            "1x2"
        );
    }

    #[test]
    fn restarted_bus_keeps_number_growing() {
        let mut book = book();
        book.restore([held(update(1, 10, 1), 1_000)]);
        assert_eq!(book.apply(update(1, 11, 1), 0).unwrap().seq, 1_001);
        assert_eq!(book.apply(update(1, 12, 1), 1).unwrap().seq, 1_002);
        assert_eq!(book.apply(update(1, 13, 1), 5_000).unwrap().seq, 5_001);
    }

    #[test]
    fn continued_book_never_lowers_number() {
        let mut book = book();
        book.continue_from(500);
        assert_eq!(book.snapshot().seq, 0, "an empty book is not changed");
        book.restore([held(update(1, 10, 1), 7)]);
        book.continue_from(500);
        assert_eq!(
            (book.snapshot().seq, book.snapshot().markets[0].seq),
            (500, 7)
        );
        assert_eq!(book.apply(update(1, 11, 1), 3).unwrap().seq, 501);
        book.continue_from(100);
        assert_eq!(book.snapshot().seq, 501);
    }

    #[test]
    fn restore_keeps_later_state() {
        let mut book = book();
        book.restore([
            held(update(1, 10, 1), 7),
            held(update(1, 12, 1), 9),
            held(update(1, 11, 1), 8),
            held(update(2, 99, 1), 99),
        ]);
        let snapshot = book.snapshot();
        assert_eq!(
            (
                snapshot.seq,
                snapshot.markets.len(),
                snapshot.markets[0].seq
            ),
            (9, 1, 9)
        );
    }

    /// A mirror uses the published number, unless that number does not grow.
    #[test]
    fn mirror_numbers_always_grow() {
        let mut book = book();
        assert_eq!(book.mirror(update(1, 10, 1), Some(700)).unwrap().seq, 700);
        assert_eq!(
            book.mirror(update(1, 10, 1), Some(701)),
            Err(Rejection::Duplicate)
        );
        assert_eq!(
            book.mirror(update(1, 9, 1), Some(702)),
            Err(Rejection::Older)
        );
        assert_eq!(
            book.mirror(update(2, 11, 1), Some(703)),
            Err(Rejection::WrongEvent)
        );
        assert_eq!(
            book.mirror(update(1, 11, 1), Some(3)).unwrap().seq,
            701,
            "the topic was recreated"
        );
        assert_eq!(book.mirror(update(1, 12, 1), Some(800)).unwrap().seq, 800);
    }

    /// Every process gives the same numbers to changes that carry none.
    #[test]
    fn unnumbered_changes_get_same_numbers() {
        let (mut early, mut late) = (book(), book());
        early.mirror(update(1, 10, 1), None).unwrap();
        let number = early.mirror(update(1, 11, 1), None).unwrap().seq;
        assert_eq!(late.mirror(update(1, 11, 1), None).unwrap().seq, number);
        assert_eq!(
            late.mirror(update(1, 11, 2), None).unwrap().seq,
            number + 1,
            "within one millisecond"
        );
    }

    #[test]
    fn catch_up_publishes_new_states_once() {
        let mut book = book();
        let other = |time| market_update("MATCH_001", "btts", None, time, 1);
        book.restore([held(update(1, 10, 1), 5), held(other(10), 6)]);
        let stored = vec![
            held(other(12), 9),
            held(update(1, 10, 1), 5),
            held(other(11), 8),
        ];
        let published = book.catch_up(stored.clone());
        assert_eq!(
            published.iter().map(|state| state.seq).collect::<Vec<_>>(),
            [9]
        );
        assert!(book.catch_up(stored).is_empty());
        // A change that was published before the missed one was read.
        book.mirror(other(13), Some(15)).unwrap();
        assert_eq!(book.catch_up(vec![held(update(1, 11, 1), 12)])[0].seq, 16);
    }

    /// A forged revision is followed by the true one, which is earlier: the state of the hot copy
    /// replaces the forged one, with a larger number.
    #[test]
    fn correction_restores_known_state() {
        let mut book = book();
        book.mirror(update(1, 10, 1), Some(5)).unwrap();
        book.mirror(update(1, 400, 1), Some(6)).unwrap();
        assert_eq!(
            book.mirror(update(1, 11, 1), Some(6)),
            Err(Rejection::Older)
        );
        let doubtful = BTreeSet::from([update(1, 0, 0).market]);
        let known = [held(update(1, 11, 1), 6)];
        let latest = update(1, 100, 1).revision.updated_at;
        let changed = book.correct(&doubtful, &known, latest);
        assert_eq!(
            (changed[0].update.clone(), changed[0].seq),
            (update(1, 11, 1), 7)
        );
        assert_eq!(book.correct(&doubtful, &known, latest), [], "once");
        assert_eq!(
            book.mirror(update(1, 12, 1), Some(7)).unwrap().seq,
            8,
            "the next true update is applied"
        );
    }

    #[test]
    fn unconfirmed_market_is_suspended() {
        let mut book = book();
        let made_up = market_update("MATCH_001", "made_up", None, 10, 1);
        book.mirror(made_up.clone(), Some(5)).unwrap();
        let doubtful = BTreeSet::from([made_up.market.clone()]);
        let latest = update(1, 20, 1).revision.updated_at;
        let changed = book.correct(&doubtful, &[held(update(1, 9, 1), 3)], latest);
        assert_eq!(
            (changed[0].update.status, changed[0].seq),
            (MarketStatus::Suspended, 6)
        );
        // The original keeps one market of each event, so the absence of the others is no reason to
        // doubt them.
        let originals = held(update(1, 9, 1), number_of(update(1, 9, 1).revision));
        book.mirror(market_update("MATCH_001", "made_up", None, 11, 1), None)
            .unwrap();
        assert_eq!(
            book.correct(&doubtful, std::slice::from_ref(&originals), latest),
            []
        );
        assert_eq!(book.correct(&doubtful, &[], latest), []);
        let earlier = update(1, 10, 1).revision.updated_at;
        assert_eq!(
            book.correct(&doubtful, &[originals], earlier).len(),
            1,
            "ahead of the clock"
        );
    }

    #[test]
    fn number_of_markets_is_bounded() {
        let mut book = book();
        let market = |number: usize| market_update("MATCH_001", &format!("m{number}"), None, 1, 1);
        for number in 0..MAX_MARKETS {
            book.apply(market(number), number as u64).unwrap();
        }
        assert_eq!(
            book.apply(market(MAX_MARKETS), 20_000),
            Err(Rejection::TooManyMarkets)
        );
        assert_eq!(
            book.mirror(market(MAX_MARKETS), Some(20_000)),
            Err(Rejection::TooManyMarkets)
        );
        book.restore([held(market(MAX_MARKETS), 20_000)]);
        assert_eq!(book.snapshot().markets.len(), MAX_MARKETS);
        assert!(
            book.apply(market_update("MATCH_001", "m0", None, 2, 1), 20_001)
                .is_ok(),
            "a known market is still updated"
        );
    }

    /// (market, time, version) of a random update.
    fn moves() -> impl Strategy<Value = Vec<(u8, i64, i64)>> {
        proptest::collection::vec((0u8..3, 0i64..6, 0i64..3), 0..40)
    }

    fn made((market, time, version): (u8, i64, i64)) -> OddsUpdate {
        market_update("MATCH_001", &format!("m{market}"), None, time, version)
    }

    proptest! {
        #[test]
        fn state_is_latest_in_any_order(
            moves in moves(), seed in any::<u64>()
        ) {
            let mut shuffled = moves.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            let fold = |moves: &[(u8, i64, i64)]| {
                let mut book = book();
                for (position, one) in moves.iter().enumerate() {
                    let _ = book.apply(made(*one), position as u64);
                }
                book.snapshot().markets.iter().map(|state| state.update.clone()).collect::<Vec<_>>()
            };
            let mut model: BTreeMap<MarketKey, OddsUpdate> = BTreeMap::new();
            for one in &moves {
                let update = made(*one);
                let newer = model.get(&update.market).is_none_or(|held| held.revision < update.revision);
                if newer { model.insert(update.market.clone(), update); }
            }
            prop_assert_eq!(fold(&moves), model.into_values().collect::<Vec<_>>());
            prop_assert_eq!(fold(&moves), fold(&shuffled));
        }

        /// Whatever is received, with any numbers, lost or late: the mirror ends at the latest
        /// state of each market, and the numbers it publishes only grow.
        #[test]
        fn mirror_ends_at_latest_state(
            moves in proptest::collection::vec(((0u8..3, 0i64..6, 0i64..3), proptest::option::of(0u64..100), 0u8..3), 0..40)
        ) {
            let mut book = book();
            let mut last = 0;
            let mut latest: BTreeMap<MarketKey, Arc<MarketState>> = BTreeMap::new();
            for (one, seq, fate) in moves {
                let update = made(one);
                let state = held(update.clone(), seq.unwrap_or(1));
                if latest.get(&update.market).is_none_or(|held| held.update.revision < update.revision) {
                    latest.insert(update.market.clone(), state);
                }
                let published = match fate {
                    0 => Vec::new(),
                    1 => book.catch_up(latest.values().cloned().collect()),
                    _ => book.mirror(update, seq).into_iter().collect(),
                };
                for state in published {
                    prop_assert!(state.seq > last);
                    last = state.seq;
                }
            }
            book.catch_up(latest.values().cloned().collect());
            let ends: Vec<_> = book.snapshot().markets.iter().map(|state| state.update.clone()).collect();
            prop_assert_eq!(ends, latest.into_values().map(|state| state.update.clone()).collect::<Vec<_>>());
        }

        #[test]
        fn seq_grows_and_replay_changes_nothing(moves in moves()) {
            let mut book = book();
            let mut last = 0;
            for (position, one) in moves.iter().enumerate() {
                if let Ok(state) = book.apply(made(*one), position as u64) {
                    prop_assert!(state.seq > last);
                    prop_assert_eq!(state.seq, position as u64 + 1);
                    last = state.seq;
                }
            }
            let before = book.snapshot();
            for (position, one) in moves.iter().enumerate() {
                prop_assert!(book.apply(made(*one), position as u64).is_err());
            }
            prop_assert_eq!(book.snapshot(), before);
        }
    }
}
