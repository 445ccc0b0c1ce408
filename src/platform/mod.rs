//! The one place that wires: starts the actors, downstream first, and stops them in the other
//! direction.

mod bounds;
mod builder;
mod checks;
mod confirmation;
mod engines;
mod ingest;
mod money;
mod odds;
mod ports;
mod processor;
mod reasons;
mod startup;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use log::warn;
use tokio::task::JoinSet;

use self::builder::PlatformBuilder;
use self::engines::{Bus, MIGRATING, open_cache, open_stores};
pub use self::ports::BusyPorts;
use crate::actors::ingest::messages::LeaveSupplier;
use crate::actors::ingest::supplier_feed::SupplierFeed;
use crate::actors::odds::odds_consumer::BusConsumer;
use crate::actors::streaming::messages::EndAllSessions;
use crate::actors::streaming::registry::Registry;
use crate::bus::BusError;
use crate::cache::CacheError;
use crate::config::Config;
use crate::config::endpoint::EndpointError;
use crate::config::settings::Role;
use crate::domain::streaming::protocol::CloseReason;
use crate::http::health::Liveness;
use crate::http::server::{BindError, RunningServer};
use crate::runtime::drain::Drain;
use crate::simulator::SimulatorHandle;
use crate::store::StoreError;
use crate::store::sqlite::DatabaseLock;
use crate::supplier::confirm::SetupError;
use crate::supplier::tls;

