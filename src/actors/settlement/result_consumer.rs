//! Reads the topic of results and stores each record. A record that cannot be read, or claims to be
//! an operator's, becomes a dead letter.

use std::sync::Arc;

use actix::prelude::*;
use log::{error, warn};

use super::messages::ResultsStored;
use crate::actors::consumers::{
    BatchConsumer, BatchError, BatchHandler, ConsumerSettings, GroupReader, publish_dead_letters,
};
use crate::bus::{NewRecord, Record, Subscription, Topic, dead_letter};
use crate::domain::settlement::market_results::Inserted;
use crate::domain::settlement::record::{RecordError, ResultRecord};
use crate::domain::settlement::trust::is_operator;
use crate::runtime::clock::Clock;
use crate::runtime::drain::DrainableTask;
use crate::store::blocking::blocking;
use crate::store::money::ResultStore;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::SettlementMetrics;

/// The reason of dead letters that claim to be an operator's. Those are written to the database only.
pub(crate) const RESERVED_SOURCE: &str = "reserved_source";

/// Limits the log of dead letters, by reason.
static DEAD_LETTERS: LogLimit = LogLimit::every(std::time::Duration::from_secs(60));

/// Stores the records of results.
pub(crate) struct ResultConsumer {
    store: Arc<dyn ResultStore>,
    /// Learns that results were stored.
    settler: Recipient<ResultsStored>,
    /// The topic's name, for dead letters.
    topic: String,
    dead_letters: Arc<dyn Topic>,
    clock: Clock,
    metrics: SettlementMetrics,
}

/// Why a record is not stored.
enum BadResult {
    Unreadable(RecordError),
    ReservedSource,
}

impl BadResult {
    fn reason(&self) -> &'static str {
        match self {
            BadResult::Unreadable(error) => error.reason(),
            BadResult::ReservedSource => RESERVED_SOURCE,
        }
    }

    fn detail(&self) -> String {
        match self {
            BadResult::Unreadable(error) => error.to_string(),
            BadResult::ReservedSource => {
                "a source that starts with `operator:` is reserved for `sports-bet settle`"
                    .to_owned()
            }
        }
    }
}

/// Where a consumer stores results, and whom it tells.
pub(crate) struct ResultTargets {
    /// The database.
    pub store: Arc<dyn ResultStore>,
    /// Learns that results were stored.
    pub settler: Recipient<ResultsStored>,
    /// Receives the records that are no results.
    pub dead_letters: Arc<dyn Topic>,
}

impl ResultConsumer {
    /// The actor that reads results from `subscription`.
    pub(crate) fn task(
        settings: ConsumerSettings,
        subscription: Box<dyn Subscription>,
        targets: ResultTargets,
        clock: Clock,
        metrics: SettlementMetrics,
    ) -> DrainableTask {
        let consumer = ResultConsumer {
            store: targets.store,
            settler: targets.settler,
            topic: settings.topic.clone(),
            dead_letters: targets.dead_letters,
            clock,
            metrics: metrics.clone(),
        };
        let reader = GroupReader::new(settings, subscription, "results", &metrics.bus_lag);
        BatchConsumer::new(reader, consumer, metrics.errors).into_task()
    }

    fn dead_letter(&self, record: &Record, bad: &BadResult) -> NewRecord {
        let (reason, detail) = (bad.reason(), bad.detail());
        let now = self.clock.now();
        let letter = dead_letter::letter_of(record, &self.topic, reason, &detail, now);
        dead_letter::of_record(&letter, &self.topic, record)
    }

    async fn publish(&self, bad: &[(&Record, BadResult)]) -> Result<(), BatchError> {
        if bad.is_empty() {
            return Ok(());
        }
        let letters = bad
            .iter()
            .map(|(record, why)| self.dead_letter(record, why))
            .collect();
        publish_dead_letters(&*self.dead_letters, letters).await?;
        for (_, why) in bad {
            let reason = why.reason();
            self.metrics.dead_letters.with_label_values(&[reason]).inc();
            if let Some(repeated) = DEAD_LETTERS.check(reason) {
                warn!(repeated; "record of results sent to dead letters: {}", why.detail());
            }
        }
        Ok(())
    }

    fn count(&self, record: &ResultRecord, inserted: Inserted) {
        let outcome = match inserted {
            Inserted::New => "new",
            Inserted::Known => "known",
            Inserted::Conflict => "conflict",
        };
        self.metrics.records.with_label_values(&[outcome]).inc();
        if inserted == Inserted::Conflict {
            error!(
                event = record.event_id.as_str(), market = record.market.to_string(),
                source = record.source.as_str(), version = record.revision.version;
                "a source sent two contents with one revision: nothing is paid by it until a later revision"
            );
        }
    }
}

fn read(record: &Record) -> Result<ResultRecord, BadResult> {
    let read = ResultRecord::from_json(&record.record.payload).map_err(BadResult::Unreadable)?;
    if is_operator(&read.source) {
        return Err(BadResult::ReservedSource);
    }
    Ok(read)
}

/// What of a batch is done.
#[derive(Default)]
pub(crate) struct Done {
    dead_letters: bool,
}

impl BatchHandler for ResultConsumer {
    type Progress = Done;

    async fn attempt(&self, batch: &[Record], done: &mut Done) -> Result<(), BatchError> {
        let mut good = Vec::new();
        let mut bad = Vec::new();
        for record in batch {
            match read(record) {
                Ok(read) => good.push(read),
                Err(why) => bad.push((record, why)),
            }
        }
        if !done.dead_letters {
            self.publish(&bad).await?;
            done.dead_letters = true;
        }
        if good.is_empty() {
            return Ok(());
        }
        let store = self.store.clone();
        let now = self.clock.now();
        let storing = blocking(move || {
            let inserted = store.store_results(&good, now)?;
            Ok((good, inserted))
        });
        let (records, inserted) = storing
            .await
            .map_err(|error: crate::store::StoreError| BatchError::new("store", error))?;
        for (record, inserted) in records.iter().zip(inserted) {
            self.count(record, inserted);
        }
        // A full mailbox has a message already.
        let _ = self.settler.try_send(ResultsStored);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
