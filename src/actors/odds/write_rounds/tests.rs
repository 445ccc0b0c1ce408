use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::odds::update::testing::market_update;

const LIMITS: Limits = Limits {
    call: 3,
    pending: 8,
};

fn state(event: &str, market: &str, seq: u64) -> Arc<MarketState> {
    Arc::new(MarketState {
        update: market_update(event, market, None, seq as i64, 1),
        seq,
    })
}

fn change(state: &Arc<MarketState>) -> Change {
    Change {
        trace: None,
        state: state.clone(),
        conflated: false,
    }
}

fn event(id: &str) -> EventId {
    EventId::new(id).unwrap()
}

/// The sequence numbers that a call writes, with whether each is conflated.
fn written<W: std::fmt::Debug>(step: &Step<W>) -> Vec<(u64, bool)> {
    let Some(Call::Write(changes)) = &step.call else {
        panic!("no write: {step:?}")
    };
    let seqs = changes
        .iter()
        .map(|change| (change.state.seq, change.conflated));
    seqs.collect()
}

fn rounds() -> WriteRounds<u32> {
    WriteRounds::new(LIMITS)
}

#[test]
fn changes_are_written_one_by_one() {
    let mut rounds = rounds();
    let step = rounds.changed([change(&state("E", "a", 1))]);
    assert_eq!(written(&step), [(1, false)]);
    for seq in 2..=5 {
        let step = rounds.changed([change(&state("E", "a", seq))]);
        assert!(step.call.is_none(), "one call is in flight");
    }
    let step = rounds.completed(Outcome::Written(Vec::new()), 0);
    assert_eq!(written(&step), [(2, false), (3, false), (4, false)]);
    let step = rounds.completed(Outcome::Written(Vec::new()), 0);
    assert_eq!(written(&step), [(5, false)], "the rest of the round");
    assert!(
        rounds
            .completed(Outcome::Written(Vec::new()), 0)
            .call
            .is_none()
    );
}

#[test]
fn failure_conflates_and_waits() {
    let mut rounds = rounds();
    rounds.changed([1, 2, 3, 4].map(|seq| change(&state("E", "a", seq))));
    rounds.changed([change(&state("E", "b", 5)), change(&state("E", "a", 6))]);
    assert!(matches!(rounds.failed().call, Some(Call::Wait(delay)) if delay <= 2 * RETRY.first));
    assert_eq!((rounds.is_failing(), rounds.backlog()), (true, 2));
    let step = rounds.completed(Outcome::Waited, 0);
    assert_eq!(written(&step), [(5, false), (6, true)]);
    let step = rounds.completed(Outcome::Written(Vec::new()), 0);
    assert!(!rounds.is_failing());
    assert!(step.call.is_none(), "{step:?}");
}

#[test]
fn waiter_is_answered_after_its_round() {
    let mut rounds = rounds();
    assert_eq!(
        rounds.flush_requested(0).answered,
        [0],
        "nothing is pending"
    );
    rounds.changed([change(&state("E", "a", 1))]);
    rounds.flush_requested(1);
    rounds.changed([change(&state("E", "a", 2))]);
    rounds.flush_requested(2);
    // The failed change joins the next round, and its waiter with it.
    rounds.failed();
    rounds.changed([change(&state("E", "b", 3))]);
    rounds.flush_requested(3);
    assert!(rounds.completed(Outcome::Waited, 0).answered.is_empty());
    rounds.changed([change(&state("E", "b", 4))]);
    rounds.flush_requested(4);
    let step = rounds.completed(Outcome::Written(Vec::new()), 0);
    assert_eq!(step.answered, [1, 2, 3]);
    let step = rounds.completed(Outcome::Written(Vec::new()), 0);
    assert_eq!(step.answered, [4]);
}

