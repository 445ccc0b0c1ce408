use super::*;

const SILENCE: Duration = Duration::from_secs(3);

fn report(reporter: &str, state: SourceState) -> SourceReport {
    SourceReport {
        source: source(),
        reporter: reporter.to_owned(),
        state,
        at: Timestamp::from_micros(1_700_000_000_000_000).unwrap(),
    }
}

fn source() -> Source {
    Source::new("a").unwrap()
}

fn state(reports: &SourceReports, now: Instant) -> Option<SourceState> {
    reports.status(&source(), now).map(|status| status.state)
}

#[test]
fn report_counts_until_silence() {
    let start = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    assert_eq!(state(&reports, start), None, "never reported");
    reports.record(report("1", SourceState::Live), Some(start));
    assert_eq!(
        state(&reports, start + SILENCE - Duration::from_millis(1)),
        Some(SourceState::Live)
    );
    assert_eq!(state(&reports, start + SILENCE), Some(SourceState::Stale));
}

/// A compacted topic still holds the last report of a process that ended long ago.
#[test]
fn earlier_report_shows_lost_source() {
    let now = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    reports.record(report("1", SourceState::Live), None);
    assert_eq!(state(&reports, now), Some(SourceState::Stale));
    assert_eq!(reports.status(&source(), now).unwrap().at, None);
    reports.record(report("2", SourceState::Recovering), Some(now));
    assert_eq!(state(&reports, now), Some(SourceState::Recovering));
    reports.record(report("2", SourceState::Live), Some(now));
    assert_eq!(state(&reports, now), Some(SourceState::Live));
}

#[test]
fn one_live_reporter_is_enough() {
    let now = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    reports.record(report("1", SourceState::Stale), Some(now));
    reports.record(report("2", SourceState::Live), Some(now));
    assert_eq!(state(&reports, now), Some(SourceState::Live));
    let later = now + SILENCE;
    reports.record(report("1", SourceState::Stale), Some(later));
    assert_eq!(state(&reports, later), Some(SourceState::Stale));
}

#[test]
fn sources_are_bounded() {
    let now = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    for number in 0..MAX_SOURCES + 5 {
        let source = Source::new(&format!("s{number}")).unwrap();
        let report = SourceReport {
            source,
            ..report("1", SourceState::Live)
        };
        reports.record(report, Some(now));
    }
    assert_eq!(reports.all(now).len(), MAX_SOURCES);
}

/// What the database holds may be old: nobody has vouched for it yet.
#[test]
fn source_with_stored_markets_is_lost_until_live() {
    use SourceState::{Live, Recovering, Stale};
    let now = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    reports.expect([source()]);
    let lost = SourceStatus {
        state: Stale,
        at: None,
    };
    assert_eq!(reports.status(&source(), now), Some(lost));
    reports.record(report("1", Recovering), Some(now));
    assert_eq!(state(&reports, now), Some(Recovering));
    reports.record(report("1", Live), Some(now));
    assert_eq!(state(&reports, now), Some(Live));
}

/// A program that publishes to the odds topic without reports.
#[test]
fn unreported_source_lives_by_its_updates() {
    use SourceState::{Live, Recovering, Stale};
    let start = Instant::now();
    let later = start + REPORT_LIMIT;
    for is_stored in [true, false] {
        let mut reports = SourceReports::new(SILENCE);
        reports.expect(is_stored.then(source));
        let before = is_stored.then_some(Stale);
        reports.published([source()], start);
        assert_eq!(state(&reports, start), before, "it may be reported soon");
        reports.published([source()], later);
        assert_eq!(state(&reports, later), Some(Live));
        assert!(reports.current(later).is_empty(), "nobody reports it");
        reports.record(report("1", Recovering), Some(later));
        let reported = is_stored.then_some(Recovering);
        assert_eq!(state(&reports, later), reported, "the reports decide");
        reports.record(report("1", Stale), Some(later));
        assert_eq!(state(&reports, later), Some(Stale));
    }
}

#[test]
fn unreported_sources_leave_room_for_reports() {
    let now = Instant::now();
    let later = now + REPORT_LIMIT;
    let invented = (0..MAX_SOURCES).map(|number| Source::new(&format!("s{number}")).unwrap());
    let mut reports = SourceReports::new(SILENCE);
    reports.published(invented.clone(), now);
    reports.expect(invented);
    assert_eq!(reports.all(later).len(), MAX_UNREPORTED);
    reports.record(report("1", SourceState::Live), Some(later));
    assert_eq!(state(&reports, later), Some(SourceState::Live));
}

#[test]
fn ended_reporters_are_dropped() {
    let start = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    for number in 0..100 {
        let now = start + FORGET_AFTER * number;
        reports.record(report(&number.to_string(), SourceState::Live), Some(now));
    }
    assert_eq!(reports.reports[&source()].heard.len(), 1);
}

/// A topic that is read again still holds the last report of a reporter that is alive.
#[test]
fn held_report_does_not_replace_heard_one() {
    let now = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    reports.record(report("1", SourceState::Live), Some(now));
    reports.record(report("1", SourceState::Live), None);
    assert_eq!(state(&reports, now), Some(SourceState::Live));
}

