//! What each server thread needs to serve sessions: of sockets, or of gRPC streams.

use std::sync::Arc;

use actix::prelude::*;

use crate::access::Access;
use crate::actors::odds::messages::GetSnapshot;
use crate::actors::streaming::distributor::{Distributor, DistributorSettings};
use crate::actors::streaming::registry::Registry;
use crate::actors::streaming::session_edges::SessionEdges;
use crate::config::settings::Settings;
use crate::domain::odds::restrictions::CurrentRestrictions;
use crate::domain::streaming::credential_watch::CredentialLimits;
use crate::domain::streaming::epoch::CurrentEpoch;
use crate::domain::streaming::session::SessionLimits;
use crate::http::health::Liveness;
use crate::runtime::feed_health::FeedState;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::OddsMetrics;

/// What each server thread needs to serve its sessions.
#[derive(Clone)]
pub(super) struct SessionWorkers {
    pub distributor: DistributorSettings,
    pub registry: Addr<Registry>,
    pub feed: Arc<FeedState>,
    pub liveness: Arc<Liveness>,
    pub snapshots: Recipient<GetSnapshot>,
    pub restrictions: Arc<CurrentRestrictions>,
    pub epoch: Arc<CurrentEpoch>,
    pub access: Access,
    pub limits: SessionLimits,
    pub max_message: usize,
    pub queue: usize,
    pub failures: Arc<LogLimit>,
    pub metrics: OddsMetrics,
}

impl SessionWorkers {
    /// Starts and monitors the distributor of this thread, and returns the edges of its sessions.
    pub(super) fn start_here(&self) -> SessionEdges {
        let (registry, feed) = (self.registry.clone(), self.feed.clone());
        let metrics = self.metrics.clone();
        let distributor = Distributor::start_here(self.distributor, registry, feed, metrics);
        let watched = distributor.clone();
        self.liveness
            .watch("distributor", move || watched.connected());
        SessionEdges {
            distributor,
            snapshots: self.snapshots.clone(),
            restrictions: self.restrictions.clone(),
            epoch: self.epoch.clone(),
            access: self.access.clone(),
            limits: self.limits,
            max_message: self.max_message,
            queue: self.queue,
            failures: self.failures.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

/// When clients are pinged, and when sessions end.
pub(super) fn distributor_settings(settings: &Settings) -> DistributorSettings {
    let clients = &settings.clients;
    DistributorSettings {
        slow_client_limit: clients.slow_client_limit,
        ping_interval: clients.ws_ping_interval,
        frozen_limit: clients.ws_ping_interval * 2 + clients.slow_client_limit,
        credentials: CredentialLimits::with_timeout(clients.session_auth_timeout),
    }
}

/// The limits of a session.
pub(super) fn session_limits(settings: &Settings) -> SessionLimits {
    SessionLimits {
        max_subscriptions: settings.clients.ws_max_subscriptions,
        max_messages_per_second: settings.clients.ws_max_messages_per_second,
        max_snapshot_bytes_per_second: settings.limits.ws_max_snapshot_bytes_per_second.as_u64(),
        silence_limit: settings.clients.ws_silence_limit,
    }
}
