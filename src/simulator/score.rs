//! The score of a match, and what it decides.

use crate::domain::odds::price::Line;

/// A team of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Home,
    Away,
}

/// The goals of a match so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub home: u32,
    pub away: u32,
}

impl Score {
    /// The score after one more goal.
    pub(crate) fn after_goal(self, side: Side) -> Score {
        let Score { home, away } = self;
        match side {
            Side::Home => Score {
                home: home + 1,
                away,
            },
            Side::Away => Score {
                home,
                away: away + 1,
            },
        }
    }

    /// The score with a goal that does not count after all: of the team that does not lead.
    pub(crate) fn with_disallowed_goal(self) -> Score {
        let is_home_ahead = self.home > self.away;
        self.after_goal(if is_home_ahead {
            Side::Away
        } else {
            Side::Home
        })
    }

    fn goals(self) -> u32 {
        self.home + self.away
    }
}

/// The outcome that a market prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The winner: home, draw or away.
    Winner,
    /// Whether there are more goals than the line: over or under.
    MoreGoals(Line),
    /// Whether both teams score: yes or no.
    BothScore,
}

impl Question {
    /// Which of the answers a final score makes true, in their order.
    pub(crate) fn answers(self, score: Score) -> Vec<bool> {
        match self {
            Question::Winner => vec![
                score.home > score.away,
                score.home == score.away,
                score.home < score.away,
            ],
            Question::MoreGoals(line) => {
                let is_over = is_over(score.goals(), line);
                vec![is_over, !is_over]
            }
            Question::BothScore => {
                let both = score.home > 0 && score.away > 0;
                vec![both, !both]
            }
        }
    }

    /// The probabilities of the answers if the teams score so many goals more on average,
    /// independently of each other. They sum to 1.
    pub(crate) fn probabilities(self, score: Score, home: f64, away: f64) -> Vec<f64> {
        let yes_no = |yes: f64| vec![yes, 1.0 - yes];
        match self {
            Question::Winner => winner(score, home, away),
            Question::MoreGoals(line) => {
                let more = poisson(home + away).zip(score.goals()..);
                let under: f64 = more
                    .take_while(|(_, goals)| !is_over(*goals, line))
                    .map(|(probability, _)| probability)
                    .sum();
                yes_no(1.0 - under)
            }
            Question::BothScore => {
                let scores = |goals: u32, more: f64| {
                    if goals > 0 { 1.0 } else { 1.0 - (-more).exp() }
                };
                yes_no(scores(score.home, home) * scores(score.away, away))
            }
        }
    }
}

fn is_over(goals: u32, line: Line) -> bool {
    i64::from(goals) * 1_000 > i64::from(line.thousandths())
}

/// More goals of one team than this count as impossible.
const MAX_MORE_GOALS: usize = 15;

fn winner(score: Score, home: f64, away: f64) -> Vec<f64> {
    let [mut wins, mut draws, mut losses] = [0.0; 3];
    for (one, goals) in poisson(home).zip(score.home..).take(MAX_MORE_GOALS) {
        for (other, conceded) in poisson(away).zip(score.away..).take(MAX_MORE_GOALS) {
            let both = one * other;
            match goals.cmp(&conceded) {
                std::cmp::Ordering::Greater => wins += both,
                std::cmp::Ordering::Equal => draws += both,
                std::cmp::Ordering::Less => losses += both,
            }
        }
    }
    let sum = wins + draws + losses;
    vec![wins / sum, draws / sum, losses / sum]
}

/// The probabilities of 0, 1, 2 ... goals.
fn poisson(expected: f64) -> impl Iterator<Item = f64> {
    let none = (-expected).exp();
    (1_u32..).scan(none, move |next, goals| {
        let current = *next;
        *next *= expected / f64::from(goals);
        Some(current)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [&str; 3] = ["1.5", "2.5", "3.5"];

    fn questions() -> Vec<Question> {
        let lines = ALL.map(|line| Question::MoreGoals(line.parse().unwrap()));
        [&lines[..], &[Question::Winner, Question::BothScore]].concat()
    }

    fn score(home: u32, away: u32) -> Score {
        Score { home, away }
    }

    #[test]
    fn answers_follow_from_score() {
        let over = Question::MoreGoals("2.5".parse().unwrap());
        for (home, away, winner, is_over, both) in [
            (0, 0, [false, true, false], false, false),
            (2, 0, [true, false, false], false, false),
            (1, 1, [false, true, false], false, true),
            (1, 2, [false, false, true], true, true),
            (0, 3, [false, false, true], true, false),
        ] {
            let score = score(home, away);
            assert_eq!(Question::Winner.answers(score), winner);
            assert_eq!(over.answers(score), [is_over, !is_over]);
            assert_eq!(Question::BothScore.answers(score), [both, !both]);
        }
    }

    #[test]
    fn disallowed_goal_is_of_team_that_does_not_lead() {
        assert_eq!(score(2, 1).with_disallowed_goal(), score(2, 2));
        assert_eq!(score(1, 1).with_disallowed_goal(), score(2, 1));
        assert_eq!(score(0, 1).with_disallowed_goal(), score(1, 1));
    }

    #[test]
    fn probabilities_of_even_match() {
        let rounded = |question: Question, home, away| {
            let all = question.probabilities(score(0, 0), home, away);
            all.iter()
                .map(|one| format!("{one:.3}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(rounded(Question::Winner, 1.0, 1.0), "0.346 0.309 0.346");
        assert_eq!(
            rounded(Question::MoreGoals("2.5".parse().unwrap()), 1.5, 1.0),
            "0.456 0.544"
        );
        assert_eq!(rounded(Question::BothScore, 1.5, 1.0), "0.491 0.509");
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one(
            home in 0_u32..8, away in 0_u32..8, more_home in 0.0..4.0f64, more_away in 0.0..4.0f64,
        ) {
            for question in questions() {
                let all = question.probabilities(score(home, away), more_home, more_away);
                prop_assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{all:?}");
                prop_assert!(all.iter().all(|one| (-1e-9..=1.0 + 1e-9).contains(one)), "{all:?}");
            }
        }

        /// Without time for more goals the probabilities are the result.
        #[test]
        fn probabilities_end_at_answers(home in 0_u32..8, away in 0_u32..8) {
            for question in questions() {
                let score = score(home, away);
                let ends: Vec<_> = question.answers(score).into_iter().map(|won| f64::from(u8::from(won))).collect();
                let near = |more: f64| question.probabilities(score, more, more);
                prop_assert_eq!(near(0.0), ends.clone());
                for (probability, end) in near(0.001).into_iter().zip(ends) {
                    prop_assert!((probability - end).abs() < 0.01);
                }
            }
        }

        /// A goal makes the scorer's win, more goals, and both teams scoring more likely.
        #[test]
        fn goal_moves_probabilities(home in 0_u32..5, away in 0_u32..5, more in 0.01..2.0f64) {
            let before = score(home, away);
            let after = before.after_goal(Side::Home);
            for question in questions() {
                let of = |score| question.probabilities(score, more, more);
                prop_assert!(of(after)[0] >= of(before)[0] - 1e-9);
                let last = of(after).len() - 1;
                prop_assert!(of(after)[last] <= of(before)[last] + 1e-9);
            }
        }

        #[test]
        fn disallowed_goal_leaves_no_score_as_it_is(home in 0_u32..5, away in 0_u32..5) {
            let wrong = score(home, away).with_disallowed_goal();
            prop_assert_eq!(wrong.goals(), home + away + 1);
        }
    }
}
