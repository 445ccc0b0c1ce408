//! Decides when a lost supplier is connected again.

use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// The delays before reconnecting. They grow until the supplier is useful again: until a connection
/// lasts, or a batch without unreadable frames is published.
pub(super) struct Reconnects {
    backoff: Backoff,
    stable_after: Duration,
    connected_at: Option<Instant>,
}

impl Reconnects {
    /// Delays within `policy`, with jitter seeded by `seed`. A connection that outlives the longest
    /// delay counts as stable.
    pub(super) fn new(policy: BackoffPolicy, seed: u64) -> Reconnects {
        Reconnects {
            backoff: Backoff::new(policy, seed),
            stable_after: policy.most,
            connected_at: None,
        }
    }

    /// Records that the supplier is connected.
    pub(super) fn connected(&mut self, now: Instant) {
        self.connected_at = Some(now);
    }

    /// Records that the connection has ended. If it lasted, even if it was quiet, a new sequence of
    /// failures begins.
    pub(super) fn disconnected(&mut self, now: Instant) {
        if let Some(connected_at) = self.connected_at.take()
            && now.duration_since(connected_at) > self.stable_after
        {
            self.backoff.reset();
        }
    }

    /// Records that the bus accepted a batch. Connecting alone is no success: if the bus rejects
    /// updates permanently, or all frames are unreadable, the supplier must not be reconnected
    /// without delay.
    pub(super) fn published(&mut self, is_readable: bool) {
        if is_readable {
            self.backoff.reset();
        }
    }

    /// Counts a failure and returns the delay before the next attempt.
    pub(super) fn next_delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }

    /// The number of failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.backoff.failures()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy = BackoffPolicy {
        first: Duration::from_millis(100),
        most: Duration::from_secs(5),
    };

    fn after_failures(count: u32) -> Reconnects {
        let mut reconnects = Reconnects::new(POLICY, 7);
        for _ in 0..count {
            reconnects.next_delay();
        }
        assert_eq!(reconnects.failures(), count);
        reconnects
    }

    #[test]
    fn stable_connection_resets_delays() {
        let start = Instant::now();
        for (lasted, failures) in [(POLICY.most, 3), (POLICY.most + POLICY.first, 0)] {
            let mut reconnects = after_failures(3);
            reconnects.connected(start);
            reconnects.disconnected(start + lasted);
            assert_eq!(reconnects.failures(), failures);
            // An end without a connection changes nothing.
            reconnects.disconnected(start + 10 * POLICY.most);
            assert_eq!(reconnects.failures(), failures);
        }
    }

    #[test]
    fn only_readable_batches_reset_delays() {
        let mut reconnects = after_failures(3);
        reconnects.connected(Instant::now());
        reconnects.published(false);
        assert_eq!(reconnects.failures(), 3);
        reconnects.published(true);
        assert_eq!(reconnects.failures(), 0);
        assert!(reconnects.next_delay() <= 2 * POLICY.first);
    }
}
