//! Books that follow the odds topic itself, for roles that show prices without being processors.
//!
//! A change reaches them without the way through a processor and Redis. They read all partitions
//! beside the group of the processors, compute the same sequence numbers from the same records, and
//! write nothing.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::StartError;
use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::engines::Bus;
use super::odds::{OddsRuntime, ShownBooks};
use crate::actors::odds::book_router::BookRouter;
use crate::actors::odds::book_source::{BookSource, MergePolicy};
use crate::actors::odds::consumers::ConsumerSettings;
use crate::actors::odds::consumers::live_consumer::{LiveConsumer, LiveEdges};
use crate::actors::odds::heartbeat::{Heartbeat, HeartbeatTarget};
use crate::actors::odds::odds_book::{BookEdges, BusFeed, ChangeSubscriber};
use crate::actors::odds::source_monitor::SourceMonitor;
use crate::cache::OddsCache;
use crate::store::Store;

/// Mailbox capacity of actors that receive no messages but the one to stop.
const IDLE_MAILBOX: usize = 16;

impl PlatformBuilder<'_> {
    /// Starts books that follow the odds topic and publish to the registry.
    pub(super) fn start_follower(
        &mut self,
        odds: &OddsRuntime,
        bus: &Bus,
        cache: &Arc<dyn OddsCache>,
        store: &Arc<dyn Store>,
    ) -> Result<ShownBooks, StartError> {
        let OddsRuntime {
            registry,
            thread,
            feed,
            metrics,
            ..
        } = odds;
        let router = self.start_following_books(odds, cache, store);
        let settings = ConsumerSettings {
            group: self.settings.bus.kafka_group_live.clone(),
            topic: bus.updates.name().to_owned(),
            batch_size: self.settings.bus.bus_batch_size,
            linger: Duration::ZERO,
            limits: self.limits(),
        };
        let subscription = bus.updates.follow(&settings.group)?;
        let health = subscription.health();
        let edges = LiveEdges {
            books: router.clone().recipient(),
            revoked: router.clone().recipient(),
            cache: None,
        };
        let metrics = metrics.consumer_metrics();
        let consumer = LiveConsumer::new(settings, subscription, edges, metrics);
        let signs = (consumer.life(), consumer.backlog());
        let consumer = consumer.into_task();
        let consumer = self.start("topic follower", thread, IDLE_MAILBOX, consumer);
        self.parts.consumers.push(consumer);
        feed.follow(signs.1.clone(), self.settings.cache.feed_stale_after);
        let target = HeartbeatTarget::Local {
            state: feed.clone(),
            feed: registry.clone().recipient(),
        };
        let heartbeat = Heartbeat::new(bus.updates.clone(), signs, health, target);
        self.start("heartbeat", thread, IDLE_MAILBOX, heartbeat);
        // An `ingest` of an earlier version may run, and reports no sources.
        let keeper = self.start_keeper(odds, router.clone().recipient(), 0);
        let monitor = SourceMonitor::new(
            bus.source_status.clone(),
            self.settings.cache.source_silence,
            vec![keeper.clone().recipient()],
            odds.metrics.source_metrics(),
        );
        self.start("source monitor", thread, IDLE_MAILBOX, monitor);
        let snapshots = router.recipient();
        Ok(ShownBooks { snapshots, keeper })
    }

    fn start_following_books(
        &mut self,
        odds: &OddsRuntime,
        cache: &Arc<dyn OddsCache>,
        store: &Arc<dyn Store>,
    ) -> Addr<BookRouter<BusFeed>> {
        let OddsRuntime {
            registry,
            thread,
            reads,
            metrics,
            ..
        } = odds;
        let source = BookSource::new(
            MergePolicy::LatestWins,
            cache.clone(),
            store.clone(),
            reads.clone(),
            metrics.book_metrics(),
        );
        let depth = metrics.registry_depth.clone();
        let edges = BookEdges {
            feed: BusFeed {
                first_position: None,
            },
            source: source.within(self.limits()),
            subscribers: vec![ChangeSubscriber::new(registry.clone().recipient(), depth)],
            metrics: metrics.book_metrics(),
        };
        let router = BookRouter::new(Arc::new(edges), self.settings.cache.book_idle_limit);
        self.start("book router", thread, HUB_MAILBOX, router)
    }
}
