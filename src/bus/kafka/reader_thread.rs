//! Spawns the reading thread of a group member.

use std::sync::Arc;

use tokio::sync::watch;

use super::member_state::MemberState;
use crate::bus::BusError;
use crate::telemetry::role;

/// Signals the end of the thread, also after a panic, so that no caller waits forever.
struct End {
    member: Arc<MemberState>,
    end: watch::Sender<bool>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.end.send_replace(true);
        self.member.filled.notify_one();
    }
}

/// Spawns the thread; the receiver signals its end.
pub(super) fn spawn(
    member: Arc<MemberState>,
    run: impl FnOnce() + Send + 'static,
) -> Result<watch::Receiver<bool>, BusError> {
    let (end, ended) = watch::channel(false);
    let thread = std::thread::Builder::new().name(format!("kafka {}", member.group));
    let end = End { member, end };
    let run = move || {
        let _end = end;
        run();
    };
    thread
        .spawn(role::carry(run))
        .map_err(|failure| BusError::Unavailable(failure.to_string()))?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::bus::kafka::KafkaBus;
    use crate::bus::kafka::subscription::KafkaSubscription;
    use crate::bus::kafka::testing::settings;
    use crate::bus::{ConsumerEvent, Subscription};

    /// Partitions whose records are lost are released when the receiver has handled it.
    #[tokio::test]
    async fn revocation_of_lost_records_is_awaited() {
        let bus = KafkaBus::new(&settings("127.0.0.1:9"), "test").unwrap();
        let member = Arc::new(MemberState::new("t", "g", None));
        member.inbox().assign(&[0]);
        let released = Arc::new(AtomicBool::new(false));
        let (waiting, is_released) = (member.clone(), released.clone());
        let ended = spawn(member.clone(), move || {
            waiting.inbox().revoke(vec![0], true);
            waiting.filled.notify_one();
            waiting.wait_for_revocations();
            is_released.store(true, Ordering::SeqCst);
            waiting.inbox().revoke(vec![1], true);
            waiting.wait_for_revocations();
        })
        .unwrap();
        let mut group = KafkaSubscription {
            member,
            ended: ended.clone(),
            _inner: bus.inner.clone(),
        };
        let next = group.next_batch(1, Duration::ZERO);
        let revoked = ConsumerEvent::Revoked {
            partitions: vec![0],
            are_records_lost: true,
        };
        assert_eq!(next.await, Ok(revoked));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!released.load(Ordering::SeqCst), "it is being handled");
        let next = group.next_batch(1, Duration::ZERO);
        assert!(matches!(next.await, Ok(ConsumerEvent::Revoked { .. })));
        assert!(released.load(Ordering::SeqCst));
        // A subscription that ends is not waited for.
        group.close().await;
        assert!(*ended.borrow());
    }

    #[tokio::test]
    async fn panicking_thread_closes_subscription() {
        let bus = KafkaBus::new(&settings("127.0.0.1:9"), "test").unwrap();
        let member = Arc::new(MemberState::new("t", "g", None));
        let ended = spawn(member.clone(), || panic!("on purpose")).unwrap();
        let mut group = KafkaSubscription {
            member,
            ended,
            _inner: bus.inner.clone(),
        };
        let event =
            tokio::time::timeout(Duration::from_secs(10), group.next_batch(1, Duration::ZERO))
                .await;
        assert_eq!(event, Ok(Err(BusError::Closed)));
    }
}
