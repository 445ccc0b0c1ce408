//! Decides when the states of the sources are passed on, without actors and I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::applied_sources::AppliedSources;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::{
    CurrentReports, LivePeriod, SourceReport, SourceReports, SourceState, SourceStatus,
};

/// The states are passed on at least this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a source that was reported before this process started may take to be reported again.
/// Reporters do so every second.
const NEXT_REPORT: Duration = Duration::from_millis(1_500);

/// How long the first states wait for the books. Then a source that is live, but perhaps not applied,
/// is passed on as recovering: what is known about the others must not wait for it.
const FIRST_CHECK: Duration = Duration::from_secs(10);
/// Delay before a failed check is repeated.
const CHECK_RETRY: Duration = Duration::from_secs(1);

/// The states to pass on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The state of every source that was ever reported.
    pub sources: BTreeMap<Source, SourceStatus>,
    /// Those whose state differs from what was passed on before.
    pub changed: Vec<(Source, SourceState)>,
    /// Those of them that were live before.
    pub were_live: BTreeSet<Source>,
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
    /// The sources that were reported, or whose markets were stored, before this process started.
    earlier: BTreeSet<Source>,
    applied: AppliedSources,
    /// When the last check failed.
    check_failed_at: Option<Instant>,
    passed_on: BTreeMap<Source, SourceState>,
    passed_on_at: Option<Instant>,
    /// The reports that were last passed on, and when.
    reports_passed_on: Option<(BTreeMap<Source, CurrentReports>, Instant)>,
}

impl SourceWatch {
    /// No report yet. A report counts for `silence`.
    pub(super) fn new(silence: Duration) -> SourceWatch {
        SourceWatch {
            reports: SourceReports::new(silence),
            caught_up_at: None,
            awaited: BTreeSet::new(),
            awaits_stored: false,
            earlier: BTreeSet::new(),
            applied: AppliedSources::default(),
            check_failed_at: None,
            passed_on: BTreeMap::new(),
            passed_on_at: None,
            reports_passed_on: None,
        }
    }

    /// A report was read; `heard_at` is `None` if it was published before this process started.
    pub(super) fn record(&mut self, report: SourceReport, heard_at: Option<Instant>) {
        let source = report.source.clone();
        let Some(now) = heard_at else {
            if self.caught_up_at.is_none() {
                self.awaited.insert(source.clone());
                self.earlier.insert(source);
            }
            return self.reports.record(report, None);
        };
        self.awaited.remove(&source);
        // The reports may have been interrupted before this one.
        self.note_interruption(&source, now);
        self.reports.record(report, heard_at);
    }

    fn note_interruption(&mut self, source: &Source, now: Instant) {
        let unbroken = self.reports.unbroken_periods(source, now);
        self.applied.retain(source, &unbroken);
    }

    /// Whether to check now that the books have applied what the odds topic holds; then call
    /// [`SourceWatch::check_finished`].
    pub(super) fn begin_check(&mut self, now: Instant) -> bool {
        let has_failed = |at| now.saturating_duration_since(at) < CHECK_RETRY;
        if self.check_failed_at.is_some_and(has_failed) {
            return false;
        }
        self.applied.begin(self.reports.live(now))
    }

    /// Whether the books have applied what the odds topic held at the start of the check.
    pub(super) fn check_finished(&mut self, is_applied: bool, now: Instant) {
        self.check_failed_at = (!is_applied).then_some(now);
        self.applied.finish(is_applied);
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
        self.earlier.extend(sources.iter().cloned());
        self.reports.expect(sources);
    }

    /// These sources have published an open market since this process started.
    pub(super) fn published(&mut self, sources: BTreeSet<Source>, now: Instant) {
        self.reports.published(sources, now);
    }

    /// Whether every source that is still read has had the time to be reported, and the books have
    /// caught up. Until then, for at most [`FIRST_CHECK`], no state is passed on: a live source would
    /// be shown as recovering for a moment at each start.
    fn is_decided(&self, now: Instant) -> bool {
        let is_first = self.passed_on_at.is_none();
        self.caught_up_at.is_some_and(|caught_up_at| {
            let waited = now.saturating_duration_since(caught_up_at);
            let is_complete = self.awaited.is_empty() && !self.awaits_stored;
            let is_awaited = is_first && waited < FIRST_CHECK && self.is_checking(now);
            (is_complete || waited >= NEXT_REPORT) && !is_awaited
        })
    }

    /// Whether a source of before the start is live, and has not been checked yet.
    fn is_checking(&self, now: Instant) -> bool {
        let mut live = self.reports.live(now);
        live.any(|(source, periods)| {
            self.earlier.contains(source) && !self.applied.contains_any(source, &periods)
        })
    }

    /// The states as they may be passed on.
    fn states(&mut self, now: Instant) -> BTreeMap<Source, SourceStatus> {
        let mut sources = self.reports.all(now);
        for source in sources.keys() {
            self.note_interruption(source, now);
        }
        let live = self.reports.live(now);
        let applied = live.filter(|(source, periods)| self.applied.contains_any(source, periods));
        let applied: BTreeSet<_> = applied.map(|(source, _)| source.clone()).collect();
        sources.retain(|source, status| {
            if status.state == SourceState::Live && !applied.contains(source) {
                status.state = SourceState::Recovering;
                // A new source is not passed on while it recovers, as in `SourceReports`.
                return self.earlier.contains(source) || self.passed_on.contains_key(source);
            }
            true
        });
        sources
    }

