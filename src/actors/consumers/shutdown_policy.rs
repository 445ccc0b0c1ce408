//! Decides what a consumer leaves to the next process at shutdown. Pure.

use std::time::Duration;

/// How long the work in flight may take when the process stops and the bus is durable. A locked
/// database answers only after its own timeout, and the shutdown timeout may expire before.
pub(in crate::actors) const LAST_WORK: Duration = Duration::from_secs(2);

/// The rules for one subscription. A durable bus keeps what is not committed for the next process;
/// any other bus ends with the process, so everything on it is processed first.
#[derive(Clone, Copy, Debug)]
pub(in crate::actors) struct ShutdownPolicy {
    /// Whether uncommitted records survive the end of this process.
    pub is_durable: bool,
}

impl ShutdownPolicy {
    /// Whether the consumer reads no more; `lag` records are not committed.
    pub(in crate::actors) fn ends_reading(self, is_stopping: bool, lag: u64) -> bool {
        is_stopping && (lag == 0 || self.is_durable)
    }

    /// Whether a batch is abandoned after a failed attempt.
    pub(in crate::actors) fn abandons_failed(self, is_stopping: bool) -> bool {
        is_stopping && self.is_durable
    }

    /// Whether a batch is abandoned while an attempt is running, this long after the stop.
    pub(in crate::actors) fn abandons_running(self, since_stop: Duration) -> bool {
        self.is_durable && since_stop >= LAST_WORK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURABLE: ShutdownPolicy = ShutdownPolicy { is_durable: true };
    const IN_MEMORY: ShutdownPolicy = ShutdownPolicy { is_durable: false };

    #[test]
    fn durable_bus_keeps_rest_for_next_process() {
        assert!(DURABLE.ends_reading(true, 7) && DURABLE.ends_reading(true, 0));
        assert!(DURABLE.abandons_failed(true));
        assert!(DURABLE.abandons_running(LAST_WORK));
        assert!(!DURABLE.abandons_running(LAST_WORK / 2));
    }

    #[test]
    fn other_bus_is_emptied_first() {
        assert!(!IN_MEMORY.ends_reading(true, 1) && IN_MEMORY.ends_reading(true, 0));
        assert!(!IN_MEMORY.abandons_failed(true));
        assert!(!IN_MEMORY.abandons_running(LAST_WORK * 100));
    }

    #[test]
    fn nothing_ends_before_the_stop() {
        for policy in [DURABLE, IN_MEMORY] {
            assert!(!policy.ends_reading(false, 0) && !policy.ends_reading(false, 7));
            assert!(!policy.abandons_failed(false));
        }
    }
}
