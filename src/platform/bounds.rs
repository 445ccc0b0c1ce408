//! Limits of the clients of each port: from the settings to the servers.

use std::sync::Arc;
use std::time::Duration;

use super::StartError;
use crate::access::Access;
use crate::config::settings::{RequestRate, Role, Settings};
use crate::http::addresses::{AddressLimit, Addresses};
use crate::http::connections::ConnectionLimits;
use crate::http::limits::{RateRule, RequestLimits, RequestRules};
use crate::http::origin::RequestGuard;
use crate::http::server::Bounds;
use crate::http::streaming::frame_limit::{FrameLimits, UnfinishedBytes};
use crate::runtime::tls::server::ServerCertificate;

/// Default limit of connections per address and port.
const CONNECTIONS_PER_ADDRESS: usize = 256;
/// Default limit of sessions per address.
const SESSIONS_PER_ADDRESS: usize = 1_000;
/// Default limit of sessions per user or API key.
const SESSIONS_PER_CALLER: usize = 1_000;
/// Default limit of the requests of an address.
const ADDRESS_RATE: RequestRate = RequestRate {
    per_second: 2_000,
    burst: 10_000,
};
/// Default limit of the reads of a caller, and of its writes.
const CALLER_RATE: RequestRate = RequestRate {
    per_second: 1_000,
    burst: 5_000,
};
/// Default limit of the sockets that a caller opens. All sessions of an address may reconnect at
/// once.
const SOCKET_RATE: RequestRate = RequestRate {
    per_second: 100,
    burst: 2_000,
};
/// Maximum number of connections to a health and metrics port. Probes and scrapers need a few.
const ADMIN_CONNECTIONS: usize = 64;
/// Idle timeout of a connection to a health and metrics port.
const ADMIN_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Timeout for the request head on a health and metrics port.
const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames allowed per allowed message of a session: pings, pongs and fragments count as frames.
/// Twice the factor (10) at which excess messages close a session, so that text messages are
/// refused one by one before this limit closes the session at once.
const FRAMES_PER_MESSAGE: u32 = 20;

/// Prefix of a role's metric names.
pub(super) fn prefix(role: Role) -> &'static str {
    match role {
        Role::Simulator => "supplier",
        Role::Ingest => "odds_ingest",
        Role::Processor => "odds_proc",
        Role::Odds => "odds",
        Role::Wallet => "wallet",
        Role::Bets => "bets",
        Role::Confirmation => "bets_confirmation",
        Role::Settlement => "settlement",
        Role::Gateway => "gateway",
    }
}

/// The number of connections at which a server stops accepting, per worker. Far above the limit at
/// which it closes idle connections.
pub(super) fn accepted(connections: usize, workers: usize) -> usize {
    (2 * connections + 256).div_ceil(workers)
}

/// Maximum number of accepted connections per worker of a REST port.
pub(super) fn rest_accepted(settings: &Settings, workers: usize) -> usize {
    accepted(settings.limits.http_max_connections, workers)
}

/// Maximum number of accepted connections of a health and metrics port.
pub(super) fn admin_accepted() -> usize {
    accepted(ADMIN_CONNECTIONS, 1)
}

/// Limits of a REST port, with metrics in the registry of its role. With a certificate the port
/// accepts only TLS.
pub(super) fn rest(
    settings: &Settings,
    role: Role,
    registry: &prometheus::Registry,
    guard: Arc<RequestGuard>,
    certificate: Option<Arc<ServerCertificate>>,
    access: Access,
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
        limits: request_limits(settings, role, registry, &addresses)?,
        addresses,
        ended: Bounds::registered(registry, prefix(role), "rest")?,
        guard: Some(guard),
        certificate,
        access,
        liveness: Arc::default(),
    })
}

/// Rate limits of a REST port. The simulator has none: its clients are our own roles.
fn request_limits(
    settings: &Settings,
    role: Role,
    registry: &prometheus::Registry,
    addresses: &Addresses,
) -> Result<RequestLimits, StartError> {
    if role == Role::Simulator {
        return Ok(RequestLimits::off());
    }
    let rates = &settings.rate_limits;
    let rules = RequestRules {
        address: RateRule::or(rates.rate_limit_address, ADDRESS_RATE),
        read: RateRule::or(rates.rate_limit_read, CALLER_RATE),
        write: RateRule::or(rates.rate_limit_write, CALLER_RATE),
        sockets: RateRule::or(rates.rate_limit_sockets, SOCKET_RATE),
        open_sockets: AddressLimit::or(rates.ws_max_sessions_per_caller, SESSIONS_PER_CALLER),
    };
    let refused = RequestLimits::registered(registry, prefix(role))?;
    Ok(RequestLimits::new(&rules, addresses.clone(), refused))
}

/// Limits of a role's health and metrics port. It always admits new connections, so that a probe is
/// answered whatever other clients hold open.
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
        guard: None,
        certificate: None,
        limits: RequestLimits::off(),
        access: Access::off(),
        liveness: Arc::default(),
    })
}

/// Frame limits of a session.
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
