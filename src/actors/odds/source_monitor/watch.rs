//! Decides when the states of the sources are passed on, without actors and I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::domain::ids::Source;
use crate::domain::odds::source_status::{
    CurrentReports, SourceReport, SourceReports, SourceState, SourceStatus,
};

/// The states are passed on at least this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a source that was reported before this process started may take to be reported again.
/// Reporters do so every second.
const NEXT_REPORT: Duration = Duration::from_millis(1_500);

/// The states to pass on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The state of every source that was ever reported.
    pub sources: BTreeMap<Source, SourceStatus>,
    /// What is reported about each of them now.
    pub reports: BTreeMap<Source, CurrentReports>,
    /// Those whose state differs from what was passed on before.
    pub changed: Vec<(Source, SourceState)>,
}

/// The reports, and what was passed on.
pub(super) struct SourceWatch {
    reports: SourceReports,
    /// When everything that the topic held had been read. Until then a source may be missing.
    caught_up_at: Option<Instant>,
    /// The sources that were reported before this process started, and not since. They may be live.
    awaited: BTreeSet<Source>,
    /// Whether the database has not yet said which sources have markets.
    awaits_stored: bool,
    passed_on: BTreeMap<Source, SourceState>,
    passed_on_at: Option<Instant>,
}

impl SourceWatch {
    /// No report yet. A report counts for `silence`.
    pub(super) fn new(silence: Duration) -> SourceWatch {
        SourceWatch {
            reports: SourceReports::new(silence),
            caught_up_at: None,
            awaited: BTreeSet::new(),
            awaits_stored: false,
            passed_on: BTreeMap::new(),
            passed_on_at: None,
        }
    }

    /// A report was read; `heard_at` is `None` if it was published before this process started.
    pub(super) fn record(&mut self, report: SourceReport, heard_at: Option<Instant>) {
        if heard_at.is_some() {
            self.awaited.remove(&report.source);
        } else if self.caught_up_at.is_none() {
            self.awaited.insert(report.source.clone());
        }
        self.reports.record(report, heard_at);
    }

    /// Everything that the topic held was read.
    pub(super) fn caught_up(&mut self, now: Instant) {
        self.caught_up_at.get_or_insert(now);
    }

    /// From now on the states wait a moment for [`SourceWatch::stored`].
    pub(super) fn await_stored(&mut self) {
        self.awaits_stored = true;
    }

    /// The database holds markets of these sources.
    pub(super) fn stored(&mut self, sources: Vec<Source>) {
        self.awaits_stored = false;
        self.reports.expect(sources);
    }

    /// These sources have published an open market since this process started.
    pub(super) fn published(&mut self, sources: BTreeSet<Source>, now: Instant) {
        self.reports.published(sources, now);
    }

    /// Whether every source that is still read has had the time to be reported.
    fn is_decided(&self, now: Instant) -> bool {
        self.caught_up_at.is_some_and(|caught_up_at| {
            let is_complete = self.awaited.is_empty() && !self.awaits_stored;
            is_complete || now.saturating_duration_since(caught_up_at) >= NEXT_REPORT
        })
    }

