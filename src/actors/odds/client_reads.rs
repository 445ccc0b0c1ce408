//! Database reads for client requests: a separate bounded queue, and a record of events that do not
//! exist.
//!
//! Anonymous clients choose the events to read. Their reads use only a share of the connections, so
//! that books that start for an update always find a free one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::domain::ids::EventId;
use crate::domain::odds::unknown::UnknownEvents;

/// How long a read waits for its turn before it is rejected, so that the client gets a response
/// before its own timeout.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of events remembered as nonexistent.
const MAX_UNKNOWN_EVENTS: usize = 20_000;

/// Limits of client reads.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Concurrent reads.
    pub at_once: usize,
    /// Further reads that may wait.
    pub waiting: usize,
    /// How long an event is remembered as nonexistent.
    pub unknown_ttl: Duration,
}

/// The queue of client reads, shared by all reads of a process.
pub struct ClientReads {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    unknown: Mutex<UnknownEvents>,
    refused: IntCounter,
}

/// The queue is full, or no turn came in time. Retry later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// A place in the queue.
pub struct ReadPermit {
    _place: OwnedSemaphorePermit,
    turns: Arc<Semaphore>,
    refused: IntCounter,
}

impl ClientReads {
    /// Creates a queue with these limits. `refused` counts the reads that found no place or got no
    /// turn.
    pub fn new(limits: ReadLimits, refused: IntCounter) -> ClientReads {
        let at_once = limits.at_once.max(1);
        ClientReads {
            places: Arc::new(Semaphore::new(at_once + limits.waiting)),
            turns: Arc::new(Semaphore::new(at_once)),
            unknown: Mutex::new(UnknownEvents::new(limits.unknown_ttl, MAX_UNKNOWN_EVENTS)),
            refused,
        }
    }

    /// Takes a place in the queue if one is free.
    pub fn enter(&self) -> Result<ReadPermit, Busy> {
        match self.places.clone().try_acquire_owned() {
            Ok(place) => Ok(ReadPermit {
                _place: place,
                turns: self.turns.clone(),
                refused: self.refused.clone(),
            }),
            Err(_) => {
                self.refused.inc();
                Err(Busy)
            }
        }
    }

    fn unknown(&self) -> MutexGuard<'_, UnknownEvents> {
        self.unknown.lock()
    }

    /// Whether a recent lookup found that the event does not exist.
    pub fn is_unknown(&self, event_id: &EventId) -> bool {
        self.unknown().contains(event_id, Instant::now())
    }

    /// Records that an event does not exist.
    pub fn remember_unknown(&self, event_id: &EventId) {
        self.unknown()
            .insert(event_id, Duration::MAX, Instant::now());
    }

    /// Records that an event is not stored, for at most a second: it may be stored soon, and no
    /// message says when.
    pub fn remember_not_stored(&self, event_id: &EventId) {
        self.unknown()
            .insert(event_id, Duration::from_secs(1), Instant::now());
    }

    /// Forgets that an event did not exist, because it exists now.
    pub fn forget_unknown(&self, event_id: &EventId) {
        self.unknown().remove(event_id);
    }

    /// Forgets all nonexistent events, because any of them may exist now.
    pub fn forget_all_unknown(&self) {
        self.unknown().clear();
    }
}

impl ReadPermit {
    /// Waits for a turn to read.
    pub async fn turn(self) -> Result<Turn, Busy> {
        match timeout(TURN_TIMEOUT, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Turn {
                _turn: turn,
                _place: self,
            }),
            _ => {
                self.refused.inc();
                Err(Busy)
            }
        }
    }
}

/// A turn to read, released on drop.
pub struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: ReadPermit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_beyond_queue_are_rejected() {
        let refused = IntCounter::new("refused", "test").unwrap();
        let limits = ReadLimits {
            at_once: 1,
            waiting: 1,
            unknown_ttl: Duration::from_secs(3),
        };
        let reads = ClientReads::new(limits, refused.clone());
        let turn = reads.enter().unwrap().turn().await.unwrap();
        let waiting = reads.enter().unwrap();
        assert!(reads.enter().is_err());
        assert!(waiting.turn().await.is_err(), "no turn in time");
        assert_eq!(refused.get(), 2);
        drop(turn);
        assert!(reads.enter().unwrap().turn().await.is_ok());
    }
}
