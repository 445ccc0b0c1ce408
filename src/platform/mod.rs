//! Composition root: starts the actors, downstream first, and stops them in reverse order.

mod access;
mod bounds;
mod builder;
mod checks;
mod confirmation;
mod engines;
mod failover;
mod follower;
mod gateway;
mod grpc;
mod holds;
mod ingest;
mod money;
mod odds;
mod ports;
mod processor;
mod reasons;
mod role_metrics;
mod session_workers;
mod settlement;
mod startup;
mod stop;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::builder::PlatformBuilder;
use self::engines::{Bus, MIGRATING, Stores, open_cache, open_ingest_store, open_stores};
pub use self::gateway::GatewayError;
pub use self::ports::BusyPorts;
use self::stop::StopLimits;
use self::tls::ClientTls;
use crate::actors::ingest::supplier_feed::SupplierFeed;
use crate::actors::streaming::registry::Registry;
use crate::bus::BusError;
use crate::cache::CacheError;
use crate::config::Config;
use crate::config::endpoint::EndpointError;
use crate::config::settings::Role;
use crate::grpc::server::RunningGrpc;
use crate::http::gateway::SocketsEnd;
use crate::http::health::Liveness;
use crate::http::server::{BindError, RunningServer};
use crate::runtime::drain::{Drain, DrainableTask};
use crate::runtime::tls::{CertificateError, install_provider};
use crate::simulator::SimulatorHandle;
use crate::store::StoreError;
use crate::store::sqlite::DatabaseLock;
use crate::supplier::confirm::SetupError;

/// How often the platform checks that its actors are running.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Roles that read or write the database.
const USING_STORES: [Role; 6] = [
    Role::Processor,
    Role::Odds,
    Role::Wallet,
    Role::Bets,
    Role::Confirmation,
    Role::Settlement,
];
/// Roles that have books, and so use the cache.
const USING_BOOKS: [Role; 3] = [Role::Processor, Role::Odds, Role::Bets];

