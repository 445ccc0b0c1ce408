//! The hidden state that prices follow, and the computation of prices from it.

use fastrand::Rng;

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

/// The hidden state of an event, as log-odds. All markets of the event share it, so the lines of
/// total goals are consistent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth {
    home: Walk,
    draw: Walk,
    away: Walk,
    goals: Walk,
    both_score: Walk,
}

/// The outcome that a market prices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Question {
    /// The winner.
    Winner,
    /// Whether there are more goals than the line; the value is the log-odds in an average match.
    MoreGoals(f64),
    /// Whether both teams score.
    BothScore,
}

impl Truth {
    /// Draws the state of a new event: the strengths of the teams and the usual number of goals.
    pub(crate) fn draw(random: &mut Rng) -> Truth {
        let mut around = |middle: f64, spread: f64| middle + spread * (2.0 * random.f64() - 1.0);
        Truth {
            home: Walk::new(around(0.2, 0.6), 0.5, 0.03),
            draw: Walk::new(around(-0.05, 0.15), 0.25, 0.015),
            away: Walk::new(around(-0.2, 0.6), 0.5, 0.03),
            // A narrow reach: the lines of one match stay in order even if one of them was priced
            // long ago.
            goals: Walk::new(around(0.0, 0.4), 0.2, 0.02),
            both_score: Walk::new(around(0.1, 0.4), 0.5, 0.03),
        }
    }

    /// Moves the values that the question depends on.
    pub(crate) fn step(&mut self, question: Question, random: &mut Rng, times: f64) {
        let moved: &mut [&mut Walk] = match question {
            Question::Winner => &mut [&mut self.home, &mut self.draw, &mut self.away],
            Question::MoreGoals(_) => &mut [&mut self.goals],
            Question::BothScore => &mut [&mut self.both_score],
        };
        for walk in moved {
            walk.step(random, times);
        }
    }

    /// The probabilities of the outcomes; they sum to 1.
    pub(crate) fn probabilities(&self, question: Question) -> Vec<f64> {
        let yes_no = |log_odds: f64| {
            let yes = 1.0 / (1.0 + (-log_odds).exp());
            vec![yes, 1.0 - yes]
        };
        match question {
            Question::Winner => {
                let weights = [self.home, self.draw, self.away].map(|walk| walk.at().exp());
                let sum: f64 = weights.iter().sum();
                weights.iter().map(|weight| weight / sum).collect()
            }
            Question::MoreGoals(usual) => yes_no(usual + self.goals.at()),
            Question::BothScore => yes_no(self.both_score.at()),
        }
    }
}

/// The price of an outcome if the market's implied probabilities must sum to `margin`.
pub(crate) fn price(probability: f64, margin: f64) -> Price {
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
        fn probabilities_sum_to_one(seed in any::<u64>()) {
            let mut random = Rng::with_seed(seed);
            let mut truth = Truth::draw(&mut random);
            for question in [Question::Winner, Question::MoreGoals(1.1), Question::BothScore] {
                for _ in 0..50 { truth.step(question, &mut random, 8.0); }
                let probabilities = truth.probabilities(question);
                prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                prop_assert!(probabilities.iter().all(|one| (0.02..0.98).contains(one)), "{probabilities:?}");
            }
        }
    }
}
