//! Starts components with the addresses of those already running, and provides what all roles need.
//! Each role has its own file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::web;
use prometheus::IntCounterVec;

use super::stop::StopLimits;
use super::tls::ClientTls;
use super::{Parts, Platform, StartError, bounds, role_metrics};
use crate::access::Access;
use crate::access::key_source::KeySource;
use crate::actors::access::messages::RevocationsChanged;
use crate::actors::consumers::ConsumerSettings;
use crate::actors::ingest::supplier_feed::SupplierFeed;
use crate::bus::Topic;
use crate::config::settings::{Role, Settings};
use crate::domain::odds::plausible::Plausibility;
use crate::http::gateway::{Routes, Service};
use crate::http::health::{Check, Liveness, RoleHealth};
use crate::http::origin::{HostRule, RequestGuard};
use crate::http::server::{self, Bounds, Listen};
use crate::runtime::actor;
use crate::simulator;
use crate::store::request_batcher::ConcurrencyLimit;
use crate::store::user_turns::UserTurns;
use crate::telemetry::metrics::AccessMetrics;
use crate::telemetry::role;

/// Mailbox capacity of actors that handle all traffic.
pub(super) const HUB_MAILBOX: usize = 1_024;

/// The components started so far.
pub(super) struct PlatformBuilder<'a> {
    pub settings: &'a Settings,
    /// TLS of the ports for clients.
    pub tls: ClientTls,
    pub parts: Parts,
    /// Created but not started: feeds connect last, when no other component can fail the startup.
    pub feeds: Vec<SupplierFeed>,
    pub liveness: Arc<Liveness>,
    /// Limit shared by all batched money store calls of this process. The other connections serve
    /// single calls.
    pub turns: ConcurrencyLimit,
    /// Limit of single calls that move a user's money, shared by all roles.
    pub user_turns: Arc<UserTurns>,
    /// Authenticates the callers of the public ports.
    pub access: Access,
    pub access_metrics: AccessMetrics,
    /// Those who have open sessions, to be ended when a credential is revoked.
    pub revocation_subscribers: Vec<Recipient<RevocationsChanged>>,
    /// The routes of this process that the gateway mounts.
    pub mounts: BTreeMap<Service, Routes>,
    /// Ports that may be busy.
    pub optional_ports: BTreeSet<&'static str>,
    health: Vec<(Role, Vec<Check>, prometheus::Registry)>,
    /// Whether a role has a port for clients.
    has_clients: bool,
}

