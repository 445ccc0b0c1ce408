//! The state of a source, as the processes that read it report it.
//!
//! Each `ingest` reports its sources every second. A source that is not reported any more counts as
//! lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::domain::ids::Source;
use crate::domain::timestamp::Timestamp;
use crate::domain::unknown_variant::UnknownVariant;

/// The state of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive()]
#[derive(Serialize, Deserialize)]
#[derive(Display, EnumString, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_source_state)]
pub enum SourceState {
    /// It is silent, not connected, or does not confirm its data.
    Stale,
    /// It speaks again, but has not yet sent everything that was missed.
    Recovering,
    /// Every change arrives.
    Live,
}

fn unknown_source_state(text: &str) -> UnknownVariant {
    UnknownVariant::new("source state", text)
}

/// What one `ingest` process says about a source: a record of the topic of source states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The source.
    pub source: Source,
    /// The feed that reads the source. Unique for each start of a process.
    pub reporter: String,
    /// Its state.
    pub state: SourceState,
    /// Until when the source has confirmed its data, by the reporter's clock.
    pub at: Timestamp,
}

/// The state of a source, from all reports about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its state.
    pub state: SourceState,
    /// Until when the source has confirmed its data. `None` if it has not since this process
    /// started.
    pub at: Option<Timestamp>,
}

/// What the current reports say about a source. In contrast to [`SourceStatus`] it distinguishes a
/// source that is reported as not live from one whose reports do not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentReports {
    /// The best state in the current reports; `None` if there is no current report.
    pub state: Option<SourceState>,
    /// The unbroken times of the reporters that report it as live. A reporter that is silent for a
    /// while and goes on continues the same one.
    pub live_periods: BTreeSet<LivePeriod>,
    /// Whether the next report is overdue: the source may be silent already.
    pub is_overdue: bool,
}

/// A report is not overdue before this time: they arrive about once a second.
const REPORT_LIMIT: Duration = Duration::from_millis(1_250);

/// How long a new reporter must have reported a source before it replaces one that has been silent
/// since. Two that live both report every second.
const REPLACED_AFTER: Duration = Duration::from_secs(2);

/// Identifies a time in which one reporter reports a source as live, and as nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LivePeriod(pub u64);

impl LivePeriod {
    /// The time in which a source publishes that nobody reports.
    const UNREPORTED: LivePeriod = LivePeriod(0);
}

/// A report, and when it arrived.
#[derive(Clone, Debug)]
struct Heard {
    state: SourceState,
    at: Timestamp,
    /// `None` if it was not reported as live.
    live_period: Option<LivePeriod>,
    /// When its reporter was first heard; `None` if that had reported before.
    started_at: Option<Instant>,
    /// `None` for a report from before this process started: it shows that the source is reported,
    /// but not that it lives.
    heard_at: Option<Instant>,
}

impl Heard {
    fn counts(&self, now: Instant, silence: Duration) -> bool {
        self.heard_at
            .is_some_and(|at| now.duration_since(at) < silence)
    }
}

/// The latest reports about each source. Silence is measured by this process's own clock, so
/// clocks need not agree.
#[derive(Debug)]
pub struct SourceReports {
    silence: Duration,
    reports: BTreeMap<Source, Reporters>,
    /// The number of live periods so far.
    periods: u64,
}

/// The latest report of each reporter of a source.
#[derive(Debug, Default)]
struct Reporters {
    heard: BTreeMap<String, Heard>,
    /// Whether the source has stored markets, or was ever reported as anything but recovering. A
    /// new source recovers until its markets are checked; to say so would show them as stale
    /// although they were trusted before.
    is_established: bool,
    /// When it first published an open market since this process started. That counts as long as
    /// nobody reports it.
    published_at: Option<Instant>,
}

impl Reporters {
    /// The state of a source that nobody has reported. An `ingest` reports its sources before it is
    /// overdue; what publishes without reports is live.
    fn unreported(&self, now: Instant) -> Option<SourceState> {
        let is_overdue = |at| now.saturating_duration_since(at) >= REPORT_LIMIT;
        if self.published_at.is_some_and(is_overdue) {
            return Some(SourceState::Live);
        }
        self.is_established.then_some(SourceState::Stale)
    }

    /// Whether the source is lost when `reporter` reports it now. A reporter that has reported the
    /// source before this process started, and goes on, has lost nothing.
    fn is_lost_for(&self, reporter: &str, now: Instant, silence: Duration) -> bool {
        let mut earlier = self
            .heard
            .iter()
            .filter(|(earlier, heard)| earlier.as_str() != reporter || heard.heard_at.is_some());
        let any = |(_, heard): (&String, &Heard)| heard.counts(now, silence);
        !self.heard.is_empty() && earlier.clone().next().is_some() && !earlier.any(any)
    }

