//! How many updates are due: as many as the rate says, whenever it is asked.

use std::time::{Duration, Instant};

/// What fell due while nobody asked for longer than this is left out: no flood after a standstill.
const LONGEST_CATCH_UP: Duration = Duration::from_millis(100);
/// Nobody needs to ask more often than this...
const SHORTEST_WAIT: Duration = Duration::from_millis(5);
/// ...nor less often: it is also how soon other work of the asker gets its turn.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Counts from the start on, not from question to question, so that it does not drift however it is
/// asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: f64,
    start: Instant,
    /// How many fell due up to the last question.
    counted: u64,
}

impl Pace {
    /// `rate` a second from `start` on. A rate that is no number above 0 means never.
    pub fn new(rate: f64, start: Instant) -> Pace {
        Pace {
            rate: if rate.is_finite() { rate.max(0.0) } else { 0.0 },
            start,
            counted: 0,
        }
    }

    /// How many fell due since the last question, up to [`Pace::burst`].
    pub fn due(&mut self, now: Instant) -> u64 {
        let so_far = (now.saturating_duration_since(self.start).as_secs_f64() * self.rate) as u64;
        let due = so_far.saturating_sub(self.counted);
        self.counted = self.counted.max(so_far);
        due.min(self.burst())
    }

    /// The most that [`Pace::due`] gives at once.
    pub fn burst(&self) -> u64 {
        (self.rate * LONGEST_CATCH_UP.as_secs_f64()).ceil().max(1.0) as u64
    }

    /// When to ask again.
    pub fn wait(&self, now: Instant) -> Duration {
        let next = (self.counted as f64 + 1.0) / self.rate;
        let left = next - now.saturating_duration_since(self.start).as_secs_f64();
        let left = Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(LONGEST_WAIT);
        left.clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slow_rate_adds_up() {
        let start = Instant::now();
        let mut pace = Pace::new(0.1, start);
        let due: Vec<_> = (1..=4)
            .map(|half| pace.due(start + Duration::from_secs(half * 5)))
            .collect();
        assert_eq!(due, [0, 1, 0, 1]);
        assert_eq!(pace.wait(start + Duration::from_secs(20)), LONGEST_WAIT);
    }

    #[test]
    fn a_standstill_is_not_made_up_for() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000.0, start);
        assert_eq!(pace.due(start + Duration::from_secs(3_600)), 100);
        assert_eq!(pace.due(start + Duration::from_secs(3_600)), 0);
        assert_eq!(pace.due(start + Duration::from_millis(3_600_010)), 10);
    }

    #[test]
    fn no_rate_is_never_due() {
        let start = Instant::now();
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut pace = Pace::new(rate, start);
            assert_eq!(pace.due(start + Duration::from_secs(9)), 0, "{rate}");
            assert_eq!(pace.wait(start), LONGEST_WAIT, "{rate}");
        }
    }

    proptest! {
        #[test]
        fn it_keeps_the_rate_however_it_is_asked(
            rate in prop_oneof![0.1..10.0f64, 10.0..50_000.0f64],
            steps in proptest::collection::vec(0u64..90_000, 1..300),
        ) {
            let start = Instant::now();
            let mut pace = Pace::new(rate, start);
            let (mut now, mut made) = (start, 0);
            for micros in steps {
                now += Duration::from_micros(micros);
                made += pace.due(now);
            }
            prop_assert_eq!(made, ((now - start).as_secs_f64() * rate) as u64);
        }

        #[test]
        fn whoever_waits_as_told_misses_nothing(rate in 0.1..50_000.0f64) {
            let start = Instant::now();
            let mut pace = Pace::new(rate, start);
            let (mut now, mut made) = (start, 0);
            for _ in 0..500 {
                now += pace.wait(now);
                made += pace.due(now);
            }
            prop_assert_eq!(made, ((now - start).as_secs_f64() * rate) as u64);
        }
    }
}
