//! A member of a group, as the platform sees it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::reader::Shared;
use crate::bus::health::SubscriptionHealth;
use crate::bus::{BusError, ConsumerEvent, Position, Subscription};

/// How long leaving the group may take before it is left to the thread. With the last flush before
/// it, it fits into the half of the shutdown timeout that is there for it.
const LEAVING: Duration = Duration::from_secs(2);

/// Reads a topic of Kafka. Dropped, it leaves its group in the background.
pub(super) struct KafkaSubscription {
    pub(super) shared: Arc<Shared>,
    pub(super) ended: watch::Receiver<bool>,
    /// Keeps the watch over the topic alive.
    pub(super) _inner: Arc<super::Inner>,
}

impl KafkaSubscription {
    async fn fill(&self, ready: impl Fn(&Shared) -> bool) {
        // One reader and one permit: what is put in between the look and the wait is not missed.
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
                // Nothing is taken before the last wait, so a caller may give up waiting and lose
                // nothing. What was there before the wait may be gone: its partitions were revoked.
                let taken = self.shared.inbox().take(max);
                if let Some(given) = taken {
                    self.shared.tell_moved();
                    return Ok(given);
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
        self.shared.tell_moved();
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
            // Either it has ended, or it takes too long: Kafka is away, and the thread ends by
            // itself.
            let _ = tokio::time::timeout(LEAVING, self.ended.wait_for(|ended| *ended)).await;
        }
        .boxed()
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.shared.close();
    }
}
