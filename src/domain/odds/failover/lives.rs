//! Which sources are live, and since when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::domain::ids::Source;
use crate::domain::odds::source_status::{SourceState, SourceStatus};

/// The life of each source, as this process has seen it. A source that was never reported counts as
/// live, because an earlier version reports none.
#[derive(Debug)]
pub struct SourceLives {
    started: Instant,
    /// A process that has just started has not heard the reports yet. Until then a source counts as
    /// lost only if it was seen live before.
    trusts_until: Instant,
    failback_after: Duration,
    /// When the lives were observed last.
    observed: Instant,
    lives: BTreeMap<Source, Life>,
}

/// The life of one source.
#[derive(Clone, Copy, Debug)]
struct Life {
    state: SourceState,
    /// When it became live.
    since: Instant,
    /// Whether it was reported as live.
    was_live: bool,
}

/// What has changed since the last observation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// Sources that have become worse: what they said before is no longer vouched for.
    pub lost: Vec<Source>,
    /// Whether the owners of markets may change.
    pub is_due: bool,
}

impl SourceLives {
    /// Knows no source. At first, for `grace`, a source that is not reported as live may only be
    /// one that was not heard yet.
    pub fn new(failback_after: Duration, grace: Duration, now: Instant) -> SourceLives {
        SourceLives {
            started: now,
            trusts_until: now + grace,
            failback_after,
            observed: now,
            lives: BTreeMap::new(),
        }
    }

    /// Compares the reported states with the earlier ones.
    pub(super) fn observe(
        &mut self,
        reported: &BTreeMap<Source, SourceStatus>,
        now: Instant,
    ) -> Observed {
        let mut observed = Observed::default();
        for (source, status) in reported {
            let earlier = self.life(source);
            let life = self.after(earlier, status.state, now);
            if life.state < earlier.state {
                observed.lost.push(source.clone());
            }
            observed.is_due |= life.state != earlier.state;
            self.lives.insert(source.clone(), life);
        }
        observed.is_due |= self.has_matured(now);
        self.observed = now;
        observed
    }

    /// The life of a source that is now reported with this state.
    fn after(&self, earlier: Life, reported: SourceState, now: Instant) -> Life {
        let is_live = reported == SourceState::Live;
        let is_unheard = !is_live && !earlier.was_live && now < self.trusts_until;
        let state = if is_unheard { earlier.state } else { reported };
        let begins = state == SourceState::Live && earlier.state != SourceState::Live;
        Life {
            state,
            since: if begins { now } else { earlier.since },
            was_live: earlier.was_live || is_live,
        }
    }

    /// Whether a source has been live for long enough since the last observation.
    fn has_matured(&self, now: Instant) -> bool {
        let reported = self.lives.values().filter(|life| life.is_live());
        let starts = reported.map(|life| life.since).chain([self.started]);
        starts
            .map(|since| since + self.failback_after)
            .any(|due| self.observed < due && due <= now)
    }

    fn life(&self, source: &Source) -> Life {
        let unreported = Life {
            state: SourceState::Live,
            since: self.started,
            was_live: false,
        };
        self.lives.get(source).copied().unwrap_or(unreported)
    }

    /// Whether a source is live.
    pub fn is_live(&self, source: &Source) -> bool {
        self.life(source).is_live()
    }

    /// Whether a source has been live for long enough to take a market from a live one.
    pub(super) fn may_take_back(&self, source: &Source, now: Instant) -> bool {
        let life = self.life(source);
        life.is_live() && now.saturating_duration_since(life.since) >= self.failback_after
    }
}

impl Life {
    fn is_live(self) -> bool {
        self.state == SourceState::Live
    }
}
