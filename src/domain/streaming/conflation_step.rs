//! The time for which a client lets changes be held back.

use std::time::Duration;

/// The longest time that a client can request, in milliseconds.
pub(super) const MAX_MS: u32 = 120_000;

/// The steps, in milliseconds. Clients of one step share the messages, so there are few.
const STEPS: [u32; 11] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, MAX_MS,
];

/// One of the times for which changes can be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConflationStep(u32);

impl ConflationStep {
    /// The first step that is not below `millis`; `None` above the last one.
    pub fn of(millis: u64) -> Option<ConflationStep> {
        STEPS
            .into_iter()
            .find(|step| u64::from(*step) >= millis)
            .map(ConflationStep)
    }

    /// The step in milliseconds.
    pub fn millis(self) -> u32 {
        self.0
    }

    /// The number of the interval that contains a time, counted from a common start.
    pub(super) fn interval(self, elapsed: Duration) -> u128 {
        elapsed.as_millis() / u128::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_rounded_up() {
        let step = |millis| ConflationStep::of(millis).map(ConflationStep::millis);
        assert_eq!(step(1), Some(50));
        assert_eq!(step(50), Some(50));
        assert_eq!(step(51), Some(100));
        assert_eq!(step(60_001), Some(120_000));
        assert_eq!(step(120_000), Some(120_000));
        assert_eq!(step(120_001), None);
    }
}
