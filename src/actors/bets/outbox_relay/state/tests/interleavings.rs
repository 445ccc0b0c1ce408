//! Random interleavings of the relay with a database and a bus that fail.

use std::collections::{BTreeMap, BTreeSet};

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// How the bus answers an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BusAnswer {
    Accepts,
    Away,
    Rejects,
    Closed,
}

impl BusAnswer {
    fn result(self) -> Result<(), BusError> {
        match self {
            BusAnswer::Accepts => Ok(()),
            BusAnswer::Away => unavailable(),
            BusAnswer::Rejects => too_large(),
            BusAnswer::Closed => Err(BusError::Closed),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// This process commits rows of a topic, and submits them.
    Commit {
        topic: OutboxTopic,
        rows: usize,
    },
    /// Another process leaves a row whose lease has expired.
    Abandon {
        topic: OutboxTopic,
    },
    /// The attempt in flight of a topic is answered.
    Answer {
        topic: OutboxTopic,
        with: BusAnswer,
    },
    /// The mark in flight is answered.
    AnswerMark {
        is_done: bool,
    },
    /// The call that takes rows is answered.
    AnswerTake {
        is_done: bool,
    },
    Tick,
    /// All leases expire.
    Wait,
}

fn topic() -> impl Strategy<Value = OutboxTopic> {
    prop_oneof![Just(OutboxTopic::Placed), Just(OutboxTopic::Confirmed)]
}

fn step(answers: impl Strategy<Value = BusAnswer>) -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (topic(), 1..5_usize).prop_map(|(topic, rows)| Step::Commit { topic, rows }),
        1 => topic().prop_map(|topic| Step::Abandon { topic }),
        6 => (topic(), answers).prop_map(|(topic, with)| Step::Answer { topic, with }),
        3 => any::<bool>().prop_map(|is_done| Step::AnswerMark { is_done }),
        3 => any::<bool>().prop_map(|is_done| Step::AnswerTake { is_done }),
        2 => Just(Step::Tick),
        1 => Just(Step::Wait),
    ]
}

fn any_answer() -> impl Strategy<Value = BusAnswer> {
    prop_oneof![
        4 => Just(BusAnswer::Accepts),
        2 => Just(BusAnswer::Away),
        2 => Just(BusAnswer::Rejects),
        1 => Just(BusAnswer::Closed),
    ]
}

fn lasting_answer() -> impl Strategy<Value = BusAnswer> {
    prop_oneof![
        4 => Just(BusAnswer::Accepts),
        2 => Just(BusAnswer::Away),
    ]
}

/// The relay's state with a model of the database and the bus.
struct World {
    state: RelayState,
    now: Timestamp,
    written: i64,
    /// The outbox: rows that are not marked, and the end of their leases.
    outbox: BTreeMap<i64, (OutboxRow, Timestamp)>,
    /// The rows of the attempt in flight of each topic.
    in_flight: BTreeMap<OutboxTopic, Vec<i64>>,
    marking: Option<Vec<i64>>,
    /// Rows that the call in flight has taken.
    taking: Option<Vec<OutboxRow>>,
    /// Rows that the topics or the dead letters accepted, in order.
    accepted: BTreeMap<OutboxTopic, Vec<i64>>,
    accepted_ids: BTreeSet<i64>,
}

impl World {
    fn new(waiting: usize) -> World {
        World {
            state: RelayState::new(RelaySettings {
                waiting,
                ..settings()
            }),
            now: now(),
            written: 0,
            outbox: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            marking: None,
            taking: None,
            accepted: BTreeMap::new(),
            accepted_ids: BTreeSet::new(),
        }
    }

