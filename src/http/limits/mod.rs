//! Limits on how many requests a client may send: before authentication by address, after it by
//! caller and class of request. Each public port of a process counts for itself.

mod buckets;
mod rate_limit;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::RequestHead;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use log::warn;
use prometheus::{IntCounterVec, Opts, Registry};
use strum::VariantNames;

use self::rate_limit::RateLimit;
pub(crate) use self::rate_limit::{RateLimitExceeded, RequestClass};
use super::addresses::{AddressLimit, Addresses, Client, TooMany, counted};
use super::errors::ApiError;
use crate::actors::streaming::session::ClientLimits;
use crate::config::settings::RequestRate;
use crate::domain::access::Caller;
use crate::runtime::permits::{Permit, PermitCounts};
use crate::telemetry::log_limit::LogLimit;

/// A failed authentication counts as this many requests, to slow down guessing.
const FAILED_AUTHENTICATION: u32 = 10;
/// How often quiet clients are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// One line a minute for each class.
static REFUSED: LogLimit = LogLimit::every(Duration::from_secs(60));

/// A rate limit, and whom it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateRule {
    /// The default rate. Loopback is exempt, as from the default limits on connections.
    Default(RequestRate),
    /// The configured rate, for every client; none if it is 0.
    Set(RequestRate),
}

impl RateRule {
    /// The configured rate, or the default.
    pub fn or(set: Option<RequestRate>, default: RequestRate) -> RateRule {
        set.map_or(RateRule::Default(default), RateRule::Set)
    }

    fn limit(self, class: RequestClass) -> ClassLimit {
        let (rate, exempts_loopback) = match self {
            RateRule::Default(rate) => (rate, true),
            RateRule::Set(rate) => (rate, false),
        };
        ClassLimit {
            limit: RateLimit::new(class, rate),
            exempts_loopback,
        }
    }
}

/// The limits on the requests of a server.
pub struct RequestRules {
    /// Requests of an address.
    pub address: RateRule,
    /// Reads of a caller.
    pub read: RateRule,
    /// Writes of a caller.
    pub write: RateRule,
    /// Sockets that a caller opens.
    pub sockets: RateRule,
    /// Sockets that a user or a service has open.
    pub open_sockets: AddressLimit,
}

/// A socket that a user or a service has open. Returned when dropped.
pub type CallerPermit = Permit<u64>;

/// Limits the requests of a server's clients. Cheap to clone.
#[derive(Clone)]
pub struct RequestLimits(Option<Arc<Limits>>);

struct Limits {
    addresses: Addresses,
    /// Clients cannot choose ids of equal keys, because the hash is seeded.
    hasher: RandomState,
    address: ClassLimit,
    read: ClassLimit,
    write: ClassLimit,
    sockets: ClassLimit,
    open_sockets: (AddressLimit, PermitCounts<u64>),
    refused: IntCounterVec,
}

/// The limits of the client of a socket, which may authenticate after the upgrade.
pub(crate) struct SocketClient {
    pub limits: RequestLimits,
    pub client: Option<Client>,
}

impl ClientLimits for SocketClient {
    fn admit_authentication(&self) -> Result<(), u64> {
        match self.limits.admit_address(self.client) {
            Err(ApiError::TooManyRequests(exceeded)) => Err(exceeded.retry_after),
            _ => Ok(()),
        }
    }

    fn charge_failed_authentication(&self) {
        self.limits.charge_failed_authentication(self.client);
    }

    fn take_session(&self, caller: &Caller) -> Result<Option<CallerPermit>, usize> {
        let taken = self.limits.take_socket(caller, self.client);
        taken.map_err(|TooMany(max)| max)
    }
}

struct ClassLimit {
    limit: Option<RateLimit>,
    exempts_loopback: bool,
}

impl ClassLimit {
    fn of(&self, client: Client) -> Option<&RateLimit> {
        let is_exempt = self.exempts_loopback && client.is_local();
        self.limit.as_ref().filter(|_| !is_exempt)
    }
}

impl RequestLimits {
    /// Nothing is limited.
    pub fn off() -> RequestLimits {
        RequestLimits(None)
    }

    /// Limits the clients that `addresses` identifies. `refused` counts refused requests by class.
    pub fn new(
        rules: &RequestRules,
        addresses: Addresses,
        refused: IntCounterVec,
    ) -> RequestLimits {
        RequestLimits(Some(Arc::new(Limits {
            addresses,
            hasher: RandomState::new(),
            address: rules.address.limit(RequestClass::Address),
            read: rules.read.limit(RequestClass::Read),
            write: rules.write.limit(RequestClass::Write),
            sockets: rules.sockets.limit(RequestClass::Socket),
            open_sockets: (rules.open_sockets, PermitCounts::default()),
            refused,
        })))
    }

    /// Creates the metric of refused requests of a role, and registers it.
    pub fn registered(registry: &Registry, prefix: &str) -> prometheus::Result<IntCounterVec> {
        let help =
            "Requests refused because of a rate limit, by class: address, read, write, socket";
        let opts = Opts::new(format!("{prefix}_http_rate_limited_total"), help);
        let refused = IntCounterVec::new(opts, &["class"])?;
        for class in RequestClass::VARIANTS {
            refused.with_label_values(&[class]);
        }
        registry.register(Box::new(refused.clone()))?;
        Ok(refused)
    }

    /// The client that sends a request. `None` if it is unknown, which happens only
    /// in tests.
    pub(crate) fn client(&self, request: &RequestHead) -> Option<Client> {
        self.client_of(request.peer_addr?.ip(), &request.headers)
    }

