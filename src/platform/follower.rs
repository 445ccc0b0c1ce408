//! Books that also follow the odds topic, for roles that show prices without being processors.

use std::sync::Arc;

use actix::prelude::*;

use super::builder::PlatformBuilder;
use super::odds::OddsRuntime;
use crate::actors::odds::book_router::BookRouter;
use crate::actors::odds::consumers::topic_follower::{AfterCatchUp, TopicFollower};
use crate::actors::odds::odds_book::MirrorFeed;
use crate::bus::Topic;
use crate::cache::BroadcastStream;

/// Mailbox capacity of the follower, which receives no messages.
const FOLLOWER_MAILBOX: usize = 1;

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
        // A thread of its own: it decodes every record, and the books have other work.
        let thread = self.arbiter();
        self.start("topic follower", &thread, FOLLOWER_MAILBOX, follower);
        Box::new(AfterCatchUp::new(broadcasts, caught_up))
    }
}