    fn write(&mut self, topic: OutboxTopic, leased_until: Timestamp) -> OutboxRow {
        self.written += 1;
        let row = OutboxRow {
            topic,
            ..row(self.written)
        };
        self.outbox.insert(row.id, (row.clone(), leased_until));
        row
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Commit { topic, rows } => {
                let until = self.now.later_by(LEASE);
                let rows = (0..rows).map(|_| self.write(topic, until)).collect();
                let effects = self.state.submit(rows);
                self.run(effects);
            }
            Step::Abandon { topic } => drop(self.write(topic, self.now)),
            Step::Answer { topic, with } => self.answer(topic, with),
            Step::AnswerMark { is_done } => self.answer_mark(is_done),
            Step::AnswerTake { is_done } => self.answer_take(is_done),
            Step::Tick => self.tick(),
            Step::Wait => self.now = self.now.later_by(LEASE),
        }
    }

    fn tick(&mut self) {
        self.now = self.now.later_by(SECOND);
        let effects = self.state.tick(self.now);
        self.run(effects);
    }

    fn answer(&mut self, topic: OutboxTopic, with: BusAnswer) {
        let Some(rows) = self.in_flight.remove(&topic) else {
            return;
        };
        if with == BusAnswer::Accepts {
            self.accepted_ids.extend(&rows);
            self.accepted.entry(topic).or_default().extend(rows);
        }
        let effects = self.state.answered(topic, with.result());
        self.run(effects);
    }

    fn answer_mark(&mut self, is_done: bool) {
        let Some(rows) = self.marking.take() else {
            return;
        };
        if is_done {
            rows.iter().for_each(|id| drop(self.outbox.remove(id)));
        }
        let effects = self.state.marked(is_done);
        self.run(effects);
    }

    fn answer_take(&mut self, is_done: bool) {
        let Some(rows) = self.taking.take() else {
            return;
        };
        let effects = self.state.taken(self.now, is_done.then_some(rows));
        self.run(effects);
    }

    /// Starts effects, and checks that each may be started.
    fn run(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish { topic, rows, .. } => {
                    assert!(rows.iter().all(|row| row.topic == topic));
                    self.attempt(topic, rows.iter().map(|row| row.id).collect());
                }
                Effect::DeadLetter { row, .. } => self.attempt(row.topic, vec![row.id]),
                Effect::Mark(rows) => {
                    assert!(
                        rows.iter().all(|id| self.accepted_ids.contains(id)),
                        "marked before it was published: {rows:?}"
                    );
                    assert_eq!(self.marking.replace(rows), None, "two marks in flight");
                }
                Effect::Take {
                    at,
                    leased_until,
                    limit,
                } => {
                    let rows = self.take(at, leased_until, limit);
                    assert_eq!(
                        self.taking.replace(rows),
                        None,
                        "rows are taken twice at once"
                    );
                }
            }
        }
        let waiting = self.state.queues.iter().map(|queue| queue.waiting.len());
        assert!(waiting.max() <= Some(self.state.settings.waiting));
    }

    fn attempt(&mut self, topic: OutboxTopic, rows: Vec<i64>) {
        assert!(!rows.is_empty());
        assert!(
            !rows.iter().any(|id| self.accepted_ids.contains(id)),
            "published twice: {rows:?}"
        );
        let earlier = self.in_flight.insert(topic, rows);
        assert_eq!(earlier, None, "two attempts in flight");
    }

    /// Reads and leases rows as the database does.
    fn take(&mut self, at: Timestamp, until: Timestamp, limit: usize) -> Vec<OutboxRow> {
        let free = self.outbox.values_mut().filter(|(_, leased)| *leased <= at);
        free.take(limit)
            .map(|(row, leased)| {
                *leased = until;
                row.clone()
            })
            .collect()
    }

    /// Everything works again, until nothing is left to do.
    fn recover(&mut self) {
        for _ in 0..10_000 {
            if self.outbox.is_empty() && self.state.is_idle() && self.taking.is_none() {
                return;
            }
            self.tick();
            for topic in OutboxTopic::iter() {
                self.answer(topic, BusAnswer::Accepts);
            }
            self.answer_mark(true);
            self.answer_take(true);
        }
        panic!("rows are left: {:?}", self.outbox);
    }

    fn accepted(&self) -> Vec<i64> {
        let mut ids: Vec<_> = self.accepted.values().flatten().copied().collect();
        ids.sort_unstable();
        ids
    }
}

proptest! {
    /// If any step fails, each row is accepted exactly once by this process and then marked. No row
    /// is marked before, or is in flight twice.
    #[test]
    fn every_row_is_published_and_marked(steps in prop::collection::vec(step(any_answer()), 0..100)) {
        let mut world = World::new(6);
        for step in &steps {
            world.step(step);
        }
        world.recover();
        let written: Vec<_> = (1..=world.written).collect();
        prop_assert_eq!(world.accepted(), written);
        prop_assert!(world.state.known.is_empty(), "{:?}", world.state.known);
    }

    /// With room for all rows and a bus that rejects none for good, a topic receives the rows of
    /// this process in the order in which they were committed.
    #[test]
    fn rows_of_topic_keep_their_order(
        steps in prop::collection::vec(step(lasting_answer()), 0..100),
    ) {
        let mut world = World::new(10_000);
        for step in steps.iter().filter(|step| !matches!(step, Step::Abandon { .. })) {
            world.step(step);
        }
        world.recover();
        for accepted in world.accepted.values() {
            prop_assert!(accepted.is_sorted(), "{accepted:?}");
        }
    }
}