impl<'a> PlatformBuilder<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        tls: ClientTls,
    ) -> Result<PlatformBuilder<'a>, StartError> {
        let connections = settings.store.database_pool_size as usize;
        let batched = connections / 4;
        Ok(PlatformBuilder {
            settings,
            tls,
            parts: Parts::default(),
            feeds: Vec::new(),
            liveness: Arc::default(),
            turns: ConcurrencyLimit::new(batched),
            // The remaining connections serve reads, the outbox and the sweeper.
            user_turns: UserTurns::new(connections - batched - connections / 4),
            access: Access::off(),
            access_metrics: AccessMetrics::new(&KeySource::READ_AGAIN)?,
            revocation_subscribers: Vec::new(),
            mounts: BTreeMap::new(),
            optional_ports: BTreeSet::new(),
            health: Vec::new(),
            has_clients: false,
        })
    }

    /// Starts a part of the platform, whose log lines have this role.
    pub(super) fn for_role<T>(&mut self, role: Role, start: impl FnOnce(&mut Self) -> T) -> T {
        role::within(Some(role.name()), || start(self))
    }

    /// Starts a thread for actors.
    pub(super) fn arbiter(&mut self) -> ArbiterHandle {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        let role = role::current();
        handle.spawn_fn(move || role::set_for_thread(role));
        self.parts.arbiters.push(arbiter);
        handle
    }

    /// Starts an actor with this mailbox capacity, for the current role, and monitors it. Its thread
    /// may be that of another role.
    pub(super) fn start<A>(
        &mut self,
        name: &'static str,
        arbiter: &ArbiterHandle,
        mailbox: usize,
        actor: A,
    ) -> Addr<A>
    where
        A: Actor<Context = Context<A>> + Send,
    {
        let address = actor::start_in(arbiter, mailbox, actor);
        let watched = address.clone();
        self.liveness.watch(name, move || watched.connected());
        address
    }

    /// Limits for the timestamps and sequence numbers that this process accepts.
    pub(super) fn limits(&self) -> Plausibility {
        Plausibility::within(self.settings.suppliers.supplier_max_clock_skew)
    }

    /// The settings of a consumer of `topic`; a batch waits for `linger` to fill up.
    pub(super) fn consumer_settings(
        &self,
        group: String,
        topic: &Arc<dyn Topic>,
        linger: Duration,
    ) -> ConsumerSettings {
        ConsumerSettings {
            group,
            topic: topic.name().to_owned(),
            batch_size: self.settings.bus.bus_batch_size,
            linger,
            limits: self.limits(),
        }
    }

    /// Registers the checks and metrics that a role's health port serves.
    pub(super) fn serve_health(
        &mut self,
        role: Role,
        checks: Vec<Check>,
        registry: prometheus::Registry,
    ) {
        self.health.push((role, checks, registry));
    }

    /// The same for a role whose clients are callers.
    pub(super) fn serve_health_of_callers(
        &mut self,
        role: Role,
        mut checks: Vec<Check>,
        registry: prometheus::Registry,
    ) {
        checks.extend(self.access_check());
        self.serve_health(role, checks, registry);
    }

    pub(super) fn start_simulator(&mut self) -> Result<(), StartError> {
        let metrics = role_metrics::simulator()?;
        let arbiter = self.arbiter();
        let simulator = simulator::start(&self.settings.simulator, metrics.clone(), &arbiter);
        let routes = simulator.routes();
        let listen = Listen {
            variable: "HTTP_PORT_SUPPLIER",
            ip: self.settings.process.bind_address,
            port: self.settings.ports.http_port_supplier,
            workers: 1,
            max_connections: bounds::rest_accepted(self.settings, 1),
        };
        let guard = self.request_guard(false, &metrics.refused);
        // Its clients are parts of the platform.
        let certificate = None;
        let access = Access::off();
        let limits = bounds::rest(
            self.settings,
            Role::Simulator,
            &metrics.registry,
            guard,
            certificate,
            access,
        )?;
        let server = server::start_within(limits, listen, move |config| routes.clone()(config))?;
        self.parts.addresses.simulator = Some(server.address);
        self.parts.servers.push(server);
        self.parts.simulator = Some(simulator);
        self.serve_health(Role::Simulator, Vec::new(), metrics.registry);
        Ok(())
    }

    /// Limits of a role's port for clients.
    pub(super) fn client_bounds(
        &mut self,
        role: Role,
        registry: &prometheus::Registry,
        guard: Arc<RequestGuard>,
    ) -> Result<Bounds, StartError> {
        self.has_clients = true;
        let certificate = self.tls.for_port(registry)?;
        let access = self.access_of_role(registry)?;
        let bounds = bounds::rest(self.settings, role, registry, guard, certificate, access)?;
        Ok(Bounds {
            liveness: self.liveness.clone(),
            ..bounds
        })
    }

    /// Request checks of a public port. `is_public` means that anybody may read everything the port
    /// serves.
    pub(super) fn request_guard(
        &self,
        is_public: bool,
        refused: &IntCounterVec,
    ) -> Arc<RequestGuard> {
        let process = &self.settings.process;
        Arc::new(RequestGuard {
            hosts: HostRule {
                listed: process.allowed_hosts.clone(),
                any_unless_listed: is_public,
            },
            origins: process.allowed_origins.clone(),
            refused: refused.clone(),
        })
    }

    /// Starts the health and metrics ports.
    pub(super) fn start_health(&mut self) -> Result<(), StartError> {
        for (role, checks, registry) in std::mem::take(&mut self.health) {
            self.for_role(role, |builder| {
                builder.start_health_port(role, checks, registry)
            })?;
        }
        Ok(())
    }

    fn start_health_port(
        &mut self,
        role: Role,
        checks: Vec<Check>,
        registry: prometheus::Registry,
    ) -> Result<(), StartError> {
        let limits = bounds::admin(self.settings, role, &registry)?;
        let ready = self.parts.ready.get(&role).cloned();
        let health = RoleHealth::new(checks, self.liveness.clone(), registry)?;
        let health = web::Data::new(health.reporting_to(ready));
        let watched = health.clone();
        let (variable, port) = health_port(role, self.settings);
        let listen = Listen {
            variable,
            ip: self.settings.process.bind_address,
            port,
            workers: 1,
            max_connections: bounds::admin_accepted(),
        };
        let server = server::start_within(limits, listen, move |config| {
            config.app_data(health.clone());
            crate::http::health::routes(config);
        })?;
        let watching = async move {
            tokio::join!(watched.watch(), watched.report());
        };
        self.parts.tasks.spawn(role::inherit(watching));
        self.parts.addresses.health.insert(role, server.address);
        self.parts.servers.push(server);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Platform {
        if let Some(watching) = self.tls.watch() {
            self.parts.tasks.spawn(watching);
        }
        self.liveness.start();
        let process = &self.settings.process;
        Platform {
            parts: self.parts,
            liveness: self.liveness,
            has_clients: self.has_clients,
            limits: StopLimits {
                drain_delay: process.drain_delay,
                drain_spread: process.drain_spread,
                shutdown_timeout: process.shutdown_timeout,
            },
        }
    }
}

fn health_port(role: Role, settings: &Settings) -> (&'static str, u16) {
    match role {
        Role::Simulator => (
            "METRICS_PORT_SUPPLIER",
            settings.ports.metrics_port_supplier,
        ),
        Role::Odds => ("METRICS_PORT_ODDS", settings.ports.metrics_port_odds),
        Role::Ingest => ("METRICS_PORT_INGEST", settings.ports.metrics_port_ingest),
        Role::Processor => (
            "METRICS_PORT_PROCESSOR",
            settings.ports.metrics_port_processor,
        ),
        Role::Wallet => ("METRICS_PORT_WALLET", settings.ports.metrics_port_wallet),
        Role::Bets => ("METRICS_PORT_BET", settings.ports.metrics_port_bet),
        Role::Confirmation => (
            "METRICS_PORT_CONFIRMATION",
            settings.ports.metrics_port_confirmation,
        ),
        Role::Settlement => (
            "METRICS_PORT_SETTLEMENT",
            settings.ports.metrics_port_settlement,
        ),
        Role::Gateway => ("METRICS_PORT_GATEWAY", settings.ports.metrics_port_gateway),
    }
}
