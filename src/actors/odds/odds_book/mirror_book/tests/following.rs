//! Books that also read the odds topic: whatever lags, is lost or is dropped, no client sees an
//! older price after a newer one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{CLOCK, broadcast, update};
use crate::actors::odds::book_source::{MergePolicy, StoredState};
use crate::actors::odds::odds_book::mirror_book::*;
use crate::domain::ids::MarketKey;
use crate::domain::odds::book::{Book, MarketState};
use crate::domain::odds::update::{OddsUpdate, Revision};

fn event_id() -> EventId {
    EventId::new("MATCH_001").unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A supplier publishes.
    Publish { market: u8, time: i64 },
    /// The mirror gets the next record.
    Follow,
    /// A processor applies the next record, writes the cache and broadcasts the change.
    Process,
    /// The mirror gets the next broadcast.
    Deliver,
    /// All broadcasts on their way are lost, and the mirror notices.
    Lose,
    /// Anybody broadcasts another content for what the mirror shows.
    Forge { market: u8 },
    /// The cache and the mirror drop the event, which has been quiet.
    Evict,
    /// A mirror that was started from the cache alone reads the store.
    Load,
    /// The store catches up with the cache.
    Store,
    /// The router looks for idle books, and a client asks for the event.
    Idle,
    /// The mirror's process is replaced by another one, which starts where the processors are.
    Restart,
    /// Time passes, so that the next doubt is looked into.
    Wait,
}

/// Random steps; the rare ones are those of the caller.
fn steps(
    time: impl Strategy<Value = i64> + 'static,
    rare: impl Strategy<Value = Step> + 'static,
) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0_u8..3, time).prop_map(|(market, time)| Step::Publish { market, time }),
        5 => Just(Step::Follow),
        4 => Just(Step::Process),
        4 => Just(Step::Deliver),
        1 => Just(Step::Lose),
        1 => Just(Step::Store),
        2 => Just(Step::Idle),
        1 => Just(Step::Restart),
        1 => Just(Step::Wait),
        3 => Just(Step::Load),
        2 => rare,
    ];
    proptest::collection::vec(step, 0..80)
}

/// The times of genuine updates, some of which are ahead of the clock.
fn times() -> impl Strategy<Value = i64> {
    prop_oneof![9 => 0_i64..20, 1 => 2_000_i64..2_003]
}

struct World {
    mirror: MirrorBook,
    processor: Book,
    topic: Vec<OddsUpdate>,
    processed: usize,
    followed: usize,
    channel: VecDeque<Broadcast>,
    cache: BTreeMap<MarketKey, Arc<MarketState>>,
    store: Vec<Arc<MarketState>>,
    /// The latest revision of each market that a client has seen since the last restart.
    seen: BTreeMap<MarketKey, Revision>,
    now: Instant,
    is_verification_scheduled: bool,
    was_evicted: bool,
    /// Whether the cache has corrected a market. Changes that were on their way get new numbers then.
    was_corrected: bool,
}

impl World {
    fn new() -> World {
        let mut world = World {
            mirror: MirrorBook::new(event_id(), ReplayBoundary::NOTHING),
            processor: Book::new(event_id()),
            topic: Vec::new(),
            processed: 0,
            followed: 0,
            channel: VecDeque::new(),
            cache: BTreeMap::new(),
            store: Vec::new(),
            seen: BTreeMap::new(),
            now: Instant::now(),
            is_verification_scheduled: false,
            was_evicted: false,
            was_corrected: false,
        };
        world.start();
        world
    }

    /// Starts the mirror from the cache alone.
    fn start(&mut self) {
        self.mirror = MirrorBook::new(event_id(), ReplayBoundary::NOTHING);
        self.is_verification_scheduled = false;
        let loaded = LoadedState::from_cache(self.cached(), self.mirror.boundary());
        self.mirror.restore(loaded);
    }

    fn load(&mut self) -> Restored {
        let loaded = self.loaded();
        self.mirror.reload(loaded)
    }

    /// What the cache and the store hold.
    fn loaded(&self) -> LoadedState {
        let stored = StoredState {
            states: self.store.clone(),
            is_read: true,
        };
        MergePolicy::CacheWins.merge(self.cached(), stored, self.mirror.boundary())
    }

