//! Writes to the database, one batch in flight, and removes expired rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{info, warn};

use super::messages::{StoreBatch, StoreStates};
use crate::domain::timestamp::Timestamp;
use crate::runtime::health::HealthCell;
use crate::store::blocking::blocking;
use crate::store::{PruneReport, Store, StoreError};
use crate::telemetry::metrics::ProcessorMetrics;

/// Interval between removals of expired rows.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// Pause between two steps of a removal.
const PRUNE_PAUSE: Duration = Duration::from_millis(50);

/// How long rows are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// Rows of the history.
    pub history: Duration,
    /// Dead letters.
    pub dead_letters: Duration,
}

/// Writes batches to the database.
pub(crate) struct StoreWriter {
    store: Arc<dyn Store>,
    retention: Retention,
    health: Arc<HealthCell>,
    metrics: ProcessorMetrics,
}

impl StoreWriter {
    /// Creates a writer to `store`.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        retention: Retention,
        metrics: ProcessorMetrics,
    ) -> StoreWriter {
        StoreWriter {
            store,
            retention,
            health: Arc::default(),
            metrics,
        }
    }

    /// The result of the last batch: a database that answers may still reject writes, for instance
    /// when its disk is full.
    pub(crate) fn health(&self) -> Arc<HealthCell> {
        self.health.clone()
    }

    fn prune(&mut self, context: &mut Context<Self>) {
        let metrics = self.metrics.clone();
        let pruning = prune_all(self.store.clone(), self.retention).into_actor(self);
        context.spawn(pruning.map(move |report, _, context| {
            context.run_later(PRUNE_INTERVAL, |writer, context| writer.prune(context));
            match report {
                Ok(PruneReport {
                    history: 0,
                    dead_letters: 0,
                }) => {}
                Ok(PruneReport {
                    history,
                    dead_letters,
                }) => {
                    metrics
                        .pruned
                        .with_label_values(&["odds_history"])
                        .inc_by(history as u64);
                    metrics
                        .pruned
                        .with_label_values(&["dead_letters"])
                        .inc_by(dead_letters as u64);
                    info!(history, dead_letters; "expired rows removed");
                }
                Err(error) => warn!("expired rows not removed: {error}"),
            }
        }));
    }
}

/// Removes rows in bounded steps with pauses in between, so that batches get access to the
/// database.
async fn prune_all(store: Arc<dyn Store>, retention: Retention) -> Result<PruneReport, StoreError> {
    let before = |age: Duration| {
        let micros = Timestamp::now()
            .micros()
            .saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        Timestamp::from_micros(micros)
    };
    let mut total = PruneReport::default();
    let (Some(history), Some(dead_letters)) =
        (before(retention.history), before(retention.dead_letters))
    else {
        return Ok(total);
    };
    loop {
        let pruned = store.clone();
        let step = blocking(move || pruned.prune(history, dead_letters)).await?;
        if step == PruneReport::default() {
            return Ok(total);
        }
        total.history += step.history;
        total.dead_letters += step.dead_letters;
        tokio::time::sleep(PRUNE_PAUSE).await;
    }
}

impl Actor for StoreWriter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.prune(context);
    }
}

impl Handler<StoreBatch> for StoreWriter {
    // Atomic: one transaction at a time, in bus order.
    type Result = AtomicResponse<Self, Result<(), StoreError>>;

    fn handle(&mut self, batch: StoreBatch, _: &mut Context<Self>) -> Self::Result {
        let store = self.store.clone();
        let metrics = self.metrics.clone();
        let health = self.health.clone();
        let writing = async move {
            let started = Instant::now();
            let updates = batch.updates.len();
            let dead_letters = batch.dead_letters.len();
            let written = blocking(move || {
                // Dead letters first: if the updates fail, the batch is retried, and a dead letter
                // may be stored twice but is never lost.
                if !batch.dead_letters.is_empty() {
                    store.write_dead_letters(&batch.dead_letters)?;
                }
                if batch.updates.is_empty() {
                    Ok(None)
                } else {
                    store.write_updates(&batch.updates).map(Some)
                }
            });
            let written = written.await;
            health.record(&written);
            if let Some(report) = written? {
                metrics.db_writes.inc_by(report.recorded as u64);
                metrics.batch_size.observe(updates as f64);
                metrics
                    .batch_seconds
                    .observe(started.elapsed().as_secs_f64());
            }
            metrics.dead_letters.inc_by(dead_letters as u64);
            Ok(())
        };
        AtomicResponse::new(Box::pin(writing.into_actor(self)))
    }
}

impl Handler<StoreStates> for StoreWriter {
    // Not beside a batch, which may write the same rows.
    type Result = AtomicResponse<Self, Result<(), StoreError>>;

    fn handle(&mut self, StoreStates(states): StoreStates, _: &mut Context<Self>) -> Self::Result {
        let store = self.store.clone();
        let metrics = self.metrics.clone();
        let health = self.health.clone();
        let writing = async move {
            let written = blocking(move || store.write_states(&states)).await;
            health.record(&written);
            metrics.db_writes.inc_by(written?.recorded as u64);
            Ok(())
        };
        AtomicResponse::new(Box::pin(writing.into_actor(self)))
    }
}

#[cfg(test)]
mod tests;
