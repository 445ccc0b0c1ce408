//! A point in time, truncated to microseconds, the precision of PostgreSQL, so that a stored time
//! reads back unchanged.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z, between the years 0 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 time between the years 0 and 9999")]
pub struct BadTimestamp(String);

impl Timestamp {
    const MIN_MICROS: i64 = -62_167_219_200_000_000;
    const MAX_MICROS: i64 = 253_402_300_799_999_999;

    /// The current time of the clock.
    pub fn now() -> Timestamp {
        Timestamp(Utc::now().timestamp_micros())
    }

    /// A time from microseconds since 1970; `None` outside the years 0 to 9999.
    pub fn from_micros(micros: i64) -> Option<Timestamp> {
        (Timestamp::MIN_MICROS..=Timestamp::MAX_MICROS)
            .contains(&micros)
            .then_some(Timestamp(micros))
    }

    /// A time from milliseconds since 1970; `None` outside the years 0 to 9999.
    pub fn from_millis(millis: i64) -> Option<Timestamp> {
        millis.checked_mul(1_000).and_then(Timestamp::from_micros)
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// The time `duration` before this one, or the earliest possible one.
    pub fn earlier_by(self, duration: Duration) -> Timestamp {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_sub(micros).max(Timestamp::MIN_MICROS))
    }

    /// The time `duration` after this one, or the latest possible one.
    pub fn later_by(self, duration: Duration) -> Timestamp {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(micros).min(Timestamp::MAX_MICROS))
    }

    /// Seconds from `earlier` to this time; negative if `earlier` is later.
    pub fn seconds_since(self, earlier: Timestamp) -> f64 {
        (self.0 - earlier.0) as f64 / 1_000_000.0
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with as many decimals as needed: `2025-11-09T21:07:45Z`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = DateTime::<Utc>::from_timestamp_micros(self.0).unwrap_or_default();
        out.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl FromStr for Timestamp {
    type Err = BadTimestamp;

    fn from_str(text: &str) -> Result<Timestamp, BadTimestamp> {
        let bad = || BadTimestamp(text.chars().take(40).collect());
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| bad())?;
        Timestamp::from_micros(time.timestamp_micros()).ok_or_else(bad)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_go_times_in_microseconds() {
        let time: Timestamp = "2025-11-09T21:07:45.123456789Z".parse().unwrap();
        assert_eq!(time.to_string(), "2025-11-09T21:07:45.123456Z");
        let zoned: Timestamp = "2025-11-09T18:07:45-03:00".parse().unwrap();
        assert_eq!(zoned.to_string(), "2025-11-09T21:07:45Z");
    }

    #[test]
    fn refuses_invalid_times() {
        for text in [
            "",
            "yesterday",
            "2025-11-09",
            "2025-13-09T21:07:45Z",
            "2025-11-09 21:07",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        assert!(Timestamp::from_millis(i64::MAX).is_none());
    }

    #[test]
    fn earlier_time_stops_at_minimum() {
        let five = Timestamp::from_micros(5_000_000).unwrap();
        let before = |duration| five.earlier_by(duration).to_string();
        assert_eq!(
            before(Duration::from_millis(1_500)),
            "1970-01-01T00:00:03.500Z"
        );
        assert_eq!(before(Duration::MAX), "0000-01-01T00:00:00Z");
    }

    #[test]
    fn later_time_stops_at_maximum() {
        let five = Timestamp::from_micros(5_000_000).unwrap();
        let after = |duration| five.later_by(duration).to_string();
        assert_eq!(
            after(Duration::from_millis(1_500)),
            "1970-01-01T00:00:06.500Z"
        );
        assert_eq!(after(Duration::MAX), "9999-12-31T23:59:59.999999Z");
    }

    proptest! {
        #[test]
        fn every_time_reads_back(micros in Timestamp::MIN_MICROS..=Timestamp::MAX_MICROS) {
            let time = Timestamp::from_micros(micros).unwrap();
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }
    }
}