    fn cached(&self) -> CachedState {
        CachedState {
            states: self.cache.values().cloned().collect(),
            is_read: true,
            is_damaged: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish { market, time } => self.topic.push(update(market, time)),
            Step::Follow => self.follow(),
            Step::Process => self.process(),
            Step::Deliver => {
                if let Some(broadcast) = self.channel.pop_front() {
                    self.apply(broadcast);
                }
            }
            Step::Lose => {
                self.channel.clear();
                self.mirror.expect_gap();
                self.load();
            }
            Step::Forge { market } => self.forge(market),
            Step::Evict if !self.channel.is_empty() || self.mirror.is_ahead().get() => {}
            Step::Evict => {
                self.store = self.processor.snapshot().markets;
                self.cache.clear();
                self.was_evicted = true;
                self.start();
            }
            Step::Load => drop(self.load()),
            Step::Store => self.store = self.processor.snapshot().markets,
            Step::Idle if self.mirror.is_ahead().get() => {}
            Step::Idle => self.start(),
            Step::Restart => {
                self.followed = self.processed;
                self.channel.clear();
                self.seen.clear();
                self.start();
            }
            Step::Wait => {
                self.now += Duration::from_secs(2);
                if self.is_verification_scheduled {
                    self.verify();
                }
            }
        }
    }

    fn forge(&mut self, market: u8) {
        let market = update(market, 0).market;
        let mut shown = self.shown().into_iter();
        let held = shown.find(|held| held.update.market == market);
        if let Some(held) = held {
            let mut forged = held.update.clone();
            forged.in_play = !forged.in_play;
            self.apply(broadcast(forged, held.seq));
        }
    }

    fn follow(&mut self) {
        let Some(update) = self.topic.get(self.followed).cloned() else {
            return;
        };
        let position = self.followed as u64;
        self.followed += 1;
        self.apply(PositionedUpdate {
            trace: None,
            update,
            partition: 0,
            position,
        });
    }

    fn process(&mut self) {
        let Some(update) = self.topic.get(self.processed).cloned() else {
            return;
        };
        let position = self.processed as u64;
        self.processed += 1;
        if let Ok(state) = self.processor.apply(update.clone(), position) {
            self.cache.insert(update.market.clone(), state.clone());
            self.channel.push_back(broadcast(update, state.seq));
        }
    }

    fn apply(&mut self, input: impl Into<MirrorInput>) {
        let clock = update(0, CLOCK).revision.updated_at;
        let applied = self.mirror.apply([input.into()], clock);
        // Stored states that are loaded after broadcasts get new numbers.
        let mut changes = applied.changes.iter();
        let is_renumbered = self.was_evicted || self.was_corrected;
        assert!(is_renumbered || changes.all(|change| !change.conflated));
        match self.mirror.next_verification(self.now) {
            Verification::Now => self.verify(),
            Verification::After(_) => self.is_verification_scheduled = true,
            Verification::Unneeded => {}
        }
    }

    fn verify(&mut self) {
        self.mirror.start_verification(self.now);
        let clock = update(0, CLOCK).revision.updated_at;
        let verified = self.mirror.verify(&self.cached(), clock);
        self.was_corrected |= !verified.changes.is_empty();
        self.is_verification_scheduled = verified.next != Verification::Unneeded;
    }

    fn shown(&self) -> Vec<Arc<MarketState>> {
        let snapshot = self.mirror.snapshot();
        snapshot
            .map(|snapshot| snapshot.markets)
            .unwrap_or_default()
    }

    /// No market shows less than before, and none what no supplier has published. Snapshots of a
    /// mirror that was started from the cache alone wait for the store.
    fn check(&mut self) {
        let is_partial = !self.mirror.core.is_loaded;
        for state in self.shown() {
            assert!(self.topic.contains(&state.update));
        }
        let shown: BTreeMap<_, _> = self
            .shown()
            .iter()
            .map(|state| (state.update.market.clone(), state.update.revision))
            .collect();
        for (market, seen) in &self.seen {
            let is_kept = |shown: &Revision| shown >= seen;
            assert!(shown.get(market).map_or(is_partial, is_kept));
        }
        self.seen.extend(shown);
    }

    /// Takes these steps, and lets all changes arrive.
    fn run(&mut self, steps: Vec<Step>) {
        for step in steps {
            self.step(step);
            self.check();
        }
        self.step(Step::Load);
        while self.followed < self.topic.len() {
            self.step(Step::Follow);
            self.check();
        }
        while self.processed < self.topic.len() {
            self.step(Step::Process);
        }
        while !self.channel.is_empty() {
            self.step(Step::Deliver);
            self.check();
        }
    }
}

