//! One round of a fixture: what happens in it, and when.

use std::collections::VecDeque;

use fastrand::Rng;

use super::schedule::{RoundTimes, Schedule};
use super::score::{Score, Side};
use super::walk::Situation;
use crate::domain::timestamp::Timestamp;

/// Maximum number of goals of a team.
const MAX_GOALS: usize = 15;

/// What happens in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The markets open.
    Open,
    /// The match starts.
    KickOff,
    /// A team scores: the markets are suspended.
    Goal(Side),
    /// The markets open again, at other prices.
    Resume,
    /// The match is over: the markets are closed.
    Whistle,
    /// The result is published.
    Publish,
    /// The published result is taken back.
    RollBack,
    /// The published result was wrong, and another one is published.
    Correct,
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By its score.
    Score,
    /// By its score, after a result with a goal that does not count.
    Corrected {
        /// The wrong result is taken back before the right one is published.
        is_rolled_back: bool,
    },
    /// The whole match is void.
    Void,
    /// By its score, but one market is void.
    MarketVoid(usize),
}

/// A round in progress.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub times: RoundTimes,
    pub ending: Ending,
    pub score: Score,
    /// When the markets were closed.
    pub closed_at: Option<Timestamp>,
    steps: VecDeque<(Timestamp, Step)>,
}

impl Round {
    /// Draws the goals and the ending of a round. `goals` is how many home and away score on average,
    /// `markets` the number of markets of the fixture.
    pub(crate) fn draw(
        schedule: &Schedule,
        times: RoundTimes,
        goals: (f64, f64),
        markets: usize,
        random: &mut Rng,
    ) -> Round {
        let play = times.whistle.micros() - times.kick_off.micros();
        let mut scored = Vec::new();
        for (side, expected) in [(Side::Home, goals.0), (Side::Away, goals.1)] {
            for _ in 0..draw_goals(expected, random) {
                let micros = times.kick_off.micros() + random.i64(0..play.max(1));
                scored.extend(Timestamp::from_micros(micros).map(|time| (time, side)));
            }
        }
        scored.sort_by_key(|(time, _)| *time);
        let ending = draw_ending(markets, random);
        Round {
            times,
            ending,
            score: Score::default(),
            closed_at: None,
            steps: steps(schedule, &times, &scored, ending),
        }
    }

    /// When the next step is.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.steps.front().map(|(time, _)| *time)
    }

    /// Takes the next step if its time has come.
    pub(crate) fn step(&mut self, now: Timestamp) -> Option<Step> {
        let (_, step) = self.steps.pop_front_if(|(time, _)| *time <= now)?;
        match step {
            Step::Goal(side) => self.score = self.score.after_goal(side),
            Step::Whistle => self.closed_at = Some(now),
            _ => {}
        }
        Some(step)
    }

    /// How the match stands.
    pub(crate) fn situation(&self, now: Timestamp) -> Situation {
        Situation {
            score: self.score,
            remaining: self.times.remaining(now),
        }
    }

    /// The score that is published first.
    pub(crate) fn published_score(&self) -> Score {
        match self.ending {
            Ending::Corrected { .. } => self.score.with_disallowed_goal(),
            _ => self.score,
        }
    }
}

fn steps(
    schedule: &Schedule,
    times: &RoundTimes,
    goals: &[(Timestamp, Side)],
    ending: Ending,
) -> VecDeque<(Timestamp, Step)> {
    let mut steps = VecDeque::from([(times.opening, Step::Open), (times.kick_off, Step::KickOff)]);
    for (index, (time, side)) in goals.iter().enumerate() {
        steps.push_back((*time, Step::Goal(*side)));
        let resumed = time.later_by(schedule.halt());
        let next = goals
            .get(index + 1)
            .map_or(times.whistle, |(next, _)| *next);
        if resumed < next {
            steps.push_back((resumed, Step::Resume));
        }
    }
    steps.push_back((times.whistle, Step::Whistle));
    steps.push_back((times.end, Step::Publish));
    if let Ending::Corrected { is_rolled_back } = ending {
        let later = |count| times.end.later_by(schedule.correction_delay() * count);
        if is_rolled_back {
            steps.push_back((later(1), Step::RollBack));
        }
        steps.push_back((later(2), Step::Correct));
    }
    steps
}

/// A Poisson distribution, by Knuth's method.
fn draw_goals(expected: f64, random: &mut Rng) -> usize {
    let limit = (-expected).exp();
    let products =
        std::iter::successors(Some(random.f64()), |product| Some(product * random.f64()));
    products
        .take(MAX_GOALS)
        .take_while(|product| *product > limit)
        .count()
}

/// Of a hundred rounds six have a wrong result first, three are void, and in three a market is.
fn draw_ending(markets: usize, random: &mut Rng) -> Ending {
    match random.u32(0..100) {
        0..3 => Ending::Corrected {
            is_rolled_back: false,
        },
        3..6 => Ending::Corrected {
            is_rolled_back: true,
        },
        6..9 => Ending::Void,
        9..12 => Ending::MarketVoid(random.usize(0..markets.max(1))),
        _ => Ending::Score,
    }
}
