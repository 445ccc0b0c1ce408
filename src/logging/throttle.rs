//! Repeated log lines: one a cause and interval, with the number of those in between.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most causes that are remembered. More at once means that the texts differ each time: then the oldest is forgotten.
const MOST_CAUSES: usize = 64;

/// Decides which lines pass. Bounded, and safe to share.
pub struct Throttle {
    interval: Duration,
    known: Mutex<Option<Known>>,
}

type Known = HashMap<(&'static str, String), (Instant, u64)>;

impl Throttle {
    /// Lets each cause pass once an interval.
    pub const fn new(interval: Duration) -> Throttle {
        Throttle { interval, known: Mutex::new(None) }
    }

    /// Whether a line about this cause is logged now, and how many were not since the last one.
    pub fn pass(&self, topic: &'static str, cause: &str) -> Option<u64> {
        self.pass_at(topic, cause, Instant::now())
    }

    fn pass_at(&self, topic: &'static str, cause: &str, now: Instant) -> Option<u64> {
        // Nothing panics while it holds the lock.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(HashMap::new);
        let key = (topic, cause.to_owned());
        if let Some((logged_at, repeated)) = known.get_mut(&key) {
            if now.saturating_duration_since(*logged_at) < self.interval {
                *repeated += 1;
                return None;
            }
            *logged_at = now;
            return Some(std::mem::take(repeated));
        }
        if known.len() >= MOST_CAUSES {
            known.retain(|_, (logged_at, _)| now.saturating_duration_since(*logged_at) < self.interval);
        }
        if known.len() >= MOST_CAUSES {
            let oldest = known.iter().min_by_key(|(_, (logged_at, _))| *logged_at).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| known.remove(&oldest));
        }
        known.insert(key, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_passes_once_an_interval() {
        let (throttle, start) = (Throttle::new(Duration::from_secs(60)), Instant::now());
        let pass = |cause, seconds| throttle.pass_at("database", cause, start + Duration::from_secs(seconds));
        assert_eq!([pass("a", 0), pass("a", 1), pass("b", 1), pass("a", 59)], [Some(0), None, Some(0), None]);
        assert_eq!([pass("a", 60), pass("a", 61)], [Some(2), None]);
        assert_eq!(throttle.pass_at("cache", "a", start), Some(0));
    }

    #[test]
    fn it_remembers_only_so_many_causes() {
        let (throttle, start) = (Throttle::new(Duration::from_secs(60)), Instant::now());
        for cause in 0..10 * MOST_CAUSES {
            assert_eq!(throttle.pass_at("database", &cause.to_string(), start), Some(0));
        }
        assert_eq!(throttle.known.lock().unwrap().as_ref().map(HashMap::len), Some(MOST_CAUSES));
    }
}
