//! The start of the feed: broadcasts are received after the odds topic was read.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use log::warn;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::cache::{BroadcastEvent, BroadcastStream};

/// How long the feed waits at the start until the topic is read. Without Kafka it goes on with the
/// broadcasts alone.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(10);

/// Broadcasts that are received once the books have caught up with the odds topic: until then
/// another process may have shown newer prices than they hold.
pub(crate) struct AfterCatchUp {
    broadcasts: Box<dyn BroadcastStream>,
    /// What is waited for, and until when.
    waiting: Option<(watch::Receiver<bool>, Instant)>,
}

impl AfterCatchUp {
    /// `broadcasts`, once `caught_up` is true, the follower has ended, or the time is up.
    pub(crate) fn new(
        broadcasts: Box<dyn BroadcastStream>,
        caught_up: watch::Receiver<bool>,
    ) -> AfterCatchUp {
        AfterCatchUp {
            broadcasts,
            waiting: Some((caught_up, Instant::now() + CATCH_UP_LIMIT)),
        }
    }
}

impl BroadcastStream for AfterCatchUp {
    fn next(&mut self) -> BoxFuture<'_, BroadcastEvent> {
        async {
            if let Some((caught_up, deadline)) = &mut self.waiting {
                let waiting = caught_up.wait_for(|is_caught_up| *is_caught_up);
                if timeout_at(*deadline, waiting).await.is_err() {
                    warn!("the odds topic could not be read in time; changes arrive by redis");
                }
                self.waiting = None;
            }
            self.broadcasts.next().await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::ready;

    use super::*;

    /// A stream that always has an event.
    struct Endless;

    impl BroadcastStream for Endless {
        fn next(&mut self) -> BoxFuture<'_, BroadcastEvent> {
            ready(BroadcastEvent::Unreadable(1)).boxed()
        }
    }

    fn gate() -> (watch::Sender<bool>, AfterCatchUp) {
        let (caught_up, receiver) = watch::channel(false);
        (caught_up, AfterCatchUp::new(Box::new(Endless), receiver))
    }

    /// Whether the next event arrives within this time. A reader may give up and ask again.
    async fn arrives(gate: &mut AfterCatchUp, within: Duration) -> bool {
        tokio::time::timeout(within, gate.next()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn events_arrive_after_catching_up() {
        let (caught_up, mut gate) = gate();
        assert!(!arrives(&mut gate, CATCH_UP_LIMIT / 3).await);
        assert!(!arrives(&mut gate, CATCH_UP_LIMIT / 3).await);
        caught_up.send_replace(true);
        for _ in 0..2 {
            assert!(arrives(&mut gate, Duration::ZERO).await);
        }
    }

    /// The time runs from the start, however often a reader asks.
    #[tokio::test(start_paused = true)]
    async fn events_arrive_after_deadline() {
        let (_caught_up, mut gate) = gate();
        assert!(!arrives(&mut gate, CATCH_UP_LIMIT - Duration::from_secs(1)).await);
        assert!(arrives(&mut gate, Duration::from_secs(2)).await);
        assert!(arrives(&mut gate, Duration::ZERO).await);
    }

    #[tokio::test(start_paused = true)]
    async fn events_arrive_without_follower() {
        let (caught_up, mut gate) = gate();
        drop(caught_up);
        assert!(arrives(&mut gate, Duration::ZERO).await);
    }
}
