//! Stores the last states of books whose records are lost with their topic. The store path may not
//! have read all of these records. A process that takes over a partition would then load older
//! states, and publish sequence numbers again that clients have seen.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};
use prometheus::IntCounterVec;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::actors::consumers::BatchError;
use crate::actors::odds::messages::StoreBatch;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// Maximum number of states in one transaction.
const CHUNK: usize = 1_000;
/// How long the live path waits for the database.
const WAIT: Duration = Duration::from_secs(1);
/// Delays between attempts.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(5),
};

/// Stores states until the database has accepted them, or the process stops.
pub(super) struct StateSaver {
    store: Recipient<StoreBatch>,
    stop: CancellationToken,
    errors: IntCounterVec,
    saves: JoinSet<()>,
}

impl StateSaver {
    /// A saver that sends to `store`, counts failures in `errors`, and gives up after `stop`.
    pub(super) fn new(
        store: Recipient<StoreBatch>,
        stop: CancellationToken,
        errors: IntCounterVec,
    ) -> StateSaver {
        StateSaver {
            store,
            stop,
            errors,
            saves: JoinSet::new(),
        }
    }

    /// Stores states, and returns when they are stored or after [`WAIT`]. What is not stored by then
    /// is stored in the background: the live path does not depend on the database.
    pub(super) async fn save(&mut self, states: Vec<Arc<MarketState>>) {
        if states.is_empty() {
            return;
        }
        let store = self.store.clone();
        let stop = self.stop.clone();
        let errors = self.errors.clone();
        self.saves.spawn(save(store, stop, errors, states));
        self.finish().await;
    }

    /// Waits up to [`WAIT`] until everything is stored.
    pub(super) async fn finish(&mut self) {
        let saves = &mut self.saves;
        let finishing = timeout(WAIT, async { while saves.join_next().await.is_some() {} });
        // On a timeout the rest goes on.
        let _ = finishing.await;
    }
}

async fn save(
    store: Recipient<StoreBatch>,
    stop: CancellationToken,
    errors: IntCounterVec,
    states: Vec<Arc<MarketState>>,
) {
    let count = states.len();
    let updates = in_order(states);
    let mut backoff = Backoff::new(RETRY, Timestamp::now().micros() as u64);
    for chunk in updates.chunks(CHUNK) {
        while let Err(error) = write(&store, chunk).await {
            errors.with_label_values(&[error.stage()]).inc();
            if stop.is_cancelled() {
                warn!(states = count; "stopping before the last states of a deleted topic are stored: {error}");
                return;
            }
            if backoff.failures() == 0 {
                warn!(states = count; "the last states of a deleted topic are not stored yet, retrying: {error}");
            }
            let _ = timeout(backoff.next_delay(), stop.cancelled()).await;
        }
    }
    info!(states = count; "the last states of a deleted topic are stored");
}

async fn write(
    store: &Recipient<StoreBatch>,
    chunk: &[PositionedUpdate],
) -> Result<(), BatchError> {
    let batch = StoreBatch {
        updates: chunk.to_vec(),
        dead_letters: Vec::new(),
    };
    BatchError::of_reply("store", store.send(batch).await)
}

/// The states as updates, at the positions that give them their sequence numbers again.
fn in_order(mut states: Vec<Arc<MarketState>>) -> Vec<PositionedUpdate> {
    states.sort_by_key(|state| state.seq);
    let positioned = |state: Arc<MarketState>| PositionedUpdate {
        update: state.update.clone(),
        partition: 0,
        position: state.seq.saturating_sub(1),
        trace: None,
    };
    states.into_iter().map(positioned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::odds::consumers::testing::ProbeStore;
    use crate::domain::odds::update::testing::update;
    use crate::telemetry::metrics::ProcessorMetrics;

    fn state(number: u32, seq: u64) -> Arc<MarketState> {
        let update = update(number, 1, 1);
        Arc::new(MarketState { update, seq })
    }

    fn saver(store: Recipient<StoreBatch>) -> (StateSaver, CancellationToken, IntCounterVec) {
        let stop = CancellationToken::new();
        let errors = ProcessorMetrics::new().unwrap().errors;
        let saver = StateSaver::new(store, stop.clone(), errors.clone());
        (saver, stop, errors)
    }

    #[actix_web::test]
    async fn states_are_stored_with_their_numbers_after_failures() {
        let (store, batches) = ProbeStore::failing(2);
        let (mut saver, _stop, errors) = saver(store);
        saver.save(vec![state(1, 7), state(2, 3)]).await;
        for _ in 0..10 {
            saver.finish().await;
        }
        let batches = batches.lock();
        let updates = batches.iter().flat_map(|batch| &batch.updates);
        let stored: Vec<_> = updates
            .map(|stored| (stored.update.clone(), stored.position))
            .collect();
        assert_eq!(stored, [(update(2, 1, 1), 2), (update(1, 1, 1), 6)]);
        assert_eq!(errors.with_label_values(&["store"]).get(), 2);
    }

    #[actix_web::test]
    async fn many_states_are_stored_in_several_transactions() {
        let (store, batches) = ProbeStore::failing(0);
        let (mut saver, ..) = saver(store);
        let states = (1..=CHUNK as u64 + 1).map(|seq| state(1, seq)).collect();
        saver.save(states).await;
        for _ in 0..10 {
            saver.finish().await;
        }
        let sizes: Vec<_> = batches.lock().iter().map(|it| it.updates.len()).collect();
        assert_eq!(sizes, [CHUNK, 1]);
    }

    #[actix_web::test]
    async fn stop_ends_attempts() {
        let (store, batches) = ProbeStore::failing(usize::MAX);
        let (mut saver, stop, errors) = saver(store);
        saver.save(vec![state(1, 7)]).await;
        assert!(errors.with_label_values(&["store"]).get() > 0);
        assert!(!saver.saves.is_empty(), "the live path waits no longer");
        stop.cancel();
        while saver.saves.join_next().await.is_some() {}
        assert!(batches.lock().is_empty());
    }
}
