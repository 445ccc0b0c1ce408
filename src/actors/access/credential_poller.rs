//! Reads API keys and revocations once a second: those of users since the last read, and once a
//! minute all. If they cannot be read, those last read stay in force. A read that hangs is left, and
//! the next one does not wait for it.
//!
//! What is revoked is sent to those who have open sessions. When keys were used is written in the
//! background.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::Semaphore;

use super::messages::RevocationsChanged;
use crate::access::credentials::KnownCredentials;
use crate::domain::access::Revocations;
use crate::runtime::clock::Clock;
use crate::runtime::health::HealthCell;
use crate::store::StoreError;
use crate::store::access::{AccessRecords, AccessStore};
use crate::store::blocking::{blocking, blocking_within};
use crate::telemetry::metrics::AccessMetrics;

/// How often keys and revocations are read.
const INTERVAL: Duration = Duration::from_secs(1);
/// After this many reads, all revocations of users are read again, also those of a database that was
/// restored.
const FULL_READ: u32 = 60;
/// A read that takes longer has failed, and is not waited for any more.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How many reads may run at once.
const MAX_READS: usize = 4;
/// How often the times of use are written.
const USES_INTERVAL: Duration = Duration::from_secs(60);

/// Somebody who is sent what is revoked.
struct Subscriber {
    recipient: Recipient<RevocationsChanged>,
    sent: Option<Arc<Revocations>>,
}

impl Subscriber {
    /// Sends what is revoked, unless it has been sent. If the mailbox is full, the next poll tries
    /// again.
    fn send(&mut self, current: &Arc<Revocations>) {
        let is_known = |sent: &Arc<Revocations>| Arc::ptr_eq(sent, current);
        if self.sent.as_ref().is_some_and(is_known) {
            return;
        }
        let message = RevocationsChanged(current.clone());
        if self.recipient.try_send(message).is_ok() {
            self.sent = Some(current.clone());
        }
    }
}

/// The actor that reads API keys and revocations.
pub(crate) struct CredentialPoller {
    store: Arc<dyn AccessStore>,
    credentials: Arc<KnownCredentials>,
    subscribers: Vec<Subscriber>,
    clock: Clock,
    metrics: AccessMetrics,
    /// Whether a read is waited for.
    is_reading: bool,
    turns: Arc<Semaphore>,
    /// Reads that succeeded.
    reads: u32,
    /// The result of the last write of the times of use.
    uses: Arc<HealthCell>,
}

impl CredentialPoller {
    /// Reads `store` into `credentials`, and sends changes of what is revoked to `subscribers`.
    pub(crate) fn new(
        store: Arc<dyn AccessStore>,
        credentials: Arc<KnownCredentials>,
        subscribers: Vec<Recipient<RevocationsChanged>>,
        clock: Clock,
        metrics: AccessMetrics,
    ) -> CredentialPoller {
        let subscribers = subscribers.into_iter().map(|recipient| Subscriber {
            recipient,
            sent: None,
        });
        CredentialPoller {
            store,
            credentials,
            subscribers: subscribers.collect(),
            clock,
            metrics,
            is_reading: false,
            turns: Arc::new(Semaphore::new(MAX_READS)),
            reads: 0,
            uses: Arc::new(HealthCell::new(
                "the times of use of API keys cannot be written",
            )),
        }
    }

    fn poll(&mut self, context: &mut Context<Self>) {
        // To those whose mailbox was full.
        self.send();
        if std::mem::replace(&mut self.is_reading, true) {
            return;
        }
        let after = match self.reads % FULL_READ {
            0 => 0,
            _ => self.credentials.known_revocation(),
        };
        let store = self.store.clone();
        let reading = blocking_within(self.turns.clone(), READ_TIMEOUT, move || {
            store.access_records(after)
        });
        let finished = reading.into_actor(self);
        context.spawn(finished.map(|read, poller, _| poller.finish(read)));
    }

    fn finish(&mut self, read: Result<AccessRecords, StoreError>) {
        self.is_reading = false;
        self.credentials.reads().record(&read);
        match read {
            Ok(records) => {
                self.reads = self.reads.wrapping_add(1);
                self.credentials.update(records);
                let seconds = self.clock.now().micros() / 1_000_000;
                self.metrics.credentials_read_at.set(seconds);
                self.send();
            }
            Err(_) => self.metrics.credential_read_errors.inc(),
        }
    }

    fn send(&mut self) {
        if let Some(current) = self.credentials.known_revocations() {
            self.subscribers
                .iter_mut()
                .for_each(|subscriber| subscriber.send(&current));
        }
    }

    /// Writes when keys were used. Times that cannot be written are lost: the next use brings a later
    /// one.
    fn write_uses(&mut self, context: &mut Context<Self>) {
        let uses = self.credentials.take_uses();
        if uses.is_empty() {
            return;
        }
        let store = self.store.clone();
        let health = self.uses.clone();
        let writing = blocking(move || store.record_key_uses(&uses));
        let finished = writing.into_actor(self);
        context.spawn(finished.map(move |written, _, _| health.record(&written)));
    }
}

impl Actor for CredentialPoller {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.poll(context);
        context.run_interval(INTERVAL, CredentialPoller::poll);
        context.run_interval(USES_INTERVAL, CredentialPoller::write_uses);
    }
}

#[cfg(test)]
mod tests;