#[test]
fn outage_without_changes_is_noticed() {
    let mut rounds = rounds();
    assert!(matches!(rounds.check_due().call, Some(Call::Check)));
    assert!(rounds.check_due().call.is_none(), "one call is in flight");
    rounds.failed();
    let step = rounds.completed(Outcome::Waited, 0);
    assert!(
        matches!(step.call, Some(Call::Check)),
        "it is checked until it answers"
    );
    assert!(
        rounds
            .completed(Outcome::Checked(Vec::new()), 0)
            .call
            .is_none()
    );
}

#[test]
fn new_connection_gets_held_states() {
    let mut rounds = rounds();
    let held = state("E", "held", 1);
    rounds.changed([change(&held), change(&state("E", "dropped", 2))]);
    let step = rounds.completed(Outcome::Written(Vec::new()), 1);
    assert!(step.call.is_none(), "the first connection is no reconnect");
    rounds.changed([change(&state("E", "new", 3))]);
    let step = rounds.completed(Outcome::Written(Vec::new()), 2);
    assert_eq!(written(&step), [(1, true)]);
}

/// A book that restarts publishes equal states: those are held from then on.
#[test]
fn restarted_book_holds_its_states() {
    let mut rounds = rounds();
    rounds.changed([change(&state("E", "a", 1))]);
    let restarted = state("E", "a", 1);
    rounds.changed([change(&restarted)]);
    rounds.failed();
    rounds.completed(Outcome::Waited, 1);
    rounds.completed(Outcome::Written(Vec::new()), 1);
    rounds.check_due();
    let step = rounds.completed(Outcome::Checked(Vec::new()), 2);
    assert_eq!(written(&step), [(1, true)]);
}

#[test]
fn held_damaged_event_is_repaired_at_once() {
    let mut rounds = rounds();
    let held = [state("E", "a", 1), state("F", "a", 1)];
    rounds.changed(held.iter().map(change));
    rounds.completed(Outcome::Written(Vec::new()), 0);
    rounds.check_due();
    let step = rounds.completed(Outcome::Checked(vec![event("E"), event("G")]), 0);
    assert!(matches!(step.call, Some(Call::Remove(events)) if events == [event("E")]));
    let step = rounds.completed(Outcome::Removed(vec![event("E")]), 0);
    assert_eq!(written(&step), [(1, true)], "of E only");
    rounds.completed(Outcome::Written(Vec::new()), 0);
    // Another processor was faster.
    rounds.check_due();
    rounds.completed(Outcome::Checked(vec![event("E")]), 0);
    assert!(
        rounds
            .completed(Outcome::Removed(Vec::new()), 0)
            .call
            .is_none()
    );
}

/// A removed entry does not move a market back whose newer state is about to be written.
#[test]
fn removed_entry_keeps_newer_state() {
    let mut rounds = rounds();
    rounds.changed([change(&state("F", "a", 1))]);
    let older = ["a", "b", "c"].map(|market| state("E", market, 2));
    rounds.changed(older.iter().map(change));
    rounds.changed([change(&state("E", "a", 3))]);
    rounds.completed(Outcome::Written(Vec::new()), 0);
    let step = rounds.completed(Outcome::Written(vec![event("E")]), 0);
    assert_eq!(written(&step), [(3, false)]);
    let step = rounds.completed(Outcome::Written(Vec::new()), 0);
    assert_eq!(written(&step), [(2, true), (2, true)], "b and c");
}

/// A write that removes a damaged entry is followed by the other markets of its event.
#[test]
fn removed_entry_is_written_in_full() {
    let mut rounds = rounds();
    let held = [state("E", "a", 1), state("E", "b", 2), state("F", "a", 3)];
    rounds.changed(held.iter().map(change));
    rounds.completed(Outcome::Written(Vec::new()), 0);
    let newer = state("E", "a", 4);
    rounds.changed([change(&newer)]);
    let step = rounds.completed(Outcome::Written(vec![event("E")]), 0);
    assert_eq!(written(&step), [(2, true), (4, true)]);
}

