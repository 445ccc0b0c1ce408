//! The hidden state that prices follow, and the computation of prices from it.

use fastrand::Rng;

use super::score::{Question, Score};
use crate::domain::odds::price::Price;

/// The fraction of the distance to its centre that a walk returns with each step.
const PULL: f64 = 0.02;

/// A bounded random walk around a centre: each step pulls it back a little, and it never moves
/// further away than its reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    centre: f64,
    reach: f64,
    stride: f64,
    at: f64,
}

impl Walk {
    /// A walk that starts at its centre.
    pub(crate) fn new(centre: f64, reach: f64, stride: f64) -> Walk {
        Walk {
            centre,
            reach,
            stride,
            at: centre,
        }
    }

    /// Takes a step of `times` the usual length.
    pub(crate) fn step(&mut self, random: &mut Rng, times: f64) {
        let pull = PULL * (self.centre - self.at);
        let push = self.stride * times * noise(random);
        self.at = (self.at + pull + push).clamp(self.centre - self.reach, self.centre + self.reach);
    }

    /// The current value.
    pub(crate) fn at(&self) -> f64 {
        self.at
    }
}

/// Approximately a normal distribution with standard deviation 1, never beyond ±3.
fn noise(random: &mut Rng) -> f64 {
    2.0 * (random.f64() + random.f64() + random.f64() - 1.5)
}

/// The hidden state of an event: the logarithms of the goals that each team scores in a match on
/// average. All markets of the event share it, so their prices are consistent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth {
    home: Walk,
    away: Walk,
}

/// How a match stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Situation {
    /// The goals so far.
    pub score: Score,
    /// The part of the match that is left: 1 before it, 0 after it.
    pub remaining: f64,
}

impl Situation {
    /// Before the match.
    pub(crate) const BEFORE: Situation = Situation {
        score: Score { home: 0, away: 0 },
        remaining: 1.0,
    };
}

/// Goals of a team in an average match.
const USUAL_GOALS: f64 = 1.25;

impl Truth {
    /// Draws the state of a new event: how many goals are usual, and which team is better.
    pub(crate) fn draw(random: &mut Rng) -> Truth {
        let mut around = |middle: f64, spread: f64| middle + spread * (2.0 * random.f64() - 1.0);
        let (goals, advantage) = (around(USUAL_GOALS.ln(), 0.15), around(0.1, 0.4));
        // A narrow reach: the lines of one match stay in order even if one of them was priced long
        // ago.
        let walk = |centre| Walk::new(centre, 0.08, 0.015);
        Truth {
            home: walk(goals + advantage),
            away: walk(goals - advantage),
        }
    }

    /// Moves the values.
    pub(crate) fn step(&mut self, random: &mut Rng, times: f64) {
        self.home.step(random, times);
        self.away.step(random, times);
    }

    /// The goals that home and away score in a match on average, however prices move.
    pub(crate) fn usual_goals(&self) -> (f64, f64) {
        (self.home.centre.exp(), self.away.centre.exp())
    }

    /// The probabilities of the answers; they sum to 1.
    pub(crate) fn probabilities(&self, question: Question, situation: Situation) -> Vec<f64> {
        let more = |walk: Walk| walk.at().exp() * situation.remaining;
        question.probabilities(situation.score, more(self.home), more(self.away))
    }
}

/// The price of an outcome if the market's implied probabilities must sum to `margin`.
pub(crate) fn price(probability: f64, margin: f64) -> Price {
    // Rounding may have left an impossible outcome below 0.
    let probability = probability.max(f64::MIN_POSITIVE);
    let thousandths = (1_000.0 / (probability * margin)).round();
    let clamped = thousandths.clamp(
        f64::from(Price::MIN.thousandths()),
        f64::from(Price::MAX.thousandths()),
    );
    Price::from_thousandths(clamped as u32).unwrap_or(Price::MAX)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn price_includes_margin() {
        assert_eq!(price(0.5, 1.0).to_string(), "2");
        assert_eq!(price(0.5, 1.05).to_string(), "1.905");
        assert_eq!(price(0.0, 1.05), Price::MAX);
        assert_eq!(price(1.0, 1.05), Price::MIN);
        assert_eq!(price(-0.0, 1.05), Price::MAX);
        assert_eq!(price(-1e-17, 1.05), Price::MAX);
        assert_eq!(price(f64::NAN, 1.05), Price::MAX);
    }

    proptest! {
        #[test]
        fn walk_moves_within_its_reach(seed in any::<u64>(), centre in -2.0..2.0f64) {
            let mut random = Rng::with_seed(seed);
            let mut walk = Walk::new(centre, 0.5, 0.1);
            let mut moved = 0;
            for _ in 0..500 {
                let before = walk.at();
                walk.step(&mut random, 1.0);
                prop_assert!((walk.at() - centre).abs() <= 0.5 + 1e-9);
                moved += usize::from(before != walk.at());
            }
            prop_assert!(moved > 400);
        }

        #[test]
        fn walk_returns_to_its_centre(seed in any::<u64>()) {
            let mut random = Rng::with_seed(seed);
            let mut walk = Walk::new(1.0, 0.5, 0.03);
            let mean = (0..5_000).map(|_| { walk.step(&mut random, 1.0); walk.at() }).sum::<f64>() / 5_000.0;
            prop_assert!((mean - 1.0).abs() < 0.25, "{mean}");
        }

        #[test]
        fn no_outcome_is_certain_before_match(seed in any::<u64>()) {
            let mut random = Rng::with_seed(seed);
            let mut truth = Truth::draw(&mut random);
            let lines = ["1.5", "2.5", "3.5"].map(|line| Question::MoreGoals(line.parse().unwrap()));
            for question in [&lines[..], &[Question::Winner, Question::BothScore]].concat() {
                for _ in 0..50 { truth.step(&mut random, 8.0); }
                let probabilities = truth.probabilities(question, Situation::BEFORE);
                prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                prop_assert!(probabilities.iter().all(|one| (0.05..0.9).contains(one)), "{probabilities:?}");
            }
        }
    }
}
