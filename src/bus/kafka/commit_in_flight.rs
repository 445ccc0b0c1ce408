//! The asynchronous commit that waits for its answer.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A commit without an answer is repeated after this time.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The start of the asynchronous commit that is in flight, if any.
#[derive(Default)]
pub(super) struct CommitInFlight(Mutex<Option<Instant>>);

impl CommitInFlight {
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        self.0
            .lock()
            .is_some_and(|since| now.duration_since(since) < COMMIT_TIMEOUT)
    }

    pub(super) fn begin(&self, now: Instant) {
        *self.0.lock() = Some(now);
    }

    pub(super) fn end(&self) {
        *self.0.lock() = None;
    }
}