/// The entry of an event without a book is loaded from the database, after other processors had
/// time to repair it.
#[test]
fn unheld_damaged_event_is_loaded_later() {
    let mut rounds = rounds();
    let damaged = || Outcome::Checked(vec![event("E")]);
    for attempt in 0..2 {
        for _ in 0..CHECKS_BEFORE_STORE {
            rounds.check_due();
            assert!(rounds.completed(damaged(), 0).call.is_none(), "{attempt}");
        }
        rounds.check_due();
        let step = rounds.completed(damaged(), 0);
        assert!(matches!(step.call, Some(Call::Load(events)) if events == [event("E")]));
        if attempt == 0 {
            let step = rounds.completed(Outcome::Loaded(Vec::new()), 0);
            assert!(step.call.is_none(), "the database is away");
        }
    }
    let loaded = vec![(event("E"), vec![state("E", "a", 7)])];
    let step = rounds.completed(Outcome::Loaded(loaded), 0);
    assert!(matches!(step.call, Some(Call::Remove(events)) if events == [event("E")]));
    // The reply to the removal is lost, so the states are written in any case.
    rounds.failed();
    let step = rounds.completed(Outcome::Waited, 0);
    assert_eq!(written(&step), [(7, true)]);
}

#[test]
fn checks_must_find_damage_consecutively() {
    let mut rounds = rounds();
    for check in 0..10 * CHECKS_BEFORE_STORE {
        rounds.check_due();
        let is_found = check % CHECKS_BEFORE_STORE > 0;
        let damaged = is_found.then(|| event("E")).into_iter().collect();
        assert!(
            rounds
                .completed(Outcome::Checked(damaged), 0)
                .call
                .is_none()
        );
    }
}

#[derive(Clone, Debug)]
enum Input {
    /// A change of this market.
    Change(usize),
    /// Several changes of one event arrive together.
    Batch(usize, usize),
    /// The book of this event ends.
    DropBook(usize),
    Flush,
    CheckDue,
    Sweep,
    /// The call in flight succeeds.
    Complete,
    /// The call in flight fails; whether it was carried out nevertheless.
    Fail(bool),
    /// The cache is replaced by an empty one under a new connection.
    Replace,
    /// The entry of this event gets an unreadable field (`false`) or the wrong type (`true`).
    Damage(usize, bool),
}

const EVENTS: usize = 3;
const MARKETS: usize = 9;

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        8 => (0..MARKETS).prop_map(Input::Change),
        2 => (0..EVENTS, 1..6_usize).prop_map(|(event, count)| Input::Batch(event, count)),
        1 => (0..EVENTS).prop_map(Input::DropBook),
        3 => Just(Input::Flush),
        2 => Just(Input::CheckDue),
        1 => Just(Input::Sweep),
        8 => Just(Input::Complete),
        2 => any::<bool>().prop_map(Input::Fail),
        1 => Just(Input::Replace),
        1 => (0..EVENTS, any::<bool>()).prop_map(|(event, whole)| Input::Damage(event, whole)),
    ]
}

/// The surroundings of the writer: books, the cache, the database and callers.
struct World {
    rounds: WriteRounds<usize>,
    call: Option<Call>,
    seq: u64,
    /// The states that books hold.
    books: BTreeMap<Key, Arc<MarketState>>,
    /// The latest state of each market, as the database holds it.
    latest: BTreeMap<Key, MarketState>,
    cache: BTreeMap<Key, u64>,
    connection: u64,
    /// Damaged events, and whether the key has the wrong type.
    damaged: BTreeMap<EventId, bool>,
    /// The highest sequence number of each market in any call so far.
    attempted: BTreeMap<Key, u64>,
    /// The highest sequence number of each market that was written so far.
    written: BTreeMap<Key, u64>,
    /// For each caller, the sequence numbers that had arrived before it.
    waiters: Vec<Option<BTreeMap<Key, u64>>>,
    /// Markets that the cache may lack although they were written, unless a book holds them.
    volatile: BTreeSet<Key>,
}