/// Why the platform failed to start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Ports are in use.
    #[error(transparent)]
    Ports(#[from] BusyPorts),
    /// A port was taken by another process during startup.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A file of the certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The database cannot be opened.
    #[error("DATABASE_URL: {name}: {cause}")]
    Store {
        /// The file, or the kind of database.
        name: String,
        /// Why it cannot be opened.
        cause: StoreError,
    },
    /// The bus configuration is not usable.
    #[error("KAFKA_BROKERS: {0}")]
    Bus(#[from] BusError),
    /// The cache configuration is not usable.
    #[error("REDIS_URL: {0}")]
    Cache(#[from] CacheError),
    /// A supplier address is invalid.
    #[error("SUPPLIER_URLS: {0}")]
    Supplier(#[from] EndpointError),
    /// The client of the supplier that confirms bets cannot be created.
    #[error(transparent)]
    Confirm(#[from] SetupError),
    /// The address of the supplier that confirms bets is invalid.
    #[error("SUPPLIER_URL: {0}")]
    SupplierUrl(String),
    /// The keys for tokens cannot be used.
    #[error("{variable}: {cause}")]
    TokenKeys {
        /// The setting.
        variable: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The gateway cannot be started.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// Two metrics have the same name: a bug in the program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The addresses the platform listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// REST and `/ws/odds`.
    pub odds: Option<SocketAddr>,
    /// The simulator.
    pub simulator: Option<SocketAddr>,
    /// REST API of wallets.
    pub wallet: Option<SocketAddr>,
    /// REST API of bets.
    pub bets: Option<SocketAddr>,
    /// All public APIs under `/api`.
    pub gateway: Option<SocketAddr>,
    /// gRPC port of each role that has one.
    pub grpc: BTreeMap<Role, SocketAddr>,
    /// Health and metrics port of each role.
    pub health: BTreeMap<Role, SocketAddr>,
}

/// A running platform.
pub struct Platform {
    parts: Parts,
    liveness: Arc<Liveness>,
    /// Whether a role has a port for clients.
    has_clients: bool,
    limits: StopLimits,
}

/// The running components, to be stopped on shutdown.
#[derive(Default)]
struct Parts {
    addresses: Addresses,
    feeds: Vec<Addr<SupplierFeed>>,
    /// Publishes to the topic that the other consumers read.
    selector: Option<Addr<DrainableTask>>,
    consumers: Vec<Addr<DrainableTask>>,
    dead_letter_consumer: Option<Addr<DrainableTask>>,
    registry: Option<Addr<Registry>>,
    /// Actors with bets or bet records in flight, in the order in which they stop.
    money_drains: Vec<Recipient<Drain>>,
    simulator: Option<SimulatorHandle>,
    /// Tells the sockets that the gateway forwards to end.
    gateway_sockets: Option<watch::Sender<SocketsEnd>>,
    /// The sessions of this process, and the sockets that its gateway forwards.
    open_sockets: Vec<IntGauge>,
    servers: Vec<RunningServer>,
    grpc_servers: Vec<RunningGrpc>,
    /// Whether each role with gRPC is ready, for its health service.
    ready: BTreeMap<Role, watch::Sender<bool>>,
    arbiters: Vec<Arbiter>,
    /// Tasks that end with the platform: they monitor the readiness of each role, and the files of
    /// the certificate.
    tasks: JoinSet<()>,
    /// Tasks that read the keys for tokens again; they end with the platform.
    token_keys: JoinSet<()>,
    /// Held as long as the platform runs.
    database_lock: Option<DatabaseLock>,
}

impl PlatformBuilder<'_> {
    /// Starts the roles that use the database.
    fn start_on_stores(
        &mut self,
        config: &Config,
        bus: Option<&Bus>,
        stores: &Stores,
    ) -> Result<(), StartError> {
        // Only an embedded database is locked, and it is migrated when it is opened.
        if self.parts.database_lock.is_none() {
            if config.runs_any(&MIGRATING) {
                actix::spawn(startup::migrate(stores.main.clone()));
            } else {
                actix::spawn(startup::log_when_available(stores.read.clone()));
            }
        }
        let mut prices = None;
        if config.runs_any(&USING_BOOKS) {
            let cache = open_cache(config)?;
            prices = self.start_books(config, bus, &cache, stores)?;
        }
        self.start_money(config, bus, stores, prices)
    }
}

impl Platform {
    /// Starts the configured roles. Must be called within an actix system.
    pub async fn start(config: &Config) -> Result<Platform, StartError> {
        install_provider();
        ports::check(config)?;
        let tls = ClientTls::load(config)?;
        let mut builder = PlatformBuilder::new(&config.settings, tls)?;
        builder.optional_ports = ports::optional_ports(config);
        if config.runs_any(&Role::WITH_CALLERS) {
            builder.set_access().await?;
        }
        let bus = Bus::open(config)?;
        // Start the simulator before its users: its bound address is the default supplier address.
        if config.runs(Role::Simulator) {
            builder.for_role(Role::Simulator, PlatformBuilder::start_simulator)?;
        }
        let mut store = None;
        let mut access = None;
        if config.runs_any(&USING_STORES) {
            let (stores, lock) = open_stores(config).await?;
            builder.parts.database_lock = lock;
            builder.start_on_stores(config, bus.as_ref(), &stores)?;
            store = Some(stores.main);
            access = Some(stores.access);
        } else if config.runs(Role::Ingest) {
            store = open_ingest_store(config)?;
        }
        let topics = bus.and_then(|bus| bus.odds.zip(bus.results));
        if let Some((odds, results)) = topics.filter(|_| config.runs(Role::Ingest)) {
            builder.for_role(Role::Ingest, |builder| {
                builder.start_ingest(config, &odds, &results, store)
            })?;
        }
        // After the roles whose routes it mounts.
        if config.runs(Role::Gateway) {
            builder.for_role(Role::Gateway, PlatformBuilder::start_gateway)?;
        }
        if let Some(store) = access {
            builder.start_credential_poller(store);
        }
        builder.start_health()?;
        builder.for_role(Role::Ingest, PlatformBuilder::start_feeds);
        Ok(builder.finish())
    }

    /// The addresses the platform listens on.
    pub fn addresses(&self) -> &Addresses {
        &self.parts.addresses
    }

    /// Waits until a required actor has stopped, and returns its name.
    pub async fn ended(&self) -> &'static str {
        loop {
            if let Some(actor) = self.liveness.ended().first() {
                return actor;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }
}

/// Stops the threads of the platform, whether it was shut down or not.
impl Drop for Platform {
    fn drop(&mut self) {
        for arbiter in &self.parts.arbiters {
            arbiter.stop();
        }
    }
}