/// How often the platform looks whether its actors run.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Why the platform did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Ports are taken.
    #[error(transparent)]
    Ports(#[from] BusyPorts),
    /// A port was taken while the platform started.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The database cannot be opened.
    #[error("DATABASE_URL: {name}: {cause}")]
    Store {
        /// The file, or what it is.
        name: String,
        /// What is wrong with it.
        cause: StoreError,
    },
    /// The bus cannot be used as it is set up.
    #[error("KAFKA_BROKERS: {0}")]
    Bus(#[from] BusError),
    /// The cache cannot be used as it is set up.
    #[error("REDIS_URL: {0}")]
    Cache(#[from] CacheError),
    /// A supplier's address cannot be read.
    #[error("SUPPLIER_URLS: {0}")]
    Supplier(#[from] EndpointError),
    /// The supplier that confirms bets cannot be asked as it is set up.
    #[error(transparent)]
    Confirm(#[from] SetupError),
    /// The address of the supplier that confirms bets cannot be read.
    #[error("SUPPLIER_URL: {0}")]
    SupplierUrl(String),
    /// Two metrics have one name: a fault of the program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Where the platform listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// REST and `/ws/odds`.
    pub odds: Option<SocketAddr>,
    /// The simulator.
    pub simulator: Option<SocketAddr>,
    /// REST of the wallets.
    pub wallet: Option<SocketAddr>,
    /// REST of the bets.
    pub bets: Option<SocketAddr>,
    /// Health and metrics of each role.
    pub health: BTreeMap<Role, SocketAddr>,
}

/// A platform that runs.
pub struct Platform {
    parts: Parts,
    liveness: Arc<Liveness>,
    shutdown_timeout: Duration,
}

/// What runs, and is to be stopped.
#[derive(Default)]
struct Parts {
    addresses: Addresses,
    feeds: Vec<Addr<SupplierFeed>>,
    consumers: Vec<Addr<BusConsumer>>,
    dead_letter_consumer: Option<Addr<BusConsumer>>,
    registry: Option<Addr<Registry>>,
    /// Those that have bets or records of bets under way, in the order in which they stop.
    money_drains: Vec<Recipient<Drain>>,
    simulator: Option<SimulatorHandle>,
    servers: Vec<RunningServer>,
    arbiters: Vec<Arbiter>,
    /// The tasks that watch each role's readiness; they end with the platform.
    readiness: JoinSet<()>,
    /// Held for as long as the platform runs.
    _claim: Option<DatabaseLock>,
}

impl Platform {
    /// Starts the roles of a configuration. To be called within an actix system.
    pub async fn start(config: &Config) -> Result<Platform, StartError> {
        tls::install_provider();
        ports::check(&config.roles, &config.settings)?;
        let mut wiring = PlatformBuilder::new(&config.settings);
        let runs = |role| config.runs(role);
        let runs_any = |roles: &[Role]| roles.iter().any(|role| config.runs(*role));
        let has_bus = runs_any(&[
            Role::Ingest,
            Role::Processor,
            Role::Bets,
            Role::Confirmation,
        ]);
        let bus = if has_bus {
            Some(Bus::open(config)?)
        } else {
            None
        };
        // Before whoever asks it: the address that it got is where bets are confirmed, unless said
        // otherwise.
        if runs(Role::Simulator) {
            wiring.start_simulator()?;
        }
        if runs_any(&[
            Role::Processor,
            Role::Odds,
            Role::Wallet,
            Role::Bets,
            Role::Confirmation,
        ]) {
            let (stores, claim) = open_stores(config).await?;
            if claim.is_none() {
                if runs_any(&MIGRATING) {
                    actix::spawn(startup::migrate(stores.main.clone()));
                } else {
                    actix::spawn(startup::log_when_available(stores.read.clone()));
                }
            }
            wiring.parts._claim = claim;
            let mut prices = None;
            if runs_any(&[Role::Processor, Role::Odds, Role::Bets]) {
                let cache = open_cache(config)?;
                prices = wiring.start_books(config, bus.as_ref(), &cache, &stores)?;
            }
            wiring.start_money(config, bus.as_ref(), &stores, prices)?;
        }
        if let Some(bus) = bus.filter(|_| runs(Role::Ingest)) {
            wiring.start_ingest(config, &bus)?;
        }
        wiring.start_health()?;
        wiring.start_feeds();
        Ok(wiring.finish())
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.parts.addresses
    }

    /// Waits until an actor has ended that the platform cannot do without, and names it.
    pub async fn ended(&self) -> &'static str {
        loop {
            if let Some(actor) = self.liveness.ended().first() {
                return actor;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    /// Stops: leaves the suppliers, finishes what the bus holds, closes every session, then the
    /// ports. What takes longer than the shutdown timeout is cut off; `false` then.
    pub async fn stop(self) -> bool {
        self.liveness.stop();
        // Half of the time for what is under way; clients are told in any case.
        let finishing = async {
            join_all(self.parts.feeds.iter().map(|feed| feed.send(LeaveSupplier))).await;
            for drain in &self.parts.money_drains {
                let _ = drain.send(Drain).await;
            }
            if let Some(simulator) = &self.parts.simulator {
                simulator.stop().await;
            }
            join_all(
                self.parts
                    .consumers
                    .iter()
                    .map(|consumer| consumer.send(Drain)),
            )
            .await;
            // After the others, which may still find what cannot be read.
            if let Some(dead_letters) = &self.parts.dead_letter_consumer {
                let _ = dead_letters.send(Drain).await;
            }
        };
        let finished = tokio::time::timeout(self.shutdown_timeout / 2, finishing)
            .await
            .is_ok();
        let closing = async {
            if let Some(registry) = &self.parts.registry {
                let _ = registry.send(EndAllSessions(CloseReason::GoingAway)).await;
            }
            join_all(self.parts.servers.iter().map(RunningServer::stop)).await;
        };
        let closed = tokio::time::timeout(self.shutdown_timeout / 2, closing)
            .await
            .is_ok();
        let in_time = finished && closed;
        if !in_time {
            warn!(
                "not everything stopped within {:?}; the rest is cut off",
                self.shutdown_timeout
            );
        }
        in_time
    }
}

/// Nothing of a platform outlives it, whether it was stopped or not.
impl Drop for Platform {
    fn drop(&mut self) {
        for arbiter in &self.parts.arbiters {
            arbiter.stop();
        }
    }
}
