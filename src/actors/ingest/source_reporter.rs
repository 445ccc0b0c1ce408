//! Publishes the states of the sources that the feeds of this process hear, every second and at
//! every change. Never holds up a feed: what the topic does not accept in time is dropped, because
//! a newer state follows.

mod report_book;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};
use strum::VariantArray;
use tokio::time::Instant;

use self::report_book::ReportBook;
use super::messages::SourcesHeard;
use crate::bus::{BusError, CompactedTopic, source_report};
use crate::domain::odds::source_status::SourceState;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::IngestMetrics;

/// How often due reports are looked for.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The failures that the creation of the topic explains. Each takes two seconds.
const CREATION_FAILURES: u32 = 3;

/// The actor in front of the topic of source states.
pub(crate) struct SourceReporter {
    topic: Arc<dyn CompactedTopic>,
    book: ReportBook,
    is_publishing: bool,
    /// How many reports may still fail without a warning: the topic is created at the first start.
    expected_failures: u32,
    log: FaultLog,
    metrics: IngestMetrics,
}

impl SourceReporter {
    /// Publishes to `topic`. The sources of a feed that reports nothing for `silence` are stale.
    pub(crate) fn new(
        topic: Arc<dyn CompactedTopic>,
        silence: Duration,
        metrics: IngestMetrics,
    ) -> SourceReporter {
        SourceReporter {
            topic,
            book: ReportBook::new(silence),
            is_publishing: false,
            expected_failures: CREATION_FAILURES,
            log: FaultLog::new(),
            metrics,
        }
    }

    fn publish_due(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        for state in SourceState::VARIANTS {
            let gauge = self
                .metrics
                .sources
                .with_label_values(&[<&str>::from(state)]);
            gauge.set(self.book.count(*state, now) as i64);
        }
        if self.is_publishing {
            return;
        }
        let due = self.book.due(now);
        if due.is_empty() {
            return;
        }
        self.is_publishing = true;
        let publishing = self
            .topic
            .publish(due.iter().map(source_report::record_of).collect());
        context.spawn(
            publishing
                .into_actor(self)
                .map(|published, reporter, context| {
                    reporter.is_publishing = false;
                    reporter.record(published);
                    reporter.publish_due(context);
                }),
        );
    }

    fn record(&mut self, published: Result<(), BusError>) {
        let Err(failure) = published else {
            self.expected_failures = 0;
            if self.log.recovered() {
                info!("states of sources are published again");
            }
            return;
        };
        self.metrics.source_reports_failed.inc();
        if let Some(left) = self.expected_failures.checked_sub(1) {
            self.expected_failures = left;
        } else if let Some(repeated) = self.log.failed("publish") {
            warn!(repeated; "cannot publish the states of sources, so their markets count as stale: {failure}");
        }
    }
}

impl Actor for SourceReporter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(CHECK_INTERVAL, SourceReporter::publish_due);
    }
}

impl Handler<SourcesHeard> for SourceReporter {
    type Result = ();

    fn handle(&mut self, heard: SourcesHeard, context: &mut Context<Self>) {
        self.book.record(heard, Instant::now());
        self.publish_due(context);
    }
}

#[cfg(test)]
mod tests;
