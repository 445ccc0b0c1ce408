//! Skips store reads for a moment after a failure.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Pause after a failed store read before the next one.
const STORE_PAUSE: Duration = Duration::from_millis(900);

/// Skips store reads for a moment after a failure: books that start in this time start without the
/// store at once, so the live path does not wait once per book for a store that is down.
#[derive(Default)]
pub(super) struct RetryGate {
    last_failure: Mutex<Option<Failure>>,
}

struct Failure {
    error: String,
    at: Instant,
}

impl RetryGate {
    /// The last error, if the pause after it is not over.
    pub(super) fn recent_error(&self, now: Instant) -> Option<String> {
        let last = self.last_failure.lock();
        last.as_ref()
            .filter(|failure| now.saturating_duration_since(failure.at) < STORE_PAUSE)
            .map(|failure| failure.error.clone())
    }

    /// Whether the last read failed.
    pub(super) fn has_failed(&self) -> bool {
        self.last_failure.lock().is_some()
    }

    /// Records the outcome of a read.
    pub(super) fn record(&self, outcome: Result<(), String>, now: Instant) {
        *self.last_failure.lock() = outcome.err().map(|error| Failure { error, at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pause_after_failure() {
        let gate = RetryGate::default();
        let start = Instant::now();
        assert_eq!(gate.recent_error(start), None);
        gate.record(Err("down".to_owned()), start);
        let just_before = start + STORE_PAUSE - Duration::from_millis(1);
        assert_eq!(gate.recent_error(just_before).as_deref(), Some("down"));
        assert_eq!(gate.recent_error(start + STORE_PAUSE), None);
        assert!(gate.has_failed(), "until a read succeeds");
        gate.record(Ok(()), start + STORE_PAUSE);
        assert!(!gate.has_failed());
    }
}
