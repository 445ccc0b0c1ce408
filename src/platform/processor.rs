//! The `processor` role: from the bus to books, cache and database.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::StartError;
use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::checks::{check_bus, check_group, check_writes, check_written_cache};
use super::engines::Bus;
use super::odds::OddsRuntime;
use crate::actors::odds::book_router::BookRouter;
use crate::actors::odds::book_source::BookSource;
use crate::actors::odds::cache_writer::CacheWriter;
use crate::actors::odds::heartbeat::{ConsumerSigns, Heartbeat, HeartbeatTarget};
use crate::actors::odds::messages::StoreBatch;
use crate::actors::odds::odds_book::{BookEdges, ChangeSubscriber};
use crate::actors::odds::odds_consumer::{BusConsumer, ConsumerSettings, Work};
use crate::actors::odds::store_writer::{Retention, StoreWriter};
use crate::bus::Topic;
use crate::bus::health::SubscriptionHealth;
use crate::cache::OddsCache;
use crate::config::settings::Role;
use crate::store::Store;
use crate::telemetry::metrics::ProcessorMetrics;

/// The consumer group that stores dead letters if the bus does not keep them.
const DEAD_LETTER_GROUP: &str = "dead-letters";
/// Mailbox capacity of a consumer.
const CONSUMER_MAILBOX: usize = 16;
/// Mailbox capacity of the heartbeat, which receives no messages.
const HEARTBEAT_MAILBOX: usize = 1;

impl PlatformBuilder<'_> {
    /// Starts the books, the writers and their bus consumers, and returns the books. If the cache
    /// does not broadcast changes, they are published to `odds`.
    pub(super) fn start_processor(
        &mut self,
        bus: &Bus,
        cache: &Arc<dyn OddsCache>,
        store: &Arc<dyn Store>,
        odds: Option<&OddsRuntime>,
    ) -> Result<Addr<BookRouter>, StartError> {
        let metrics = ProcessorMetrics::new()?;
        let live = odds.map_or_else(|| self.arbiter(), |odds| odds.thread.clone());
        let cache_writer =
            CacheWriter::new(cache.clone(), metrics.clone()).repairing_from(store.clone());
        let cache_health = cache_writer.health();
        let cache_writer = self.start("cache writer", &live, HUB_MAILBOX, cache_writer);
        let depth = metrics.mailbox_depth.with_label_values(&["cache_writer"]);
        let mut listeners = vec![ChangeSubscriber::new(
            cache_writer.clone().recipient(),
            depth,
        )];
        if let Some(odds) = odds {
            listeners.push(ChangeSubscriber::new(
                odds.registry.clone().recipient(),
                odds.metrics.registry_depth.clone(),
            ));
        }
        // Client reads use the queue of the books that clients see.
        let clients = match odds {
            Some(odds) => odds.reads.clone(),
            None => self.client_reads(prometheus::IntCounter::new(
                "unused",
                "this process serves no clients",
            )?),
        };
        let limits = self.limits();
        let source = BookSource::new(
            cache.clone(),
            store.clone(),
            clients,
            metrics.book_metrics(),
        )
        .within(limits);
        let edges = Arc::new(BookEdges {
            first_position: bus.first_position,
            source,
            listeners,
            is_mirror: false,
            metrics: metrics.book_metrics(),
        });
        let router = BookRouter::new(edges, self.settings.cache.book_idle_limit);
        let router = self.start("book router", &live, HUB_MAILBOX, router);

        let storing = self.arbiter();
        let retention = Retention {
            history: self.settings.store.history_retention,
            dead_letters: self.settings.store.dead_letter_retention,
        };
        let writer = StoreWriter::new(store.clone(), retention, metrics.clone());
        let writes = writer.health();
        let writer: Recipient<StoreBatch> = self
            .start("store writer", &storing, HUB_MAILBOX, writer)
            .recipient();

        let work = Work::Books {
            books: router.clone().recipient(),
            revoked: router.clone().recipient(),
            cache: cache_writer.recipient(),
        };
        let settings = &self.settings.bus;
        let (group_live, group_store) = (
            settings.kafka_group_live.clone(),
            settings.kafka_group_store.clone(),
        );
        let batch_wait = self.settings.store.store_batch_wait;
        let reading = self.reading(group_live, &bus.updates, Duration::ZERO);
        let (consumer, (life, backlog), live_group) = self.start_consumer(
            "live consumer",
            &live,
            &bus.updates,
            reading,
            work,
            &metrics,
        )?;
        self.parts.consumers.push(consumer);
        let target = match odds {
            Some(OddsRuntime { registry, feed, .. }) => {
                feed.follow(backlog.clone(), self.settings.cache.feed_stale_after);
                HeartbeatTarget::Local {
                    state: feed.clone(),
                    feed: registry.clone().recipient(),
                }
            }
            None => HeartbeatTarget::Broadcast(cache.clone(), cache_health.clone()),
        };
        let heartbeat = Heartbeat::new(
            bus.updates.clone(),
            (life, backlog),
            live_group.clone(),
            target,
        );
        self.start("heartbeat", &live, HEARTBEAT_MAILBOX, heartbeat);
        let work = Work::Store {
            store: writer.clone(),
            dead_letters: bus.dead_letters.clone(),
        };
        let reading = self.reading(group_store, &bus.updates, batch_wait);
        let (consumer, _, store_group) = self.start_consumer(
            "store consumer",
            &storing,
            &bus.updates,
            reading,
            work,
            &metrics,
        )?;
        self.parts.consumers.push(consumer);
        if !bus.keeps_dead_letters() {
            let work = Work::DeadLetters(writer);
            let reading = self.reading(DEAD_LETTER_GROUP.to_owned(), &bus.dead_letters, batch_wait);
            let (consumer, ..) = self.start_consumer(
                "dead letters",
                &storing,
                &bus.dead_letters,
                reading,
                work,
                &metrics,
            )?;
            self.parts.dead_letter_consumer = Some(consumer);
        }

        let checks = vec![
            check_writes(store, writes),
            check_written_cache(cache, &cache_health),
            check_bus(&bus.updates),
            check_group("live group", live_group),
            check_group("store group", store_group),
        ];
        self.serve_health(Role::Processor, checks, metrics.registry.clone());
        Ok(router)
    }

    fn reading(&self, group: String, topic: &Arc<dyn Topic>, linger: Duration) -> ConsumerSettings {
        let batch_size = self.settings.bus.bus_batch_size;
        ConsumerSettings {
            group,
            topic: topic.name().to_owned(),
            batch_size,
            linger,
            limits: self.limits(),
        }
    }

    fn start_consumer(
        &mut self,
        name: &'static str,
        arbiter: &ArbiterHandle,
        topic: &Arc<dyn Topic>,
        settings: ConsumerSettings,
        work: Work,
        metrics: &ProcessorMetrics,
    ) -> Result<(Addr<BusConsumer>, ConsumerSigns, SubscriptionHealth), StartError> {
        let subscription = topic.subscribe(&settings.group)?;
        let health = subscription.health();
        let consumer = BusConsumer::new(settings, subscription, work, metrics.clone());
        let life = (consumer.life(), consumer.backlog());
        Ok((
            self.start(name, arbiter, CONSUMER_MAILBOX, consumer),
            life,
            health,
        ))
    }
}
