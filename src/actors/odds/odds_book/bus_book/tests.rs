use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::actors::odds::book_source::{CachedState, MergePolicy, StoredState};
use crate::domain::ids::MarketKey;
use crate::domain::odds::book::{Book, MarketState, Rejection};
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::{market_update, update};

fn event() -> EventId {
    EventId::new("MATCH_001").unwrap()
}

fn positioned(update: OddsUpdate, position: u64) -> PositionedUpdate {
    PositionedUpdate {
        trace: None,
        update,
        partition: 0,
        position,
    }
}

/// What a load returns if the cache is empty; `None` if the store cannot be read.
fn loaded(states: Option<Vec<Arc<MarketState>>>, boundary: ReplayBoundary) -> LoadedState {
    let cached = CachedState {
        states: Vec::new(),
        is_read: true,
        is_damaged: false,
    };
    let stored = StoredState {
        is_read: states.is_some(),
        states: states.unwrap_or_default(),
    };
    MergePolicy::LatestWins.merge(cached, stored, boundary)
}

fn state(update: OddsUpdate, seq: u64) -> Arc<MarketState> {
    Arc::new(MarketState { update, seq })
}

fn seqs(changes: &[Change]) -> Vec<(u64, bool)> {
    let one = |change: &Change| (change.state.seq, change.conflated);
    changes.iter().map(one).collect()
}

#[test]
fn own_start_update_is_not_conflated() {
    let boundary = ReplayBoundary::after(700, false);
    let mut book = BusBook::new(event(), boundary, None);
    let other = market_update("MATCH_001", "btts", None, 1, 1);
    let states = vec![state(update(1, 5, 1), 701), state(other, 650)];
    let restored = book.restore(loaded(Some(states), boundary));
    assert_eq!(seqs(&restored.changes), [(650, true), (701, false)]);
    assert_eq!(restored.reload_after, None);
    let applied = book.apply(vec![positioned(update(1, 5, 1), 700)]);
    assert_eq!(applied.rejected, [Rejection::Duplicate]);
    assert!(applied.changes.is_empty());
}

#[test]
fn new_bus_continues_numbers() {
    let boundary = ReplayBoundary::NOTHING;
    let mut book = BusBook::new(event(), boundary, Some(1_000));
    book.restore(loaded(Some(vec![state(update(1, 5, 1), 7)]), boundary));
    let applied = book.apply(vec![positioned(update(1, 6, 1), 3)]);
    assert_eq!(seqs(&applied.changes), [(1_001, false)]);
}

#[test]
fn empty_snapshot_needs_complete_load() {
    let boundary = ReplayBoundary::NOTHING;
    let mut book = BusBook::new(event(), boundary, None);
    let restored = book.restore(loaded(None, boundary));
    assert_eq!(restored.reload_after, Some(RELOAD_DELAY));
    assert_eq!(book.snapshot(), None);
    let restored = book.reload(loaded(Some(Vec::new()), boundary));
    assert_eq!(restored.reload_after, None);
    assert!(book.snapshot().unwrap().markets.is_empty());
}

#[test]
fn batch_invalidates_earlier_snapshots() {
    let mut book = BusBook::new(event(), ReplayBoundary::NOTHING, None);
    book.apply(vec![positioned(update(1, 5, 1), 0)]);
    let earlier = book.snapshot().unwrap();
    assert!(earlier.validity.is_current());
    book.apply(vec![positioned(update(1, 6, 1), 1)]);
    assert!(!earlier.validity.is_current());
}

/// What happens to a book while it reads the bus.
#[derive(Clone, Debug)]
enum Step {
    /// This many records are applied.
    Apply(usize),
    /// The store path writes this many records.
    Store(usize),
    /// The book loads again; the store may be down.
    Reload { is_store_up: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0usize..4).prop_map(Step::Apply),
        (0usize..4).prop_map(Step::Store),
        any::<bool>().prop_map(|is_store_up| Step::Reload { is_store_up }),
    ];
    proptest::collection::vec(step, 0..30)
}

