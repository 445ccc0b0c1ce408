//! The time, handed in: a test brings its own.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::timestamp::Timestamp;

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock(Arc::new(Timestamp::now))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// The moment that is so much later than now.
    pub fn after(&self, time: Duration) -> Timestamp {
        self.moved(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
    }

    /// The moment that is so much earlier than now.
    pub fn before(&self, time: Duration) -> Timestamp {
        self.moved(i64::try_from(time.as_micros()).map_or(i64::MIN, |micros| -micros))
    }

    /// How long it is until a moment; nothing where that has come.
    pub fn until(&self, moment: Timestamp) -> Duration {
        let micros = moment.micros().saturating_sub(self.now().micros());
        u64::try_from(micros).map_or(Duration::ZERO, Duration::from_micros)
    }

    fn moved(&self, micros: i64) -> Timestamp {
        let now = self.now();
        // A moment beyond the year 9999 is no moment of any setting.
        Timestamp::from_micros(now.micros().saturating_add(micros)).unwrap_or(now)
    }
}

#[cfg(test)]
impl Clock {
    /// A clock that goes with tokio's, which a test may stop.
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
