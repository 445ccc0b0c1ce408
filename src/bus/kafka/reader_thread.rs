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
    use std::time::Duration;

    use super::*;
    use crate::bus::Subscription;
    use crate::bus::kafka::KafkaBus;
    use crate::bus::kafka::subscription::KafkaSubscription;
    use crate::bus::kafka::testing::settings;

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