/// The suppliers publish no older update after a newer one: it would be a doubt, and a market in
/// doubt that the cache does not hold is suspended.
fn in_time_order(steps: Vec<Step>) -> Vec<Step> {
    let timed = |(time, step)| match step {
        Step::Publish { market, .. } => Step::Publish { market, time },
        other => other,
    };
    (0..).zip(steps).map(timed).collect()
}

fn updates(states: Vec<Arc<MarketState>>) -> Vec<OddsUpdate> {
    states.iter().map(|state| state.update.clone()).collect()
}

proptest! {
    #[test]
    fn followed_book_never_goes_back(
        steps in steps(times(), (0_u8..3).prop_map(|market| Step::Forge { market })),
    ) {
        let mut world = World::new();
        world.run(steps);
        let (shown, published) = (world.shown(), world.processor.snapshot().markets);
        if world.was_corrected {
            prop_assert_eq!(updates(shown), updates(published));
        } else {
            prop_assert_eq!(shown, published, "with the same numbers");
        }
        prop_assert!(!world.mirror.is_ahead().get());
    }

    /// A mirror that starts without the cached state numbers the stored one anew.
    #[test]
    fn eviction_loses_nothing(steps in steps(Just(0), Just(Step::Evict))) {
        let mut world = World::new();
        world.run(in_time_order(steps));
        prop_assert_eq!(updates(world.shown()), updates(world.processor.snapshot().markets));
        prop_assert!(!world.mirror.is_ahead().get());
    }
}

/// A quiet market is gone from the cache, and a record of it is read again.
#[test]
fn repeated_record_of_evicted_market_is_not_published() {
    let mut world = World::new();
    for time in [5, 6] {
        world.step(Step::Publish { market: 0, time });
        world.step(Step::Process);
        world.step(Step::Deliver);
    }
    world.step(Step::Evict);
    world.step(Step::Idle);
    world.step(Step::Follow);
    assert!(world.shown().is_empty(), "the record waits for the store");
    let restored = world.load();
    assert_eq!(updates(world.shown()), [update(0, 6)]);
    assert_eq!(
        restored.changes.len(),
        1,
        "the older record is not published"
    );
    assert!(!world.mirror.is_ahead().get());
}

/// After the topic was created again, offsets are below the numbers of the event.
#[test]
fn early_record_gets_number_of_processor_after_load() {
    let mut world = World::new();
    world.processor.apply(update(0, 1), 99).unwrap();
    world.step(Step::Store);
    world.step(Step::Publish { market: 0, time: 2 });
    world.step(Step::Follow);
    assert!(world.mirror.is_ahead().get(), "the record waits");
    world.load();
    assert_eq!(world.shown()[0].seq, 101);
    assert_eq!(updates(world.shown()), [update(0, 2)]);
}

/// The load of a book that starts for a broadcast leaves later changes to their broadcasts. A
/// record must not overtake them: it would get a lower number than the processor gives it.
#[test]
fn record_does_not_overtake_expected_broadcasts() {
    let mut world = World::new();
    for position in [98, 99] {
        let market = u8::try_from(position - 98).unwrap();
        let state = world.processor.apply(update(market, 1), position).unwrap();
        world.cache.insert(state.update.market.clone(), state);
    }
    world.mirror = MirrorBook::new(event_id(), ReplayBoundary::after(98, true));
    let loaded = LoadedState::from_cache(world.cached(), world.mirror.boundary());
    world.mirror.restore(loaded);
    world.mirror.reload(world.loaded());
    world.apply(broadcast(update(0, 1), 99));
    world.step(Step::Publish { market: 2, time: 2 });
    world.step(Step::Follow);
    assert_eq!(
        world.shown().len(),
        1,
        "the record is left to its broadcast"
    );
    world.apply(broadcast(update(1, 1), 100));
    world.step(Step::Process);
    world.step(Step::Deliver);
    assert_eq!(world.shown(), world.processor.snapshot().markets);
}

/// Records that wait for the store are bounded: of many, the latest of each market waits. No
/// processor runs, so nothing else brings it.
#[test]
fn waiting_records_are_bounded() {
    let mut world = World::new();
    world.step(Step::Publish { market: 1, time: 0 });
    world.step(Step::Follow);
    for time in 1..150 {
        world.step(Step::Publish { market: 0, time });
        world.step(Step::Follow);
    }
    let restored = world.load();
    let seqs: Vec<_> = restored.changes.iter().map(|it| it.state.seq).collect();
    assert_eq!(
        seqs,
        std::iter::once(1).chain(101..=150).collect::<Vec<_>>()
    );
    let conflated = restored.changes.iter().filter(|change| change.conflated);
    let conflated: Vec<_> = conflated.map(|change| change.state.seq).collect();
    assert_eq!(
        conflated,
        [101],
        "it has replaced the earlier records of its market"
    );
    assert_eq!(updates(world.shown()), [update(0, 149), update(1, 0)]);
    while world.processed < world.topic.len() {
        world.step(Step::Process);
        world.step(Step::Deliver);
    }
    assert_eq!(world.shown(), world.processor.snapshot().markets);
}

