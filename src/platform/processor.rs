//! The `processor` role: from the bus to books, cache and database.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use prometheus::IntCounter;

use super::StartError;
use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::checks::{check_bus, check_group, check_writes, check_written_cache};
use super::engines::OddsTopics;
use super::failover::StartedSelector;
use super::odds::{OddsRuntime, ShownBooks};
use crate::actors::odds::book_router::BookRouter;
use crate::actors::odds::book_source::{BookSource, MergePolicy};
use crate::actors::odds::cache_writer::CacheWriter;
use crate::actors::odds::client_reads::ClientReads;
use crate::actors::odds::consumers::dead_letter_consumer::DeadLetterConsumer;
use crate::actors::odds::consumers::live_consumer::{LiveConsumer, LiveEdges};
use crate::actors::odds::consumers::store_consumer::StoreConsumer;
use crate::actors::odds::heartbeat::{ConsumerSigns, Heartbeat, HeartbeatTarget};
use crate::actors::odds::messages::{ReportsRead, SourcesReported, StoreBatch};
use crate::actors::odds::odds_book::{BookEdges, BusFeed, ChangeSubscriber};
use crate::actors::odds::published_sources::PublishedSources;
use crate::actors::odds::source_monitor::SourceMonitor;
use crate::actors::odds::store_writer::{Retention, StoreWriter};
use crate::bus::health::SubscriptionHealth;
use crate::cache::OddsCache;
use crate::config::settings::Role;
use crate::domain::timestamp::Timestamp;
use crate::runtime::drain::DrainableTask;
use crate::runtime::health::HealthCell;
use crate::store::Store;
use crate::telemetry::metrics::ProcessorMetrics;

/// The consumer group that stores dead letters if the bus does not keep them.
const DEAD_LETTER_GROUP: &str = "dead-letters";
/// Mailbox capacity of a consumer.
const CONSUMER_MAILBOX: usize = 16;
/// Mailbox capacity of the heartbeat, which receives only the states of the sources.
const HEARTBEAT_MAILBOX: usize = 4;
/// Mailbox capacity of the source monitor, which receives no messages.
const MONITOR_MAILBOX: usize = 1;

impl PlatformBuilder<'_> {
    /// Starts the books, the writers and their bus consumers. If the cache does not broadcast
    /// changes, they are published to `odds`, whose clients see these books.
    pub(super) fn start_processor(
        &mut self,
        bus: &OddsTopics,
        cache: &Arc<dyn OddsCache>,
        store: &Arc<dyn Store>,
        odds: Option<&OddsRuntime>,
    ) -> Result<Option<ShownBooks>, StartError> {
        let metrics = ProcessorMetrics::new()?;
        let live = odds.map_or_else(|| self.arbiter(), |odds| odds.thread.clone());
        let storing = self.arbiter();
        let processor = ProcessorBuilder {
            platform: self,
            bus,
            cache,
            store,
            odds,
            metrics,
            live,
            storing,
            published: Arc::new(PublishedSources::new(Timestamp::now())),
        };
        processor.start()
    }
}

/// Starts the actors of the role, downstream first.
pub(super) struct ProcessorBuilder<'a, 'b> {
    pub(super) platform: &'a mut PlatformBuilder<'b>,
    pub(super) bus: &'a OddsTopics,
    cache: &'a Arc<dyn OddsCache>,
    store: &'a Arc<dyn Store>,
    odds: Option<&'a OddsRuntime>,
    pub(super) metrics: ProcessorMetrics,
    /// The thread of the live path.
    pub(super) live: ArbiterHandle,
    /// The thread of the store path.
    storing: ArbiterHandle,
    published: Arc<PublishedSources>,
}