    /// The reports of the last `silence`.
    fn counting(&self, now: Instant, silence: Duration) -> impl Iterator<Item = &Heard> {
        let heard = self.heard.values();
        heard.filter(move |heard| heard.counts(now, silence))
    }

    /// The reports that decide about the source: those of the last `silence`, except of reporters
    /// that were replaced.
    fn deciding(&self, now: Instant, silence: Duration) -> impl Iterator<Item = &Heard> {
        self.counting(now, silence)
            .filter(move |heard| !self.is_replaced(heard))
    }

    /// Whether another reporter was first heard after this report, and has reported the source for a
    /// while, and this one has not: its process was restarted. Then the source is what the new one
    /// says, also if the old one has said more. Of two reporters that have both reported since both
    /// were first heard, neither replaces the other, however late one is.
    fn is_replaced(&self, heard: &Heard) -> bool {
        self.heard.values().any(|other| {
            let started_at = other.started_at.filter(|at| heard.heard_at <= Some(*at));
            let reported_for = started_at
                .zip(other.heard_at)
                .map(|(started_at, last)| last.duration_since(started_at));
            reported_for >= Some(REPLACED_AFTER)
        })
    }

    /// The live periods of the reports that make the source live.
    fn live_periods(&self, now: Instant, silence: Duration) -> BTreeSet<LivePeriod> {
        if self.heard.is_empty() {
            let is_live = self.unreported(now) == Some(SourceState::Live);
            return is_live
                .then_some(LivePeriod::UNREPORTED)
                .into_iter()
                .collect();
        }
        let deciding = self.deciding(now, silence);
        deciding.filter_map(|heard| heard.live_period).collect()
    }

    /// What the reports of the last `silence` say.
    fn current(&self, now: Instant, silence: Duration) -> CurrentReports {
        let counting = |silence| self.counting(now, silence);
        CurrentReports {
            state: counting(silence).map(|heard| heard.state).max(),
            live_periods: counting(silence)
                .filter_map(|heard| heard.live_period)
                .collect(),
            is_overdue: counting(REPORT_LIMIT.max(silence / 2)).next().is_none(),
        }
    }
}

/// Maximum number of sources. Reports about further ones are ignored.
pub const MAX_SOURCES: usize = 1_000;
/// Once there are as many sources, no source is added that nobody reports.
const MAX_UNREPORTED: usize = MAX_SOURCES / 2;
/// How long the report of a silent process is remembered if another process reports the source.
const FORGET_AFTER: Duration = Duration::from_secs(60);

impl SourceReports {
    /// No report yet. A report counts for `silence` after it arrived.
    pub fn new(silence: Duration) -> SourceReports {
        SourceReports {
            silence,
            reports: BTreeMap::new(),
            periods: 0,
        }
    }

    /// These sources have stored markets. They are lost until they are reported as live or, if
    /// nobody reports them, have published an open market.
    pub fn expect(&mut self, sources: impl IntoIterator<Item = Source>) {
        for source in sources {
            if let Some(reporters) = self.room_for(source, MAX_UNREPORTED) {
                reporters.is_established = true;
            }
        }
    }

    /// These sources have published an open market since this process started. A program that
    /// publishes to the odds topic directly is reported by nobody.
    pub fn published(&mut self, sources: impl IntoIterator<Item = Source>, now: Instant) {
        for source in sources {
            if let Some(reporters) = self.room_for(source, MAX_UNREPORTED) {
                reporters.published_at.get_or_insert(now);
            }
        }
    }

    /// What is known about a source; `None` if it is new, and there are `limit` sources.
    fn room_for(&mut self, source: Source, limit: usize) -> Option<&mut Reporters> {
        let has_room = self.reports.len() < limit || self.reports.contains_key(&source);
        has_room.then(|| self.reports.entry(source).or_default())
    }

