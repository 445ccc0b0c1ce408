//! The actors that publish a feed's content, and how much is on its way to them.

use std::sync::Arc;

use actix::prelude::*;
use prometheus::IntGauge;
use tokio::sync::{Semaphore, oneshot};

use super::publish_plan::Batch;
use crate::actors::ingest::messages::Publish;
use crate::bus::BusError;
use crate::telemetry::role;

/// Maximum number of batches of a feed on their way to the bus. More would not be faster: the
/// producer has at most five requests in flight.
const MAX_BATCHES: u32 = 4;

/// The receivers of updates, dead letters and results. There are several, so that a full one blocks
/// only the feeds that need it.
#[derive(Clone)]
pub(crate) struct FeedPublishers {
    /// Receives updates.
    pub updates: Recipient<Publish>,
    /// Receives frames that could not be decoded.
    pub dead_letters: Recipient<Publish>,
    /// Receives results, and frames whose results could not be decoded.
    pub results: Recipient<Publish>,
}

/// The receivers, and how much is on its way to them.
pub(super) struct BusRecipients {
    publishers: FeedPublishers,
    depth: IntGauge,
    room: Arc<Semaphore>,
}

impl BusRecipients {
    /// Counts in `depth` what the receivers have not handled yet; they count it down.
    pub(super) fn new(publishers: FeedPublishers, depth: IntGauge) -> BusRecipients {
        BusRecipients {
            publishers,
            depth,
            room: Arc::new(Semaphore::new(MAX_BATCHES as usize)),
        }
    }

    /// Sends each message to its receiver, unless it is empty. The future completes when the bus
    /// has accepted all of them; they are sent even if it is not polled. Batches stay in order.
    pub(super) fn send(&self, batch: Batch) -> impl Future<Output = Result<(), BusError>> + use<> {
        let dead_letters = self.send_to(&self.publishers.dead_letters, batch.dead_letters);
        let results = self.send_to(&self.publishers.results, batch.results);
        let updates = self.send_to(&self.publishers.updates, batch.updates);
        // A batch beyond the limit, such as a suspension by a timer, needs no permit: the feed
        // waits for room after each batch.
        let permit = self.room.clone().try_acquire_owned().ok();
        let (done, answer) = oneshot::channel();
        // Not a future of the actor, which polls none while it waits for room.
        actix::spawn(role::inherit(async move {
            let published = dead_letters.await.and(results.await).and(updates.await);
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
        let is_empty = message.is_empty();
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
