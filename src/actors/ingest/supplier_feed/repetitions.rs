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
    /// After a pause of this length between reports, the source was reported as stale meanwhile.
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
        let live = states
            .iter()
            .filter(|(_, state)| *state == SourceState::Live);
        let live: Vec<_> = live.map(|(source, _)| source).collect();
        self.live.retain(|source, _| live.contains(&source));
        live.into_iter()
            .filter(|source| self.is_due(source, now))
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
mod tests;
