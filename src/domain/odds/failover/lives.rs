//! Which sources are live, and since when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::MAX_CLOCK_DIFFERENCE;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::{CurrentReports, LivePeriod, SourceState};

/// How long the reports of a source must have arrived in time before it takes a market from a source
/// that is only silent. After an interruption the reports of different sources arrive again one
/// after the other, within about a second.
const ON_TIME: Duration = Duration::from_secs(2);

/// The life of each source, as this process reads it from the reports. A source that was never
/// reported counts as live, because an earlier version reports none.
///
/// A source without a current report is silent: nothing is known about it. That is not a loss. If
/// one of its reporters reports it again, and has reported nothing else since, every state that the
/// source has sent still counts.
#[derive(Debug)]
pub struct SourceLives {
    started: Instant,
    /// A process that has just started has not read the reports yet. Until then a source counts as
    /// lost or silent only if it was live before.
    trusts_until: Instant,
    failback_after: Duration,
    /// When the lives were observed last.
    observed: Instant,
    lives: BTreeMap<Source, Life>,
}

/// The life of one source.
#[derive(Clone, Debug)]
struct Life {
    /// The state that was reported last.
    reported: SourceState,
    /// Whether there is no current report.
    is_silent: bool,
    /// Since when it is live.
    since: Instant,
    /// Since when its reports arrive in time; `None` while they do not.
    on_time_since: Option<Instant>,
    /// Whether it was reported as live.
    was_live: bool,
    /// When it was lost last.
    lost: Option<Loss>,
    /// The live periods of its reporters when it was reported last.
    periods: BTreeSet<LivePeriod>,
}

/// When a source was lost: between two observations.
#[derive(Clone, Copy, Debug)]
struct Loss {
    after: Instant,
    until: Instant,
}

/// What has changed since the last observation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// The sources whose earlier states do not count any more.
    pub lost: Vec<Source>,
    /// Whether the owners of markets may change.
    pub is_due: bool,
}

impl SourceLives {
    /// Knows no source. At first, for `grace`, a source that is not reported as live may only be
    /// one whose report was not read yet.
    pub fn new(failback_after: Duration, grace: Duration, now: Instant) -> SourceLives {
        SourceLives {
            started: now,
            trusts_until: now + grace,
            failback_after,
            observed: now,
            lives: BTreeMap::new(),
        }
    }

    /// Compares the current reports with the earlier ones.
    pub(super) fn observe(
        &mut self,
        reported: &BTreeMap<Source, CurrentReports>,
        now: Instant,
    ) -> Observed {
        let mut observed = Observed::default();
        for (source, reports) in reported {
            let earlier = self.life(source);
            let mut life = self.after(&earlier, reports, now);
            if life.is_lost_since(&earlier) {
                life.lost = Some(Loss {
                    after: self.observed,
                    until: now,
                });
                observed.lost.push(source.clone());
            }
            observed.is_due |= !life.counts_like(&earlier);
            self.lives.insert(source.clone(), life);
        }
        observed.is_due |= !observed.lost.is_empty() || self.is_limit_passed(now);
        self.observed = now;
        observed
    }

    /// The life of a source about which this is reported now.
    fn after(&self, earlier: &Life, reports: &CurrentReports, now: Instant) -> Life {
        let is_live = reports.state == Some(SourceState::Live);
        if !is_live && !earlier.was_live && now < self.trusts_until {
            return earlier.clone();
        }
        let Some(reported) = reports.state else {
            return Life {
                is_silent: true,
                on_time_since: None,
                ..earlier.clone()
            };
        };
        let is_unbroken = is_live && earlier.is_live() && earlier.continues(&reports.live_periods);
        let is_on_time = !reports.is_overdue;
        Life {
            reported,
            is_silent: false,
            since: if is_unbroken { earlier.since } else { now },
            on_time_since: is_on_time.then(|| earlier.on_time_since.unwrap_or(now)),
            was_live: earlier.was_live || is_live,
            lost: earlier.lost,
            periods: reports.live_periods.clone(),
        }
    }

