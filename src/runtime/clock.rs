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

    /// The time left until `moment`; zero if it has passed.
    pub fn until(&self, moment: Timestamp) -> Duration {
        let micros = moment.micros().saturating_sub(self.now().micros());
        u64::try_from(micros).map_or(Duration::ZERO, Duration::from_micros)
    }
}

#[cfg(test)]
impl Clock {
    /// A clock that a test sets.
    pub(crate) fn of(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// A clock that follows tokio's time, which a test can pause.
    pub fn of_tokio() -> Clock {
        let start = Timestamp::now();
        let began = tokio::time::Instant::now();
        Clock(Arc::new(move || start.later_by(began.elapsed())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_until_moment_ends_at_zero() {
        let clock = Clock::of_tokio();
        let second = Duration::from_secs(1);
        let now = clock.now();
        let later = now.later_by(3 * second);
        tokio::time::advance(second).await;
        assert_eq!(clock.now().seconds_since(now), 1.0);
        assert_eq!(clock.until(later), 2 * second);
        assert_eq!(clock.until(now), Duration::ZERO);
    }
}