/// A forged broadcast with the revision of the book does not count as a confirmation.
#[test]
fn forged_broadcast_confirms_nothing() {
    let mut world = World::new();
    world.step(Step::Load);
    world.step(Step::Publish { market: 0, time: 5 });
    world.step(Step::Process);
    world.step(Step::Publish { market: 0, time: 6 });
    world.step(Step::Follow);
    world.step(Step::Follow);
    world.step(Step::Forge { market: 0 });
    world.step(Step::Wait);
    assert_eq!(updates(world.shown()), [update(0, 6)]);
    assert!(world.mirror.is_ahead().get());
    world.step(Step::Process);
    world.step(Step::Wait);
    assert!(!world.mirror.is_ahead().get(), "the cache confirms it");
    assert!(!world.is_verification_scheduled);
}

/// What neither cache nor store holds is not confirmed by a complete load, except what has changed
/// meanwhile.
#[test]
fn unconfirmed_lead_ends() {
    let mut world = World::new();
    world.step(Step::Load);
    for market in [0, 1] {
        world.step(Step::Publish { market, time: 5 });
        world.step(Step::Follow);
    }
    let unconfirmed = world.mirror.markets_ahead();
    world.step(Step::Publish { market: 1, time: 6 });
    world.step(Step::Follow);
    assert_eq!(world.mirror.end_lead(&unconfirmed, false), 0);
    assert_eq!(world.mirror.end_lead(&unconfirmed, true), 1);
    assert!(world.mirror.is_ahead().get());
    let unconfirmed = world.mirror.markets_ahead();
    assert_eq!(world.mirror.end_lead(&unconfirmed, true), 1);
    assert!(!world.mirror.is_ahead().get());
}

/// A broadcast that is older than a record is explained, also if the numbers go on above the
/// offsets of a new topic.
#[test]
fn record_of_new_topic_explains_older_broadcast() {
    let mut world = World::new();
    let state = world.processor.apply(update(0, 1), 99).unwrap();
    world.cache.insert(state.update.market.clone(), state);
    world.start();
    world.step(Step::Load);
    for time in [2, 3] {
        world.step(Step::Publish { market: 0, time });
        world.step(Step::Follow);
    }
    world.step(Step::Process);
    let clock = update(0, CLOCK).revision.updated_at;
    let older = world.channel.pop_front().unwrap();
    world.mirror.apply([older], clock);
    let next = world.mirror.next_verification(world.now);
    assert_eq!(next, Verification::Unneeded);
}

/// After the topic was created again its offsets are low, and the numbers go on.
#[test]
fn numbers_go_on_with_new_topic() {
    let mut world = World::new();
    let state = world.processor.apply(update(0, 1), 99).unwrap();
    world.cache.insert(state.update.market.clone(), state);
    world.start();
    world.step(Step::Load);
    world.step(Step::Publish { market: 0, time: 2 });
    world.step(Step::Follow);
    assert_eq!(world.shown()[0].seq, 101);
    assert!(!world.mirror.core.book.is_shared(), "not yet confirmed");
    assert!(world.mirror.is_ahead().get());
    world.step(Step::Process);
    world.step(Step::Deliver);
    assert!(world.mirror.core.book.is_shared());
    assert!(!world.mirror.is_ahead().get());
}

/// A record that is older than what was broadcast is a reason to read the cache: nobody can forge
/// the record.
#[test]
fn record_reveals_forged_broadcast() {
    let mut world = World::new();
    world.step(Step::Load);
    world.mirror.apply(
        [Broadcast {
            trace: None,
            update: update(0, 900),
            seq: Some(1),
            conflated: false,
        }],
        update(0, CLOCK).revision.updated_at,
    );
    world.step(Step::Publish { market: 0, time: 5 });
    world.step(Step::Process);
    world.step(Step::Publish { market: 0, time: 6 });
    world.step(Step::Process);
    world.step(Step::Follow);
    world.step(Step::Wait);
    world.step(Step::Follow);
    assert_eq!(world.shown()[0].update, update(0, 6));
}
