//! Starts the parts, each with the edges to those that stand already.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use actix::prelude::*;
use actix_web::web;

use super::checks::{check_cache, check_store, check_suppliers};
use super::{Parts, Platform, StartError};
use crate::actors::book_router::BookRouter;
use crate::actors::bus_consumer::{BusConsumer, ConsumerSettings, Work};
use crate::actors::bus_publisher::BusPublisher;
use crate::actors::cache_writer::CacheWriter;
use crate::actors::feed_state::FeedState;
use crate::actors::messages::{GetSnapshot, StoreBatch};
use crate::actors::odds_book::{BookEdges, BookSource, Listener};
use crate::actors::registry::{Registry, RegistrySettings};
use crate::actors::session::{SessionEdges, tick_interval};
use crate::actors::store_writer::{Retention, StoreWriter, blocking};
use crate::actors::supplier_feed::SupplierFeed;
use crate::bus::Topic;
use crate::bus::embedded::EmbeddedTopic;
use crate::cache::OddsCache;
use crate::cache::embedded::EmbeddedCache;
use crate::config::settings::{Role, Settings};
use crate::config::{Config, Suppliers};
use crate::domain::session::SessionLimits;
use crate::domain::timestamp::Timestamp;
use crate::http::health::{Check, Liveness, RoleHealth};
use crate::http::routes::odds_routes;
use crate::http::server::{self, Listen};
use crate::http::state::OddsState;
use crate::metrics::{IngestMetrics, OddsMetrics, ProcessorMetrics, SimulatorMetrics};
use crate::simulator;
use crate::store::Store;
use crate::store::sqlite::{Claim, SqliteStore};
use crate::supplier::endpoint::Endpoint;

/// The group of the live path.
const LIVE_GROUP: &str = "odds-live";
/// The group of the store path.
const STORE_GROUP: &str = "odds-processor";
/// The group that keeps dead letters.
const DEAD_LETTER_GROUP: &str = "dead-letters";
/// Dead letters that the embedded bus holds at most.
const DEAD_LETTER_CAPACITY: usize = 1_000;
/// Messages that may wait for an actor through which everything goes.
const HUB_MAILBOX: usize = 1_024;
/// How long the books may take to answer a REST request.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most connections of a health and metrics port.
const ADMIN_CONNECTIONS: usize = 256;
/// Connections of the odds port beyond its sessions.
const REST_CONNECTIONS: usize = 2_048;

/// What is started so far.
pub(super) struct Wiring<'a> {
    settings: &'a Settings,
    liveness: Arc<Liveness>,
    health: Vec<(Role, Vec<Check>, prometheus::Registry)>,
    publishers: Option<Publishers>,
    feeds: Vec<SupplierFeed>,
    parts: Parts,
}

/// The ways to the bus; one a topic, so that one that is full does not hold the other up.
#[derive(Clone)]
struct Publishers {
    updates: Addr<BusPublisher>,
    dead_letters: Addr<BusPublisher>,
    metrics: IngestMetrics,
}

/// What the role `odds` starts with.
pub(super) struct OddsSide {
    registry: Addr<Registry>,
    metrics: OddsMetrics,
}

/// What the role `processor` gives to the others.
pub(super) struct ProcessorSide {
    store: Arc<dyn Store>,
    router: Addr<BookRouter>,
    updates: Arc<dyn Topic>,
    dead_letters: Arc<dyn Topic>,
}

