//! Signs of life that are read from other threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A sign of life that a session gives whenever it is to ping, and a consumer whenever it looks at the bus, in milliseconds
/// since `start`; and whether its distributor has given the session up.
#[derive(Debug)]
pub struct SignOfLife {
    start: Instant,
    millis: AtomicU64,
    given_up: AtomicBool,
}

impl SignOfLife {
    /// Alive now.
    pub fn new() -> SignOfLife {
        SignOfLife { start: Instant::now(), millis: AtomicU64::new(0), given_up: AtomicBool::new(false) }
    }

    /// Still alive.
    pub fn give(&self) {
        self.millis.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Ended from outside.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Whether the session was ended from outside.
    pub fn was_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// How long ago the last one was given.
    pub fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

impl Default for SignOfLife {
    fn default() -> SignOfLife {
        SignOfLife::new()
    }
}
