//! Books that also follow the odds topic, for roles that show prices without being processors.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use log::warn;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::builder::PlatformBuilder;
use super::odds::OddsRuntime;
use crate::actors::odds::book_router::BookRouter;
use crate::actors::odds::consumers::topic_follower::TopicFollower;
use crate::actors::odds::odds_book::MirrorFeed;
use crate::bus::Topic;
use crate::cache::{BroadcastEvent, BroadcastStream};

/// Mailbox capacity of the follower, which receives no messages.
const FOLLOWER_MAILBOX: usize = 1;
/// How long the feed waits at the start until the topic is read. Without Kafka it goes on with the
/// broadcasts alone.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(10);

impl PlatformBuilder<'_> {
    /// Starts the follower of `topic`, and returns the broadcasts that the books receive once it
    /// has caught up.
    pub(super) fn start_follower(
        &mut self,
        odds: &OddsRuntime,
        topic: &Arc<dyn Topic>,
        router: &Addr<BookRouter<MirrorFeed>>,
        broadcasts: Box<dyn BroadcastStream>,
    ) -> Box<dyn BroadcastStream> {
        let follower = TopicFollower::new(
            topic.clone(),
            self.settings.bus.kafka_group_live.clone(),
            router.clone().recipient(),
            self.limits(),
            odds.metrics.clone(),
        );
        let caught_up = follower.caught_up();
        self.start("topic follower", &odds.thread, FOLLOWER_MAILBOX, follower);
        Box::new(AfterCatchUp {
            broadcasts,
            waiting: Some((caught_up, Instant::now() + CATCH_UP_LIMIT)),
        })
    }
}

/// Broadcasts that are received once the books have caught up with the odds topic: until then
/// another process may have shown newer prices than they hold.
struct AfterCatchUp {
    broadcasts: Box<dyn BroadcastStream>,
    /// What is waited for, and until when.
    waiting: Option<(watch::Receiver<bool>, Instant)>,
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