impl World {
    fn new() -> World {
        World {
            rounds: WriteRounds::new(LIMITS),
            call: None,
            seq: 0,
            books: BTreeMap::new(),
            latest: BTreeMap::new(),
            cache: BTreeMap::new(),
            connection: 1,
            damaged: BTreeMap::new(),
            attempted: BTreeMap::new(),
            written: BTreeMap::new(),
            waiters: Vec::new(),
            volatile: BTreeSet::new(),
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Change(market) => self.change([market]),
            Input::Batch(event, count) => {
                self.change((0..count).map(|n| event + EVENTS * (n % (MARKETS / EVENTS))));
            }
            Input::DropBook(number) => {
                let event_id = event(&format!("E{number}"));
                self.books.retain(|(of, _), _| *of != event_id);
            }
            Input::Flush => {
                let arrived = self.latest.iter();
                let arrived = arrived
                    .map(|(key, state)| (key.clone(), state.seq))
                    .collect();
                self.waiters.push(Some(arrived));
                let step = self.rounds.flush_requested(self.waiters.len() - 1);
                self.run(step);
            }
            Input::CheckDue => {
                let step = self.rounds.check_due();
                self.run(step);
            }
            Input::Sweep => self.rounds.sweep(),
            Input::Complete => self.complete(),
            Input::Fail(is_carried_out) => self.fail(is_carried_out),
            Input::Replace => {
                self.connection += 1;
                self.volatile.extend(self.latest.keys().cloned());
                self.cache.clear();
                self.damaged.clear();
            }
            Input::Damage(number, whole) => self.damage(event(&format!("E{number}")), whole),
        }
    }

    fn change(&mut self, markets: impl IntoIterator<Item = usize>) {
        let mut changes = Vec::new();
        for market in markets {
            let id = format!("E{}", market % EVENTS);
            changes.extend(self.start_book(&event(&id)));
            self.seq += 1;
            let state = state(&id, &format!("m{market}"), self.seq);
            changes.push(change(&state));
            self.hold(&state);
        }
        let step = self.rounds.changed(changes);
        self.run(step);
    }

    /// A book that starts publishes the state it loaded.
    fn start_book(&mut self, event_id: &EventId) -> Vec<Change> {
        if self.books.keys().any(|(of, _)| of == event_id) {
            return Vec::new();
        }
        let states = self.load(event_id);
        states.iter().for_each(|state| self.hold(state));
        let loaded = states.into_iter().map(|state| Change {
            trace: None,
            state,
            conflated: true,
        });
        loaded.collect()
    }

    fn hold(&mut self, state: &Arc<MarketState>) {
        let key = key_of(&change(state));
        self.volatile.remove(&key);
        self.books.insert(key.clone(), state.clone());
        self.latest.insert(key, MarketState::clone(state));
    }

    fn load(&self, event_id: &EventId) -> Vec<Arc<MarketState>> {
        let states = self.latest.iter().filter(|((of, _), _)| of == event_id);
        states.map(|(_, state)| Arc::new(state.clone())).collect()
    }

    /// One market of the entry is unreadable, or all are.
    fn damage(&mut self, event_id: EventId, whole: bool) {
        let of_event = |key: &Key| key.0 == event_id;
        let Some(first) = self.cache.keys().find(|key| of_event(key)).cloned() else {
            return;
        };
        self.cache
            .retain(|key, _| if whole { !of_event(key) } else { *key != first });
        *self.damaged.entry(event_id).or_default() |= whole;
    }

