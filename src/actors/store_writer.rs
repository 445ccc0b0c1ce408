//! Writes to the database, one batch in flight, and removes what is too old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{info, warn};

use super::messages::StoreBatch;
use crate::domain::timestamp::Timestamp;
use crate::metrics::ProcessorMetrics;
use crate::store::{PruneReport, Store, StoreError};

/// How often old rows are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// How long rows are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Of the history.
    pub history: Duration,
    /// Of the dead letters.
    pub dead_letters: Duration,
}

/// The actor in front of the database.
pub struct StoreWriter {
    store: Arc<dyn Store>,
    retention: Retention,
    metrics: ProcessorMetrics,
}

impl StoreWriter {
    /// Writes to `store`.
    pub fn new(store: Arc<dyn Store>, retention: Retention, metrics: ProcessorMetrics) -> StoreWriter {
        StoreWriter { store, retention, metrics }
    }

    fn prune(&mut self, context: &mut Context<Self>) {
        let (store, retention, metrics) = (self.store.clone(), self.retention, self.metrics.clone());
        let pruning = async move { blocking(move || prune_all(&*store, retention)).await }.into_actor(self);
        context.spawn(pruning.map(move |report, _, _| match report {
            Ok(PruneReport { history: 0, dead_letters: 0 }) => {}
            Ok(report) => {
                metrics.pruned.with_label_values(&["odds_history"]).inc_by(report.history as u64);
                metrics.pruned.with_label_values(&["dead_letters"]).inc_by(report.dead_letters as u64);
                info!(history = report.history, dead_letters = report.dead_letters; "rows removed, their retention is over");
            }
            Err(error) => warn!("old rows not removed: {error}"),
        }));
    }
}

/// Removes in bounded steps, so that no single transaction holds the writers up.
fn prune_all(store: &dyn Store, retention: Retention) -> Result<PruneReport, StoreError> {
    let before = |age: Duration| {
        let micros = Timestamp::now().micros().saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        Timestamp::from_micros(micros)
    };
    let mut total = PruneReport::default();
    let (Some(history), Some(dead_letters)) = (before(retention.history), before(retention.dead_letters)) else {
        return Ok(total);
    };
    loop {
        let step = store.prune(history, dead_letters)?;
        if step == PruneReport::default() {
            return Ok(total);
        }
        total.history += step.history;
        total.dead_letters += step.dead_letters;
    }
}

impl Actor for StoreWriter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.prune(context);
        context.run_interval(PRUNE_INTERVAL, |writer, context| writer.prune(context));
    }
}

impl Handler<StoreBatch> for StoreWriter {
    // Atomic: one transaction at a time, in the order of the bus.
    type Result = AtomicResponse<Self, Result<(), StoreError>>;

    fn handle(&mut self, batch: StoreBatch, _: &mut Context<Self>) -> Self::Result {
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        let writing = async move {
            let started = Instant::now();
            let (updates, letters) = (batch.updates.len(), batch.dead_letters.len());
            let written = blocking(move || {
                // Dead letters first: should the updates fail, the batch is tried again and a letter may stand twice,
                // but none is lost.
                if !batch.dead_letters.is_empty() {
                    store.write_dead_letters(&batch.dead_letters)?;
                }
                if batch.updates.is_empty() { Ok(None) } else { store.write_updates(&batch.updates).map(Some) }
            });
            if let Some(report) = written.await? {
                metrics.db_writes.inc_by(report.recorded as u64);
                metrics.batch_size.observe(updates as f64);
                metrics.batch_seconds.observe(started.elapsed().as_secs_f64());
            }
            metrics.dead_letters.inc_by(letters as u64);
            Ok(())
        };
        AtomicResponse::new(Box::pin(writing.into_actor(self)))
    }
}

/// Runs what blocks on a thread for it. A panic in there is an error here.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) => Err(StoreError::Unavailable(format!("the database thread failed: {failure}"))),
    }
}
