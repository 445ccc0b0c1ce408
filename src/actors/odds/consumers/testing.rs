//! Probes that the tests of the consumers share.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::actors::consumers::ConsumerSettings;
use crate::actors::odds::messages::{StoreBatch, StoreStates};
use crate::bus::NewRecord;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::update;
use crate::store::StoreError;

/// A store that fails a given number of times, then keeps its batches.
pub(super) struct ProbeStore {
    failures: usize,
    batches: Arc<Mutex<Vec<StoreBatch>>>,
}

impl ProbeStore {
    /// Starts a store, and returns the batches that it will keep.
    pub(super) fn failing(failures: usize) -> (Recipient<StoreBatch>, Arc<Mutex<Vec<StoreBatch>>>) {
        let batches = Arc::default();
        let store = ProbeStore {
            failures,
            batches: Arc::clone(&batches),
        };
        (store.start().recipient(), batches)
    }
}

/// Like [`ProbeStore`], for states.
pub(super) struct ProbeStateStore {
    failures: usize,
    stored: StoredStates,
}

/// The states of each message.
type StoredStates = Arc<Mutex<Vec<Vec<Arc<MarketState>>>>>;

impl ProbeStateStore {
    /// Starts a store, and returns the states that it will keep.
    pub(super) fn failing(failures: usize) -> (Recipient<StoreStates>, StoredStates) {
        let stored = StoredStates::default();
        let store = ProbeStateStore {
            failures,
            stored: stored.clone(),
        };
        (store.start().recipient(), stored)
    }
}

impl Actor for ProbeStateStore {
    type Context = Context<Self>;
}

impl Handler<StoreStates> for ProbeStateStore {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, states: StoreStates, _: &mut Context<Self>) -> Self::Result {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(StoreError::Unavailable("down".to_owned()));
        }
        self.stored.lock().push(states.0);
        Ok(())
    }
}

impl Actor for ProbeStore {
    type Context = Context<Self>;
}

impl Handler<StoreBatch> for ProbeStore {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, batch: StoreBatch, _: &mut Context<Self>) -> Self::Result {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(StoreError::Unavailable("down".to_owned()));
        }
        self.batches.lock().push(batch);
        Ok(())
    }
}

/// Settings of the group `g` on the topic `t`.
pub(super) fn settings(linger: Duration) -> ConsumerSettings {
    ConsumerSettings {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        batch_size: 10,
        linger,
        limits: Plausibility::within(Duration::from_secs(300)),
    }
}

/// A record with the key `k`.
pub(super) fn record(payload: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        key: Bytes::from_static(b"k"),
        payload: payload.into(),
        headers: Vec::new(),
    }
}

/// An update from the future.
pub(super) fn future_update(version: i64) -> OddsUpdate {
    let mut update = update(1, 1, version);
    update.revision.updated_at = "2099-01-01T00:00:00Z".parse().unwrap();
    update
}