    /// The states, if one has changed or the interval has passed.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        if !self.is_decided(now) {
            return None;
        }
        let sources = self.reports.all(now);
        let states = sources
            .iter()
            .map(|(source, status)| (source, status.state));
        let changed: Vec<_> = states
            .filter(|(source, state)| self.passed_on.get(*source) != Some(state))
            .map(|(source, state)| (source.clone(), state))
            .collect();
        let is_recent = |at: Instant| now.saturating_duration_since(at) < INTERVAL;
        if changed.is_empty() && self.passed_on_at.is_some_and(is_recent) {
            return None;
        }
        self.passed_on.extend(changed.iter().cloned());
        self.passed_on_at = Some(now);
        Some(Due {
            sources,
            reports: self.reports.current(now),
            changed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::timestamp::Timestamp;

    const SILENCE: Duration = Duration::from_secs(3);

    fn report(source: &str, state: SourceState) -> SourceReport {
        SourceReport {
            source: Source::new(source).unwrap(),
            reporter: "1".to_owned(),
            state,
            at: Timestamp::from_micros(1).unwrap(),
        }
    }

    fn changed(due: Option<Due>) -> Vec<(String, SourceState)> {
        let due = due.expect("nothing is passed on");
        let changed = due.changed.into_iter();
        changed
            .map(|(source, state)| (source.as_str().to_owned(), state))
            .collect()
    }

    #[test]
    fn changes_are_passed_on_at_once() {
        use SourceState::{Live, Stale};
        let start = Instant::now();
        let soon = |millis| start + Duration::from_millis(millis);
        let mut watch = SourceWatch::new(SILENCE);
        assert_eq!(watch.due(start), None, "the topic is not read yet");
        watch.caught_up(start);
        assert_eq!(changed(watch.due(start)), []);
        assert_eq!(watch.due(soon(10)), None);
        watch.record(report("a", Live), Some(soon(20)));
        watch.record(report("b", Stale), Some(soon(20)));
        let expected = [("a".to_owned(), Live), ("b".to_owned(), Stale)];
        assert_eq!(changed(watch.due(soon(20))), expected);
        watch.record(report("a", Live), Some(soon(30)));
        assert_eq!(watch.due(soon(30)), None, "nothing has changed");
        assert_eq!(
            changed(watch.due(soon(1_020))),
            [],
            "the interval has passed"
        );
        // Silence is a change, too.
        let silent = soon(30) + SILENCE;
        let before = silent - Duration::from_millis(1);
        assert_eq!(changed(watch.due(before)), []);
        let both = ["a", "b"].map(|source| (source.to_owned(), Stale));
        assert_eq!(changed(watch.due(silent)), both[..1]);
    }

    /// A process that starts while an `ingest` runs does not take its sources for lost.
    #[test]
    fn earlier_reports_are_awaited() {
        use SourceState::{Live, Stale};
        let start = Instant::now();
        let mut watch = SourceWatch::new(SILENCE);
        watch.record(report("a", Live), None);
        watch.record(report("b", Live), None);
        watch.caught_up(start);
        assert_eq!(watch.due(start), None);
        watch.record(report("a", Live), Some(start));
        let before = start + NEXT_REPORT - Duration::from_millis(1);
        assert_eq!(watch.due(before), None, "b may be reported");
        let expected = [("a".to_owned(), Live), ("b".to_owned(), Stale)];
        assert_eq!(changed(watch.due(start + NEXT_REPORT)), expected);
    }

    #[test]
    fn states_are_passed_on_once_all_are_reported() {
        let start = Instant::now();
        let mut watch = SourceWatch::new(SILENCE);
        watch.record(report("a", SourceState::Live), None);
        watch.caught_up(start);
        watch.record(report("a", SourceState::Live), Some(start));
        let expected = [("a".to_owned(), SourceState::Live)];
        assert_eq!(changed(watch.due(start)), expected);
    }

    /// A source whose reports are lost, or whose supplier never connects, is not trusted for what
    /// the database holds.
    #[test]
    fn sources_of_stored_markets_are_passed_on_first() {
        use SourceState::{Live, Stale};
        let source = |name| Source::new(name).unwrap();
        let start = Instant::now();
        let mut watch = SourceWatch::new(SILENCE);
        watch.await_stored();
        watch.caught_up(start);
        assert_eq!(watch.due(start), None, "the database is not read yet");
        watch.stored(vec![source("a"), source("b")]);
        let both = ["a", "b"].map(|source| (source.to_owned(), Stale));
        assert_eq!(changed(watch.due(start)), both);
        watch.published([source("b")].into(), start);
        let later = start + SILENCE;
        assert_eq!(changed(watch.due(later)), [("b".to_owned(), Live)]);
    }

    /// A database that does not answer holds back nothing for long.
    #[test]
    fn database_is_awaited_for_a_moment() {
        let start = Instant::now();
        let mut watch = SourceWatch::new(SILENCE);
        watch.await_stored();
        watch.caught_up(start);
        let before = start + NEXT_REPORT - Duration::from_millis(1);
        assert_eq!(watch.due(before), None);
        assert_eq!(changed(watch.due(start + NEXT_REPORT)), []);
        watch.stored(vec![Source::new("a").unwrap()]);
        let lost = [("a".to_owned(), SourceState::Stale)];
        assert_eq!(changed(watch.due(start + NEXT_REPORT)), lost);
    }
}
