//! Limits the log of rejected frames.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between two log lines about rejected frames. The next line reports how many were
/// suppressed.
const INTERVAL: Duration = Duration::from_secs(60);

/// Decides which rejected parts are logged.
#[derive(Default)]
pub(super) struct RefusalLog {
    logged_at: Option<Instant>,
    suppressed: u64,
}

impl RefusalLog {
    /// Records the `count` rejected parts of a frame. Returns how many were suppressed since the
    /// last line if the first of these is to be logged.
    pub(super) fn record(&mut self, count: u64, now: Instant) -> Option<u64> {
        if self
            .logged_at
            .is_some_and(|last| now.duration_since(last) < INTERVAL)
        {
            self.suppressed += count;
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_counts_suppressed() {
        let mut log = RefusalLog::default();
        let start = Instant::now();
        assert_eq!(log.record(5, start), Some(0));
        assert_eq!(log.record(2, start), None);
        assert_eq!(log.record(1, start + INTERVAL / 2), None);
        assert_eq!(log.record(1, start + INTERVAL), Some(3));
        assert_eq!(log.record(1, start + INTERVAL), None);
    }
}
