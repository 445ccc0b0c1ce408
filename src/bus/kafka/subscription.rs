//! A group member, as the platform sees it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::member_state::MemberState;
use crate::bus::health::SubscriptionHealth;
use crate::bus::{BusError, ConsumerEvent, Position, Subscription};

/// How long leaving the group may take before it is left to the thread. Together with the preceding
/// final flush it fits into the half of the shutdown timeout reserved for it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a Kafka topic. When dropped, it leaves its group in the background.
pub(super) struct KafkaSubscription {
    pub(super) member: Arc<MemberState>,
    pub(super) ended: watch::Receiver<bool>,
    /// Keeps the topic monitor alive.
    pub(super) _inner: Arc<super::Inner>,
}

impl KafkaSubscription {
    async fn fill(&self, ready: impl Fn(&MemberState) -> bool) {
        // There is one reader and one permit: an item added between the check and the wait is not
        // missed.
        while !ready(&self.member) && !*self.ended.borrow() && !self.member.is_closing() {
            self.member.filled.notified().await;
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
            self.member.inbox().mark_handled();
            self.member.notify_moved();
            loop {
                self.fill(|member| !member.inbox().is_empty()).await;
                if self.member.is_closing() {
                    return Err(BusError::Closed);
                }
                let ready = self.member.inbox().ready(max);
                if !linger.is_zero() && 0 < ready && ready < max {
                    tokio::time::sleep(linger).await;
                }
                // Nothing is taken before the last await, so dropping the future loses nothing.
                // Records seen before the wait may be gone if their partitions were revoked.
                let event = self.member.inbox().take(max);
                if let Some(event) = event {
                    self.member.notify_moved();
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
        self.member.inbox().commit(done);
        self.member.notify_moved();
    }

    fn lag(&self) -> u64 {
        self.member.inbox().lag()
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn health(&self) -> SubscriptionHealth {
        self.member.health.clone()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async move {
            self.member.close();
            // On a timeout Kafka is unavailable, and the thread ends on its own.
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.ended.wait_for(|ended| *ended)).await;
        }
        .boxed()
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.member.close();
    }
}
