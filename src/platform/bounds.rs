//! What the clients of each port may send, hold and leave unread: from the settings to the servers.

use std::sync::Arc;
use std::time::Duration;

use super::StartError;
use crate::config::settings::{Role, Settings};
use crate::http::addresses::{AddressLimit, Addresses};
use crate::http::connections::ConnectionLimits;
use crate::http::origin::FrontDoor;
use crate::http::server::Bounds;
use crate::http::streaming::frame_limit::{FrameLimits, UnfinishedBytes};

/// Connections of one address to a port, unless set.
const CONNECTIONS_PER_ADDRESS: usize = 256;
/// Sessions of one address, unless set.
const SESSIONS_PER_ADDRESS: usize = 1_000;
/// Connections of a health and metrics port. Probes and scrapers need a few.
const ADMIN_CONNECTIONS: usize = 64;
/// How long a connection of a health and metrics port may be idle.
const ADMIN_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a request's head may take there.
const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames that a session may send for each message that it may: pings, pongs, and fragments. Twice
/// the number of messages that end a session: text messages are refused one by one before this ends
/// it at once.
const FRAMES_PER_MESSAGE: u32 = 20;

/// How the names of a role's metrics begin.
fn prefix(role: Role) -> &'static str {
    match role {
        Role::Simulator => "supplier",
        Role::Ingest => "odds_ingest",
        Role::Processor => "odds_proc",
        Role::Odds => "odds",
        Role::Wallet => "wallet",
        Role::Bets => "bets",
        Role::Confirmation => "bets_confirmation",
    }
}

/// Where a server accepts no more until some are closed: far above where it closes those that wait.
pub(super) fn accepted(connections: usize, workers: usize) -> usize {
    (2 * connections + 256).div_ceil(workers)
}

/// The most connections of a REST port that the server's threads accept, each.
pub(super) fn rest_accepted(settings: &Settings, workers: usize) -> usize {
    accepted(settings.limits.http_max_connections, workers)
}

/// The most connections of a health and metrics port that its thread accepts.
pub(super) fn admin_accepted() -> usize {
    accepted(ADMIN_CONNECTIONS, 1)
}

/// Bounds of a REST port, counted on its role's page of metrics.
pub(super) fn rest(
    settings: &Settings,
    role: Role,
    registry: &prometheus::Registry,
    door: Arc<FrontDoor>,
) -> Result<Bounds, StartError> {
    let limits = &settings.limits;
    let connections = ConnectionLimits {
        head: limits.http_head_timeout,
        body: limits.http_body_timeout,
        keep_alive: limits.http_keep_alive,
        write: limits.http_write_timeout,
        message: limits.ws_message_timeout,
        most: limits.http_max_connections,
        always_admits: false,
    };
    let addresses = Addresses::new(
        &limits.trusted_proxies,
        AddressLimit::or(
            limits.http_max_connections_per_address,
            CONNECTIONS_PER_ADDRESS,
        ),
        AddressLimit::or(limits.ws_max_sessions_per_address, SESSIONS_PER_ADDRESS),
    );
    Ok(Bounds {
        connections,
        addresses,
        ended: Bounds::registered(registry, prefix(role), "rest")?,
        door: Some(door),
    })
}

/// Bounds of a role's health and metrics port. They always admit: whatever others hold open there,
/// a probe is answered.
pub(super) fn admin(
    settings: &Settings,
    role: Role,
    registry: &prometheus::Registry,
) -> Result<Bounds, StartError> {
    let limits = &settings.limits;
    let connections = ConnectionLimits {
        head: limits.http_head_timeout.min(ADMIN_HEAD_TIMEOUT),
        body: limits.http_body_timeout.min(ADMIN_HEAD_TIMEOUT),
        keep_alive: limits.http_keep_alive.min(ADMIN_KEEP_ALIVE),
        write: limits.http_write_timeout,
        message: limits.ws_message_timeout,
        most: ADMIN_CONNECTIONS,
        always_admits: true,
    };
    let addresses = Addresses::new(&[], AddressLimit::Set(0), AddressLimit::Set(0));
    Ok(Bounds {
        connections,
        addresses,
        ended: Bounds::registered(registry, prefix(role), "metrics")?,
        door: None,
    })
}

/// What a session may send.
pub(super) fn frames(settings: &Settings) -> Arc<FrameLimits> {
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    Arc::new(FrameLimits {
        largest: bytes(settings.clients.ws_max_message),
        frames_per_second: settings
            .clients
            .ws_max_messages_per_second
            .saturating_mul(FRAMES_PER_MESSAGE),
        bytes_per_second: settings.limits.ws_max_bytes_per_second.as_u64(),
        unfinished: UnfinishedBytes::new(bytes(settings.limits.ws_max_unfinished)),
    })
}