    fn run(&mut self, step: Step<usize>) {
        for waiter in step.answered {
            let arrived = self.waiters[waiter].take().expect("it is answered once");
            for (key, seq) in arrived {
                assert!(
                    self.written.get(&key) >= Some(&seq),
                    "{key:?} is not written"
                );
            }
        }
        if let Some(call) = step.call {
            assert!(self.call.is_none(), "one call is in flight");
            if let Call::Write(changes) = &call {
                assert!((1..=LIMITS.call).contains(&changes.len()));
                for change in changes {
                    let key = key_of(change);
                    let before = self.attempted.insert(key, change.state.seq);
                    assert!(before <= Some(change.state.seq), "a market goes backwards");
                }
            }
            self.call = Some(call);
        }
        if self.call.is_none() {
            assert_eq!(self.rounds.backlog(), 0);
            assert!(
                self.waiters.iter().all(Option::is_none),
                "every waiting caller is answered"
            );
        }
        let most = LIMITS.pending.max(2 * MARKETS);
        assert!(self.rounds.backlog() <= 2 * most, "memory is bounded");
    }

    /// Carries out the call in flight.
    fn execute(&mut self, call: Call) -> Outcome {
        match call {
            Call::Write(changes) => Outcome::Written(self.write(&changes)),
            Call::Check => Outcome::Checked(self.damaged.keys().cloned().collect()),
            Call::Load(events) => {
                let load = |event_id: EventId| (event_id.clone(), self.load(&event_id));
                Outcome::Loaded(events.into_iter().map(load).collect())
            }
            Call::Remove(mut events) => {
                events.retain(|event_id| self.damaged.remove(event_id).is_some());
                Outcome::Removed(events)
            }
            Call::Wait(_) => Outcome::Waited,
        }
    }

    /// Writes as Redis does: keys of the wrong type are replaced.
    fn write(&mut self, changes: &[Change]) -> Vec<EventId> {
        let mut removed = BTreeSet::new();
        for change in changes {
            let key = key_of(change);
            if self.damaged.get(&key.0) == Some(&true) {
                self.damaged.remove(&key.0);
                // Books that end before they are asked for the other markets are not restored.
                let lost = self.latest.keys().filter(|(of, _)| *of == key.0);
                self.volatile.extend(lost.cloned());
                removed.insert(key.0.clone());
            }
            let held = self.cache.entry(key.clone()).or_default();
            *held = change.state.seq.max(*held);
            let written = self.written.entry(key).or_default();
            *written = change.state.seq.max(*written);
        }
        removed.into_iter().collect()
    }

    fn complete(&mut self) {
        if let Some(call) = self.call.take() {
            let outcome = self.execute(call);
            let step = self.rounds.completed(outcome, self.connection);
            self.run(step);
        }
    }

    fn fail(&mut self, is_carried_out: bool) {
        match self.call.take() {
            // These cannot fail.
            call @ (None | Some(Call::Wait(_) | Call::Load(_))) => self.call = call,
            Some(call) => {
                if is_carried_out {
                    self.execute(call);
                }
                let step = self.rounds.failed();
                assert!(matches!(step.call, Some(Call::Wait(_))));
                self.run(step);
            }
        }
    }

    /// From now on nothing fails and nothing changes.
    fn settle(&mut self) {
        // A new connection is noticed by a check, an event without a book after several.
        for _ in 0..2 * CHECKS_BEFORE_STORE {
            self.input(Input::CheckDue);
            while self.call.is_some() {
                self.complete();
            }
        }
        for (key, state) in &self.latest {
            let written = self.written.get(key);
            assert_eq!(written, Some(&state.seq), "{key:?} is written at last");
            if self.books.contains_key(key) || !self.volatile.contains(key) {
                let cached = self.cache.get(key);
                assert_eq!(cached, Some(&state.seq), "{key:?} is in the cache at last");
            }
        }
        assert!(self.damaged.is_empty(), "every entry is repaired");
    }
}

proptest! {
    /// Each step asserts that one call is in flight at most, that no market goes backwards, that a
    /// caller is answered after everything it waits for, and that the backlog is bounded.
    #[test]
    fn nothing_is_lost_in_any_order(inputs in proptest::collection::vec(input(), 0..200)) {
        let mut world = World::new();
        for input in inputs {
            world.input(input);
        }
        world.settle();
    }
}
