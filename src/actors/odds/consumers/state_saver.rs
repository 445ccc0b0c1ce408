//! Stores the last states of books whose records are lost on the bus. The store path may not have
//! read all of these records. A process that takes over a partition would then load older states,
//! and publish sequence numbers again that clients have seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::actors::consumers::BatchError;
use crate::actors::odds::messages::StoreStates;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::MarketState;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};

/// Maximum number of states in one transaction.
const CHUNK: usize = 1_000;
/// How long the live path waits for the database.
const WAIT: Duration = Duration::from_secs(1);
/// Delays between attempts: those of the store path, which may be waiting for the same database.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(1),
};

/// Stores states until the database has accepted them, or the process stops.
pub(super) struct StateSaver {
    saving: Saving,
    task: Option<JoinHandle<()>>,
}

/// What the task shares with the saver.
#[derive(Clone)]
struct Saving {
    store: Recipient<StoreStates>,
    stop: CancellationToken,
    errors: IntCounterVec,
    pending: Arc<Mutex<PendingStates>>,
}

/// The states to store: the last one of each market.
#[derive(Default)]
struct PendingStates {
    states: BTreeMap<(EventId, MarketKey), Arc<MarketState>>,
    /// Whether a task stores them.
    is_running: bool,
}

impl PendingStates {
    /// Adds states. Returns whether a task has to be started.
    fn add(&mut self, states: Vec<Arc<MarketState>>) -> bool {
        for state in states {
            let update = &state.update;
            let market = (update.event_id.clone(), update.market.clone());
            let held = self.states.entry(market).or_insert_with(|| state.clone());
            if held.seq < state.seq {
                *held = state;
            }
        }
        let was_running = std::mem::replace(&mut self.is_running, !self.states.is_empty());
        self.is_running && !was_running
    }

    /// Some states; none if the task has to end.
    fn next_chunk(&mut self) -> Vec<Arc<MarketState>> {
        self.is_running = !self.states.is_empty();
        self.states.values().take(CHUNK).cloned().collect()
    }

    fn remove(&mut self, stored: &[Arc<MarketState>]) {
        for state in stored {
            let market = (state.update.event_id.clone(), state.update.market.clone());
            if self
                .states
                .get(&market)
                .is_some_and(|held| Arc::ptr_eq(held, state))
            {
                self.states.remove(&market);
            }
        }
    }
}

impl StateSaver {
    /// A saver that sends to `store`, counts failures in `errors`, and gives up after `stop`.
    pub(super) fn new(
        store: Recipient<StoreStates>,
        stop: CancellationToken,
        errors: IntCounterVec,
    ) -> StateSaver {
        let saving = Saving {
            store,
            stop,
            errors,
            pending: Arc::default(),
        };
        StateSaver { saving, task: None }
    }

    /// Stores states, and returns when they are stored or after [`WAIT`]. What is not stored by then
    /// is stored in the background: the live path does not depend on the database. Returns at once
    /// if earlier states are still being stored.
    pub(super) async fn save(&mut self, states: Vec<Arc<MarketState>>) {
        let starts = self.saving.pending.lock().add(states);
        if starts {
            self.task = Some(actix::spawn(self.saving.clone().run()));
            let _ = timeout(WAIT, self.wait()).await;
        }
    }

    /// Waits until everything is stored.
    pub(super) async fn wait(&mut self) {
        if let Some(task) = &mut self.task {
            // It ends with an error only if it panics, which is logged.
            let _ = task.await;
            self.task = None;
        }
    }
}

impl Saving {
    async fn run(self) {
        let mut stored = 0;
        let mut backoff = Backoff::new(RETRY, Timestamp::now().micros() as u64);
        loop {
            let chunk = self.pending.lock().next_chunk();
            if chunk.is_empty() {
                break;
            }
            let storing = self.store.send(StoreStates(chunk.clone())).await;
            let Err(error) = BatchError::of_reply("store", storing) else {
                stored += chunk.len();
                self.pending.lock().remove(&chunk);
                continue;
            };
            self.errors.with_label_values(&[error.stage()]).inc();
            let states = self.pending.lock().states.len();
            if self.stop.is_cancelled() {
                warn!(states; "stopping before the last states of lost records are stored: {error}");
                return;
            }
            if backoff.failures() == 0 {
                warn!(states; "the last states of lost records are not stored yet, retrying: {error}");
            }
            let _ = timeout(backoff.next_delay(), self.stop.cancelled()).await;
        }
        info!(states = stored; "the last states of lost records are stored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::odds::consumers::testing::ProbeStateStore;
    use crate::domain::odds::update::testing::update;
    use crate::telemetry::metrics::ProcessorMetrics;

    fn state(event: u32, seq: u64) -> Arc<MarketState> {
        let update = update(event, 1, 1);
        Arc::new(MarketState { update, seq })
    }

    fn saver(store: Recipient<StoreStates>) -> (StateSaver, CancellationToken, IntCounterVec) {
        let stop = CancellationToken::new();
        let errors = ProcessorMetrics::new().unwrap().errors;
        let saver = StateSaver::new(store, stop.clone(), errors.clone());
        (saver, stop, errors)
    }

    #[actix_web::test]
    async fn states_are_stored_after_failures() {
        let (store, stored) = ProbeStateStore::failing(2);
        let (mut saver, _stop, errors) = saver(store);
        saver.save(vec![state(1, 7), state(2, 3)]).await;
        saver.wait().await;
        assert_eq!(*stored.lock(), [[state(1, 7), state(2, 3)]]);
        assert_eq!(errors.with_label_values(&["store"]).get(), 2);
        saver.save(vec![state(1, 9)]).await;
        saver.wait().await;
        assert_eq!(stored.lock()[1], [state(1, 9)], "a new task starts");
    }

    #[actix_web::test]
    async fn many_states_are_stored_in_several_transactions() {
        let (store, stored) = ProbeStateStore::failing(0);
        let (mut saver, ..) = saver(store);
        let states = (1..=CHUNK as u32 + 1)
            .map(|event| state(event, 1))
            .collect();
        saver.save(states).await;
        saver.wait().await;
        let sizes: Vec<_> = stored.lock().iter().map(Vec::len).collect();
        assert_eq!(sizes, [CHUNK, 1]);
    }

    /// The live path waits once, and memory is bounded by the number of markets.
    #[actix_web::test]
    async fn hanging_database_is_waited_for_once() {
        let (store, stored) = ProbeStateStore::failing(usize::MAX);
        let (mut saver, stop, errors) = saver(store);
        saver.save(vec![state(1, 7)]).await;
        assert!(errors.with_label_values(&["store"]).get() > 0);
        for seq in [9, 8] {
            let saving = std::pin::pin!(saver.save(vec![state(1, seq)]));
            assert!(futures_util::poll!(saving).is_ready());
        }
        let pending: Vec<_> = saver
            .saving
            .pending
            .lock()
            .states
            .values()
            .cloned()
            .collect();
        assert_eq!(pending, [state(1, 9)]);
        stop.cancel();
        saver.wait().await;
        assert!(stored.lock().is_empty());
    }
}
