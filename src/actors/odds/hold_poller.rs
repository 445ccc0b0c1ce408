//! Reads the holds in force once a second. If they cannot be read, those last read stay in force. A
//! read that hangs is left, and the next one does not wait for it.
//!
//! This is for showing what is held. A bet does not depend on it: the transaction that places a bet
//! reads the holds itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::Semaphore;

use super::messages::HoldsLoaded;
use crate::domain::odds::hold::Hold;
use crate::domain::timestamp::Timestamp;
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::blocking::blocking_within;
use crate::store::holds::{HoldStore, StoredHold};
use crate::telemetry::metrics::OddsMetrics;

/// How often the holds are read.
const INTERVAL: Duration = Duration::from_secs(1);
/// A read that takes longer has failed, and is not waited for any more.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How many reads may run at once. A read that is not waited for any more keeps its thread until the
/// database ends it.
const MAX_READS: usize = 4;

/// Whether the holds are known.
#[derive(Debug)]
pub(crate) struct HoldHealth {
    reads: HealthCell,
    is_loaded: AtomicBool,
}

impl HoldHealth {
    /// What is wrong. Before the first read, nobody knows what is held.
    pub(crate) fn problem(&self) -> Option<String> {
        let is_loaded = self.is_loaded.load(Ordering::Relaxed);
        let unknown = || (!is_loaded).then(|| "the holds have not been read yet".to_owned());
        self.reads.problem().or_else(unknown)
    }
}

/// The holds that were read last, and those that were sent last.
#[derive(Debug, Default)]
struct KnownHolds {
    read: Option<Vec<Hold>>,
    sent: Option<Vec<Hold>>,
}

impl KnownHolds {
    /// The holds in force, if they differ from those that were sent.
    fn unsent(&self, now: Timestamp) -> Option<Vec<Hold>> {
        let read = self.read.as_ref()?.iter();
        let in_force: Vec<_> = read.filter(|hold| hold.is_in_force(now)).cloned().collect();
        (self.sent.as_ref() != Some(&in_force)).then_some(in_force)
    }
}

/// The actor that reads the holds in force and sends them when they change.
pub(crate) struct HoldPoller {
    store: Arc<dyn HoldStore>,
    keeper: Recipient<HoldsLoaded>,
    clock: Clock,
    health: Arc<HoldHealth>,
    metrics: OddsMetrics,
    known: KnownHolds,
    /// Whether a read is waited for.
    is_reading: bool,
    turns: Arc<Semaphore>,
}

impl HoldPoller {
    /// Reads the holds of `store` and sends them to `keeper`.
    pub(crate) fn new(
        store: Arc<dyn HoldStore>,
        keeper: Recipient<HoldsLoaded>,
        clock: Clock,
        metrics: OddsMetrics,
    ) -> HoldPoller {
        let health = HoldHealth {
            reads: HealthCell::new("the holds cannot be read; those last read stay in force"),
            is_loaded: AtomicBool::new(false),
        };
        HoldPoller {
            store,
            keeper,
            clock,
            health: Arc::new(health),
            metrics,
            known: KnownHolds::default(),
            is_reading: false,
            turns: Arc::new(Semaphore::new(MAX_READS)),
        }
    }

    /// Whether the holds are known.
    pub(crate) fn health(&self) -> Arc<HoldHealth> {
        self.health.clone()
    }

    fn poll(&mut self, context: &mut Context<Self>) {
        let now = self.clock.now();
        // Holds also end while the database cannot be read.
        self.send(now);
        if std::mem::replace(&mut self.is_reading, true) {
            return;
        }
        let reading = read(self.store.clone(), now, self.turns.clone(), READ_TIMEOUT);
        let finished = reading.into_actor(self);
        context.spawn(finished.map(|read, poller, _| poller.finish(read)));
    }

    fn finish(&mut self, read: Result<Vec<StoredHold>, StoreError>) {
        self.is_reading = false;
        self.health.reads.record(&read);
        match read {
            Ok(stored) => {
                let holds = stored.into_iter().map(|stored| stored.hold);
                self.known.read = Some(holds.collect());
                self.health.is_loaded.store(true, Ordering::Relaxed);
                self.send(self.clock.now());
            }
            Err(_) => self.metrics.hold_read_errors.inc(),
        }
    }

    /// Sends the holds in force if they have changed. If the mailbox is full, the next poll tries
    /// again.
    fn send(&mut self, now: Timestamp) {
        let Some(holds) = self.known.unsent(now) else {
            return;
        };
        self.metrics.holds.set(holds.len() as i64);
        if self.keeper.try_send(HoldsLoaded(holds.clone())).is_ok() {
            self.known.sent = Some(holds);
        }
    }
}

/// Reads the holds in force, within a time limit.
async fn read(
    store: Arc<dyn HoldStore>,
    now: Timestamp,
    turns: Arc<Semaphore>,
    limit: Duration,
) -> Result<Vec<StoredHold>, StoreError> {
    blocking_within(turns, limit, move || store.holds(Some(now))).await
}

impl Actor for HoldPoller {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.poll(context);
        context.run_interval(INTERVAL, HoldPoller::poll);
    }
}

#[cfg(test)]
mod tests;
