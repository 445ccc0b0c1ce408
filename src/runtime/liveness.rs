//! Signs of life that are read from other threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A sign of life that a session gives whenever it is to ping, and a consumer whenever it looks at
/// the bus, in milliseconds since `start`; and whether its distributor has given the session up.
#[derive(Debug)]
pub struct LivenessProbe {
    start: Instant,
    millis: AtomicU64,
    evicted: AtomicBool,
}

impl LivenessProbe {
    /// Alive now.
    pub fn new() -> LivenessProbe {
        LivenessProbe {
            start: Instant::now(),
            millis: AtomicU64::new(0),
            evicted: AtomicBool::new(false),
        }
    }

    /// Still alive.
    pub fn touch(&self) {
        self.millis
            .store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Ended from outside.
    pub fn mark_evicted(&self) {
        self.evicted.store(true, Ordering::Release);
    }

    /// Whether the session was ended from outside.
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    /// How long ago the last one was given.
    pub fn age(&self) -> Duration {
        self.start
            .elapsed()
            .saturating_sub(Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

impl Default for LivenessProbe {
    fn default() -> LivenessProbe {
        LivenessProbe::new()
    }
}
