//! What other processes report about the sources, as read from the topic of source states.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::Mutex;

use crate::bus::{BusError, CompactedTopic, ReadEvent, Record, TopicReader, source_report};
use crate::domain::ids::Source;
use crate::domain::odds::source_status::{SourceReport, SourceReports};
use crate::telemetry::log_limit::LogLimit;

/// How long a report from before this process started may take to be followed by another one.
const NEXT_REPORT: Duration = Duration::from_millis(2_500);
/// How long to wait for the topic before deciding without it.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Delay before the topic is read again after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The reports of the other processes. Shared by the feeds of this one: two feeds of one process are
/// different suppliers, even if their updates name the same source, so their own reports do not
/// count.
#[derive(Debug)]
pub(crate) struct OtherReporters {
    started: Instant,
    /// The prefix of this process's reporters.
    process: String,
    silence: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reports: SourceReports,
    /// The sources that were reported before this process started.
    held: BTreeSet<Source>,
    caught_up_at: Option<Instant>,
    /// The time of the last report.
    heard_at: Option<Instant>,
    /// The time of the first report after a time without any.
    heard_again_at: Option<Instant>,
}

impl OtherReporters {
    /// No report yet. A report counts for `silence` after it arrived.
    pub(crate) fn new(silence: Duration, now: Instant) -> OtherReporters {
        OtherReporters {
            started: now,
            process: format!("{:016x}-", fastrand::u64(..)),
            silence,
            state: Mutex::new(State {
                reports: SourceReports::new(silence),
                held: BTreeSet::new(),
                caught_up_at: None,
                heard_at: None,
                heard_again_at: None,
            }),
        }
    }

    /// An id for the reports of a feed of this process.
    pub(crate) fn new_reporter(&self) -> Arc<str> {
        format!("{}{:08x}", self.process, fastrand::u32(..)).into()
    }

    /// Whether another process has the source live.
    pub(crate) fn is_live_elsewhere(&self, source: &Source, now: Instant) -> bool {
        self.state.lock().reports.is_reported_live(source, now)
    }

    /// Whether all reporters of the source have had the time to report since this process started.
    pub(crate) fn is_decided(&self, source: &Source, now: Instant) -> bool {
        let state = self.state.lock();
        let heard_all = state.caught_up_at.is_some_and(|caught_up_at| {
            !state.held.contains(source) || now.duration_since(caught_up_at) >= NEXT_REPORT
        });
        heard_all || now.duration_since(self.started) >= MAX_WAIT
    }

    /// Whether reports do not arrive, not even those of this process, or did not until a moment ago.
    /// Then other reporters may have any source live, and readers of the topic know whether one
    /// does.
    pub(crate) fn is_isolated(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let passed = |at: Option<Instant>| at.map(|at| now.duration_since(at));
        passed(state.heard_at).is_some_and(|passed| passed >= self.silence)
            || passed(state.heard_again_at).is_some_and(|passed| passed < NEXT_REPORT)
    }

    fn record(&self, event: ReadEvent, now: Instant) {
        let mut state = self.state.lock();
        match event {
            ReadEvent::Held(records) => {
                for report in self.others_of(&records) {
                    state.held.insert(report.source.clone());
                    state.reports.record(report, None);
                }
            }
            ReadEvent::CaughtUp => state.caught_up_at = Some(now),
            ReadEvent::Published(records) => {
                let heard_at = state.heard_at.replace(now);
                if heard_at.is_some_and(|at| now.duration_since(at) >= self.silence) {
                    state.heard_again_at = Some(now);
                }
                for report in self.others_of(&records) {
                    state.reports.record(report, Some(now));
                }
            }
        }
    }

    /// The reports of other processes among these records.
    fn others_of(&self, records: &[Record]) -> impl Iterator<Item = SourceReport> {
        let reports = records.iter().filter_map(read_report);
        reports.filter(|report| !report.reporter.starts_with(&self.process))
    }

