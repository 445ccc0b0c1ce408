//! Computes how many updates are due, so that the configured rate is met however often it is
//! polled.

use std::time::{Duration, Instant};

/// Updates due from longer than this ago are skipped, so that a stall is not followed by a flood.
const MAX_CATCH_UP: Duration = Duration::from_millis(100);
/// Minimum time between polls...
const MIN_WAIT: Duration = Duration::from_millis(5);
/// ...and maximum time, which also limits how long other work of the caller has to wait.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// Counts from the start, not between polls, so that it does not drift.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    rate: f64,
    start: Instant,
    /// The number of updates that were due at the last poll.
    counted: u64,
}

impl Pace {
    /// `rate` updates per second from `start` on. A rate that is not a number above 0 means never.
    pub(crate) fn new(rate: f64, start: Instant) -> Pace {
        Pace {
            rate: if rate.is_finite() { rate.max(0.0) } else { 0.0 },
            start,
            counted: 0,
        }
    }

    /// The number of updates that became due since the last poll, up to [`Pace::burst`].
    pub(crate) fn due(&mut self, now: Instant) -> u64 {
        let so_far = (now.saturating_duration_since(self.start).as_secs_f64() * self.rate) as u64;
        let due = so_far.saturating_sub(self.counted);
        self.counted = self.counted.max(so_far);
        due.min(self.burst())
    }

    /// The maximum that [`Pace::due`] returns at once.
    pub(crate) fn burst(&self) -> u64 {
        (self.rate * MAX_CATCH_UP.as_secs_f64()).ceil().max(1.0) as u64
    }

    /// How long to wait before the next poll.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let next = (self.counted as f64 + 1.0) / self.rate;
        let left = next - now.saturating_duration_since(self.start).as_secs_f64();
        let left = Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(MAX_WAIT);
        left.clamp(MIN_WAIT, MAX_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slow_rate_accumulates() {
        let start = Instant::now();
        let mut pace = Pace::new(0.1, start);
        let due: Vec<_> = (1..=4)
            .map(|half| pace.due(start + Duration::from_secs(half * 5)))
            .collect();
        assert_eq!(due, [0, 1, 0, 1]);
        assert_eq!(pace.wait(start + Duration::from_secs(20)), MAX_WAIT);
    }

    #[test]
    fn stall_is_not_caught_up() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000.0, start);
        assert_eq!(pace.due(start + Duration::from_secs(3_600)), 100);
        assert_eq!(pace.due(start + Duration::from_secs(3_600)), 0);
        assert_eq!(pace.due(start + Duration::from_millis(3_600_010)), 10);
    }

    #[test]
    fn invalid_rate_is_never_due() {
        let start = Instant::now();
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut pace = Pace::new(rate, start);
            assert_eq!(pace.due(start + Duration::from_secs(9)), 0, "{rate}");
            assert_eq!(pace.wait(start), MAX_WAIT, "{rate}");
        }
    }

    proptest! {
        #[test]
        fn rate_is_kept_for_any_polling(
            rate in prop_oneof![0.1..10.0f64, 10.0..50_000.0f64],
            steps in proptest::collection::vec(0u64..90_000, 1..300),
        ) {
            let start = Instant::now();
            let mut pace = Pace::new(rate, start);
            let mut now = start;
            let mut made = 0;
            for micros in steps {
                now += Duration::from_micros(micros);
                made += pace.due(now);
            }
            prop_assert_eq!(made, ((now - start).as_secs_f64() * rate) as u64);
        }

        #[test]
        fn suggested_wait_misses_nothing(rate in 0.1..50_000.0f64) {
            let start = Instant::now();
            let mut pace = Pace::new(rate, start);
            let mut now = start;
            let mut made = 0;
            for _ in 0..500 {
                now += pace.wait(now);
                made += pace.due(now);
            }
            prop_assert_eq!(made, ((now - start).as_secs_f64() * rate) as u64);
        }
    }
}
