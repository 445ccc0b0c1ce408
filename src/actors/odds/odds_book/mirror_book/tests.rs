mod following;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::actors::odds::book_source::{MergePolicy, StoredState};
use crate::domain::ids::MarketKey;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::market_update;

/// The time of the clock; genuine updates are earlier.
const CLOCK: i64 = 1_000;

fn at(time: i64) -> Timestamp {
    update(0, time).revision.updated_at
}

fn update(market: u8, time: i64) -> OddsUpdate {
    market_update("MATCH_001", &format!("m{market}"), None, time, 1)
}

fn broadcast(update: OddsUpdate, seq: u64) -> Broadcast {
    Broadcast {
        trace: None,
        update,
        seq: Some(seq),
        conflated: false,
    }
}

fn new_book() -> MirrorBook {
    let event = EventId::new("MATCH_001").unwrap();
    MirrorBook::new(event, ReplayBoundary::NOTHING)
}

fn unreadable() -> CachedState {
    CachedState {
        states: Vec::new(),
        is_read: false,
        is_damaged: false,
    }
}

fn readable(states: &[(OddsUpdate, u64)]) -> CachedState {
    let state = |(update, seq): &(OddsUpdate, u64)| {
        Arc::new(MarketState {
            update: update.clone(),
            seq: *seq,
        })
    };
    CachedState {
        states: states.iter().map(state).collect(),
        is_read: true,
        is_damaged: false,
    }
}

fn seqs(changes: &[Change]) -> Vec<u64> {
    changes.iter().map(|change| change.state.seq).collect()
}

#[test]
fn unread_cache_makes_snapshot_stale() {
    let mut book = new_book();
    let boundary = ReplayBoundary::NOTHING;
    let stored = StoredState {
        states: readable(&[(update(0, 5), 7)]).states,
        is_read: true,
    };
    let restored = book.restore(MergePolicy::CacheWins.merge(unreadable(), stored, boundary));
    assert_eq!(seqs(&restored.changes), [7]);
    assert_eq!(restored.reload_after, Some(RELOAD_DELAY));
    assert!(book.snapshot().unwrap().is_stale);
    let cached = readable(&[(update(0, 5), 7)]);
    let restored = book.reload(LoadedState::from_cache(cached, boundary));
    assert!(restored.changes.is_empty(), "nothing is newer");
    assert!(!book.snapshot().unwrap().is_stale);
}

#[test]
fn doubts_start_one_verification_per_pause() {
    let mut book = new_book();
    let start = Instant::now();
    book.apply(vec![broadcast(update(0, 2_000), 5)], at(CLOCK));
    assert_eq!(book.next_verification(start), Verification::Now);
    book.start_verification(start);
    let verified = book.verify(&readable(&[(update(0, 5), 4)]), at(CLOCK));
    assert_eq!(seqs(&verified.changes), [6]);
    assert_eq!(book.next_verification(start), Verification::Unneeded);
    book.apply(vec![broadcast(update(0, 2_000), 5)], at(CLOCK));
    let soon = start + Duration::from_millis(400);
    let remaining = Verification::After(Duration::from_millis(600));
    assert_eq!(book.next_verification(soon), remaining);
    book.apply(vec![broadcast(update(0, 2_001), 6)], at(CLOCK));
    let next = book.next_verification(soon);
    assert_eq!(next, Verification::Unneeded, "one is scheduled");
}

/// Also if the read took longer than the pause: the doubts must not wait for another broadcast.
#[test]
fn failed_verification_is_always_repeated() {
    let mut book = new_book();
    book.apply(vec![broadcast(update(0, 2_000), 5)], at(CLOCK));
    book.start_verification(Instant::now());
    let verified = book.verify(&unreadable(), at(CLOCK));
    assert!(verified.changes.is_empty());
    let delay = Duration::from_secs(1);
    assert_eq!(verified.next, Verification::After(delay));
}

/// A reader of the topic that lags is no reason to read the cache.
#[test]
fn overtaken_record_raises_no_doubt() {
    let mut book = new_book();
    let boundary = ReplayBoundary::NOTHING;
    book.restore(LoadedState::from_cache(readable(&[]), boundary));
    let stored = StoredState {
        states: Vec::new(),
        is_read: true,
    };
    book.reload(MergePolicy::CacheWins.merge(readable(&[]), stored, boundary));
    let record = |time, position| PositionedUpdate {
        trace: None,
        update: update(0, time),
        position,
        partition: 0,
    };
    book.apply(vec![broadcast(update(0, 5), 5)], at(CLOCK));
    let applied = book.apply(vec![record(4, 3)], at(CLOCK));
    assert!(applied.changes.is_empty());
    let start = Instant::now();
    assert_eq!(book.next_verification(start), Verification::Unneeded);
    // A later record with an earlier state contradicts the broadcast.
    book.apply(vec![record(3, 8)], at(CLOCK));
    assert_eq!(book.next_verification(start), Verification::Now);
}

