//! Decides what is written to the cache, and when, without I/O and without a clock.
//!
//! Changes are written in rounds. A round takes all pending changes and is written in calls of
//! bounded size; at most one call is in flight. After a failure the unwritten changes are conflated
//! and retried. After a reconnect the held states are written again, because the cache may have come
//! back empty.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::cache::Change;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::MarketState;
use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// Delays between attempts while the cache is down, before jitter, which at most doubles them:
/// clients get current prices soon after its return.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(50),
    most: Duration::from_millis(400),
};
/// Checks after which a damaged entry that no other processor has repaired is rewritten from the
/// database, although no book of this process holds its event.
const CHECKS_BEFORE_STORE: u32 = 5;

/// Identifies a market of any event.
type Key = (EventId, MarketKey);

/// An event with states of its markets.
pub(super) type EventStates = (EventId, Vec<Arc<MarketState>>);

/// Bounds of what is kept and of what is written at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Maximum number of states in one call.
    pub call: usize,
    /// Maximum number of pending changes that are kept one by one. Above it, only the latest change
    /// of each market is kept.
    pub pending: usize,
}

/// What to do next, besides replying to waiters. Each call is followed by one
/// [`WriteRounds::completed`] or [`WriteRounds::failed`].
#[derive(Debug)]
pub(super) enum Call {
    /// Write these changes to the cache.
    Write(Vec<Change>),
    /// Check that the cache answers, and read which entries are damaged.
    Check,
    /// Load these events from the database.
    Load(Vec<EventId>),
    /// Remove what is damaged from the entries of these events.
    Remove(Vec<EventId>),
    /// Wait.
    Wait(Duration),
}

/// The result of a call that succeeded.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The changes are written, and the damaged entries of these events were removed.
    Written(Vec<EventId>),
    /// The cache answers, and the entries of these events are damaged.
    Checked(Vec<EventId>),
    /// The states of the events that could be loaded.
    Loaded(Vec<EventStates>),
    /// Something was removed from the entries of these events.
    Removed(Vec<EventId>),
    /// The delay is over.
    Waited,
}

/// The reaction to an event.
#[derive(Debug)]
pub(super) struct Step<W> {
    /// The waiters to reply to: everything that was submitted before them is written.
    pub answered: Vec<W>,
    /// The call to start.
    pub call: Option<Call>,
}

/// The call in flight, with what its result is applied to.
enum InFlight {
    Write(Vec<Change>),
    Check,
    /// The states of damaged events that books of this process hold. Their entries are repaired
    /// together with the loaded ones.
    Load(Vec<EventStates>),
    /// The states that replace what is removed.
    Remove(Vec<EventStates>),
    Wait,
}

/// The changes to write and the states that were written. `W` identifies a caller that waits until
/// all earlier changes are written.
pub(super) struct WriteRounds<W> {
    limits: Limits,
    /// Changes received since the current round started. The next round takes all of them.
    pending: Vec<Change>,
    /// The unwritten rest of the current round.
    round: VecDeque<Change>,
    /// Number of rounds started.
    started: u64,
    in_flight: Option<InFlight>,
    /// Number of pending changes after the last conflation.
    conflated: usize,
    /// Callers that wait for a round, with its number.
    waiters: Vec<(u64, W)>,
    /// The written states, for as long as a book holds them: a cache that was down may come back
    /// empty.
    written: HashMap<Key, Weak<MarketState>>,
    /// The connection of the last write.
    connection: u64,
    /// Damaged events that no book of this process holds, with the number of consecutive checks
    /// that found them.
    unheld: HashMap<EventId, u32>,
    backoff: Backoff,
}

impl<W> WriteRounds<W> {
    /// Nothing is pending and nothing was written.
    pub(super) fn new(limits: Limits) -> WriteRounds<W> {
        WriteRounds {
            limits,
            pending: Vec::new(),
            round: VecDeque::new(),
            started: 0,
            in_flight: None,
            conflated: 0,
            waiters: Vec::new(),
            written: HashMap::new(),
            connection: 0,
            unheld: HashMap::new(),
            backoff: Backoff::new(RETRY, 0),
        }
    }

    /// Number of changes that no call has taken yet.
    pub(super) fn backlog(&self) -> usize {
        self.pending.len() + self.round.len()
    }

    /// Whether the last call to the cache failed.
    pub(super) fn is_failing(&self) -> bool {
        self.backoff.failures() > 0
    }

    /// Changes have arrived.
    pub(super) fn changed(&mut self, changes: impl IntoIterator<Item = Change>) -> Step<W> {
        self.pending.extend(changes);
        // While the cache is down, conflate only when the number of changes has doubled, not for
        // each one.
        if self.pending.len() > self.limits.pending && self.pending.len() > 2 * self.conflated {
            self.conflate();
        }
        self.next()
    }

