//! Writes to the database, one batch in flight, and removes expired rows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{info, warn};

use crate::actors::odds::messages::StoreBatch;
use crate::domain::timestamp::Timestamp;
use crate::runtime::blocking::blocking;
use crate::store::{PruneReport, Store, StoreError};
use crate::telemetry::metrics::ProcessorMetrics;

/// Interval between removals of expired rows.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// Pause between two steps of a removal.
const PRUNE_PAUSE: Duration = Duration::from_millis(50);

/// How long rows are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Rows of the history.
    pub history: Duration,
    /// Dead letters.
    pub dead_letters: Duration,
}

/// The result of the last batch: a database that answers may still reject writes, for instance when
/// its disk is full.
#[derive(Default)]
pub struct LastBatch(Mutex<Option<String>>);

impl LastBatch {
    /// Why the last batch was not written; `None` if it was.
    pub fn problem(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn record<T>(&self, written: &Result<T, StoreError>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            written.as_ref().err().map(StoreError::to_string);
    }
}

/// Writes batches to the database.
pub struct StoreWriter {
    store: Arc<dyn Store>,
    retention: Retention,
    last: Arc<LastBatch>,
    metrics: ProcessorMetrics,
}

impl StoreWriter {
    /// Creates a writer to `store`.
    pub fn new(
        store: Arc<dyn Store>,
        retention: Retention,
        metrics: ProcessorMetrics,
    ) -> StoreWriter {
        StoreWriter {
            store,
            retention,
            last: Arc::default(),
            metrics,
        }
    }

    /// The result of the last batch, for the readiness check.
    pub fn last_batch(&self) -> Arc<LastBatch> {
        self.last.clone()
    }