/// The cache may have received later changes since the doubt arose.
#[test]
fn later_cached_state_is_no_correction() {
    let mut book = new_book();
    book.apply(
        vec![broadcast(update(0, 5), 5), broadcast(update(0, 4), 6)],
        at(CLOCK),
    );
    let start = Instant::now();
    assert_eq!(book.next_verification(start), Verification::Now);
    book.start_verification(start);
    let verified = book.verify(&readable(&[(update(0, 7), 9)]), at(CLOCK));
    assert_eq!(seqs(&verified.changes), [9]);
    assert_eq!(verified.corrected, 0);
    assert_eq!(verified.next, Verification::Unneeded);
}

/// How the cache responds.
#[derive(Clone, Copy, Debug)]
enum CacheHealth {
    Up,
    Damaged,
    Down,
}

#[derive(Clone, Debug)]
enum Step {
    /// A processor applies an update, writes the cache and broadcasts the change.
    Publish { market: u8, time: i64 },
    /// A broadcast arrives, not necessarily the oldest.
    Deliver(prop::sample::Index),
    /// A broadcast is lost.
    Lose(prop::sample::Index),
    /// Anybody broadcasts a price that is ahead of the clock.
    Forge { market: u8, time: i64, seq: u64 },
    /// The store catches up with the cache.
    Store,
    /// The cache changes its health.
    Cache(CacheHealth),
    /// A gap ended.
    Gap,
    /// Time passes.
    Wait(u64),
}

/// Random steps; the rare ones are those of the caller.
fn steps(rare: impl Strategy<Value = Step>) -> impl Strategy<Value = Vec<Step>> {
    let health = prop_oneof![
        Just(CacheHealth::Up),
        Just(CacheHealth::Damaged),
        Just(CacheHealth::Down),
    ];
    let step = prop_oneof![
        6 => (0u8..3, 0i64..8).prop_map(|(market, time)| Step::Publish { market, time }),
        6 => any::<prop::sample::Index>().prop_map(Step::Deliver),
        1 => rare,
        1 => Just(Step::Store),
        1 => health.prop_map(Step::Cache),
        1 => Just(Step::Gap),
        2 => (0u64..1_500).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..60)
}

fn lost() -> impl Strategy<Value = Step> {
    any::<prop::sample::Index>().prop_map(Step::Lose)
}

fn forged() -> impl Strategy<Value = Step> {
    (0u8..4, 2_000i64..2_003, 0u64..50).prop_map(|(market, time, seq)| Step::Forge {
        market,
        time,
        seq,
    })
}

type States = BTreeMap<MarketKey, Arc<MarketState>>;

/// The book, with what an actor, the cache, the store and the channel do around it.
struct World {
    book: MirrorBook,
    cache: States,
    store: States,
    health: CacheHealth,
    channel: Vec<Broadcast>,
    /// The latest update of each market that the book was given.
    latest: BTreeMap<MarketKey, OddsUpdate>,
    published: BTreeMap<MarketKey, u64>,
    last_seq: u64,
    is_cache_read: bool,
    was_complete: bool,
    now: Instant,
    verification_at: Option<Instant>,
    reload_at: Option<Instant>,
}

impl World {
    fn new() -> World {
        let mut world = World {
            book: new_book(),
            cache: States::new(),
            store: States::new(),
            health: CacheHealth::Up,
            channel: Vec::new(),
            latest: BTreeMap::new(),
            published: BTreeMap::new(),
            last_seq: 0,
            is_cache_read: false,
            was_complete: false,
            now: Instant::now(),
            verification_at: None,
            reload_at: None,
        };
        let loaded = LoadedState::from_cache(world.cached(), world.book.boundary());
        world.load(loaded, MirrorBook::restore);
        world
    }

