//! The actors that publish a feed's content.

use actix::prelude::*;
use prometheus::IntGauge;

use crate::actors::ingest::messages::Publish;
use crate::bus::BusError;

/// The receivers of updates and of dead letters. There are two, so that a full one blocks only the
/// feeds that need it.
pub(super) struct BusRecipients {
    updates: Recipient<Publish>,
    dead_letters: Recipient<Publish>,
    depth: IntGauge,
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
        }
    }

    /// Sends each message to its receiver, unless it is empty, and waits until the bus has accepted
    /// all.
    pub(super) fn send(
        &self,
        updates: Publish,
        dead_letters: Publish,
    ) -> impl Future<Output = Result<(), BusError>> + use<> {
        let dead_letters = self.send_to(&self.dead_letters, dead_letters);
        let updates = self.send_to(&self.updates, updates);
        async move { dead_letters.await.and(updates.await) }
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