    /// A caller waits until the changes that have arrived are written.
    pub(super) fn flush_requested(&mut self, waiter: W) -> Step<W> {
        // The next round writes the pending changes. If there are none, the current round is the
        // last one to wait for.
        let round = self.started + u64::from(!self.pending.is_empty());
        self.waiters.push((round, waiter));
        self.next()
    }

    /// The cache is checked regularly while there is nothing to write. Without this, an outage that
    /// emptied the cache would be noticed only at the next change, and unchanged markets would be
    /// missing until then.
    pub(super) fn check_due(&mut self) -> Step<W> {
        let is_idle = self.in_flight.is_none();
        Step::of(is_idle.then(|| self.start(InFlight::Check, Call::Check)))
    }

    /// Forgets written states that no book holds any more.
    pub(super) fn sweep(&mut self) {
        self.written.retain(|_, state| state.strong_count() > 0);
    }

    /// The call in flight has succeeded. `connection` is the current one of the cache.
    pub(super) fn completed(&mut self, outcome: Outcome, connection: u64) -> Step<W> {
        match (self.in_flight.take(), outcome) {
            (Some(InFlight::Write(changes)), Outcome::Written(removed)) => {
                self.succeeded(&changes, &removed, connection)
            }
            (_, Outcome::Checked(damaged)) => self.repair(damaged, connection),
            (Some(InFlight::Load(mut states)), Outcome::Loaded(loaded)) => {
                states.extend(loaded);
                self.remove(states, connection)
            }
            (Some(InFlight::Remove(mut states)), Outcome::Removed(removed)) => {
                states.retain(|(event_id, _)| removed.contains(event_id));
                self.requeue(states_of(states));
                self.succeeded(&[], &[], connection)
            }
            (_, Outcome::Waited) => {
                self.conflate();
                self.next()
            }
            // Results match their calls.
            _ => self.next(),
        }
    }

    /// The call in flight has failed: requeues the rest of this round before newer changes, moves
    /// its waiters to the next round, and waits before the next attempt.
    pub(super) fn failed(&mut self) -> Step<W> {
        let unwritten = match self.in_flight.take() {
            Some(InFlight::Write(changes)) => changes,
            Some(InFlight::Remove(states)) => {
                // The removal may have been carried out although its reply is lost.
                self.requeue(states_of(states));
                Vec::new()
            }
            _ => Vec::new(),
        };
        let newer = std::mem::take(&mut self.pending);
        self.pending = unwritten
            .into_iter()
            .chain(self.round.drain(..))
            .chain(newer)
            .collect();
        self.conflate();
        for (round, _) in &mut self.waiters {
            *round = self.started + 1;
        }
        let delay = self.backoff.next_delay();
        Step::of(Some(self.start(InFlight::Wait, Call::Wait(delay))))
    }

    /// Continues if no call is in flight.
    fn next(&mut self) -> Step<W> {
        if self.in_flight.is_some() {
            return Step::of(None);
        }
        let mut answered = Vec::new();
        if self.round.is_empty() {
            if self.pending.is_empty() {
                // Everything is written, so no caller has to wait.
                return Step {
                    answered: self.take_waiters(u64::MAX),
                    call: self
                        .is_failing()
                        .then(|| self.start(InFlight::Check, Call::Check)),
                };
            }
            answered = self.take_waiters(self.started);
            self.begin_round();
        }
        let size = self.round.len().min(self.limits.call);
        let changes: Vec<Change> = self.round.drain(..size).collect();
        let writing = InFlight::Write(changes.clone());
        let call = Some(self.start(writing, Call::Write(changes)));
        Step { answered, call }
    }

    fn start(&mut self, in_flight: InFlight, call: Call) -> Call {
        self.in_flight = Some(in_flight);
        call
    }

    /// Starts a round with all pending changes.
    fn begin_round(&mut self) {
        self.started += 1;
        self.round = std::mem::take(&mut self.pending).into();
        self.conflated = 0;
    }

    /// Removes and returns the callers that wait for a round up to this one.
    fn take_waiters(&mut self, ended: u64) -> Vec<W> {
        self.waiters
            .extract_if(.., |(round, _)| *round <= ended)
            .map(|(_, waiter)| waiter)
            .collect()
    }

