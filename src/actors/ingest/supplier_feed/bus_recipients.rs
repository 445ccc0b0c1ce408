//! The actors that publish a feed's content, and how much is on its way to them.

use std::sync::Arc;

use actix::prelude::*;
use prometheus::IntGauge;
use tokio::sync::{Semaphore, oneshot};

use crate::actors::ingest::messages::Publish;
use crate::bus::BusError;
use crate::telemetry::role;

/// Maximum number of batches of a feed on their way to the bus. More would not be faster: the
/// producer has at most five requests in flight.
const MAX_BATCHES: u32 = 4;

/// The receivers of updates and of dead letters. There are two, so that a full one blocks only the
/// feeds that need it.
pub(super) struct BusRecipients {
    updates: Recipient<Publish>,
    dead_letters: Recipient<Publish>,
    depth: IntGauge,
    room: Arc<Semaphore>,
}

impl BusRecipients {
    /// Counts in `depth` what the receivers have not handled yet; they count it down.
    pub(super) fn new(
        updates: Recipient<Publish>,
        dead_letters: Recipient<Publish>,
        depth: IntGauge,
    ) -> BusRecipients {
        BusRecipients {
            updates,
            dead_letters,
            depth,
            room: Arc::new(Semaphore::new(MAX_BATCHES as usize)),
        }
    }

    /// Sends each message to its receiver, unless it is empty. The future completes when the bus
    /// has accepted both; they are sent even if it is not polled. Batches stay in order.
    pub(super) fn send(
        &self,
        updates: Publish,
        dead_letters: Publish,
    ) -> impl Future<Output = Result<(), BusError>> + use<> {
        let dead_letters = self.send_to(&self.dead_letters, dead_letters);
        let updates = self.send_to(&self.updates, updates);
        // A batch beyond the limit, such as a suspension by a timer, needs no permit: the feed
        // waits for room after each batch.
        let permit = self.room.clone().try_acquire_owned().ok();
        let (done, answer) = oneshot::channel();
        // Not a future of the actor, which polls none while it waits for room.
        actix::spawn(role::inherit(async move {
            let published = dead_letters.await.and(updates.await);
            drop(permit);
            // The feed may have ended.
            let _ = done.send(published);
        }));
        async move { answer.await.unwrap_or(Err(BusError::Closed)) }
    }

    /// Whether another batch may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.room.available_permits() > 0
    }

    /// Completes when another batch may be sent.
    pub(super) fn room(&self) -> impl Future<Output = ()> + use<> {
        self.permits(1)
    }

    /// Completes when no batch is on its way.
    pub(super) fn all_published(&self) -> impl Future<Output = ()> + use<> {
        self.permits(MAX_BATCHES)
    }

    fn permits(&self, count: u32) -> impl Future<Output = ()> + use<> {
        let room = self.room.clone();
        async move {
            // The semaphore is never closed.
            let _ = room.acquire_many(count).await;
        }
    }

    fn send_to(
        &self,
        to: &Recipient<Publish>,
        message: Publish,
    ) -> impl Future<Output = Result<(), BusError>> + use<> {
        let is_empty = message.updates.is_empty() && message.dead_letters.is_empty();
        let depth = self.depth.clone();
        let sending = (!is_empty).then(|| {
            depth.inc();
            to.send(message)
        });
        async move {
            let Some(sending) = sending else {
                return Ok(());
            };
            sending.await.unwrap_or_else(|error| {
                depth.dec();
                Err(BusError::Unreachable(error.to_string()))
            })
        }
    }
}
