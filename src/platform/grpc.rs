//! The gRPC APIs of the roles `odds`, `wallet` and `bets`.

use std::sync::Arc;

use actix::prelude::*;
use log::warn;
use tokio::sync::watch;

use super::builder::PlatformBuilder;
use super::odds::cores;
use super::session_workers::SessionWorkers;
use super::{StartError, bounds};
use crate::actors::streaming::stream_session::StreamStarter;
use crate::config::check::grpc_ports;
use crate::config::settings::Role;
use crate::grpc::server::{self, Api, Setup};
use crate::grpc::{Admission, BetsApi, OddsApi, WalletApi, WatchLimits};
use crate::http::server::{Bounds, Listen};
use crate::services::bets::placement::PlacementService;
use crate::services::bets::queries::BetQueries;
use crate::services::odds::OddsQueries;
use crate::services::wallet::operations::WalletOperations;
use crate::telemetry::metrics::GrpcMetrics;

/// What the gRPC API of a role needs besides its service.
pub(super) struct GrpcRole<'a> {
    /// The role.
    pub role: Role,
    /// The limits of its REST port, which it shares.
    pub bounds: &'a Bounds,
    /// The metrics of the role.
    pub registry: &'a prometheus::Registry,
}

impl PlatformBuilder<'_> {
    /// Starts the gRPC API of odds. Its streams are sessions of distributors of its own.
    pub(super) fn start_grpc_odds(
        &mut self,
        bounds: &Bounds,
        queries: Arc<OddsQueries>,
        workers: SessionWorkers,
        limits: WatchLimits,
    ) -> Result<(), StartError> {
        let registry = workers.metrics.registry.clone();
        let role = GrpcRole {
            role: Role::Odds,
            bounds,
            registry: &registry,
        };
        let service = "sports_bet.v1.OddsService";
        self.start_grpc(role, service, OddsApi::METHODS, move |admission| {
            let streams = StreamStarter::start_here(workers.start_here());
            let (queries, limits) = (queries.clone(), limits.clone());
            Api::Odds(OddsApi::new(admission, queries, streams, limits))
        })
    }

    /// Starts the gRPC API of wallets.
    pub(super) fn start_grpc_wallet(
        &mut self,
        bounds: &Bounds,
        registry: &prometheus::Registry,
        operations: Arc<WalletOperations>,
    ) -> Result<(), StartError> {
        let role = GrpcRole {
            role: Role::Wallet,
            bounds,
            registry,
        };
        let service = "sports_bet.v1.WalletService";
        self.start_grpc(role, service, WalletApi::METHODS, move |admission| {
            Api::Wallet(WalletApi::new(admission, operations.clone()))
        })
    }

    /// Starts the gRPC API of bets.
    pub(super) fn start_grpc_bets(
        &mut self,
        bounds: &Bounds,
        registry: &prometheus::Registry,
        placements: Arc<PlacementService>,
        queries: Arc<BetQueries>,
    ) -> Result<(), StartError> {
        let role = GrpcRole {
            role: Role::Bets,
            bounds,
            registry,
        };
        let service = "sports_bet.v1.BetsService";
        self.start_grpc(role, service, BetsApi::METHODS, move |admission| {
            Api::Bets(BetsApi::new(admission, placements.clone(), queries.clone()))
        })
    }

    fn start_grpc(
        &mut self,
        GrpcRole {
            role,
            bounds,
            registry,
        }: GrpcRole<'_>,
        service: &'static str,
        methods: &[&'static str],
        api: impl Fn(Admission) -> Api + Clone + Send + 'static,
    ) -> Result<(), StartError> {
        let metrics =
            GrpcMetrics::new(registry, bounds::prefix(role), methods, role == Role::Odds)?;
        if !self.settings.grpc.grpc {
            return Ok(());
        }
        self.parts.open_sockets.push(metrics.streams.clone());
        let admission = Admission {
            access: bounds.access.clone(),
            limits: bounds.limits.clone(),
            metrics,
        };
        let setup = Setup {
            bounds: Bounds {
                ended: Bounds::registered(registry, bounds::prefix(role), "grpc")?,
                ..bounds.clone()
            },
            service,
            admission: admission.clone(),
            reflection: self.has_reflection(),
            ready: self.readiness(role),
        };
        let listen = self.grpc_port(role);
        let threads: Vec<ArbiterHandle> = (0..listen.workers).map(|_| self.arbiter()).collect();
        let started = server::start(setup, &listen, &threads, move || api(admission.clone()));
        match started {
            Ok(server) => {
                self.parts.addresses.grpc.insert(role, server.address);
                self.parts.grpc_servers.push(server);
                Ok(())
            }
            Err(busy) if self.optional_ports.contains(listen.variable) => {
                warn!("{busy}; the role starts without gRPC");
                Ok(())
            }
            Err(busy) => Err(busy.into()),
        }
    }

    fn grpc_port(&self, role: Role) -> Listen {
        let ports = grpc_ports(&self.settings.grpc);
        let port = ports.into_iter().find(|(of, ..)| *of == role);
        let (_, variable, port) = port.unwrap_or((role, "GRPC", 0));
        // The others only translate: their work is done by the threads of the database calls.
        let workers = match role {
            Role::Odds => self
                .settings
                .clients
                .http_workers_odds
                .unwrap_or_else(cores),
            _ => 1,
        };
        Listen {
            variable,
            ip: self.settings.process.bind_address,
            port,
            workers,
            max_connections: self.settings.limits.http_max_connections,
        }
    }

    fn has_reflection(&self) -> bool {
        let address = self.settings.process.bind_address.to_canonical();
        let chosen = self.settings.grpc.grpc_reflection;
        chosen.unwrap_or_else(|| address.is_loopback())
    }

    /// Whether a role is ready, as `/readyz` says. The health port of the role sets it.
    fn readiness(&mut self, role: Role) -> watch::Receiver<bool> {
        let ready = self.parts.ready.entry(role);
        ready
            .or_insert_with(|| watch::Sender::new(false))
            .subscribe()
    }
}
