//! A group member, as the platform sees it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::reader::Shared;
use crate::bus::health::SubscriptionHealth;
use crate::bus::{BusError, ConsumerEvent, Position, Subscription};

/// How long leaving the group may take before it is left to the thread. Together with the preceding
/// final flush it fits into the half of the shutdown timeout reserved for it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a Kafka topic. When dropped, it leaves its group in the background.
pub(super) struct KafkaSubscription {
    pub(super) shared: Arc<Shared>,
    pub(super) ended: watch::Receiver<bool>,
    /// Keeps the topic monitor alive.
    pub(super) _inner: Arc<super::Inner>,
}

impl KafkaSubscription {
    async fn fill(&self, ready: impl Fn(&Shared) -> bool) {
        // There is one reader and one permit: an item added between the check and the wait is not
        // missed.
        while !ready(&self.shared) && !*self.ended.borrow() && !self.shared.is_closing() {
            self.shared.filled.notified().await;
        }
    }
}

impl Subscription for KafkaSubscription {
    fn next_batch(
        &mut self,
        max: usize,
        linger: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>> {
        async move {
            loop {
                self.fill(|shared| !shared.inbox().is_empty()).await;
                if self.shared.is_closing() {
                    return Err(BusError::Closed);
                }
                let ready = self.shared.inbox().ready(max);
                if !linger.is_zero() && 0 < ready && ready < max {
                    tokio::time::sleep(linger).await;
                }
                // Nothing is taken before the last await, so dropping the future loses nothing.
                // Records seen before the wait may be gone if their partitions were revoked.
                let event = self.shared.inbox().take(max);
                if let Some(event) = event {
                    self.shared.notify_moved();
                    return Ok(event);
                }
                if *self.ended.borrow() {
                    return Err(BusError::Closed);
                }
            }
        }
        .boxed()
    }

    fn commit(&mut self, done: &Position) {
        self.shared.inbox().commit(done);
        self.shared.notify_moved();
    }

    fn lag(&self) -> u64 {
        self.shared.inbox().lag()
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn health(&self) -> SubscriptionHealth {
        self.shared.health.clone()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async move {
            self.shared.close();
            // On a timeout Kafka is unavailable, and the thread ends on its own.
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.ended.wait_for(|ended| *ended)).await;
        }
        .boxed()
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.shared.close();
    }
}
