//! What the relay knows and does next, without actors: answers go in, effects come out.
//!
//! A row is known from the moment it is queued until it is marked in the database, and is skipped
//! if it arrives again until then. Topics do not wait for each other. If a topic rejects a batch,
//! its rows are published one by one, and a row that is rejected alone goes to the dead letters.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use strum::IntoEnumIterator;

use super::RelaySettings;
use crate::bus::BusError;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::store::money::{OutboxRow, OutboxTopic};

/// Backoff between attempts to publish a batch.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(1),
};

/// What the relay does next. Each effect is answered once, by the named method of [`RelayState`].
#[derive(Debug)]
pub(super) enum Effect {
    /// Publish rows to their topic. Answered by [`RelayState::answered`].
    Publish {
        /// The topic.
        topic: OutboxTopic,
        /// The rows, in order.
        rows: Vec<Arc<OutboxRow>>,
        /// The delay of a retry; `None` on the first attempt.
        retry_after: Option<Duration>,
    },
    /// Send a row that its topic rejects to the dead letters. Answered by
    /// [`RelayState::answered`].
    DeadLetter {
        /// The row.
        row: Arc<OutboxRow>,
        /// Why its topic rejects it.
        rejection: BusError,
        /// The delay of a retry; `None` on the first attempt.
        retry_after: Option<Duration>,
    },
    /// Mark rows as published. Answered by [`RelayState::marked`].
    Mark(Vec<i64>),
    /// Take rows whose lease has expired. Answered by [`RelayState::taken`].
    Take {
        /// The current time.
        at: Timestamp,
        /// When the lease of the taken rows expires.
        leased_until: Timestamp,
        /// Maximum number of rows.
        limit: usize,
    },
}

/// The state of the relay.
#[derive(Debug)]
pub(super) struct RelayState {
    settings: RelaySettings,
    queues: Vec<TopicQueue>,
    /// Rows that are queued, in flight, or published but not yet marked.
    known: HashSet<i64>,
    /// Published rows that are not yet marked in the database.
    unmarked: Vec<i64>,
    /// The rows of the mark in flight.
    marking: Option<Vec<i64>>,
    /// The limit of the call in flight that takes rows.
    taking: Option<usize>,
    /// Rows that were marked while rows were being taken, whose answer may still contain them.
    marked_during_take: Vec<i64>,
    is_draining: bool,
}

impl RelayState {
    /// Nothing is known and nothing is in flight.
    pub(super) fn new(settings: RelaySettings) -> RelayState {
        RelayState {
            settings,
            queues: OutboxTopic::iter().map(TopicQueue::new).collect(),
            known: HashSet::new(),
            unmarked: Vec::new(),
            marking: None,
            taking: None,
            marked_during_take: Vec::new(),
            is_draining: false,
        }
    }

    /// Whether no row is queued, in flight or unmarked.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(TopicQueue::is_idle)
            && self.marking.is_none()
            && self.unmarked.is_empty()
    }

    /// From now on no row is taken.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Called at a regular interval: retries a failed mark, and takes rows of other processes.
    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<Effect> {
        self.mark().into_iter().chain(self.take(now)).collect()
    }

    /// Queues rows that this process committed or took. Rows without room stay in the outbox.
    pub(super) fn submit(&mut self, rows: Vec<OutboxRow>) -> Vec<Effect> {
        for row in rows {
            let mut queues = self.queues.iter_mut();
            let Some(queue) = queues.find(|queue| queue.topic == row.topic) else {
                continue;
            };
            if queue.waiting.len() < self.settings.waiting && self.known.insert(row.id) {
                queue.waiting.push_back(Arc::new(row));
            }
        }
        let batch = self.settings.batch;
        self.queues
            .iter_mut()
            .filter_map(|queue| queue.publish_next(batch))
            .collect()
    }

    /// Taking rows returned them, or `None` if it failed.
    pub(super) fn taken(&mut self, now: Timestamp, rows: Option<Vec<OutboxRow>>) -> Vec<Effect> {
        let limit = self.taking.take();
        let is_more_there = rows.as_ref().is_some_and(|rows| Some(rows.len()) == limit);
        let mut effects = self.submit(rows.unwrap_or_default());
        self.forget_marked();
        if is_more_there {
            effects.extend(self.take(now));
        }
        effects
    }

    /// The topic, or its dead letters, answered the attempt in flight.
    pub(super) fn answered(
        &mut self,
        topic: OutboxTopic,
        answer: Result<(), BusError>,
    ) -> Vec<Effect> {
        let Some(queue) = self.queue(topic) else {
            return Vec::new();
        };
        let Some(batch) = &mut queue.in_flight else {
            return Vec::new();
        };
        let retry_after = batch.apply(answer);
        if let Some(effect) = batch.attempt(topic, retry_after) {
            return vec![effect];
        }
        let Some(Batch {
            done, abandoned, ..
        }) = queue.in_flight.take()
        else {
            return Vec::new();
        };
        for id in &abandoned {
            self.known.remove(id);
        }
        self.unmarked.extend(done);
        let batch = self.settings.batch;
        let next = self
            .queue(topic)
            .and_then(|queue| queue.publish_next(batch));
        self.mark().into_iter().chain(next).collect()
    }

    /// The rows of the mark in flight are marked, or the mark failed. After a failure they stay
    /// known, so that they are not published again.
    pub(super) fn marked(&mut self, is_marked: bool) -> Vec<Effect> {
        let rows = self.marking.take().unwrap_or_default();
        if !is_marked {
            self.unmarked.extend(rows);
            return Vec::new();
        }
        self.marked_during_take.extend(rows);
        if self.taking.is_none() {
            self.forget_marked();
        }
        self.mark().into_iter().collect()
    }

    fn mark(&mut self) -> Option<Effect> {
        if self.marking.is_some() || self.unmarked.is_empty() {
            return None;
        }
        let rows = std::mem::take(&mut self.unmarked);
        self.marking = Some(rows.clone());
        Some(Effect::Mark(rows))
    }

    /// Takes as many rows as there is room for.
    fn take(&mut self, now: Timestamp) -> Option<Effect> {
        let longest = self.queues.iter().map(|queue| queue.waiting.len()).max();
        let room = self
            .settings
            .waiting
            .saturating_sub(longest.unwrap_or_default())
            .min(self.settings.batch);
        if self.taking.is_some() || self.is_draining || room == 0 {
            return None;
        }
        self.taking = Some(room);
        Some(Effect::Take {
            at: now,
            leased_until: now.later_by(self.settings.lease),
            limit: room,
        })
    }

    fn forget_marked(&mut self) {
        for id in self.marked_during_take.drain(..) {
            self.known.remove(&id);
        }
    }

    fn queue(&mut self, topic: OutboxTopic) -> Option<&mut TopicQueue> {
        self.queues.iter_mut().find(|queue| queue.topic == topic)
    }
}