    /// The cache has accepted these changes and answers.
    fn succeeded(&mut self, changes: &[Change], removed: &[EventId], connection: u64) -> Step<W> {
        // Another user of the cache may have detected the loss and opened the new connection.
        let before = std::mem::replace(&mut self.connection, connection);
        // The first connection is not a reconnect: nothing was written before, and pending changes
        // are published one by one.
        let is_reconnect = before != 0 && before != connection;
        if self.is_failing() || is_reconnect {
            self.backoff.reset();
            // The cache may have come back empty.
            let fresh: HashSet<Key> = changes.iter().map(key_of).collect();
            self.requeue_written(|key| !fresh.contains(key));
        }
        let states = changes
            .iter()
            .map(|change| (key_of(change), Arc::downgrade(&change.state)));
        self.written.extend(states);
        if !removed.is_empty() {
            self.requeue_written(|(event_id, _)| removed.contains(event_id));
        }
        self.next()
    }

    /// Queues written states that are still held, except for markets whose newer state the current
    /// round writes anyway.
    fn requeue_written(&mut self, is_lost: impl Fn(&Key) -> bool) {
        let newer: HashSet<Key> = self.round.iter().map(key_of).collect();
        let lost = self.written.iter();
        let lost = lost.filter(|(key, _)| is_lost(key) && !newer.contains(key));
        let held = lost.filter_map(|(_, state)| state.upgrade()).collect();
        self.requeue(held);
    }

    /// Queues states that are written again, before the changes that have arrived since.
    fn requeue(&mut self, states: Vec<Arc<MarketState>>) {
        let newer = std::mem::take(&mut self.pending);
        // Other processes may have missed earlier changes.
        let again = states.into_iter().map(|state| Change {
            state,
            conflated: true,
            trace: None,
        });
        self.pending = again.chain(newer).collect();
        self.conflate();
    }

    /// Repairs damaged entries: at once for events that books of this process hold; for the others
    /// from the database, if no other processor has repaired them for some checks.
    fn repair(&mut self, damaged: Vec<EventId>, connection: u64) -> Step<W> {
        let states = damaged.into_iter().map(|event_id| {
            let held = self.held_states(&event_id);
            (event_id, held)
        });
        let (held, unheld): (Vec<_>, Vec<_>) = states.partition(|(_, held)| !held.is_empty());
        let count = |(event_id, _): EventStates| {
            let checks = self.unheld.get(&event_id).map_or(1, |checks| checks + 1);
            (event_id, checks)
        };
        self.unheld = unheld.into_iter().map(count).collect();
        // If the repair fails, the next attempt follows after as many checks.
        let due: Vec<EventId> = self
            .unheld
            .extract_if(|_, checks| *checks > CHECKS_BEFORE_STORE)
            .map(|(event_id, _)| event_id)
            .collect();
        if due.is_empty() {
            self.remove(held, connection)
        } else {
            Step::of(Some(self.start(InFlight::Load(held), Call::Load(due))))
        }
    }

    fn held_states(&self, event_id: &EventId) -> Vec<Arc<MarketState>> {
        let written = self.written.iter();
        written
            .filter(|((written, _), _)| written == event_id)
            .filter_map(|(_, state)| state.upgrade())
            .collect()
    }

    /// Removes what is damaged from the entries of these events.
    fn remove(&mut self, states: Vec<EventStates>, connection: u64) -> Step<W> {
        if states.is_empty() {
            return self.succeeded(&[], &[], connection);
        }
        let events = states.iter().map(|(event_id, _)| event_id.clone());
        let call = Call::Remove(events.collect());
        Step::of(Some(self.start(InFlight::Remove(states), call)))
    }

    /// Keeps only the latest change of each market, ordered by sequence number.
    fn conflate(&mut self) {
        let mut latest: HashMap<Key, Change> = HashMap::new();
        for change in std::mem::take(&mut self.pending) {
            match latest.entry(key_of(&change)) {
                Entry::Vacant(place) => _ = place.insert(change),
                Entry::Occupied(mut held) => {
                    // Of equal states the later one belongs to the book that runs now.
                    if held.get().state.seq <= change.state.seq {
                        held.insert(change);
                    }
                    held.get_mut().conflated = true;
                }
            }
        }
        let mut latest: Vec<_> = latest.into_values().collect();
        latest.sort_unstable_by_key(|change| change.state.seq);
        self.conflated = latest.len();
        self.pending = latest;
    }
}

impl<W> Step<W> {
    fn of(call: Option<Call>) -> Step<W> {
        Step {
            answered: Vec::new(),
            call,
        }
    }
}

fn states_of(events: Vec<EventStates>) -> Vec<Arc<MarketState>> {
    events.into_iter().flat_map(|(_, states)| states).collect()
}

fn key_of(change: &Change) -> Key {
    let update = &change.state.update;
    (update.event_id.clone(), update.market.clone())
}

#[cfg(test)]
mod tests;