impl<'a> Wiring<'a> {
    pub(super) fn new(settings: &'a Settings) -> Wiring<'a> {
        Wiring {
            settings,
            liveness: Arc::default(),
            feeds: Vec::new(),
            health: Vec::new(),
            publishers: None,
            parts: Parts::default(),
        }
    }

    /// A thread of its own for actors.
    fn arbiter(&mut self) -> ArbiterHandle {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        self.parts.arbiters.push(arbiter);
        handle
    }

    /// Starts an actor with room for `mailbox` messages, and watches it.
    fn start<A>(&mut self, name: &'static str, arbiter: &ArbiterHandle, mailbox: usize, actor: A) -> Addr<A>
    where
        A: Actor<Context = Context<A>> + Send,
    {
        let address = A::start_in_arbiter(arbiter, move |context| {
            context.set_mailbox_capacity(mailbox);
            actor
        });
        let watched = address.clone();
        self.liveness.watch(name, move || watched.connected());
        address
    }

    pub(super) fn start_registry(&mut self) -> Result<OddsSide, StartError> {
        let metrics = OddsMetrics::new()?;
        let clients = &self.settings.clients;
        let settings = RegistrySettings {
            slow_client_limit: clients.slow_client_limit,
            frozen_limit: tick_interval(&session_limits(self.settings)) * 2 + clients.slow_client_limit,
        };
        let arbiter = self.arbiter();
        let registry = self.start("registry", &arbiter, HUB_MAILBOX, Registry::new(settings, metrics.clone()));
        self.parts.registry = Some(registry.clone());
        Ok(OddsSide { registry, metrics })
    }

    pub(super) async fn start_processor(
        &mut self,
        config: &Config,
        odds: Option<&OddsSide>,
    ) -> Result<ProcessorSide, StartError> {
        let metrics = ProcessorMetrics::new()?;
        let (store, claim) = open_store(config).await?;
        self.parts._claim = Some(claim);
        let cache: Arc<dyn OddsCache> = Arc::new(EmbeddedCache::new(self.settings.cache.cache_ttl));
        let bus = &self.settings.bus;
        let first_position = first_position();
        let updates: Arc<dyn Topic> = Arc::new(EmbeddedTopic::starting_at(
            &bus.kafka_topic_odds,
            first_position,
            bus.embedded_bus_partitions,
            bus.embedded_bus_capacity,
        ));
        let dead_letters: Arc<dyn Topic> = Arc::new(EmbeddedTopic::new("dead_letters", 1, DEAD_LETTER_CAPACITY));

        let live = self.arbiter();
        let cache_writer = CacheWriter::new(cache.clone(), metrics.clone());
        let cache_writer = self.start("cache writer", &live, HUB_MAILBOX, cache_writer);
        let depth = metrics.mailbox_depth.with_label_values(&["cache_writer"]);
        let mut listeners = vec![Listener::new(cache_writer.clone().recipient(), depth)];
        if let Some(odds) = odds {
            listeners.push(Listener::new(odds.registry.clone().recipient(), odds.metrics.registry_depth.clone()));
        }
        let source = BookSource::new(cache.clone(), store.clone(), metrics.book_metrics());
        let edges = Arc::new(BookEdges {
            first_position: Some(first_position),
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
        let writer: Recipient<StoreBatch> = self.start("store writer", &storing, HUB_MAILBOX, writer).recipient();

        let batch_wait = self.settings.store.store_batch_wait;
        let batch_size = self.settings.bus.bus_batch_size;
        let read = |group: &str, topic: &Arc<dyn Topic>, linger| ConsumerSettings {
            group: group.to_owned(),
            topic: topic.name().to_owned(),
            batch_size,
            linger,
        };
        let work = Work::Books {
            books: router.clone().recipient(),
            revoked: router.clone().recipient(),
            cache: cache_writer.recipient(),
        };
        let reading = read(LIVE_GROUP, &updates, Duration::ZERO);
        let consumer = self.start_consumer("live consumer", &live, &updates, reading, work, &metrics)?;
        self.parts.consumers.push(consumer);
        let work = Work::Store { store: writer.clone(), dead_letters: dead_letters.clone() };
        let reading = read(STORE_GROUP, &updates, batch_wait);
        let consumer = self.start_consumer("store consumer", &storing, &updates, reading, work, &metrics)?;
        self.parts.consumers.push(consumer);
        let work = Work::DeadLetters(writer);
        let reading = read(DEAD_LETTER_GROUP, &dead_letters, batch_wait);
        let consumer = self.start_consumer("dead letters", &storing, &dead_letters, reading, work, &metrics)?;
        self.parts.dead_letter_consumer = Some(consumer);

        let checks = vec![check_store(&store), check_cache(&cache)];
        self.health.push((Role::Processor, checks, metrics.registry.clone()));
        Ok(ProcessorSide { store, router, updates, dead_letters })
    }

    fn start_consumer(
        &mut self,
        name: &'static str,
        arbiter: &ArbiterHandle,
        topic: &Arc<dyn Topic>,
        settings: ConsumerSettings,
        work: Work,
        metrics: &ProcessorMetrics,
    ) -> Result<Addr<BusConsumer>, StartError> {
        let subscription = topic.subscribe(&settings.group)?;
        let consumer = BusConsumer::new(settings, subscription, work, metrics.clone());
        Ok(self.start(name, arbiter, 16, consumer))
    }

    pub(super) fn start_odds(&mut self, odds: OddsSide, processor: &ProcessorSide) -> Result<(), StartError> {
        let clients = &self.settings.clients;
        let OddsSide { registry, metrics } = odds;
        let snapshots: Recipient<GetSnapshot> = processor.router.clone().recipient();
        let sessions = Arc::new(SessionEdges {
            connect: registry.clone().recipient(),
            subscribe: registry.clone().recipient(),
            unsubscribe: registry.clone().recipient(),
            disconnect: registry.recipient(),
            snapshots: snapshots.clone(),
            limits: session_limits(self.settings),
            max_message: bytes_of(clients.ws_max_message),
            queue: clients.ws_session_queue,
            metrics: metrics.clone(),
        });
        let state = web::Data::new(OddsState {
            snapshots,
            snapshot_timeout: SNAPSHOT_TIMEOUT,
            feed: Arc::new(FeedState::in_process(metrics.feed_live.clone())),
            store: processor.store.clone(),
            sessions,
            open_sessions: Arc::new(AtomicUsize::new(0)),
            next_session: AtomicU64::new(1),
            max_sessions: clients.ws_max_sessions,
            allowed_origins: clients.ws_allowed_origins.clone(),
            metrics: metrics.clone(),
        });
        let workers = clients.http_workers_odds.unwrap_or_else(cores);
        let listen = Listen {
            variable: "HTTP_PORT_ODDS",
            ip: self.settings.process.bind_address,
            port: self.settings.ports.http_port_odds,
            workers,
            max_connections: (clients.ws_max_sessions + REST_CONNECTIONS).div_ceil(workers),
        };
        let server = server::start(listen, move |config| {
            config.app_data(state.clone());
            odds_routes(config);
        })?;
        self.parts.addresses.odds = Some(server.address);
        self.parts.servers.push(server);
        self.health.push((Role::Odds, vec![check_store(&processor.store)], metrics.registry));
        Ok(())
    }

    pub(super) fn start_publisher(&mut self, processor: &ProcessorSide) -> Result<(), StartError> {
        let metrics = IngestMetrics::new()?;
        let publisher =
            || BusPublisher::new(processor.updates.clone(), processor.dead_letters.clone(), metrics.clone());
        let arbiter = self.arbiter();
        let updates = self.start("bus publisher", &arbiter, HUB_MAILBOX, publisher());
        let dead_letters = self.start("dead letter publisher", &arbiter, HUB_MAILBOX, publisher());
        self.publishers = Some(Publishers { updates, dead_letters, metrics });
        Ok(())
    }

    pub(super) fn start_simulator(&mut self) -> Result<(), StartError> {
        let metrics = SimulatorMetrics::new()?;
        let arbiter = self.arbiter();
        let simulator = simulator::start(&self.settings.simulator, metrics.clone(), &arbiter);
        let routes = simulator.routes();
        let listen = Listen {
            variable: "HTTP_PORT_SUPPLIER",
            ip: self.settings.process.bind_address,
            port: self.settings.ports.http_port_supplier,
            workers: 1,
            max_connections: REST_CONNECTIONS,
        };
        let server = server::start(listen, move |config| routes.clone()(config))?;
        self.parts.addresses.simulator = Some(server.address);
        self.parts.servers.push(server);
        self.parts.simulator = Some(simulator);
        self.health.push((Role::Simulator, Vec::new(), metrics.registry));
        Ok(())
    }

    pub(super) fn make_feeds(&mut self, config: &Config) -> Result<(), StartError> {
        let Some(Publishers { updates, dead_letters, metrics }) = self.publishers.clone() else { return Ok(()) };
        let endpoints = self.endpoints(&config.suppliers)?;
        metrics.suppliers.set(endpoints.len() as i64);
        let mut statuses = Vec::new();
        for endpoint in endpoints {
            let settings = self.settings.suppliers.clone();
            let (updates, dead_letters) = (updates.clone().recipient(), dead_letters.clone().recipient());
            let feed = SupplierFeed::new(endpoint, settings, updates, dead_letters, metrics.clone());
            statuses.push(feed.status());
            self.feeds.push(feed);
        }
        self.health.push((Role::Ingest, vec![check_suppliers(statuses)], metrics.registry));
        Ok(())
    }

    fn endpoints(&self, suppliers: &Suppliers) -> Result<Vec<Endpoint>, StartError> {
        match (suppliers, self.parts.addresses.simulator) {
            (Suppliers::At(urls), _) => Ok(urls.clone()),
            (Suppliers::OwnSimulator, Some(address)) => Ok(vec![format!("ws://{address}/ws").parse()?]),
            (Suppliers::OwnSimulator, None) => Ok(vec!["ws://127.0.0.1:8081/ws".parse()?]),
        }
    }

    /// Starts the health and metrics ports.
    pub(super) fn start_health(&mut self) -> Result<(), StartError> {
        for (role, checks, registry) in std::mem::take(&mut self.health) {
            let health = web::Data::new(RoleHealth { checks, liveness: self.liveness.clone(), registry });
            let (variable, port) = health_port(role, self.settings);
            let ip = self.settings.process.bind_address;
            let listen = Listen { variable, ip, port, workers: 1, max_connections: ADMIN_CONNECTIONS };
            let server = server::start(listen, move |config| {
                config.app_data(health.clone());
                crate::http::health::routes(config);
            })?;
            self.parts.addresses.health.insert(role, server.address);
            self.parts.servers.push(server);
        }
        Ok(())
    }

    /// Connects to the suppliers: last, when nothing else can keep the platform from starting.
    pub(super) fn start_feeds(&mut self) {
        let feeds = std::mem::take(&mut self.feeds);
        if feeds.is_empty() {
            return;
        }
        let arbiter = self.arbiter();
        for feed in feeds {
            let feed = self.start("supplier feed", &arbiter, 16, feed);
            self.parts.feeds.push(feed);
        }
    }

    pub(super) fn finish(self) -> Platform {
        let shutdown_timeout = self.settings.process.shutdown_timeout;
        Platform { parts: self.parts, liveness: self.liveness, shutdown_timeout }
    }
}

/// Where the embedded bus begins to count: the time in microseconds. The bus ends with the process, and clients were told
/// numbers that the store had not yet written down if the process was killed. Fewer than a million records a second and
/// partition, so whatever a process before this one counted to lies below.
fn first_position() -> u64 {
    Timestamp::now().micros().unsigned_abs()
}

async fn open_store(config: &Config) -> Result<(Arc<dyn Store>, Claim), StartError> {
    let path = config.database_path.to_string_lossy().into_owned();
    let shown = path.clone();
    let opened = blocking(move || {
        let store = SqliteStore::open(&path)?;
        let claim = Claim::of(Path::new(&path))?;
        store.migrate()?;
        Ok((Arc::new(store) as Arc<dyn Store>, claim))
    });
    opened.await.map_err(|cause| StartError::Store { path: shown, cause })
}

fn session_limits(settings: &Settings) -> SessionLimits {
    SessionLimits {
        max_subscriptions: settings.clients.ws_max_subscriptions,
        max_messages_per_second: settings.clients.ws_max_messages_per_second,
        ping_interval: settings.clients.ws_ping_interval,
        silence_limit: settings.clients.ws_silence_limit,
    }
}

fn health_port(role: Role, settings: &Settings) -> (&'static str, u16) {
    match role {
        Role::Simulator => ("METRICS_PORT_SUPPLIER", settings.ports.metrics_port_supplier),
        Role::Odds => ("METRICS_PORT_ODDS", settings.ports.metrics_port_odds),
        Role::Ingest => ("METRICS_PORT_INGEST", settings.ports.metrics_port_ingest),
        Role::Processor => ("METRICS_PORT_PROCESSOR", settings.ports.metrics_port_processor),
    }
}

fn bytes_of(size: bytesize::ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}
