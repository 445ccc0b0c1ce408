//! When a feed publishes the confirmed markets of a source again for a selector: when the source is
//! reported as live after it was not. Time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceState;

/// Reports and updates reach a selector on different topics. A second repetition arrives after the
/// report of the loss even if the first one does not.
const REPEAT_AFTER: Duration = Duration::from_secs(3);
/// A report may reach the reporter later than the one before it.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// The sources that are reported as live.
#[derive(Debug)]
pub(super) struct Repetitions {
    /// A source that is not reported for so long is reported as stale in the meantime.
    silence: Duration,
    reported_at: Option<Instant>,
    /// When the second repetition is due; `None` after it.
    live: BTreeMap<Source, Option<Instant>>,
}

impl Repetitions {
    /// A report counts for `stale_after`.
    pub(super) fn new(stale_after: Duration) -> Repetitions {
        Repetitions {
            silence: stale_after - MAX_DELAY.min(stale_after / 4),
            reported_at: None,
            live: BTreeMap::new(),
        }
    }

    /// The sources whose markets are published again now that these states are reported.
    pub(super) fn due(&mut self, states: &[(Source, SourceState)], now: Instant) -> Vec<Source> {
        let earlier = self.reported_at.replace(now);
        if earlier.is_some_and(|earlier| now.duration_since(earlier) >= self.silence) {
            self.live.clear();
        }
        let is_live = |source: &Source| {
            let mut live = states
                .iter()
                .filter(|(_, state)| *state == SourceState::Live);
            live.any(|(live, _)| live == source)
        };
        self.live.retain(|source, _| is_live(source));
        let sources = states.iter().map(|(source, _)| source);
        sources
            .filter(|source| is_live(source) && self.is_due(source, now))
            .cloned()
            .collect()
    }

    fn is_due(&mut self, source: &Source, now: Instant) -> bool {
        let Some(second) = self.live.get_mut(source) else {
            let second = now + REPEAT_AFTER;
            self.live.insert(source.clone(), Some(second));
            return true;
        };
        second.take_if(|second| *second <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Rig {
        repetitions: Repetitions,
        now: Instant,
    }

    impl Rig {
        fn new() -> Rig {
            Rig {
                repetitions: Repetitions::new(4 * SECOND),
                now: Instant::now(),
            }
        }

        /// Reports the states of the sources a and b after a while; what is repeated.
        fn after(&mut self, wait: Duration, a: SourceState, b: SourceState) -> Vec<String> {
            self.now += wait;
            let source = |name| Source::new(name).unwrap();
            let states = [(source("a"), a), (source("b"), b)];
            let due = self.repetitions.due(&states, self.now);
            due.iter()
                .map(|source| source.as_str().to_owned())
                .collect()
        }
    }

    #[test]
    fn source_is_repeated_twice_when_it_becomes_live() {
        use SourceState::{Live, Recovering, Stale};
        let mut rig = Rig::new();
        assert_eq!(rig.after(SECOND, Recovering, Live), ["b"]);
        assert_eq!(rig.after(SECOND, Live, Live), ["a"]);
        assert_eq!(rig.after(SECOND, Live, Live), [""; 0]);
        assert_eq!(rig.after(SECOND, Live, Live), ["b"], "again");
        assert_eq!(rig.after(SECOND, Live, Stale), ["a"], "again");
        for _ in 0..10 {
            assert_eq!(rig.after(SECOND, Live, Stale), [""; 0]);
        }
        assert_eq!(rig.after(SECOND, Live, Live), ["b"]);
    }

    /// The reporter has reported the sources as stale in the meantime.
    #[test]
    fn unreported_source_is_repeated() {
        use SourceState::Live;
        let mut rig = Rig::new();
        rig.after(SECOND, Live, Live);
        rig.after(3 * SECOND, Live, Live);
        assert_eq!(rig.after(3 * SECOND, Live, Live), [""; 0]);
        assert_eq!(rig.after(4 * SECOND, Live, Live), ["a", "b"]);
    }
}
