//! Follows the reports of all `ingest` processes about their sources, and passes on the state of
//! each source: every second, and at once when one changes.
//!
//! If the reports cannot be read any more, no source is heard, and each is lost after
//! `SOURCE_SILENCE`. A source that becomes live is passed on as live once the books have applied what
//! was published before. The first states after the start are passed on when every source has had the
//! time to be reported again and the books have applied the updates of those that are live, at most
//! ten seconds after the reports have been read: until then readers keep to what another processor has
//! reported. The selector gets the reports themselves, as soon as they have been read.
//! [`SourceWatch`] decides; the actor carries it out.

mod applied_sources;
mod unreported;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{info, warn};
use strum::VariantArray;

use self::unreported::Unreported;
use self::watch::{Due, SourceWatch};
use super::messages::{ReportsRead, SourcesReported};
use crate::bus::group_path::GroupPath;
use crate::bus::{BusError, CompactedTopic, ReadEvent, Record, TopicReader, source_report};
use crate::domain::odds::source_status::SourceState;
use crate::telemetry::log_limit::{FaultLog, LogLimit};
use crate::telemetry::metrics::ProcessorMetrics;

/// Interval between checks for silent sources.
const TICK: Duration = Duration::from_millis(250);
/// Delay before the topic is read again after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Limits the log lines about unreadable reports.
static UNREADABLE: LogLimit = LogLimit::every(Duration::from_secs(60));
/// Limits the log lines about each source.
static STATES: LogLimit = LogLimit::every(Duration::from_secs(1));

/// Follows the sources.
pub(crate) struct SourceMonitor {
    topic: Arc<dyn CompactedTopic>,
    watch: SourceWatch,
    unreported: Option<Unreported>,
    /// The way of an update to the books.
    path: GroupPath,
    subscribers: Vec<Recipient<SourcesReported>>,
    selector: Option<Recipient<ReportsRead>>,
    log: FaultLog,
    check_log: FaultLog,
    metrics: ProcessorMetrics,
}

impl SourceMonitor {
    /// Reads `topic` and sends to `subscribers`. A source without a report for `silence` is lost. One
    /// that becomes live is passed on as live once the updates before that have taken `path`.
    pub(crate) fn new(
        topic: Arc<dyn CompactedTopic>,
        silence: Duration,
        path: GroupPath,
        subscribers: Vec<Recipient<SourcesReported>>,
        metrics: ProcessorMetrics,
    ) -> SourceMonitor {
        SourceMonitor {
            topic,
            watch: SourceWatch::new(silence),
            unreported: None,
            path,
            subscribers,
            selector: None,
            log: FaultLog::new(),
            check_log: FaultLog::new(),
            metrics,
        }
    }

    /// Also sends what is reported to the selector, if there is one.
    pub(crate) fn with_selector(self, selector: Option<Recipient<ReportsRead>>) -> SourceMonitor {
        SourceMonitor { selector, ..self }
    }

    /// Starts a reader.
    fn read(&mut self, context: &mut Context<Self>) {
        match self.topic.read() {
            Ok(reader) => self.receive(reader, context),
            Err(error) => self.retry(&error, context),
        }
    }

    fn receive(&self, mut reader: Box<dyn TopicReader>, context: &mut Context<Self>) {
        let receiving = async move {
            let event = reader.next().await;
            (event, reader)
        };
        let receiving = receiving.into_actor(self);
        context.spawn(
            receiving.map(|(event, reader), monitor, context| match event {
                Ok(event) => {
                    monitor.received(event);
                    monitor.pass_on(context);
                    monitor.receive(reader, context);
                }
                Err(error) => monitor.retry(&error, context),
            }),
        );
    }

    fn retry(&self, error: &BusError, context: &mut Context<Self>) {
        if let Some(repeated) = self.log.failed(&error.to_string()) {
            warn!(repeated; "reports about sources cannot be read, retrying: {error}");
        }
        context.run_later(RETRY, Self::read);
    }

