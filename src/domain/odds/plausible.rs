//! Limits on times and sequence numbers from any source: a supplier, Kafka, Redis or the database.
//!
//! A market follows the latest revision, so one update with a time far ahead would block every true
//! update until that time. Only times ahead are refused: an old time loses to any newer update. A
//! version needs no limit, because it only orders updates of the same microsecond.

use std::time::Duration;

use strum::{IntoStaticStr, VariantNames};

use super::book::MarketState;
use crate::domain::timestamp::Timestamp;

/// How far a sequence number may be ahead of the clock's microseconds since 1970. The largest valid
/// numbers come from the embedded bus, which starts at the clock's microseconds and counts slower
/// than the clock.
const SEQ_MARGIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Record times are truncated to milliseconds: an update of the same millisecond is not ahead.
const RECORD_STEP: Duration = Duration::from_millis(1);
/// A record time before the year 2000 is invalid, such as 0 or a time in seconds.
const EARLIEST_RECORD: i64 = 946_684_800_000_000;

/// Why a time or a sequence number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum Implausible {
    /// The time is too far ahead.
    #[error(
        "the time {time} is later than {latest}, further ahead than SUPPLIER_MAX_CLOCK_SKEW allows"
    )]
    Future {
        /// The time.
        time: Timestamp,
        /// The latest accepted time.
        latest: Timestamp,
    },
    /// The sequence number is larger than any bus can count.
    #[error("the sequence number {seq} is larger than {largest}")]
    Seq {
        /// The number.
        seq: u64,
        /// The largest accepted number.
        largest: u64,
    },
}

impl Implausible {
    /// The label in metrics and dead letters.
    pub fn reason(&self) -> &'static str {
        self.into()
    }
}

/// Refuses a time after `latest`.
pub(crate) fn check_time(time: Timestamp, latest: Timestamp) -> Result<(), Implausible> {
    if time > latest {
        Err(Implausible::Future { time, latest })
    } else {
        Ok(())
    }
}

/// The time since a record was published; `None` if its time is invalid or in the future.
pub(crate) fn record_age(published_at: Timestamp, now: Timestamp) -> Option<Duration> {
    let micros = now.micros().saturating_sub(published_at.micros());
    if published_at.micros() < EARLIEST_RECORD {
        None
    } else {
        u64::try_from(micros).ok().map(Duration::from_micros)
    }
}

/// The limits of one process, the same for every source.
#[derive(Clone, Copy, Debug)]
pub struct Plausibility {
    max_clock_skew: Duration,
}

impl Plausibility {
    /// Accepts times up to `max_clock_skew` ahead of the clock.
    pub fn within(max_clock_skew: Duration) -> Plausibility {
        Plausibility { max_clock_skew }
    }

    /// Accepts any time.
    pub fn any_time() -> Plausibility {
        Plausibility::within(Duration::MAX)
    }

    /// The latest accepted time.
    pub fn latest(self, now: Timestamp) -> Timestamp {
        now.later_by(self.max_clock_skew)
    }

    /// The largest accepted sequence number.
    pub fn largest_seq(now: Timestamp) -> u64 {
        u64::try_from(now.later_by(SEQ_MARGIN).micros()).unwrap_or(0)
    }

    /// Checks the time of an update on the bus that was published at `recorded`.
    ///
    /// With the record's own time the decision is the same in every group and every replay: an
    /// update that was ahead when it was published stays refused when its time has come. If the
    /// record time is unusable, only the clock counts.
    pub fn check_record(
        self,
        time: Timestamp,
        recorded: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Implausible> {
        let recorded = recorded.filter(|recorded| recorded.micros() >= EARLIEST_RECORD);
        let published = recorded.map_or(now, |recorded| recorded.later_by(RECORD_STEP).min(now));
        check_time(time, self.latest(published))
    }

    /// Checks the time of an update, and the sequence number that another process gave it.
    pub fn check(
        self,
        time: Timestamp,
        seq: Option<u64>,
        now: Timestamp,
    ) -> Result<(), Implausible> {
        check_time(time, self.latest(now))?;
        let largest = Plausibility::largest_seq(now);
        match seq {
            Some(seq) if seq > largest => Err(Implausible::Seq { seq, largest }),
            _ => Ok(()),
        }
    }

    /// Checks a stored state.
    pub fn check_state(self, state: &MarketState, now: Timestamp) -> Result<(), Implausible> {
        self.check(state.update.revision.updated_at, Some(state.seq), now)
    }
}

#[cfg(test)]
mod tests;