impl ProcessorBuilder<'_, '_> {
    fn start(mut self) -> Result<Option<ShownBooks>, StartError> {
        let (cache_writer, cache_health) = self.start_cache_writer();
        let router = self.start_router(&cache_writer)?;
        let (store_writer, store_health) = self.start_store_writer();
        let states = store_writer.clone().recipient();
        let store_writer = store_writer.recipient();
        let edges = LiveEdges {
            books: router.clone().recipient(),
            revoked: router.clone().recipient(),
            cache: cache_writer.recipient(),
            store: states,
        };
        let (signs, live_group) = self.start_live_consumer(edges)?;
        let shown = self.shown_books(router);
        let selector = self.start_selector()?;
        let heartbeat =
            self.start_heartbeat(signs, live_group.clone(), &cache_health, selector.as_ref());
        // In one process the restrictions follow the reports, otherwise they follow the heartbeats.
        let keeper = shown.as_ref().map(|shown| shown.keeper.clone().recipient());
        let subscribers = keeper.into_iter().chain([heartbeat]).collect();
        let reports = selector.as_ref().map(|selector| selector.reports.clone());
        self.start_source_monitor(subscribers, reports);
        let store_group = self.start_store_consumer(store_writer.clone())?;
        if !self.bus.keeps_dead_letters() {
            self.start_dead_letter_consumer(store_writer)?;
        }
        let mut checks = vec![
            check_writes(self.store, store_health),
            check_written_cache(self.cache, &cache_health),
            check_bus(&self.bus.updates),
            check_group("live group", live_group),
            check_group("store group", store_group),
        ];
        checks.extend(selector.map(|selector| check_group("selector group", selector.group)));
        self.platform
            .serve_health(Role::Processor, checks, self.metrics.registry);
        Ok(shown)
    }

    /// The books, if the clients of this process see them.
    fn shown_books(&mut self, router: Addr<BookRouter<BusFeed>>) -> Option<ShownBooks> {
        let odds = self.odds?;
        let books = router.clone().recipient();
        // On the embedded bus every `ingest` is in this process and reports its sources. On Kafka
        // one of an earlier version may run.
        let unreported_from = self.bus.first_position.unwrap_or(0);
        let keeper = self.platform.start_keeper(odds, books, unreported_from);
        let snapshots = router.recipient();
        Some(ShownBooks { snapshots, keeper })
    }

    /// Starts the monitor of the sources, which reports them to `subscribers` and the selector.
    fn start_source_monitor(
        &mut self,
        subscribers: Vec<Recipient<SourcesReported>>,
        selector: Option<Recipient<ReportsRead>>,
    ) {
        let settings = &self.platform.settings.bus;
        let monitor = SourceMonitor::new(
            self.bus.source_status.clone(),
            self.platform.settings.cache.source_silence,
            self.bus.path_to(settings, &settings.kafka_group_live),
            subscribers,
            self.metrics.clone(),
        )
        .with_unreported(self.store.clone(), self.published.clone())
        .with_selector(selector);
        self.platform
            .start("source monitor", &self.live, MONITOR_MAILBOX, monitor);
    }

    fn start_cache_writer(&mut self) -> (Addr<CacheWriter>, Arc<HealthCell>) {
        let writer = CacheWriter::new(self.cache.clone(), self.metrics.clone())
            .repairing_from(self.store.clone());
        let health = writer.health();
        let writer = self
            .platform
            .start("cache writer", &self.live, HUB_MAILBOX, writer);
        (writer, health)
    }

    fn start_router(
        &mut self,
        cache_writer: &Addr<CacheWriter>,
    ) -> Result<Addr<BookRouter<BusFeed>>, StartError> {
        let edges = BookEdges {
            feed: BusFeed {
                first_position: self.bus.first_position,
            },
            source: self.book_source()?,
            subscribers: self.change_subscribers(cache_writer),
            metrics: self.metrics.book_metrics(),
        };
        let idle_limit = self.platform.settings.cache.book_idle_limit;
        let router = BookRouter::new(Arc::new(edges), idle_limit);
        Ok(self
            .platform
            .start("book router", &self.live, HUB_MAILBOX, router))
    }

    /// Loads the states that were published.
    pub(super) fn book_source(&self) -> Result<BookSource, StartError> {
        let source = BookSource::new(
            MergePolicy::LatestWins,
            self.cache.clone(),
            self.store.clone(),
            self.client_reads()?,
            self.metrics.book_metrics(),
        );
        Ok(source.within(self.platform.limits()))
    }

    /// The cache writer, and the registry if the clients of this process see these books.
    fn change_subscribers(&self, cache_writer: &Addr<CacheWriter>) -> Vec<ChangeSubscriber> {
        let depth = &self.metrics.mailbox_depth;
        let cache_depth = depth.with_label_values(&["cache_writer"]);
        let cache = ChangeSubscriber::new(cache_writer.clone().recipient(), cache_depth);
        let registry = self.odds.map(|odds| {
            let depth = odds.metrics.registry_depth.clone();
            ChangeSubscriber::new(odds.registry.clone().recipient(), depth)
        });
        [cache].into_iter().chain(registry).collect()
    }

    /// Client reads use the queue of the books that clients see.
    fn client_reads(&self) -> Result<Arc<ClientReads>, StartError> {
        if let Some(odds) = self.odds {
            return Ok(odds.reads.clone());
        }
        let refused = IntCounter::new("unused", "this process serves no clients")?;
        Ok(self.platform.client_reads(refused))
    }