    fn received(&mut self, event: ReadEvent) {
        match event {
            ReadEvent::Held(records) => self.record(&records, None),
            ReadEvent::Published(records) => self.record(&records, Some(Instant::now())),
            ReadEvent::CaughtUp => {
                self.watch.caught_up(Instant::now());
                if self.log.recovered() {
                    info!("reports about sources are read again");
                }
            }
        }
    }

    fn record(&mut self, records: &[Record], heard_at: Option<Instant>) {
        for record in records {
            match source_report::read(record) {
                Ok(report) => self.watch.record(report, heard_at),
                Err(error) => self.reject(&error),
            }
        }
    }

    fn reject(&self, error: &serde_json::Error) {
        self.metrics.source_reports_unreadable.inc();
        if let Some(repeated) = UNREADABLE.check("") {
            warn!(repeated; "a report about a source cannot be read: {error}");
        }
    }

    /// Sends the states if they changed or a second has passed, and checks the sources that became
    /// live.
    fn pass_on(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        if self.watch.begin_check(now) {
            self.check_applied(context);
        }
        self.send_reports(now);
        if let Some(due) = self.watch.due(now) {
            self.send(due);
        }
    }

    fn send_reports(&mut self, now: Instant) {
        if let Some(selector) = &self.selector
            && let Some(reports) = self.watch.reports_due(now)
        {
            // If the mailbox is full, the next message within a second says the same.
            let _ = selector.try_send(ReportsRead(reports));
        }
    }

    fn check_applied(&self, context: &mut Context<Self>) {
        let path = self.path.clone();
        let passing = async move { path.passed().await };
        context.spawn(passing.into_actor(self).map(|passed, monitor, context| {
            monitor.watch.check_finished(passed.is_ok(), Instant::now());
            match passed {
                // Other sources may have become live in the meantime.
                Ok(()) => {
                    if monitor.check_log.recovered() {
                        info!("the books have applied the updates of all live sources");
                    }
                    monitor.pass_on(context);
                }
                // Repeated after a moment.
                Err(error) => monitor.log_unchecked(&error),
            }
        }));
    }

    fn log_unchecked(&self, error: &BusError) {
        if let Some(repeated) = self.check_log.failed(&error.to_string()) {
            warn!(repeated; "reports that sources are live do not count yet: it is not known whether the books have applied the updates before them: {error}");
        }
    }

    fn send(&self, due: Due) {
        let Due {
            sources,
            changed,
            were_live,
        } = due;
        for (source, state) in &changed {
            let was_heard = sources.get(source).is_some_and(|it| it.at.is_some());
            let is_starting = *state == SourceState::Recovering && !were_live.contains(source);
            log_state(source.as_str(), *state, was_heard && !is_starting);
        }
        for state in SourceState::VARIANTS {
            let count = sources.values().filter(|it| it.state == *state).count();
            let label: &str = state.into();
            let gauge = self.metrics.sources.with_label_values(&[label]);
            gauge.set(count as i64);
        }
        for subscriber in &self.subscribers {
            // If the mailbox is full, the next message within a second says the same.
            let _ = subscriber.try_send(SourcesReported(sources.clone()));
        }
    }
}

/// Logs a change. It is no fault that a source is not live yet: at the start its next report follows
/// within a second.
fn log_state(source: &str, state: SourceState, is_fault: bool) {
    let Some(repeated) = STATES.check(&format!("{source} {state}")) else {
        return;
    };
    if state == SourceState::Live {
        info!(source, repeated; "source is live");
    } else if !is_fault {
        info!(source, repeated; "waiting until the source is live");
    } else {
        warn!(source, repeated; "source is {state}: its markets are shown as suspended, and no bets on them are accepted");
    }
}

impl Actor for SourceMonitor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(TICK, Self::pass_on);
        self.read(context);
        self.follow_unreported(context);
    }
}

#[cfg(test)]
mod tests;
