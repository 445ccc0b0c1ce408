//! Database reads for clients' requests: a bounded queue of their own, and a memory of events that
//! do not exist.
//!
//! Anonymous clients choose what is read. Their reads use a share of the connections, so that books
//! that start for an update always find one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::domain::ids::EventId;
use crate::domain::odds::unknown::UnknownEvents;

/// A read that has no turn within this time is refused: the client gets an answer before it gives
/// up.
const WAIT: Duration = Duration::from_secs(2);
/// Events that are remembered not to exist, at most.
const UNKNOWN_EVENTS: usize = 20_000;

/// How many reads there may be.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// At once.
    pub at_once: usize,
    /// Waiting beside those.
    pub waiting: usize,
    /// How long an event is remembered not to exist.
    pub unknown_ttl: Duration,
}

/// The queue of clients' reads; one for all reads of a process.
pub struct ClientReads {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    unknown: Mutex<UnknownEvents>,
    refused: IntCounter,
}

/// There is no place in the queue, or no turn in time. Try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// A place in the queue.
pub struct ReadPermit {
    _place: OwnedSemaphorePermit,
    turns: Arc<Semaphore>,
    refused: IntCounter,
}

impl ClientReads {
    /// A queue with these limits; `refused` counts the reads that found no place or no turn.
    pub fn new(limits: ReadLimits, refused: IntCounter) -> ClientReads {
        let at_once = limits.at_once.max(1);
        ClientReads {
            places: Arc::new(Semaphore::new(at_once + limits.waiting)),
            turns: Arc::new(Semaphore::new(at_once)),
            unknown: Mutex::new(UnknownEvents::new(limits.unknown_ttl, UNKNOWN_EVENTS)),
            refused,
        }
    }

    /// Takes a place in the queue, if there is one.
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
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event was looked up lately and does not exist.
    pub fn is_unknown(&self, event_id: &EventId) -> bool {
        self.unknown().contains(event_id, Instant::now())
    }

    /// An event does not exist.
    pub fn remember_unknown(&self, event_id: &EventId) {
        self.unknown()
            .insert(event_id, Duration::MAX, Instant::now());
    }

    /// An event is not stored. It may be stored soon, and nobody says when.
    pub fn remember_not_stored(&self, event_id: &EventId) {
        self.unknown()
            .insert(event_id, Duration::from_secs(1), Instant::now());
    }

    /// An event exists.
    pub fn forget_unknown(&self, event_id: &EventId) {
        self.unknown().remove(event_id);
    }

    /// Any event may exist.
    pub fn forget_all_unknown(&self) {
        self.unknown().clear();
    }
}

impl ReadPermit {
    /// Waits for the turn to read.
    pub async fn turn(self) -> Result<Turn, Busy> {
        match timeout(WAIT, self.turns.clone().acquire_owned()).await {
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

/// The turn to read; over when it is dropped.
pub struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: ReadPermit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_beyond_queue_are_refused() {
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
