//! Limits how often one event is logged. The first occurrence of a cause is logged at once, later
//! ones are counted, and the next line says how many there were. The interval between lines grows
//! while the cause persists, so a fault that repeats thousands of times a second costs a few lines
//! an hour, and a new cause is never hidden by another one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::role;

/// Maximum number of separate causes. Causes may contain text from outside, so their number is
/// bounded; further ones share one entry.
const MAX_CAUSES: usize = 32;
/// The entry of all further causes.
const OTHER_CAUSES: &str = "";

/// Decides which occurrences of an event are logged. Shared by reference; `const`, so that it can
/// be a `static`.
#[derive(Debug)]
pub struct LogLimit {
    first: Duration,
    max: Duration,
    causes: Mutex<BTreeMap<String, Cause>>,
}

#[derive(Debug)]
struct Cause {
    last_seen: Instant,
    next_line: Instant,
    interval: Duration,
    suppressed: u64,
}

impl LogLimit {
    /// One line per cause; the next one after `first`, then after twice that, up to `max`. A cause
    /// that did not occur for `max` starts over.
    pub const fn growing(first: Duration, max: Duration) -> LogLimit {
        LogLimit {
            first,
            max,
            causes: Mutex::new(BTreeMap::new()),
        }
    }

    /// One line per cause and interval.
    pub const fn every(interval: Duration) -> LogLimit {
        LogLimit::growing(interval, interval)
    }

    /// Records an occurrence. Returns how many occurrences of this cause were suppressed since its
    /// last line if this one is to be logged, `None` if it is to be suppressed. `cause` must not
    /// contain what differs from one occurrence to the next, such as ids or ports.
    pub fn check(&self, cause: &str) -> Option<u64> {
        match role::current() {
            // Each role of a process logs its own line, since its operators read only those.
            Some(role) => self.check_at(&format!("{role}: {cause}"), Instant::now()),
            None => self.check_at(cause, Instant::now()),
        }
    }

    fn check_at(&self, cause: &str, now: Instant) -> Option<u64> {
        let mut causes = self.lock();
        let key = self.entry_for(cause, &mut causes, now);
        let Some(known) = causes.get_mut(key) else {
            let known = Cause {
                last_seen: now,
                next_line: now + self.first,
                interval: self.first,
                suppressed: 0,
            };
            causes.insert(key.to_owned(), known);
            return Some(0);
        };
        if now.saturating_duration_since(known.last_seen) >= self.max {
            known.interval = self.first;
        }
        known.last_seen = now;
        if now < known.next_line {
            known.suppressed += 1;
            return None;
        }
        known.interval = known.interval.saturating_mul(2).min(self.max);
        known.next_line = now + known.interval;
        Some(std::mem::take(&mut known.suppressed))
    }

    /// The key of a cause. If the map is full, causes that have not occurred for a while are
    /// removed.
    fn entry_for<'a>(
        &self,
        cause: &'a str,
        causes: &mut BTreeMap<String, Cause>,
        now: Instant,
    ) -> &'a str {
        if causes.contains_key(cause) || causes.len() < MAX_CAUSES {
            return cause;
        }
        causes.retain(|_, known| now.saturating_duration_since(known.last_seen) < self.max);
        if causes.len() < MAX_CAUSES {
            cause
        } else {
            OTHER_CAUSES
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Cause>> {
        self.causes.lock()
    }
}

/// Decides which lines of an intermittent fault are written: its causes are limited, and its end is
/// logged if its beginning was.
#[derive(Debug)]
pub struct FaultLog {
    causes: LogLimit,
    is_logged: AtomicBool,
}

impl FaultLog {
    /// A repeated cause is logged again after ten seconds, growing to ten minutes.
    pub const fn new() -> FaultLog {
        let causes = LogLimit::growing(Duration::from_secs(10), Duration::from_secs(600));
        FaultLog {
            causes,
            is_logged: AtomicBool::new(false),
        }
    }

    /// Records a failure. Returns the same as [`LogLimit::check`].
    pub fn failed(&self, cause: &str) -> Option<u64> {
        let suppressed = self.causes.check(cause);
        if suppressed.is_some() {
            self.is_logged.store(true, Ordering::Relaxed);
        }
        suppressed
    }

    /// Records that the operation works. Returns whether the recovery is to be logged.
    pub fn recovered(&self) -> bool {
        self.is_logged.swap(false, Ordering::Relaxed)
    }
}

impl Default for FaultLog {
    fn default() -> FaultLog {
        FaultLog::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn interval_between_lines_grows() {
        let limit = LogLimit::growing(SECOND, 8 * SECOND);
        let start = Instant::now();
        let mut lines = Vec::new();
        for tenth in 0..400_u32 {
            if let Some(suppressed) = limit.check_at("away", start + tenth * SECOND / 10) {
                lines.push((tenth / 10, suppressed));
            }
        }
        assert_eq!(
            lines,
            [
                (0, 0),
                (1, 9),
                (3, 19),
                (7, 39),
                (15, 79),
                (23, 79),
                (31, 79),
                (39, 79)
            ]
        );
    }

    #[test]
    fn causes_do_not_hide_each_other() {
        let limit = LogLimit::every(60 * SECOND);
        let start = Instant::now();
        assert_eq!(
            ["a", "b", "a", "a", "b"].map(|cause| limit.check_at(cause, start)),
            [Some(0), Some(0), None, None, None]
        );
        assert_eq!(
            ["a", "b"].map(|cause| limit.check_at(cause, start + 60 * SECOND)),
            [Some(2), Some(1)]
        );
    }

    #[test]
    fn quiet_cause_starts_over() {
        let limit = LogLimit::growing(SECOND, 4 * SECOND);
        let start = Instant::now();
        let at = |seconds: u32| limit.check_at("a", start + seconds * SECOND).is_some();
        assert_eq!([0, 1, 3, 7].map(at), [true; 4]);
        // The interval is at its maximum; after a pause it is twice the first again.
        assert_eq!([20, 21, 22].map(at), [true, false, true]);
    }

    #[test]
    fn recovery_is_logged_with_its_fault() {
        let fault = FaultLog::new();
        assert!(!fault.recovered());
        assert_eq!(fault.failed("away"), Some(0));
        assert_eq!([fault.recovered(), fault.recovered()], [true, false]);
        // The fault comes back at once: neither it nor its end is logged again.
        assert_eq!(fault.failed("away"), None);
        assert!(!fault.recovered());
    }

    #[test]
    fn number_of_causes_is_bounded() {
        let limit = LogLimit::every(SECOND);
        let start = Instant::now();
        let logged = (0..1_000)
            .filter(|n| limit.check_at(&n.to_string(), start).is_some())
            .count();
        assert_eq!(
            (logged, limit.lock().len()),
            (MAX_CAUSES + 1, MAX_CAUSES + 1)
        );
        // Causes that did not occur for a while make room.
        assert_eq!(limit.check_at("new", start + SECOND), Some(0));
        assert_eq!(limit.lock().len(), 1);
    }
}
