//! How far the live path is behind the bus.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// The age of the oldest record that is not applied, a measure of the lag of the live path.
#[derive(Debug)]
pub(crate) struct Backlog {
    start: Instant,
    /// When it was published, in microseconds since `start`; negative if before `start`.
    oldest: AtomicI64,
}

/// The value if no record is waiting.
const NO_RECORD: i64 = i64::MAX;

impl Default for Backlog {
    fn default() -> Backlog {
        Backlog {
            start: Instant::now(),
            oldest: AtomicI64::new(NO_RECORD),
        }
    }
}

impl Backlog {
    /// Sets when the oldest unapplied record was published.
    pub(crate) fn set(&self, oldest: Option<Instant>) {
        let micros = oldest.map_or(NO_RECORD, |oldest| {
            match oldest.checked_duration_since(self.start) {
                Some(after) => signed_micros(after),
                None => -signed_micros(self.start.duration_since(oldest)),
            }
        });
        self.oldest.store(micros, Ordering::Relaxed);
    }

    /// The age of the oldest unapplied record; zero if everything is applied.
    pub(crate) fn age(&self) -> Duration {
        match self.oldest.load(Ordering::Relaxed) {
            NO_RECORD => Duration::ZERO,
            micros => {
                let age = signed_micros(self.start.elapsed()).saturating_sub(micros);
                Duration::from_micros(u64::try_from(age).unwrap_or(0))
            }
        }
    }
}

fn signed_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