    fn prune(&mut self, context: &mut Context<Self>) {
        let (store, retention, metrics) =
            (self.store.clone(), self.retention, self.metrics.clone());
        let pruning = prune_all(store, retention).into_actor(self);
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
        let (store, metrics, last) = (self.store.clone(), self.metrics.clone(), self.last.clone());
        let writing = async move {
            let started = Instant::now();
            let (updates, letters) = (batch.updates.len(), batch.dead_letters.len());
            let written = blocking(move || {
                // Dead letters first: if the updates fail, the batch is retried, and a letter may
                // be stored twice but is never lost.
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
            last.record(&written);
            if let Some(report) = written? {
                metrics.db_writes.inc_by(report.recorded as u64);
                metrics.batch_size.observe(updates as f64);
                metrics
                    .batch_seconds
                    .observe(started.elapsed().as_secs_f64());
            }
            metrics.dead_letters.inc_by(letters as u64);
            Ok(())
        };
        AtomicResponse::new(Box::pin(writing.into_actor(self)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::domain::dead_letter::DeadLetter;
    use crate::domain::ids::EventId;
    use crate::domain::odds::book::MarketState;
    use crate::domain::odds::update::PositionedUpdate;
    use crate::domain::odds::update::testing::update;
    use crate::store::events::{EventPage, EventQuery};
    use crate::store::{BatchReport, HistoryEntry, HistoryQuery, StoredDeadLetter};

    /// A store that records the writes and how many of them run concurrently.
    #[derive(Default)]
    struct ProbeStore {
        written: Mutex<Vec<String>>,
        writing: AtomicUsize,
        most_writing: AtomicUsize,
        panics: AtomicBool,
        prunable: AtomicUsize,
    }

    impl Store for ProbeStore {
        fn migrate(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn ping(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn write_updates(&self, updates: &[PositionedUpdate]) -> Result<BatchReport, StoreError> {
            assert!(
                !self.panics.swap(false, Ordering::SeqCst),
                "panic requested by the test"
            );
            self.most_writing.fetch_max(
                self.writing.fetch_add(1, Ordering::SeqCst) + 1,
                Ordering::SeqCst,
            );
            // Long enough for another write to overlap, if it can.
            std::thread::sleep(Duration::from_millis(2));
            self.written
                .lock()
                .unwrap()
                .extend(updates.iter().map(|one| format!("update {}", one.position)));
            self.writing.fetch_sub(1, Ordering::SeqCst);
            Ok(BatchReport {
                applied: updates.len(),
                recorded: updates.len(),
            })
        }

        fn load_event(&self, _: &EventId) -> Result<Vec<Arc<MarketState>>, StoreError> {
            Ok(Vec::new())
        }

        fn list_events(&self, _: &EventQuery) -> Result<EventPage, StoreError> {
            Ok(EventPage::default())
        }

        fn history(&self, _: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError> {
            Ok(Vec::new())
        }

        fn write_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
            self.written.lock().unwrap().extend(
                letters
                    .iter()
                    .map(|letter| format!("letter {}", letter.reason)),
            );
            Ok(())
        }

        fn list_dead_letters(&self, _: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
            Ok(Vec::new())
        }

        fn prune(
            &self,
            history_before: Timestamp,
            dead_letters_before: Timestamp,
        ) -> Result<PruneReport, StoreError> {
            assert!(
                history_before < dead_letters_before,
                "history is kept longer here"
            );
            let left = self.prunable.load(Ordering::SeqCst);
            let history = left.min(10);
            self.prunable.store(left - history, Ordering::SeqCst);
            Ok(PruneReport {
                history,
                dead_letters: 0,
            })
        }
    }

    const RETENTION: Retention = Retention {
        history: Duration::from_secs(7_200),
        dead_letters: Duration::from_secs(3_600),
    };

    fn start(store: &Arc<ProbeStore>) -> (Addr<StoreWriter>, ProcessorMetrics) {
        let metrics = ProcessorMetrics::new().unwrap();
        (
            StoreWriter::new(store.clone(), RETENTION, metrics.clone()).start(),
            metrics,
        )
    }

    fn batch(position: u64, letters: &[&str]) -> StoreBatch {
        let letter = |reason: &&str| DeadLetter {
            received_at: Timestamp::now(),
            origin: "test".to_owned(),
            reason: (*reason).to_owned(),
            detail: String::new(),
            raw: bytes::Bytes::new(),
        };
        let updates = vec![PositionedUpdate {
            update: update(1, 1, 1),
            partition: 0,
            position,
        }];
        StoreBatch {
            updates,
            dead_letters: letters.iter().map(letter).collect(),
        }
    }

    #[actix_web::test]
    async fn batches_are_written_one_by_one() {
        let store = Arc::new(ProbeStore::default());
        let (writer, metrics) = start(&store);
        let answers = join_all((0..10).map(|position| writer.send(batch(position, &[])))).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap().is_ok()));
        let expected: Vec<_> = (0..10)
            .map(|position| format!("update {position}"))
            .collect();
        assert_eq!(*store.written.lock().unwrap(), expected);
        assert_eq!(store.most_writing.load(Ordering::SeqCst), 1);
        assert_eq!(metrics.db_writes.get(), 10);
    }

    #[actix_web::test]
    async fn store_panic_is_a_retryable_error() {
        let store = Arc::new(ProbeStore::default());
        store.panics.store(true, Ordering::SeqCst);
        let (writer, metrics) = start(&store);
        let answer = writer.send(batch(0, &["malformed"])).await.unwrap();
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
        assert_eq!(
            (metrics.db_writes.get(), metrics.dead_letters.get()),
            (0, 0)
        );
        writer
            .send(batch(0, &["malformed"]))
            .await
            .unwrap()
            .unwrap();
        // The letter is written first both times: it may be stored twice, but is never lost.
        assert_eq!(
            *store.written.lock().unwrap(),
            ["letter malformed", "letter malformed", "update 0"]
        );
        assert_eq!(
            (metrics.db_writes.get(), metrics.dead_letters.get()),
            (1, 1)
        );
    }

    #[actix_web::test]
    async fn failed_batch_is_reported_until_success() {
        let store = Arc::new(ProbeStore::default());
        let writer = StoreWriter::new(store.clone(), RETENTION, ProcessorMetrics::new().unwrap());
        let last = writer.last_batch();
        let writer = writer.start();
        assert_eq!(last.problem(), None);
        store.panics.store(true, Ordering::SeqCst);
        assert!(writer.send(batch(0, &[])).await.unwrap().is_err());
        assert!(
            last.problem()
                .unwrap()
                .contains("the database thread failed"),
            "{:?}",
            last.problem()
        );
        writer.send(batch(0, &[])).await.unwrap().unwrap();
        assert_eq!(last.problem(), None);
    }

    #[actix_web::test]
    async fn expired_rows_are_removed_in_steps() {
        let store = Arc::new(ProbeStore::default());
        store.prunable.store(25, Ordering::SeqCst);
        let (_writer, metrics) = start(&store);
        let pruned = || metrics.pruned.with_label_values(&["odds_history"]).get();
        for _ in 0..1_000 {
            if pruned() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((pruned(), store.prunable.load(Ordering::SeqCst)), (25, 0));
    }
}