    /// The client behind the other side of a connection, by the headers of a request. `None` if
    /// nothing is limited.
    pub(crate) fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> Option<Client> {
        let limits = self.0.as_ref()?;
        Some(limits.addresses.client(peer.to_canonical(), headers))
    }

    /// Whether a trusted proxy sends a request, for itself or for a client.
    pub(crate) fn is_from_proxy(&self, request: &RequestHead) -> bool {
        request
            .peer_addr
            .is_some_and(|peer| self.is_proxy(peer.ip()))
    }

    /// Whether an address is that of a trusted proxy.
    pub(crate) fn is_proxy(&self, peer: IpAddr) -> bool {
        let limits = self.0.as_ref();
        limits.is_some_and(|limits| limits.addresses.is_trusted(peer.to_canonical()))
    }

    /// Counts a request of a client, before it is authenticated.
    pub(crate) fn admit_address(&self, client: Option<Client>) -> Result<(), ApiError> {
        let (Some(limits), Some(client)) = (&self.0, client) else {
            return Ok(());
        };
        limits.check(&limits.address, limits.address_key(client), client)
    }

    /// Counts a failed authentication of a client, as several requests.
    pub(crate) fn charge_failed_authentication(&self, client: Option<Client>) {
        let (Some(limits), Some(client)) = (&self.0, client) else {
            return;
        };
        if let (Some(limit), Some(key)) = (limits.address.of(client), limits.address_key(client)) {
            limit.charge(key, FAILED_AUTHENTICATION - 1);
        }
    }

    /// Counts a request of a caller by its method.
    pub(crate) fn admit_request(
        &self,
        method: &Method,
        caller: &Caller,
        client: Option<Client>,
    ) -> Result<(), ApiError> {
        let (Some(limits), Some(client)) = (&self.0, client) else {
            return Ok(());
        };
        let limit = if method.is_safe() {
            &limits.read
        } else {
            &limits.write
        };
        limits.check(limit, limits.caller_key(caller, client), client)
    }

    /// Counts a socket that a caller opens.
    pub(crate) fn admit_socket(
        &self,
        caller: &Caller,
        client: Option<Client>,
    ) -> Result<(), ApiError> {
        let (Some(limits), Some(client)) = (&self.0, client) else {
            return Ok(());
        };
        limits.check(&limits.sockets, limits.caller_key(caller, client), client)
    }

    /// Takes one of the sockets that a user or a service may have open. The sockets of other
    /// callers are limited by address.
    pub(crate) fn take_socket(
        &self,
        caller: &Caller,
        client: Option<Client>,
    ) -> Result<Option<CallerPermit>, TooMany> {
        let (Some(limits), Some(client)) = (&self.0, client) else {
            return Ok(None);
        };
        let (rule, counts) = &limits.open_sockets;
        let (Some(key), Some(max)) = (limits.own_key(caller), rule.of(client)) else {
            return Ok(None);
        };
        let permit = counts.acquire(key, max).map(Some);
        permit.ok_or(TooMany(max))
    }

    /// Forgets quiet clients at intervals, until the server has ended.
    pub(super) fn sweep(&self) -> impl Future<Output = ()> + use<> {
        let limits = self.0.as_ref().map(Arc::downgrade);
        async move {
            let Some(limits) = limits else { return };
            let mut interval = tokio::time::interval(SWEEP);
            loop {
                interval.tick().await;
                let Some(limits) = limits.upgrade() else {
                    return;
                };
                limits.sweep();
            }
        }
    }
}

impl Limits {
    /// `None` for a trusted proxy, whose own requests are not limited.
    fn address_key(&self, client: Client) -> Option<u64> {
        let is_proxy = matches!(client, Client::Proxy(_));
        let counted = counted(client.address());
        (!is_proxy).then(|| self.hasher.hash_one(("address", counted)))
    }

    /// The key of a caller that has an identity.
    fn own_key(&self, caller: &Caller) -> Option<u64> {
        match caller {
            Caller::Unchecked | Caller::Anonymous => None,
            Caller::User { id, .. } => Some(self.hasher.hash_one(("user", id))),
            Caller::Service { key, .. } => Some(self.hasher.hash_one(("service", key))),
        }
    }

    fn caller_key(&self, caller: &Caller, client: Client) -> Option<u64> {
        self.own_key(caller).or_else(|| self.address_key(client))
    }

    fn check(&self, rule: &ClassLimit, key: Option<u64>, client: Client) -> Result<(), ApiError> {
        let (Some(limit), Some(key)) = (rule.of(client), key) else {
            return Ok(());
        };
        limit.check(key).map_err(|exceeded| {
            self.refused
                .with_label_values(&[exceeded.class.label()])
                .inc();
            log_refusal(&exceeded, client);
            ApiError::TooManyRequests(exceeded)
        })
    }

    fn sweep(&self) {
        for rule in [&self.address, &self.read, &self.write, &self.sockets] {
            if let Some(limit) = &rule.limit {
                limit.sweep();
            }
        }
    }
}

fn log_refusal(exceeded: &RateLimitExceeded, client: Client) {
    let setting = exceeded.class.setting();
    if let Some(repeated) = REFUSED.check(setting) {
        let address = counted(client.address());
        warn!(address:%, repeated; "requests refused: {setting} reached; if this is a proxy, add it to TRUSTED_PROXIES");
    }
}

#[cfg(test)]
mod tests;
