use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;

use super::*;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::testing::update;
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate};
use crate::store::events::{EventPage, EventQuery};
use crate::store::{
    BatchReport, HistoryEntry, HistoryQuery, MarketsOfSourceQuery, StoredDeadLetter,
};

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

    fn stream_epoch(&self) -> Result<String, StoreError> {
        Ok("test".to_owned())
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

    fn write_states(&self, states: &[Arc<MarketState>]) -> Result<BatchReport, StoreError> {
        let seqs = states.iter().map(|state| format!("state {}", state.seq));
        self.written.lock().unwrap().extend(seqs);
        Ok(BatchReport {
            applied: 0,
            recorded: states.len(),
        })
    }

    fn load_event(&self, _: &EventId) -> Result<Vec<Arc<MarketState>>, StoreError> {
        Ok(Vec::new())
    }

    fn unfinished_markets(&self, _: &MarketsOfSourceQuery) -> Result<Vec<OddsUpdate>, StoreError> {
        Ok(Vec::new())
    }

    fn sources_of_unfinished_markets(&self) -> Result<Vec<Source>, StoreError> {
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
        trace: None,
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
async fn published_states_are_written() {
    let store = Arc::new(ProbeStore::default());
    let (writer, metrics) = start(&store);
    let update = update(1, 1, 1);
    let states = StoreStates(vec![Arc::new(MarketState { update, seq: 7 })]);
    let (first, second) = futures_util::join!(writer.send(batch(0, &[])), writer.send(states));
    assert_eq!((first.unwrap(), second.unwrap()), (Ok(()), Ok(())));
    assert_eq!(*store.written.lock().unwrap(), ["update 0", "state 7"]);
    assert_eq!(metrics.db_writes.get(), 2);
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
    let health = writer.health();
    let writer = writer.start();
    assert_eq!(health.problem(), None);
    store.panics.store(true, Ordering::SeqCst);
    assert!(writer.send(batch(0, &[])).await.unwrap().is_err());
    assert!(
        health
            .problem()
            .unwrap()
            .contains("the database thread failed"),
        "{:?}",
        health.problem()
    );
    writer.send(batch(0, &[])).await.unwrap().unwrap();
    assert_eq!(health.problem(), None);
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
