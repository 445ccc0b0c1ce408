//! The hidden truth that prices follow, and how a price is made from it.

use fastrand::Rng;

use crate::domain::odds::price::Price;

/// How much of the way back to its centre a walk goes with each step.
const PULL: f64 = 0.02;

/// A number that wanders around a centre: pulled back a little with each step, and never further
/// away than its reach.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    centre: f64,
    reach: f64,
    stride: f64,
    at: f64,
}

impl Walk {
    /// A walk that starts at its centre.
    pub fn new(centre: f64, reach: f64, stride: f64) -> Walk {
        Walk {
            centre,
            reach,
            stride,
            at: centre,
        }
    }

    /// Takes a step as long as `times` the usual.
    pub fn step(&mut self, random: &mut Rng, times: f64) {
        let pull = PULL * (self.centre - self.at);
        let push = self.stride * times * noise(random);
        self.at = (self.at + pull + push).clamp(self.centre - self.reach, self.centre + self.reach);
    }

    /// Where it is.
    pub fn at(&self) -> f64 {
        self.at
    }
}

/// About a normal distribution of deviation 1, never beyond ±3.
fn noise(random: &mut Rng) -> f64 {
    2.0 * (random.f64() + random.f64() + random.f64() - 1.5)
}

/// What an event's markets follow, as log-odds. One truth for all of its markets: the lines of
/// total goals agree.
#[derive(Clone, Copy, Debug)]
pub struct Truth {
    home: Walk,
    draw: Walk,
    away: Walk,
    goals: Walk,
    both_score: Walk,
}

/// What a market asks about an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Question {
    /// Who wins?
    Winner,
    /// Are there more goals than the line, which in a usual match has these log-odds?
    MoreGoals(f64),
    /// Do both teams score?
    BothScore,
}

impl Truth {
    /// The truth of a new event: who is stronger, and by how much, and how many goals there are
    /// usually.
    pub fn draw(random: &mut Rng) -> Truth {
        let mut around = |middle: f64, spread: f64| middle + spread * (2.0 * random.f64() - 1.0);
        Truth {
            home: Walk::new(around(0.2, 0.6), 0.5, 0.03),
            draw: Walk::new(around(-0.05, 0.15), 0.25, 0.015),
            away: Walk::new(around(-0.2, 0.6), 0.5, 0.03),
            // A narrow reach: the lines of one match stay in order even when one of them was priced
            // long ago.
            goals: Walk::new(around(0.0, 0.4), 0.2, 0.02),
            both_score: Walk::new(around(0.1, 0.4), 0.5, 0.03),
        }
    }

    /// Moves what the question is about.
    pub fn step(&mut self, question: Question, random: &mut Rng, times: f64) {
        let moved: &mut [&mut Walk] = match question {
            Question::Winner => &mut [&mut self.home, &mut self.draw, &mut self.away],
            Question::MoreGoals(_) => &mut [&mut self.goals],
            Question::BothScore => &mut [&mut self.both_score],
        };
        for walk in moved {
            walk.step(random, times);
        }
    }

    /// The probabilities of the answers; they sum to 1.
    pub fn probabilities(&self, question: Question) -> Vec<f64> {
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

/// The price of an outcome when the market's implied probabilities shall sum to `margin`.
pub fn price(probability: f64, margin: f64) -> Price {
    let thousandths = (1_000.0 / (probability * margin)).round();
    let held = thousandths.clamp(
        f64::from(Price::MIN.thousandths()),
        f64::from(Price::MAX.thousandths()),
    );
    Price::from_thousandths(held as u32).unwrap_or(Price::MAX)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fair_coin_with_a_margin() {
        assert_eq!(price(0.5, 1.0).to_string(), "2");
        assert_eq!(price(0.5, 1.05).to_string(), "1.905");
        assert_eq!(price(0.0, 1.05), Price::MAX);
        assert_eq!(price(1.0, 1.05), Price::MIN);
        assert_eq!(price(f64::NAN, 1.05), Price::MAX);
    }

    proptest! {
        #[test]
        fn a_walk_stays_within_its_reach_and_moves(seed in any::<u64>(), centre in -2.0..2.0f64) {
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
        fn a_walk_comes_back_to_its_centre(seed in any::<u64>()) {
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