/// The rows of one topic.
#[derive(Debug)]
struct TopicQueue {
    topic: OutboxTopic,
    waiting: VecDeque<Arc<OutboxRow>>,
    in_flight: Option<Batch>,
}

impl TopicQueue {
    fn new(topic: OutboxTopic) -> TopicQueue {
        TopicQueue {
            topic,
            waiting: VecDeque::new(),
            in_flight: None,
        }
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.waiting.is_empty()
    }

    /// Publishes up to `limit` waiting rows, unless a batch is in flight.
    fn publish_next(&mut self, limit: usize) -> Option<Effect> {
        if self.in_flight.is_some() {
            return None;
        }
        let size = self.waiting.len().min(limit.max(1));
        let batch = Batch::new(self.waiting.drain(..size).collect());
        let effect = batch.attempt(self.topic, None)?;
        self.in_flight = Some(batch);
        Some(effect)
    }
}

/// Rows of one topic that are being published.
#[derive(Debug)]
struct Batch {
    /// The rows of the attempt in flight; empty if the batch is finished.
    current: Vec<Arc<OutboxRow>>,
    /// Rows of a rejected batch that are still to be published one by one.
    rest: VecDeque<Arc<OutboxRow>>,
    /// Why the topic rejects the current row, which goes to the dead letters.
    rejection: Option<BusError>,
    backoff: Backoff,
    /// Rows on the bus or in the dead letters.
    done: Vec<i64>,
    /// Rows that stay in the outbox.
    abandoned: Vec<i64>,
}

impl Batch {
    fn new(rows: Vec<Arc<OutboxRow>>) -> Batch {
        Batch {
            backoff: backoff(&rows),
            current: rows,
            rest: VecDeque::new(),
            rejection: None,
            done: Vec::new(),
            abandoned: Vec::new(),
        }
    }

    /// The current attempt; `None` if the batch is finished.
    fn attempt(&self, topic: OutboxTopic, retry_after: Option<Duration>) -> Option<Effect> {
        let first = self.current.first()?;
        Some(match self.rejection.clone() {
            None => Effect::Publish {
                topic,
                rows: self.current.clone(),
                retry_after,
            },
            Some(rejection) => Effect::DeadLetter {
                row: first.clone(),
                rejection,
                retry_after,
            },
        })
    }

    /// Applies the answer to the current attempt. Returns the delay if the attempt is repeated.
    fn apply(&mut self, answer: Result<(), BusError>) -> Option<Duration> {
        match answer {
            Ok(()) => {
                self.done.extend(self.current.iter().map(|row| row.id));
                self.advance();
            }
            Err(BusError::Unavailable(_) | BusError::Unreachable(_)) => {
                return Some(self.backoff.next_delay());
            }
            Err(rejection) if rejection != BusError::Closed && self.rejection.is_none() => {
                self.reject(rejection);
            }
            // The bus is closed, or the dead letters reject the row as well.
            Err(_) => {
                self.abandoned.extend(self.current.iter().map(|row| row.id));
                self.advance();
            }
        }
        None
    }

    fn reject(&mut self, rejection: BusError) {
        if self.current.len() > 1 {
            // The rejection does not name the record: publish one by one.
            self.rest = std::mem::take(&mut self.current).into();
            self.advance();
        } else {
            self.rejection = Some(rejection);
            self.backoff = backoff(&self.current);
        }
    }

    fn advance(&mut self) {
        self.current = self.rest.pop_front().into_iter().collect();
        self.rejection = None;
        self.backoff = backoff(&self.current);
    }
}

/// Delays with a jitter that differs between batches.
fn backoff(rows: &[Arc<OutboxRow>]) -> Backoff {
    Backoff::new(RETRY, rows.first().map_or(0, |row| row.id as u64))
}

#[cfg(test)]
mod tests;
