//! When matches are played. Each fixture is played in rounds of equal length, one after the other,
//! at times that follow from the clock alone: a simulator that is restarted continues the rounds that
//! it was in, and its results settle the bets placed before.

use std::time::Duration;

use crate::domain::timestamp::Timestamp;

/// The shortest time from the final whistle to the result.
const MIN_RESULT_DELAY: Duration = Duration::from_millis(500);
/// Rounds of consecutive fixtures start this part of a round apart (golden ratio), so that at any time
/// some matches are in play.
const STAGGER: f64 = 0.618_033_988_75;

/// The times of all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pause: Duration,
    before: Duration,
    play: Duration,
    result_delay: Duration,
}

impl Schedule {
    /// Matches of this duration; `None` if it is 0.
    pub(crate) fn new(play: Duration) -> Option<Schedule> {
        (!play.is_zero()).then(|| Schedule {
            pause: play / 10,
            before: play / 2,
            play,
            result_delay: MIN_RESULT_DELAY.max(play / 60),
        })
    }

    /// The length of a round.
    pub(crate) fn round_length(&self) -> Duration {
        self.pause + self.before + self.play + self.result_delay
    }

    /// How long the markets of an event are suspended after a goal.
    pub(crate) fn halt(&self) -> Duration {
        self.play / 60
    }

    /// How long after a wrong result it is corrected, in up to two steps before the next match is
    /// offered.
    pub(crate) fn correction_delay(&self) -> Duration {
        self.pause / 3
    }

    /// The times of the round that a fixture is in at this time.
    pub(crate) fn times_at(&self, fixture: usize, time: Timestamp) -> RoundTimes {
        let length = self.round_length();
        let first_start = length.mul_f64((fixture as f64 * STAGGER).fract());
        let passed = (time.micros() - micros(first_start)).rem_euclid(micros(length));
        let start = time.earlier_by(Duration::from_micros(passed.unsigned_abs()));
        let opening = start.later_by(self.pause);
        let kick_off = opening.later_by(self.before);
        let whistle = kick_off.later_by(self.play);
        RoundTimes {
            start,
            opening,
            kick_off,
            whistle,
            end: whistle.later_by(self.result_delay),
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The times of one round of a fixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoundTimes {
    /// The start: the result of the round before is published. Bets placed from now on are bets of this
    /// round.
    pub start: Timestamp,
    /// The markets open.
    pub opening: Timestamp,
    /// The match starts.
    pub kick_off: Timestamp,
    /// The match ends, and so do the markets.
    pub whistle: Timestamp,
    /// The result is published, and the next round starts.
    pub end: Timestamp,
}

impl RoundTimes {
    /// The part of the match that is left.
    pub(crate) fn remaining(&self, time: Timestamp) -> f64 {
        let left = self.whistle.seconds_since(time) / self.whistle.seconds_since(self.kick_off);
        left.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn default_round_takes_eight_minutes() {
        assert_eq!(Schedule::new(Duration::ZERO), None);
        let schedule = Schedule::new(Duration::from_secs(300)).unwrap();
        assert_eq!(schedule.round_length(), Duration::from_secs(485));
        assert_eq!(schedule.halt(), Duration::from_secs(5));
        let times = schedule.times_at(0, Timestamp::from_millis(1_762_722_465_000).unwrap());
        let seconds = |time: Timestamp| time.seconds_since(times.start);
        let all = [times.opening, times.kick_off, times.whistle, times.end].map(seconds);
        assert_eq!(all, [30.0, 180.0, 480.0, 485.0]);
        assert_eq!(times.remaining(times.start), 1.0);
        assert_eq!(
            times.remaining(times.kick_off.later_by(Duration::from_secs(75))),
            0.75
        );
        assert_eq!(times.remaining(times.end), 0.0);
    }

    #[test]
    fn matches_are_spread_over_round() {
        let schedule = Schedule::new(Duration::from_secs(300)).unwrap();
        let time = Timestamp::from_millis(1_762_722_465_000).unwrap();
        let in_play = (0..100).filter(|fixture| {
            let times = schedule.times_at(*fixture, time);
            times.kick_off <= time && time < times.whistle
        });
        assert!((57..67).contains(&in_play.count()));
    }

    proptest! {
        #[test]
        fn rounds_follow_each_other(
            seconds in 1_u64..100_000, fixture in 0_usize..100_000, millis in 1_000_000_000_000_i64..4_000_000_000_000,
        ) {
            let schedule = Schedule::new(Duration::from_secs(seconds)).unwrap();
            let time = Timestamp::from_millis(millis).unwrap();
            let times = schedule.times_at(fixture, time);
            prop_assert!(times.start <= time && time < times.end);
            let next = schedule.times_at(fixture, times.end);
            prop_assert_eq!(times.end, next.start);
            prop_assert_eq!(schedule.times_at(fixture, times.start), times);
            prop_assert!(times.start < times.opening && times.opening < times.kick_off);
            prop_assert!(times.kick_off < times.whistle && times.whistle < times.end);
            let corrected = times.end.later_by(schedule.correction_delay() * 2);
            prop_assert!(corrected < next.opening);
        }
    }
}