    /// Records a report that arrived at `heard_at`; `None` if it is from before this process
    /// started. Such a report does not replace one that was heard since from its reporter.
    pub fn record(&mut self, report: SourceReport, heard_at: Option<Instant>) {
        let SourceReport {
            source,
            reporter,
            state,
            at,
        } = report;
        let (silence, mut periods) = (self.silence, self.periods);
        let Some(entry) = self.room_for(source, MAX_SOURCES) else {
            return;
        };
        let was_lost = heard_at.is_some_and(|now| entry.is_lost_for(&reporter, now, silence));
        entry.is_established |= was_lost || state != SourceState::Recovering;
        let reporters = &mut entry.heard;
        // Each start of a process is another reporter, so the ones that ended are dropped.
        if let Some(now) = heard_at {
            reporters.retain(|earlier, heard| {
                let is_recent = |at| now.duration_since(at) < FORGET_AFTER;
                *earlier == reporter || heard.heard_at.is_some_and(is_recent)
            });
        }
        let is_live = state == SourceState::Live;
        let earlier = reporters.get_mut(&reporter);
        let earlier_period = earlier.as_ref().and_then(|heard| heard.live_period);
        let started_at = earlier.as_ref().map_or(heard_at, |heard| heard.started_at);
        if let Some(heard) = earlier.filter(|heard| heard.heard_at.is_some())
            && heard_at.is_none()
        {
            heard.live_period = earlier_period.filter(|_| is_live);
            return;
        }
        periods += u64::from(is_live && earlier_period.is_none());
        let period = earlier_period.unwrap_or(LivePeriod(periods));
        let heard = Heard {
            state,
            at,
            live_period: is_live.then_some(period),
            started_at,
            heard_at,
        };
        reporters.insert(reporter, heard);
        self.periods = periods;
    }

    /// The state of a source; `None` if nothing is known about it, or it is new and still
    /// recovering.
    ///
    /// With several reporters, the best state counts: one process that reads the source is enough. The
    /// last report of a process that was restarted does not count.
    pub fn status(&self, source: &Source, now: Instant) -> Option<SourceStatus> {
        self.status_of(self.reports.get(source)?, now)
    }

    /// `None` for a new source that is still recovering.
    fn status_of(&self, reporters: &Reporters, now: Instant) -> Option<SourceStatus> {
        if reporters.heard.is_empty() {
            let state = reporters.unreported(now)?;
            return Some(SourceStatus { state, at: None });
        }
        let deciding = reporters.deciding(now, self.silence);
        let state = deciding
            .map(|heard| heard.state)
            .max()
            .unwrap_or(SourceState::Stale);
        if state == SourceState::Recovering && !reporters.is_established {
            return None;
        }
        let heard = reporters.heard.values();
        let heard = heard.filter(|heard| heard.heard_at.is_some());
        Some(SourceStatus {
            state,
            at: heard.map(|heard| heard.at).max(),
        })
    }

    /// The sources that are live, with the live periods that make them so.
    pub fn live(&self, now: Instant) -> impl Iterator<Item = (&Source, BTreeSet<LivePeriod>)> {
        let known = self.reports.iter();
        let live = known.map(move |(source, it)| (source, it.live_periods(now, self.silence)));
        live.filter(|(_, periods)| !periods.is_empty())
    }

    /// The live periods of a source whose reporters were not silent for too long. A reporter that
    /// goes on after a silence continues its period, and may have lost reports in between.
    pub fn unbroken_periods(&self, source: &Source, now: Instant) -> BTreeSet<LivePeriod> {
        let Some(reporters) = self.reports.get(source) else {
            return BTreeSet::new();
        };
        let counting = reporters.counting(now, self.silence);
        let reported = counting.filter_map(|heard| heard.live_period);
        reported
            .chain(reporters.live_periods(now, self.silence))
            .collect()
    }

    /// Whether a report of the last `silence` says that the source is live, also if its process was
    /// restarted since.
    pub fn is_reported_live(&self, source: &Source, now: Instant) -> bool {
        let reporters = self.reports.get(source);
        reporters.is_some_and(|reporters| {
            let mut counting = reporters.counting(now, self.silence);
            counting.any(|heard| heard.state == SourceState::Live)
        })
    }

    /// The state of every source that is known, except new ones that are still recovering.
    pub fn all(&self, now: Instant) -> BTreeMap<Source, SourceStatus> {
        self.reports
            .iter()
            .filter_map(|(source, reporters)| {
                let status = self.status_of(reporters, now)?;
                Some((source.clone(), status))
            })
            .collect()
    }

    /// What is reported now about each source in [`SourceReports::all`] that was ever reported.
    pub fn current(&self, now: Instant) -> BTreeMap<Source, CurrentReports> {
        let reported = self.reports.iter();
        reported
            .filter(|(_, reporters)| !reporters.heard.is_empty())
            .filter(|(_, reporters)| self.status_of(reporters, now).is_some())
            .map(|(source, reporters)| (source.clone(), reporters.current(now, self.silence)))
            .collect()
    }
}

/// The sources with their states, without the times.
pub fn states(
    sources: &BTreeMap<Source, SourceStatus>,
) -> impl Iterator<Item = (&Source, SourceState)> {
    sources
        .iter()
        .map(|(source, status)| (source, status.state))
}

#[cfg(test)]
mod tests;
