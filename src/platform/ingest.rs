//! The `ingest` role: from suppliers to the bus.

use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use log::warn;

use super::builder::{HUB_MAILBOX, PlatformBuilder};
use super::checks::{check_bus, check_suppliers};
use super::engines::{OddsTopics, ResultTopics};
use super::{StartError, role_metrics};
use crate::actors::ingest::bus_publisher::{BusPublisher, IngestTopics};
use crate::actors::ingest::local_feeds::LocalFeeds;
use crate::actors::ingest::other_reporters::OtherReporters;
use crate::actors::ingest::source_reporter::SourceReporter;
use crate::actors::ingest::supplier_feed::{FeedPublishers, SourceEdges, SupplierFeed};
use crate::config::DEFAULT_SUPPLIER;
use crate::config::endpoint::Endpoint;
use crate::config::settings::Role;
use crate::config::{Config, Suppliers};
use crate::store::Store;
use crate::telemetry::metrics::IngestMetrics;
use crate::telemetry::role;

/// Mailbox capacity of a feed.
const FEED_MAILBOX: usize = 16;

impl PlatformBuilder<'_> {
    /// Creates the feeds and starts their publishers.
    pub(super) fn start_ingest(
        &mut self,
        config: &Config,
        bus: &OddsTopics,
        results: &ResultTopics,
        store: Option<Arc<dyn Store>>,
    ) -> Result<(), StartError> {
        let metrics = role_metrics::ingest()?;
        let topics = IngestTopics {
            updates: bus.ingest_topic().clone(),
            dead_letters: bus.dead_letters.clone(),
            results: results.results.clone(),
            result_dead_letters: results.dead_letters.clone(),
        };
        let arbiter = self.arbiter();
        // One publisher per kind, so that a full topic does not block the others.
        let mut publisher = |name: &'static str| {
            let publisher = BusPublisher::new(topics.clone(), metrics.clone());
            let publisher = self.start(name, &arbiter, HUB_MAILBOX, publisher);
            publisher.recipient()
        };
        let publishers = FeedPublishers {
            updates: publisher("bus publisher"),
            dead_letters: publisher("dead letter publisher"),
            results: publisher("result publisher"),
        };

        let sources = self.start_source_reporter(bus, store, &arbiter, &metrics);
        let endpoints = self.endpoints(&config.suppliers)?;
        metrics.suppliers.set(endpoints.len() as i64);
        let mut statuses = Vec::new();
        for endpoint in endpoints {
            let settings = self.settings.suppliers.clone();
            let feed = SupplierFeed::new(
                endpoint,
                settings,
                publishers.clone(),
                bus.gathering,
                sources.clone(),
                metrics.clone(),
            );
            statuses.push(feed.status());
            self.feeds.push(feed);
        }
        let checks = vec![check_suppliers(statuses), check_bus(bus.ingest_topic())];
        self.serve_health(Role::Ingest, checks, metrics.registry);
        Ok(())
    }

    /// Starts what the feeds need for their sources.
    fn start_source_reporter(
        &mut self,
        bus: &OddsTopics,
        store: Option<Arc<dyn Store>>,
        arbiter: &ArbiterHandle,
        metrics: &IngestMetrics,
    ) -> SourceEdges {
        if store.is_none() {
            warn!(
                "DATABASE_URL is not a PostgreSQL address, so markets that were open before a restart are not checked"
            );
        }
        let settings = &self.settings.bus;
        let silence = self.settings.suppliers.supplier_stale_after;
        let reporter = SourceReporter::new(bus.source_status.clone(), silence, metrics.clone());
        let reporter = self.start("source reporter", arbiter, HUB_MAILBOX, reporter);
        let others = Arc::new(OtherReporters::new(
            self.settings.cache.source_silence,
            Instant::now(),
        ));
        let following = others.clone().follow(bus.source_status.clone());
        arbiter.spawn(role::inherit(following));
        SourceEdges {
            reporter: reporter.recipient(),
            others,
            local: Arc::new(LocalFeeds::default()),
            store,
            store_path: bus.path_to(settings, &settings.kafka_group_store),
        }
    }

    fn endpoints(&self, suppliers: &Suppliers) -> Result<Vec<Endpoint>, StartError> {
        match (suppliers, self.parts.addresses.simulator) {
            (Suppliers::At(urls), _) => Ok(urls.clone()),
            (Suppliers::OwnSimulator, Some(address)) => {
                Ok(vec![format!("ws://{address}/ws").parse()?])
            }
            (Suppliers::OwnSimulator, None) => Ok(vec![DEFAULT_SUPPLIER.parse()?]),
        }
    }

    /// Connects to the suppliers. Runs last, when no other component can fail the startup.
    pub(super) fn start_feeds(&mut self) {
        let feeds = std::mem::take(&mut self.feeds);
        if feeds.is_empty() {
            return;
        }
        let arbiter = self.arbiter();
        for feed in feeds {
            let feed = self.start("supplier feed", &arbiter, FEED_MAILBOX, feed);
            self.parts.feeds.push(feed);
        }
    }
}