/// The bus, and the store and the book, which read it at their own speed. The supplier sends in
/// order; some records are repeated.
struct World {
    bus: Vec<PositionedUpdate>,
    store: Book,
    stored: usize,
    book: BusBook,
    next: usize,
    published: BTreeMap<MarketKey, u64>,
}

impl World {
    fn new(records: &[(u8, i64)], start: usize, stored: usize, is_durable: bool) -> World {
        let mut time = 0;
        let bus: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(position, (market, elapsed))| {
                let name = format!("m{market}");
                time += elapsed;
                let update = market_update("MATCH_001", &name, None, time, 1);
                positioned(update, position as u64)
            })
            .collect();
        let start = start.min(bus.len());
        let first_position = (!is_durable).then_some(0);
        let boundary = ReplayBoundary::after(start as u64, !is_durable);
        let mut world = World {
            store: Book::new(event()),
            stored: 0,
            book: BusBook::new(event(), boundary, first_position),
            next: start,
            published: BTreeMap::new(),
            bus,
        };
        world.store(stored);
        world
    }

    fn take(&self, from: usize, count: usize) -> Vec<PositionedUpdate> {
        self.bus.iter().skip(from).take(count).cloned().collect()
    }

    fn store(&mut self, count: usize) {
        for record in self.take(self.stored, count) {
            let _ = self.store.apply(record.update, record.position);
            self.stored += 1;
        }
    }

    fn loaded(&self, is_store_up: bool) -> LoadedState {
        let states = is_store_up.then(|| self.store.snapshot().markets);
        loaded(states, self.book.boundary())
    }

    fn apply(&mut self, count: usize) {
        let records = self.take(self.next, count);
        self.next += records.len();
        let total = records.len();
        let applied = self.book.apply(records);
        assert_eq!(applied.changes.len() + applied.rejected.len(), total);
        for change in &applied.changes {
            let last = self.published.values().max().copied().unwrap_or(0);
            assert!(change.state.seq > last, "a new change has a new number");
            self.publish(std::slice::from_ref(change));
        }
    }

    fn reload(&mut self, is_store_up: bool) {
        let loaded = self.loaded(is_store_up);
        let restored = self.book.reload(loaded);
        assert_eq!(restored.reload_after.is_none(), is_store_up);
        self.publish(&restored.changes);
    }

    /// The number of a market never goes back.
    fn publish(&mut self, changes: &[Change]) {
        for change in changes {
            let market = change.state.update.market.clone();
            let last = self.published.insert(market, change.state.seq);
            assert!(last.is_none_or(|last| last <= change.state.seq));
        }
    }
}

proptest! {
    /// Wherever the book starts and however far the store is: numbers never go back, and in the end
    /// the book holds the latest state of each market.
    #[test]
    fn book_ends_at_latest_state(
        records in proptest::collection::vec((0u8..3, 0i64..2), 0..30),
        start in 0usize..20,
        stored in 0usize..30,
        is_durable in any::<bool>(),
        is_store_up in any::<bool>(),
        steps in steps(),
    ) {
        let mut world = World::new(&records, start, stored, is_durable);
        let loaded = world.loaded(is_store_up);
        let restored = world.book.restore(loaded);
        world.publish(&restored.changes);
        for step in steps {
            match step {
                Step::Apply(count) => world.apply(count),
                Step::Store(count) => world.store(count),
                Step::Reload { is_store_up } => world.reload(is_store_up),
            }
            let snapshot = world.book.snapshot();
            let is_unknown = snapshot.as_ref().is_none_or(|snapshot| snapshot.markets.is_empty());
            prop_assert_eq!(is_unknown, world.published.is_empty());
        }
        world.apply(records.len());
        world.store(records.len());
        world.reload(true);
        let updates = |snapshot: Snapshot| {
            let update = |state: &Arc<MarketState>| state.update.clone();
            snapshot.markets.iter().map(update).collect::<Vec<_>>()
        };
        let shown = updates(world.book.snapshot().unwrap());
        prop_assert_eq!(shown, updates(world.store.snapshot()));
    }
}