    /// Whether a source has been live, or on time, for long enough since the last observation.
    fn is_limit_passed(&self, now: Instant) -> bool {
        let has_passed = |due: Instant| self.observed < due && due <= now;
        let is_passed = |since: Instant, on_time_since: Option<Instant>| {
            has_passed(since + self.failback_after)
                || on_time_since.is_some_and(|since| has_passed(since + ON_TIME))
        };
        let mut live = self.lives.values().filter(|life| life.is_live());
        is_passed(self.started, Some(self.started))
            || live.any(|life| is_passed(life.since, life.on_time_since))
    }

    fn life(&self, source: &Source) -> Life {
        let unreported = || Life {
            reported: SourceState::Live,
            is_silent: false,
            since: self.started,
            on_time_since: Some(self.started),
            was_live: false,
            lost: None,
            periods: BTreeSet::new(),
        };
        self.lives.get(source).cloned().unwrap_or_else(unreported)
    }

    /// Whether a source is live.
    pub fn is_live(&self, source: &Source) -> bool {
        let life = self.lives.get(source);
        life.is_none_or(Life::is_live)
    }

    /// Whether a source was live when it was reported last, and is silent since.
    pub(super) fn is_only_silent(&self, source: &Source) -> bool {
        let life = self.lives.get(source);
        life.is_some_and(|life| life.is_silent && life.reported == SourceState::Live)
    }

    /// Whether a source is reported as anything but live, so that its earlier states do not count.
    pub(super) fn is_lost(&self, source: &Source) -> bool {
        let life = self.lives.get(source);
        life.is_some_and(|life| life.reported != SourceState::Live)
    }

    /// Whether a source was lost after this time, as far as this process knows.
    pub(super) fn was_lost_after(&self, source: &Source, time: Instant) -> bool {
        self.loss(source).is_some_and(|loss| time < loss.until)
    }

    /// The same of a record that is read late: only if it surely was published before the loss. The
    /// clocks may differ, and a loss is found after it has happened.
    pub(super) fn was_surely_lost_after(&self, source: &Source, time: Instant) -> bool {
        let loss = self.loss(source);
        loss.is_some_and(|loss| time + MAX_CLOCK_DIFFERENCE < loss.after)
    }

    fn loss(&self, source: &Source) -> Option<Loss> {
        self.lives.get(source)?.lost
    }

    /// Whether a live source may take a market from one that is only silent: not if its own reports
    /// do not arrive in time either.
    pub(super) fn may_replace_silent(&self, source: &Source, now: Instant) -> bool {
        let since = match self.lives.get(source) {
            Some(life) => life.on_time_since,
            None => Some(self.started),
        };
        since.is_some_and(|since| now.saturating_duration_since(since) >= ON_TIME)
    }

    /// Whether a source has been live for long enough to take a market from a live one.
    pub(super) fn may_take_back(&self, source: &Source, now: Instant) -> bool {
        let life = self.life(source);
        life.is_live() && now.saturating_duration_since(life.since) >= self.failback_after
    }
}

impl Life {
    fn is_live(&self) -> bool {
        self.reported == SourceState::Live && !self.is_silent
    }

    /// Whether a reporter that reported the source as live still does, and nothing else since.
    fn continues(&self, periods: &BTreeSet<LivePeriod>) -> bool {
        self.periods.is_empty() || !self.periods.is_disjoint(periods)
    }

    /// Whether what the source sent before `self` does not count any more: it is reported as worse,
    /// or all reporters that could know of a gap are others.
    fn is_lost_since(&self, earlier: &Life) -> bool {
        let is_other = self.is_live() && !earlier.continues(&self.periods);
        self.reported < earlier.reported || is_other
    }

    /// Whether both allow the same owners.
    fn counts_like(&self, other: &Life) -> bool {
        let owns = |life: &Life| (life.reported, life.is_silent, life.on_time_since.is_some());
        owns(self) == owns(other)
    }
}
