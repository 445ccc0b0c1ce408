//! Simulated faults of confirmation requests. They are drawn for each request, so that a retry may
//! succeed.

use std::time::Duration;

use strum::{IntoStaticStr, VariantNames};

use crate::config::settings::SimulatorSettings;

/// A simulated fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Fault {
    /// The bet is recorded, and the request is left unanswered.
    Silent,
    /// The bet is recorded, and the response is unreadable.
    Garbage,
    /// The bet is not recorded: status 500.
    Error,
}

impl Fault {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How often the supplier fails, and how long it takes to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FaultPlan {
    /// Delay before each response.
    pub delay: Duration,
    /// The fraction (0 to 1) of requests that each fault affects. The faults are drawn
    /// independently, in the order of the variants of [`Fault`].
    shares: [(Fault, f64); 3],
}

impl FaultPlan {
    /// Reads the plan from the settings.
    pub(crate) fn new(settings: &SimulatorSettings) -> FaultPlan {
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

    /// Draws the fault of a request, if any.
    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> Option<Fault> {
        let drawn = self.shares.iter().find(|(_, share)| random.f64() < *share);
        drawn.map(|(fault, _)| *fault)
    }
}

/// An unreadable response, of several kinds.
pub(crate) fn garbage(random: &mut fastrand::Rng) -> &'static str {
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
    fn fault_frequency_matches_settings() {
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
