//! The clock, passed in so that tests can replace it.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::timestamp::Timestamp;

/// A source of the current time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system clock.
    pub fn system() -> Clock {
        Clock(Arc::new(Timestamp::now))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// The current time plus `time`.
    pub fn after(&self, time: Duration) -> Timestamp {
        self.offset_by(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
    }

    /// The current time minus `time`.
    pub fn before(&self, time: Duration) -> Timestamp {
        self.offset_by(i64::try_from(time.as_micros()).map_or(i64::MIN, |micros| -micros))
    }

    /// The time left until `moment`; zero if it has passed.
    pub fn until(&self, moment: Timestamp) -> Duration {
        let micros = moment.micros().saturating_sub(self.now().micros());
        u64::try_from(micros).map_or(Duration::ZERO, Duration::from_micros)
    }

    fn offset_by(&self, micros: i64) -> Timestamp {
        let now = self.now();
        // No setting reaches beyond the year 9999.
        Timestamp::from_micros(now.micros().saturating_add(micros)).unwrap_or(now)
    }
}

#[cfg(test)]
impl Clock {
    /// A clock that follows tokio's time, which a test can pause.
    pub fn of_tokio() -> Clock {
        let (start, began) = (Timestamp::now(), tokio::time::Instant::now());
        Clock(Arc::new(move || {
            Timestamp::from_micros(start.micros() + began.elapsed().as_micros() as i64)
                .unwrap_or(start)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn moments_before_and_after() {
        let clock = Clock::of_tokio();
        let (now, second) = (clock.now(), Duration::from_secs(1));
        assert_eq!(
            (
                clock.after(second).seconds_since(now),
                clock.before(second).seconds_since(now)
            ),
            (1.0, -1.0)
        );
        let later = clock.after(3 * second);
        tokio::time::advance(second).await;
        assert_eq!(
            (clock.until(later), clock.until(now)),
            (2 * second, Duration::ZERO)
        );
        assert_eq!(clock.after(Duration::MAX), clock.now());
    }
}