    /// Reads the topic as long as the platform runs.
    pub(crate) async fn follow(self: Arc<OtherReporters>, topic: Arc<dyn CompactedTopic>) {
        loop {
            if let Err(failure) = self.read(&*topic).await {
                warn!("the states of sources are read again: {failure}");
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn read(&self, topic: &dyn CompactedTopic) -> Result<(), BusError> {
        let mut reader: Box<dyn TopicReader> = topic.read()?;
        loop {
            let event = reader.next().await?;
            self.record(event, Instant::now());
        }
    }
}

/// The report in a record; a record that cannot be read is logged and skipped.
fn read_report(record: &Record) -> Option<SourceReport> {
    static LOG: LogLimit = LogLimit::every(Duration::from_secs(60));
    source_report::read(record)
        .inspect_err(|error| {
            if let Some(repeated) = LOG.check("malformed") {
                warn!(offset = record.offset, repeated; "skipping a malformed state of a source: {error}");
            }
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::source_status::SourceState;
    use crate::domain::timestamp::Timestamp;

    const SILENCE: Duration = Duration::from_secs(3);

    fn record(reporter: &str, state: SourceState) -> Record {
        let report = SourceReport {
            source: source(),
            reporter: reporter.to_owned(),
            state,
            at: Timestamp::now(),
        };
        Record {
            partition: 0,
            offset: 0,
            published_at: None,
            record: source_report::record_of(&report),
        }
    }

    fn source() -> Source {
        Source::new("a").unwrap()
    }

    #[test]
    fn source_is_decided_after_next_report() {
        let start = Instant::now();
        let others = OtherReporters::new(SILENCE, start);
        let after = |millis| start + Duration::from_millis(millis);
        assert!(!others.is_decided(&source(), after(100)), "not read yet");
        let held = record("other", SourceState::Live);
        others.record(ReadEvent::Held(vec![held.clone()]), start);
        others.record(ReadEvent::CaughtUp, after(100));
        assert!(!others.is_live_elsewhere(&source(), after(100)));
        assert!(!others.is_decided(&source(), after(2_000)));
        let unknown = Source::new("b").unwrap();
        assert!(others.is_decided(&unknown, after(100)), "not reported");
        assert!(others.is_decided(&source(), after(2_600)));
        others.record(ReadEvent::Published(vec![held]), after(3_000));
        assert!(others.is_live_elsewhere(&source(), after(3_100)));
        assert!(!others.is_live_elsewhere(&source(), after(6_000)));
    }

    #[test]
    fn isolated_process_decides_after_next_report() {
        let start = Instant::now();
        let others = OtherReporters::new(SILENCE, start);
        let after = |millis| start + Duration::from_millis(millis);
        let own = record("own", SourceState::Live);
        let other = record("other", SourceState::Live);
        assert!(!others.is_isolated(after(20_000)), "nothing is reported");
        others.record(ReadEvent::Published(vec![own.clone()]), after(20_000));
        assert!(!others.is_isolated(after(22_900)));
        assert!(others.is_isolated(after(23_100)));
        others.record(ReadEvent::Published(vec![own.clone()]), after(40_000));
        assert!(others.is_isolated(after(40_000)), "the other may follow");
        others.record(ReadEvent::Published(vec![other]), after(41_000));
        others.record(ReadEvent::Published(vec![own]), after(42_000));
        assert!(!others.is_isolated(after(42_600)));
        assert!(others.is_live_elsewhere(&source(), after(42_600)));
    }

    #[test]
    fn unreadable_topic_delays_decisions_for_bounded_time() {
        let start = Instant::now();
        let others = OtherReporters::new(SILENCE, start);
        assert!(!others.is_decided(&source(), start));
        assert!(others.is_decided(&source(), start + MAX_WAIT));
    }

    #[test]
    fn malformed_report_is_skipped() {
        let now = Instant::now();
        let others = OtherReporters::new(SILENCE, now);
        let mut garbage = record("x", SourceState::Live);
        garbage.record.payload = bytes::Bytes::from_static(b"{\"source\":");
        let good = record("y", SourceState::Live);
        others.record(ReadEvent::Published(vec![garbage, good]), now);
        assert!(others.is_live_elsewhere(&source(), now));
    }

    /// Another feed of this process may read another supplier.
    #[test]
    fn own_reports_do_not_count() {
        let now = Instant::now();
        let others = OtherReporters::new(SILENCE, now);
        let own = record(&others.new_reporter(), SourceState::Live);
        others.record(ReadEvent::Published(vec![own]), now);
        assert!(!others.is_live_elsewhere(&source(), now));
    }
}
