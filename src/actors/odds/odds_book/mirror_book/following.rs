//! Books that also read the odds topic: whatever lags, is lost or is dropped, no client sees an
//! older price after a newer one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::actors::odds::book_source::{MergePolicy, StoredState};
use crate::domain::ids::MarketKey;
use crate::domain::odds::book::{Book, MarketState};
use crate::domain::odds::update::testing::market_update;
use crate::domain::odds::update::{OddsUpdate, Revision};

/// The time of the clock. A supplier's clock may be ahead of it.
const CLOCK: i64 = 1_000;

fn update(market: u8, time: i64) -> OddsUpdate {
    market_update("MATCH_001", &format!("m{market}"), None, time, 1)
}

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
    /// The store catches up with the cache.
    Store,
    /// The router looks for idle books, and a client asks for the event.
    Idle,
    /// The mirror's process is replaced by another one, which starts where the processors are.
    Restart,
    /// Time passes, so that the next doubt is looked into.
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = prop_oneof![9 => 0_i64..20, 1 => 2_000_i64..2_003];
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
    ];
    proptest::collection::vec(step, 0..80)
}

struct World {
    mirror: MirrorBook,
    processor: Book,
    topic: Vec<OddsUpdate>,
    processed: usize,
    followed: usize,
    channel: VecDeque<Broadcast>,
    store: Vec<Arc<MarketState>>,
    /// The latest revision of each market that a client has seen since the last restart.
    seen: BTreeMap<MarketKey, Revision>,
    now: Instant,
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
            store: Vec::new(),
            seen: BTreeMap::new(),
            now: Instant::now(),
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.mirror = MirrorBook::new(event_id(), ReplayBoundary::NOTHING);
        let loaded = self.loaded();
        self.mirror.restore(loaded);
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
            states: self.processor.snapshot().markets,
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
                let loaded = self.loaded();
                self.mirror.reload(loaded);
            }
            Step::Store => self.store = self.processor.snapshot().markets,
            Step::Idle if self.mirror.is_ahead().get() => {}
            Step::Idle => self.start(),
            Step::Restart => {
                self.followed = self.processed;
                self.channel.clear();
                self.seen.clear();
                self.start();
            }
            Step::Wait => self.now += Duration::from_secs(2),
        }
    }

    fn follow(&mut self) {
        let Some(update) = self.topic.get(self.followed).cloned() else {
            return;
        };
        let position = self.followed as u64;
        self.followed += 1;
        self.apply(PositionedUpdate {
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
            self.channel.push_back(Broadcast {
                update,
                seq: Some(state.seq),
                conflated: false,
            });
        }
    }

    fn apply(&mut self, input: impl Into<MirrorInput>) {
        let clock = update(0, CLOCK).revision.updated_at;
        let applied = self.mirror.apply([input.into()], clock);
        assert!(applied.changes.iter().all(|change| !change.conflated));
        if self.mirror.next_verification(self.now) == Verification::Now {
            self.mirror.start_verification(self.now);
            let cached = self.cached();
            self.mirror.verify(&cached, clock);
        }
    }

    fn shown(&self) -> Vec<Arc<MarketState>> {
        let snapshot = self.mirror.snapshot();
        snapshot
            .map(|snapshot| snapshot.markets)
            .unwrap_or_default()
    }

    /// No market shows less than before.
    fn check(&mut self) {
        let shown: BTreeMap<_, _> = self
            .shown()
            .iter()
            .map(|state| (state.update.market.clone(), state.update.revision))
            .collect();
        for (market, seen) in &self.seen {
            assert!(shown.get(market).is_some_and(|shown| shown >= seen));
        }
        self.seen = shown;
    }
}

proptest! {
    #[test]
    fn followed_book_never_goes_back(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        while world.followed < world.topic.len() {
            world.step(Step::Follow);
            world.check();
        }
        while world.processed < world.topic.len() {
            world.step(Step::Process);
        }
        while !world.channel.is_empty() {
            world.step(Step::Deliver);
            world.check();
        }
        prop_assert_eq!(world.shown(), world.processor.snapshot().markets, "with the same numbers");
        prop_assert!(!world.mirror.is_ahead().get());
    }
}

/// After the topic was created again its offsets are low, and the numbers go on.
#[test]
fn numbers_go_on_with_new_topic() {
    let mut world = World::new();
    world.processor.apply(update(0, 1), 99).unwrap();
    world.start();
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
    world.mirror.apply(
        [Broadcast {
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
