//! One log line per cause and interval, with a count: a failure that repeats does not fill the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a cause is logged.
const INTERVAL: Duration = Duration::from_secs(10);

/// When each cause was logged, and how often it occurred since. The causes are words of the program, so they are few.
#[derive(Default)]
pub struct LogSummary {
    causes: Mutex<HashMap<&'static str, (Instant, u64)>>,
}

impl LogSummary {
    /// Counts an occurrence. If the cause is to be logged now, gives how often it occurred since it was logged last.
    pub fn count(&self, cause: &'static str) -> Option<u64> {
        self.count_at(cause, Instant::now())
    }

    fn count_at(&self, cause: &'static str, now: Instant) -> Option<u64> {
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        match causes.get_mut(cause) {
            Some((logged, since)) if now.duration_since(*logged) < INTERVAL => {
                *since += 1;
                None
            }
            Some((logged, since)) => {
                *logged = now;
                Some(std::mem::take(since) + 1)
            }
            None => {
                causes.insert(cause, (now, 0));
                Some(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_per_interval() {
        let (summary, start) = (LogSummary::default(), Instant::now());
        assert_eq!(summary.count_at("a", start), Some(1));
        assert_eq!((summary.count_at("a", start), summary.count_at("a", start)), (None, None));
        assert_eq!(summary.count_at("b", start), Some(1));
        assert_eq!(summary.count_at("a", start + INTERVAL), Some(3));
        assert_eq!(summary.count_at("a", start + INTERVAL), None);
    }
}