    /// What is reported about each source, if it has changed or the interval has passed. It does not
    /// wait for the books, as the states do, because the selector is before them.
    pub(super) fn reports_due(&mut self, now: Instant) -> Option<BTreeMap<Source, CurrentReports>> {
        self.caught_up_at?;
        let reports = self.reports.current(now);
        if let Some((earlier, at)) = &self.reports_passed_on
            && now.saturating_duration_since(*at) < INTERVAL
            && says_the_same(earlier, &reports)
        {
            return None;
        }
        self.reports_passed_on = Some((reports.clone(), now));
        Some(reports)
    }

    /// The states, if one has changed or the interval has passed.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        if !self.is_decided(now) {
            return None;
        }
        let sources = self.states(now);
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
        let was_live = |source: &&Source| self.passed_on.get(*source) == Some(&SourceState::Live);
        let were_live = changed.iter().map(|(source, _)| source).filter(was_live);
        let were_live = were_live.cloned().collect();
        self.passed_on.extend(changed.iter().cloned());
        self.passed_on_at = Some(now);
        Some(Due {
            sources,
            changed,
            were_live,
        })
    }
}

/// Whether both say the same about the sources. That a report is overdue is no news.
fn says_the_same(
    earlier: &BTreeMap<Source, CurrentReports>,
    later: &BTreeMap<Source, CurrentReports>,
) -> bool {
    fn said(
        reports: &BTreeMap<Source, CurrentReports>,
    ) -> impl Iterator<Item = (&Source, Option<SourceState>, &BTreeSet<LivePeriod>)> {
        let reports = reports.iter();
        reports.map(|(source, reports)| (source, reports.state, &reports.live_periods))
    }
    said(earlier).eq(said(later))
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

    impl SourceWatch {
        /// A check that ends at once.
        fn check(&mut self, now: Instant, is_applied: bool) {
            assert!(self.begin_check(now));
            self.check_finished(is_applied, now);
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
        watch.check(soon(20), true);
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
        watch.check(start, true);
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
        assert_eq!(watch.due(start), None, "the books may lag");
        watch.check(start, true);
        let expected = [("a".to_owned(), SourceState::Live)];
        assert_eq!(changed(watch.due(start)), expected);
    }

    /// A restart of a processor suspends nothing.
    #[test]
    fn first_states_wait_for_books() {
        let start = Instant::now();
        let mut watch = SourceWatch::new(SILENCE);
        watch.record(report("a", SourceState::Live), None);
        watch.caught_up(start);
        watch.record(report("a", SourceState::Live), Some(start));
        let later = start + NEXT_REPORT;
        assert_eq!(watch.due(later), None);
        watch.check(later, true);
        let expected = [("a".to_owned(), SourceState::Live)];
        assert_eq!(changed(watch.due(later)), expected);
    }

    /// What is known about other sources does not wait for ever.
    #[test]
    fn first_states_wait_for_a_limited_time() {
        use SourceState::{Live, Recovering, Stale};
        let start = Instant::now();
        let mut watch = SourceWatch::new(FIRST_CHECK + SILENCE);
        watch.record(report("a", Live), None);
        watch.caught_up(start);
        watch.record(report("a", Live), Some(start));
        watch.record(report("b", Stale), Some(start));
        let before = start + FIRST_CHECK - Duration::from_millis(1);
        assert_eq!(watch.due(before), None);
        let expected = [("a".to_owned(), Recovering), ("b".to_owned(), Stale)];
        assert_eq!(changed(watch.due(start + FIRST_CHECK)), expected);
    }

    /// A report may overtake suspensions that were published before it.
    #[test]
    fn source_is_live_again_after_books_have_applied_its_updates() {
        use SourceState::{Live, Recovering, Stale};
        let start = Instant::now();
        let mut watch = SourceWatch::new(SILENCE);
        let only = |state| [("a".to_owned(), state)];
        watch.caught_up(start);
        watch.record(report("a", Live), Some(start));
        assert_eq!(changed(watch.due(start)), [], "a new source is not listed");
        watch.check(start, true);
        assert_eq!(changed(watch.due(start)), only(Live));
        // Both are read in one batch.
        watch.record(report("a", Recovering), Some(start));
        watch.record(report("a", Live), Some(start));
        assert_eq!(changed(watch.due(start)), only(Recovering));
        watch.check(start, false);
        assert_eq!(watch.due(start), None);
        assert!(!watch.begin_check(start), "it has just failed");
        let start = start + CHECK_RETRY;
        watch.record(report("a", Live), Some(start));
        assert_eq!(changed(watch.due(start)), [], "the interval has passed");
        // A check that started before a loss does not count.
        assert!(watch.begin_check(start));
        watch.record(report("a", Stale), Some(start));
        watch.record(report("a", Live), Some(start));
        watch.check_finished(true, start);
        assert_eq!(watch.due(start), None);
        watch.check(start, true);
        assert_eq!(changed(watch.due(start)), only(Live));
        // Silence is a loss, too, also if nobody has looked in the meantime.
        let later = start + SILENCE;
        watch.record(report("a", Live), Some(later));
        assert_eq!(changed(watch.due(later)), only(Recovering));
    }

    fn report_of(reporter: &str, state: SourceState) -> SourceReport {
        SourceReport {
            reporter: reporter.to_owned(),
            ..report("a", state)
        }
    }

    /// The last report of the old process still counts when the new one reports the source.
    #[test]
    fn restarted_reporter_is_recovering_and_then_checked() {
        use SourceState::{Live, Recovering};
        let start = Instant::now();
        let second = |second| start + Duration::from_secs(second);
        let mut watch = SourceWatch::new(Duration::from_secs(30));
        let only = |state| [("a".to_owned(), state)];
        watch.caught_up(start);
        watch.record(report_of("old", Live), Some(start));
        watch.check(start, true);
        assert_eq!(changed(watch.due(start)), only(Live));
        for number in 1..3 {
            watch.record(report_of("new", Recovering), Some(second(number)));
            assert_eq!(changed(watch.due(second(number))), []);
        }
        let now = second(3);
        watch.record(report_of("new", Recovering), Some(now));
        assert_eq!(changed(watch.due(now)), only(Recovering));
        watch.record(report_of("new", Live), Some(now));
        assert_eq!(watch.due(now), None, "the books may lag");
        watch.check(now, true);
        assert_eq!(changed(watch.due(now)), only(Live));
    }

    /// The new process is live before it has replaced the old one: what it has suspended is applied
    /// before the source lives by its reports.
    #[test]
    fn each_reporter_of_live_source_is_checked() {
        use SourceState::{Live, Recovering};
        let start = Instant::now();
        let later = start + SILENCE;
        let only = |state| [("a".to_owned(), state)];
        for is_applied in [false, true] {
            let mut watch = SourceWatch::new(SILENCE);
            watch.caught_up(start);
            watch.record(report_of("old", Live), Some(start));
            watch.check(start, true);
            assert_eq!(changed(watch.due(start)), only(Live));
            let soon = start + Duration::from_secs(1);
            watch.record(report_of("new", Recovering), Some(soon));
            watch.record(report_of("new", Live), Some(soon));
            watch.check(soon, is_applied);
            assert_eq!(changed(watch.due(soon)), [], "both may run");
            watch.record(report_of("new", Live), Some(later));
            let expected = if is_applied {
                vec![]
            } else {
                only(Recovering).to_vec()
            };
            assert_eq!(changed(watch.due(later)), expected);
        }
    }

    /// A process that starts beside another one suspends nothing, and neither does its end.
    #[test]
    fn second_reporter_changes_nothing() {
        use SourceState::{Live, Recovering, Stale};
        let start = Instant::now();
        let mut watch = SourceWatch::new(SILENCE);
        watch.caught_up(start);
        watch.record(report_of("1", Live), Some(start));
        watch.check(start, true);
        assert_eq!(changed(watch.due(start)).len(), 1);
        let states = [Stale, Recovering, Recovering, Recovering, Live, Live, Stale];
        for (number, state) in (1..).zip(states) {
            let now = start + Duration::from_secs(number);
            watch.record(report_of("2", state), Some(now));
            assert_eq!(changed(watch.due(now)), [], "{state}");
            if watch.begin_check(now) {
                watch.check_finished(true, now);
            }
            let late = now + Duration::from_millis(900);
            watch.record(report_of("1", Live), Some(late));
            assert_eq!(watch.due(late), None, "{state}");
        }
    }

    /// The selector must know which sources are lost, however far the books lag.
    #[test]
    fn reports_do_not_wait_for_books() {
        use SourceState::{Live, Stale};
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut watch = SourceWatch::new(SILENCE);
        watch.record(report("a", Live), None);
        assert_eq!(watch.reports_due(start), None, "the topic is not read yet");
        watch.caught_up(start);
        let state = |watch: &mut SourceWatch, now| {
            let reports = watch.reports_due(now)?;
            Some(reports[&Source::new("a").unwrap()].state)
        };
        assert_eq!(state(&mut watch, start), Some(None));
        watch.record(report("a", Live), Some(after(100)));
        assert!(watch.begin_check(after(100)));
        assert_eq!(watch.due(after(100)), None, "the books lag");
        assert_eq!(state(&mut watch, after(100)), Some(Some(Live)));
        watch.record(report("a", Live), Some(after(200)));
        assert_eq!(state(&mut watch, after(200)), None, "nothing is new");
        watch.record(report("a", Stale), Some(after(300)));
        assert_eq!(state(&mut watch, after(300)), Some(Some(Stale)));
        let again = after(300) + INTERVAL;
        assert_eq!(state(&mut watch, again), Some(Some(Stale)), "the interval");
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
        watch.check(later, true);
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