    fn start_store_writer(&mut self) -> (Addr<StoreWriter>, Arc<HealthCell>) {
        let settings = &self.platform.settings.store;
        let retention = Retention {
            history: settings.history_retention,
            dead_letters: settings.dead_letter_retention,
        };
        let writer = StoreWriter::new(self.store.clone(), retention, self.metrics.clone());
        let health = writer.health();
        let writer = self
            .platform
            .start("store writer", &self.storing, HUB_MAILBOX, writer);
        (writer, health)
    }

    fn start_live_consumer(
        &mut self,
        edges: LiveEdges,
    ) -> Result<(ConsumerSigns, SubscriptionHealth), StartError> {
        let topic = &self.bus.updates;
        let group = self.platform.settings.bus.kafka_group_live.clone();
        let settings = self
            .platform
            .consumer_settings(group, topic, Duration::ZERO);
        let subscription = topic.subscribe(&settings.group)?;
        let health = subscription.health();
        let consumer = LiveConsumer::new(settings, subscription, edges, self.metrics.clone())
            .recording(self.published.clone());
        let signs = (consumer.life(), consumer.backlog());
        let live = self.live.clone();
        let consumer = self.start_consumer("live consumer", &live, consumer.into_task());
        self.platform.parts.consumers.push(consumer);
        Ok((signs, health))
    }

    fn start_heartbeat(
        &mut self,
        signs: ConsumerSigns,
        group: SubscriptionHealth,
        cache_health: &Arc<HealthCell>,
        selector: Option<&StartedSelector>,
    ) -> Recipient<SourcesReported> {
        let target = match self.odds {
            Some(OddsRuntime { registry, feed, .. }) => {
                let (_, backlog) = &signs;
                let stale_after = self.platform.settings.cache.feed_stale_after;
                feed.follow(backlog.clone(), stale_after);
                HeartbeatTarget::Local {
                    state: feed.clone(),
                    feed: registry.clone().recipient(),
                }
            }
            None => HeartbeatTarget::Broadcast(self.cache.clone(), cache_health.clone()),
        };
        let mut heartbeat = Heartbeat::new(self.bus.updates.clone(), signs, group, target);
        if let Some(selector) = selector {
            let group = selector.group.clone();
            heartbeat = heartbeat.with_selector(selector.signs.clone(), group);
        }
        let heartbeat = self
            .platform
            .start("heartbeat", &self.live, HEARTBEAT_MAILBOX, heartbeat);
        heartbeat.recipient()
    }

    fn start_store_consumer(
        &mut self,
        store: Recipient<StoreBatch>,
    ) -> Result<SubscriptionHealth, StartError> {
        let topic = &self.bus.updates;
        let group = self.platform.settings.bus.kafka_group_store.clone();
        let settings = self
            .platform
            .consumer_settings(group, topic, self.batch_wait());
        let subscription = topic.subscribe_in_bulk(&settings.group)?;
        let health = subscription.health();
        let dead_letters = self.bus.dead_letters.clone();
        let metrics = self.metrics.clone();
        let task = StoreConsumer::task(settings, subscription, store, dead_letters, metrics);
        let storing = self.storing.clone();
        let consumer = self.start_consumer("store consumer", &storing, task);
        self.platform.parts.consumers.push(consumer);
        Ok(health)
    }

    fn start_dead_letter_consumer(
        &mut self,
        store: Recipient<StoreBatch>,
    ) -> Result<(), StartError> {
        let topic = &self.bus.dead_letters;
        let group = DEAD_LETTER_GROUP.to_owned();
        let settings = self
            .platform
            .consumer_settings(group, topic, self.batch_wait());
        let subscription = topic.subscribe(&settings.group)?;
        let task = DeadLetterConsumer::task(settings, subscription, store, self.metrics.clone());
        let storing = self.storing.clone();
        let consumer = self.start_consumer("dead letters", &storing, task);
        self.platform.parts.dead_letter_consumer = Some(consumer);
        Ok(())
    }

    pub(super) fn start_consumer(
        &mut self,
        name: &'static str,
        thread: &ArbiterHandle,
        task: DrainableTask,
    ) -> Addr<DrainableTask> {
        self.platform.start(name, thread, CONSUMER_MAILBOX, task)
    }

    fn batch_wait(&self) -> Duration {
        self.platform.settings.store.store_batch_wait
    }
}