/// A new source recovers until its markets are checked. If it dies meanwhile, it is lost.
#[test]
fn new_source_is_reported_once_it_is_live_or_lost() {
    let start = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    reports.record(report("1", SourceState::Recovering), Some(start));
    assert_eq!(state(&reports, start), None);
    assert_eq!(state(&reports, start + SILENCE), Some(SourceState::Stale));
    let later = start + SILENCE;
    reports.record(report("2", SourceState::Recovering), Some(later));
    assert_eq!(state(&reports, later), Some(SourceState::Recovering));

    let mut reports = SourceReports::new(SILENCE);
    reports.record(report("1", SourceState::Recovering), Some(start));
    reports.record(report("1", SourceState::Live), Some(start));
    assert_eq!(state(&reports, start), Some(SourceState::Live));
    reports.record(report("1", SourceState::Recovering), Some(start));
    assert_eq!(state(&reports, start), Some(SourceState::Recovering));
}

/// A process may start between two reports of a new source: that is no loss.
#[test]
fn new_source_stays_new_for_later_readers() {
    let now = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    reports.record(report("1", SourceState::Recovering), None);
    reports.record(report("1", SourceState::Recovering), Some(now));
    assert_eq!(state(&reports, now), None);

    let mut reports = SourceReports::new(SILENCE);
    reports.record(report("1", SourceState::Recovering), None);
    reports.record(report("2", SourceState::Recovering), Some(now));
    assert_eq!(state(&reports, now), Some(SourceState::Recovering));
}

/// A reporter that is silent and goes on confirms everything in between; one that has reported
/// anything else, or that is another one, does not.
#[test]
fn live_period_ends_with_another_state_or_reporter() {
    use SourceState::{Live, Stale};
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut reports = SourceReports::new(SILENCE);
    let period = |reports: &SourceReports, now| {
        let current = reports.current(now).remove(&source()).unwrap();
        current.live_periods.into_iter().collect::<Vec<_>>()
    };
    reports.record(report("1", Live), Some(start));
    let first = period(&reports, start);
    assert_eq!(first.len(), 1);
    assert_eq!(period(&reports, after(3)), []);
    reports.record(report("1", Live), Some(after(100)));
    assert_eq!(period(&reports, after(100)), first);
    reports.record(report("2", Live), Some(after(100)));
    assert_eq!(period(&reports, after(100)).len(), 2);
    reports.record(report("1", Stale), Some(after(101)));
    reports.record(report("1", Live), Some(after(102)));
    assert!(!period(&reports, after(102)).contains(&first[0]));
    // The topic is read again, and holds a state that was missed.
    let before = period(&reports, after(102));
    reports.record(report("1", Stale), None);
    reports.record(report("1", Live), Some(after(102)));
    assert_ne!(period(&reports, after(102)), before);
}

#[test]
fn silence_is_no_reported_state() {
    let start = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    let current = |reports: &SourceReports, now| reports.current(now).remove(&source()).unwrap();
    reports.record(report("1", SourceState::Stale), Some(start));
    assert_eq!(current(&reports, start).state, Some(SourceState::Stale));
    assert!(!current(&reports, start).is_overdue);
    let late = current(&reports, start + SILENCE / 2);
    assert_eq!(
        (late.state, late.is_overdue),
        (Some(SourceState::Stale), true)
    );
    let silent = current(&reports, start + SILENCE);
    assert_eq!((silent.state, silent.is_overdue), (None, true));
}

/// A process that is restarted reports the source before the last report of the old one is too old.
#[test]
fn restarted_reporter_replaces_its_last_report() {
    use SourceState::{Live, Recovering, Stale};
    let start = Instant::now();
    let after = |millis| start + Duration::from_millis(millis);
    let silence = Duration::from_secs(30);
    for said in [Recovering, Stale] {
        let mut reports = SourceReports::new(silence);
        reports.record(report("old", Live), Some(start));
        for millis in [1_000, 2_000, 2_999] {
            reports.record(report("new", said), Some(after(millis)));
            assert_eq!(state(&reports, after(millis)), Some(Live), "both may run");
        }
        reports.record(report("new", said), Some(after(3_000)));
        assert_eq!(state(&reports, after(3_000)), Some(said));
        assert_eq!(reports.live(after(3_000)).count(), 0);
        assert!(reports.is_reported_live(&source(), after(3_000)));
        // It was only late.
        reports.record(report("old", Live), Some(after(3_100)));
        assert_eq!(state(&reports, after(3_100)), Some(Live));
    }
}

/// One of two processes does not read the source, or has just started. As long as the other one
/// reports it before the silence is over, it is live.
#[test]
fn late_report_of_running_reporter_still_counts() {
    use SourceState::{Live, Stale};
    let start = Instant::now();
    let mut reports = SourceReports::new(SILENCE);
    let mut second = 0;
    let mut record = |reporters: &[(&str, SourceState)]| {
        let now = start + Duration::from_secs(second);
        for (reporter, state) in reporters {
            reports.record(report(reporter, *state), Some(now));
        }
        second += 1;
        state(&reports, now)
    };
    for _ in 0..5 {
        assert_eq!(record(&[("1", Live)]), Some(Live));
    }
    for _ in 0..5 {
        assert_eq!(record(&[("2", Stale)]), Some(Live));
        assert_eq!(record(&[("1", Live)]), Some(Live));
    }
    // Both have run for long, and one is late.
    assert_eq!(record(&[("2", Stale)]), Some(Live));
    assert_eq!(record(&[("2", Stale)]), Some(Live));
    assert_eq!(record(&[("1", Live), ("2", Stale)]), Some(Live));
    for _ in 0..2 {
        assert_eq!(record(&[("2", Stale)]), Some(Live));
    }
    assert_eq!(record(&[("2", Stale)]), Some(Stale), "it is silent");
}