    fn cached(&self) -> CachedState {
        let states: Vec<_> = self.cache.values().cloned().collect();
        match self.health {
            CacheHealth::Up => CachedState {
                states,
                is_read: true,
                is_damaged: false,
            },
            CacheHealth::Damaged => CachedState {
                states: states.into_iter().step_by(2).collect(),
                is_read: false,
                is_damaged: true,
            },
            CacheHealth::Down => unreadable(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish { market, time } => self.publish_update(update(market, time)),
            Step::Deliver(_) | Step::Lose(_) if self.channel.is_empty() => {}
            Step::Deliver(index) => {
                let broadcast = self.channel.remove(index.index(self.channel.len()));
                self.receive(broadcast);
            }
            Step::Lose(index) => drop(self.channel.remove(index.index(self.channel.len()))),
            Step::Forge { market, time, seq } => self.receive(broadcast(update(market, time), seq)),
            Step::Store => self.store = self.cache.clone(),
            Step::Cache(health) => self.health = health,
            Step::Gap => self.reload_after_gap(),
            Step::Wait(millis) => self.wait(millis),
        }
    }

    fn publish_update(&mut self, update: OddsUpdate) {
        let held = self.cache.get(&update.market);
        if held.is_some_and(|held| held.update.revision >= update.revision) {
            return;
        }
        let seq = self.cache.values().map(|state| state.seq).max();
        let seq = seq.unwrap_or(0) + 1;
        self.channel.push(broadcast(update.clone(), seq));
        let market = update.market.clone();
        self.cache
            .insert(market, Arc::new(MarketState { update, seq }));
    }

    fn receive(&mut self, broadcast: Broadcast) {
        self.give(&broadcast.update);
        let applied = self.book.apply(vec![broadcast], at(CLOCK));
        assert_eq!(applied.changes.len() + applied.rejected.len(), 1);
        self.publish(&applied.changes);
        match self.book.next_verification(self.now) {
            Verification::Now => self.verify(),
            next => self.schedule_verification(next),
        }
    }

    fn schedule_verification(&mut self, next: Verification) {
        if let Verification::After(delay) = next {
            assert_eq!(self.verification_at, None, "one is scheduled already");
            self.verification_at = Some(self.now + delay);
        }
    }

    fn verify(&mut self) {
        self.book.start_verification(self.now);
        let cached = self.cached();
        let verified = self.book.verify(&cached, at(CLOCK));
        for change in &verified.changes {
            let update = change.state.update.clone();
            self.latest.insert(update.market.clone(), update);
        }
        self.publish(&verified.changes);
        self.schedule_verification(verified.next);
    }

    fn reload_after_gap(&mut self) {
        self.book.expect_gap();
        let cached = self.cached();
        if cached.states.is_empty() {
            return self.reload();
        }
        let loaded = LoadedState::from_cache(cached, self.book.boundary());
        self.load(loaded, MirrorBook::reload);
    }

    fn reload(&mut self) {
        let stored = StoredState {
            states: self.store.values().cloned().collect(),
            is_read: true,
        };
        let boundary = self.book.boundary();
        let loaded = MergePolicy::CacheWins.merge(self.cached(), stored, boundary);
        self.load(loaded, MirrorBook::reload);
    }

    fn load(
        &mut self,
        loaded: LoadedState,
        load: impl Fn(&mut MirrorBook, LoadedState) -> Restored,
    ) {
        for state in &loaded.states {
            self.give(&state.update);
        }
        self.is_cache_read = loaded.is_cache_read;
        self.was_complete |= loaded.is_complete;
        let is_complete = loaded.is_complete;
        let restored = load(&mut self.book, loaded);
        assert_eq!(restored.reload_after.is_none(), is_complete);
        if let Some(delay) = restored.reload_after {
            self.reload_at = Some(self.now + delay);
        }
        self.publish(&restored.changes);
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        if self.verification_at.is_some_and(|at| at <= self.now) {
            self.verification_at = None;
            self.verify();
        }
        if self.reload_at.is_some_and(|at| at <= self.now) {
            self.reload_at = None;
            self.reload();
        }
    }

    fn give(&mut self, update: &OddsUpdate) {
        let held = self.latest.get(&update.market);
        if held.is_none_or(|held| held.revision < update.revision) {
            self.latest.insert(update.market.clone(), update.clone());
        }
    }

    /// The numbers of a book only grow.
    fn publish(&mut self, changes: &[Change]) {
        for change in changes {
            assert!(change.state.seq > self.last_seq);
            self.last_seq = change.state.seq;
            let market = change.state.update.market.clone();
            self.published.insert(market, change.state.seq);
        }
    }

    fn shown(&self) -> Vec<OddsUpdate> {
        let markets = self.book.snapshot().map(|snapshot| snapshot.markets);
        let markets = markets.unwrap_or_default();
        markets.iter().map(|state| state.update.clone()).collect()
    }

    fn check(&self) {
        match self.book.snapshot() {
            None => assert!(self.latest.is_empty() && !self.was_complete),
            Some(snapshot) => {
                assert!(!snapshot.markets.is_empty() || self.was_complete);
                assert_eq!(snapshot.is_stale, !self.is_cache_read);
                for state in &snapshot.markets {
                    let published = self.published.get(&state.update.market);
                    assert_eq!(published, Some(&state.seq), "all of it is published");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn book_is_latest_state_given(steps in steps(lost())) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
            let latest: Vec<_> = world.latest.values().cloned().collect();
            prop_assert_eq!(world.shown(), latest);
        }
        world.health = CacheHealth::Up;
        world.reload();
        let cached: Vec<_> = world.cache.values().map(|state| state.update.clone()).collect();
        prop_assert_eq!(world.shown(), cached, "nothing is missing after a complete reload");
        prop_assert!(!world.book.snapshot().unwrap().is_stale);
    }

    /// Whatever is forged ahead of the clock: once the cache can be read, it wins, and markets that
    /// it does not hold are suspended.
    #[test]
    fn forged_prices_do_not_last(steps in steps(forged())) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        world.health = CacheHealth::Up;
        for broadcast in std::mem::take(&mut world.channel) {
            world.receive(broadcast);
        }
        world.wait(1_000);
        world.reload();
        world.check();
        for update in world.shown() {
            match world.cache.get(&update.market) {
                Some(cached) => prop_assert_eq!(&update, &cached.update),
                None => prop_assert_eq!(update.status, MarketStatus::Suspended),
            }
        }
        prop_assert_eq!(world.verification_at, None);
    }
}
