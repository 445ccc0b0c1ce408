//! How the supplier fails those who ask it for a confirmation: for each question anew, so that the
//! next may succeed.

use std::time::Duration;

use crate::config::settings::SimulatorSettings;
use crate::domain::string_enum::string_enum;

string_enum! {
    /// A fault.
    Fault, "fault of the simulator", {
        /// The bet is in the books, and nothing is answered.
        Silent = "silent",
        /// The bet is in the books, and the answer cannot be read.
        Garbage = "garbage",
        /// The bet does not come to the books: 500.
        Error = "error",
    }
}

/// How often it fails, and how long it takes to answer.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    /// Before each answer.
    pub delay: Duration,
    /// Of all questions so many meet a fault, 0 to 1; each is drawn by itself, in the order of
    /// [`Fault::ALL`].
    shares: [(Fault, f64); 3],
}

impl FaultPlan {
    /// As the settings say.
    pub fn new(settings: &SimulatorSettings) -> FaultPlan {
        let shares = [
            (Fault::Silent, settings.simulator_confirm_silent_share),
            (Fault::Garbage, settings.simulator_confirm_garbage_share),
            (Fault::Error, settings.simulator_confirm_error_share),
        ];
        FaultPlan {
            delay: settings.simulator_confirm_delay,
            shares,
        }
    }

    /// What goes wrong with a question.
    pub fn draw(&self, random: &mut fastrand::Rng) -> Option<Fault> {
        let met = self.shares.iter().find(|(_, share)| random.f64() < *share);
        met.map(|(fault, _)| *fault)
    }
}

/// What cannot be read, of several kinds.
pub fn garbage(random: &mut fastrand::Rng) -> &'static str {
    const KINDS: [&str; 5] = [
        "",
        "{\"status\":\"CONF",
        "<html>oops</html>",
        "{\"status\":\"MAYBE\"}",
        "[]",
    ];
    KINDS[random.usize(..KINDS.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(silent: f64, garbage: f64, error: f64) -> FaultPlan {
        let shares = [
            (Fault::Silent, silent),
            (Fault::Garbage, garbage),
            (Fault::Error, error),
        ];
        FaultPlan {
            delay: Duration::ZERO,
            shares,
        }
    }

    #[test]
    fn faults_come_as_often_as_they_should() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut count = |plan: FaultPlan, fault| {
            (0..10_000)
                .filter(|_| plan.draw(&mut random) == fault)
                .count()
        };
        assert_eq!(count(plan(0.0, 0.0, 0.0), None), 10_000);
        assert_eq!(count(plan(0.0, 0.0, 1.0), Some(Fault::Error)), 10_000);
        assert_eq!(count(plan(1.0, 1.0, 1.0), Some(Fault::Silent)), 10_000);
        let garbage = count(plan(0.0, 0.25, 0.0), Some(Fault::Garbage));
        assert!((2_200..2_800).contains(&garbage), "{garbage}");
        assert!(
            count(plan(0.3, 0.3, 0.3), None) > 3_000,
            "a retry may succeed"
        );
    }
}
