//! Liveness probes that can be read from other threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The last time an actor was alive, in milliseconds since `start`: a session touches it on every
/// ping, a consumer on every poll of the bus. Also records whether a distributor has evicted the
/// session.
#[derive(Debug)]
pub struct LivenessProbe {
    start: Instant,
    millis: AtomicU64,
    evicted: AtomicBool,
}

impl LivenessProbe {
    /// A probe that was touched now.
    pub fn new() -> LivenessProbe {
        LivenessProbe {
            start: Instant::now(),
            millis: AtomicU64::new(0),
            evicted: AtomicBool::new(false),
        }
    }

    /// Records that the actor is alive.
    pub fn touch(&self) {
        self.millis
            .store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Records that the session was evicted.
    pub fn mark_evicted(&self) {
        self.evicted.store(true, Ordering::Release);
    }

    /// Whether the session was evicted.
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    /// Time since the last touch.
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
