//! Counts connections and sessions by client address, so that no address takes all of them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{FORWARDED, HeaderMap, HeaderName};
use ipnet::IpNet;
use log::warn;

use crate::runtime::permits::{AddressPermit, PermitCounts};
use crate::telemetry::log_limit::LogLimit;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A refused address is logged at most once a minute.
static REFUSED: LogLimit = LogLimit::every(Duration::from_secs(60));

/// Maximum number of connections or sessions of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressLimit {
    /// The default maximum. Loopback is exempt: it is used by development, benchmarks and a proxy
    /// on the same host.
    Default(usize),
    /// The configured maximum, for every address except trusted proxies; 0 means unlimited.
    Set(usize),
}

impl AddressLimit {
    /// The configured limit, or the default.
    pub fn or(set: Option<usize>, default: usize) -> AddressLimit {
        set.map_or(AddressLimit::Default(default), AddressLimit::Set)
    }

    /// The maximum for an address, if it is limited.
    pub(super) fn of(self, address: IpAddr) -> Option<usize> {
        match self {
            AddressLimit::Default(_) if address.is_loopback() => None,
            AddressLimit::Set(0) => None,
            AddressLimit::Default(max) | AddressLimit::Set(max) => Some(max),
        }
    }
}

/// The counts of one server's clients, shared by its threads.
#[derive(Clone)]
pub struct Addresses {
    trusted: Arc<[IpNet]>,
    connections: (AddressLimit, PermitCounts<IpAddr>),
    sessions: (AddressLimit, PermitCounts<IpAddr>),
}

/// The address has reached this maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany(pub usize);

impl Addresses {
    /// Counts for a server behind these proxies.
    pub fn new(trusted: &[IpNet], connections: AddressLimit, sessions: AddressLimit) -> Addresses {
        Addresses {
            trusted: trusted.into(),
            connections: (connections, PermitCounts::default()),
            sessions: (sessions, PermitCounts::default()),
        }
    }

    /// Counts a connection. Connections of trusted proxies are not counted.
    pub fn take_connection(&self, address: IpAddr) -> Result<Option<AddressPermit>, TooMany> {
        if self.is_trusted(address) {
            return Ok(None);
        }
        take(&self.connections, address)
            .inspect_err(|max| log_refusal("HTTP_MAX_CONNECTIONS_PER_ADDRESS", address, *max))
    }

    /// Counts a session of a client. Sessions that a trusted proxy opens for itself are not
    /// counted.
    pub fn take_session(&self, client: IpAddr) -> Result<Option<AddressPermit>, TooMany> {
        if self.is_trusted(client) {
            return Ok(None);
        }
        take(&self.sessions, client)
            .inspect_err(|max| log_refusal("WS_MAX_SESSIONS_PER_ADDRESS", client, *max))
    }

    /// The client of a connection. For a trusted proxy this is the last address in
    /// `X-Forwarded-For`, or else in `Forwarded`, that is not a trusted proxy. The headers are
    /// ignored on other connections.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.is_trusted(peer) {
            return peer;
        }
        if headers.contains_key(X_FORWARDED_FOR) {
            self.last_untrusted(peer, listed(headers, X_FORWARDED_FOR))
        } else {
            self.last_untrusted(peer, listed(headers, FORWARDED).map(forwarded_for))
        }
    }

    /// Follows `forwarded`, the last first, as long as each address is that of a trusted proxy.
    fn last_untrusted<'a>(&self, peer: IpAddr, forwarded: impl Iterator<Item = &'a str>) -> IpAddr {
        let mut client = peer;
        for address in forwarded.map_while(parse_address) {
            client = address.to_canonical();
            if !self.is_trusted(client) {
                break;
            }
        }
        client
    }

    /// Whether this is the address of a trusted proxy.
    pub(crate) fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }
}

fn take(
    (limit, counts): &(AddressLimit, PermitCounts<IpAddr>),
    address: IpAddr,
) -> Result<Option<AddressPermit>, TooMany> {
    let Some(max) = limit.of(address) else {
        return Ok(None);
    };
    counts
        .acquire(counted(address), max)
        .map(Some)
        .ok_or(TooMany(max))
}

fn log_refusal(setting: &'static str, address: IpAddr, TooMany(max): TooMany) {
    let address = counted(address);
    if let Some(repeated) = REFUSED.check(&format!("{setting} {address}")) {
        warn!(address:%, max, repeated; "client refused: {setting} reached; if this is a proxy, add it to TRUSTED_PROXIES");
    }
}

/// The elements of a header that lists them, the last first. Elements are separated by commas,
/// also within quotes: whatever a client sends, the elements that proxies append are not hidden.
fn listed(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).rev();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.rsplit(','))
        .map(str::trim)
}

/// The text of `for` in an element of `Forwarded` (RFC 7239).
fn forwarded_for(element: &str) -> &str {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let value = pairs
        .into_iter()
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))
        .map_or("", |(_, value)| value.trim());
    value.trim_matches('"')
}

/// An address, also with a port, and of IPv6 also in brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.unwrap_or(text).parse().ok().or_else(with_port)
}

/// An IPv6 subscriber usually has a /64 of addresses, so a /64 counts as one address.
pub(super) fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn with_proxies(trusted: &[&str], limit: AddressLimit) -> Addresses {
        let trusted: Vec<IpNet> = trusted
            .iter()
            .map(|network| network.parse().unwrap())
            .collect();
        Addresses::new(&trusted, limit, limit)
    }

    #[test]
    fn addresses_are_counted_separately() {
        let addresses = with_proxies(&["10.0.0.0/8"], AddressLimit::Set(1));
        let held = addresses.take_connection(address("192.0.2.1")).unwrap();
        assert!(held.is_some());
        assert_eq!(
            addresses.take_connection(address("192.0.2.1")).err(),
            Some(TooMany(1))
        );
        assert!(addresses.take_connection(address("192.0.2.2")).is_ok());
        assert!(addresses.take_session(address("192.0.2.1")).is_ok());
        assert!((0..3).all(|_| matches!(addresses.take_connection(address("10.1.2.3")), Ok(None))));
        drop(held);
        assert!(addresses.take_connection(address("192.0.2.1")).is_ok());
        let held = addresses.take_connection(address("2001:db8::1")).unwrap();
        assert!(addresses.take_connection(address("2001:db8::2")).is_err());
        assert!(
            addresses
                .take_connection(address("2001:db8:0:1::1"))
                .is_ok()
        );
        drop(held);
        assert!(addresses.connections.1.is_empty());
    }

    #[test]
    fn loopback_is_exempt_by_default() {
        let by_default = with_proxies(&[], AddressLimit::or(None, 1));
        let set = with_proxies(&[], AddressLimit::or(Some(1), 5));
        for loopback in ["127.0.0.1", "::1"].map(address) {
            assert!(matches!(by_default.take_connection(loopback), Ok(None)));
            let _held = set.take_connection(loopback).unwrap();
            assert!(set.take_connection(loopback).is_err());
        }
    }

    fn client(peer: &str, name: &HeaderName, forwarded: &[&'static str]) -> String {
        let addresses = with_proxies(&["10.0.0.0/8"], AddressLimit::Set(1));
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        addresses.client(address(peer), &headers).to_string()
    }

    #[test]
    fn only_proxies_may_forward_addresses() {
        let client =
            |peer: &str, forwarded: &[&'static str]| client(peer, &X_FORWARDED_FOR, forwarded);
        assert_eq!(client("192.0.2.9", &["198.51.100.1"]), "192.0.2.9");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            client("10.0.0.1", &["203.0.113.7, 198.51.100.1, 10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(
            client("10.0.0.1", &["203.0.113.7", "198.51.100.1"]),
            "198.51.100.1"
        );
        assert_eq!(client("10.0.0.1", &["203.0.113.7, rubbish"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn forwarded_header_is_read() {
        let client = |peer: &str, forwarded: &[&'static str]| client(peer, &FORWARDED, forwarded);
        assert_eq!(client("192.0.2.9", &["for=198.51.100.1"]), "192.0.2.9");
        for value in [
            "for=198.51.100.1",
            "proto=https;For=198.51.100.1;by=203.0.113.43",
            "for=\"198.51.100.1:4711\"",
            "for=203.0.113.7, for=198.51.100.1, for=10.0.0.2",
            // What a client sends cannot hide what a proxy appends.
            "for=\"203.0.113.7, for=198.51.100.1",
        ] {
            assert_eq!(client("10.0.0.1", &[value]), "198.51.100.1", "{value}");
        }
        for value in [
            "for=\"[2001:db8:cafe::17]:4711\"",
            "for=\"[2001:db8:cafe::17]\"",
        ] {
            assert_eq!(client("10.0.0.1", &[value]), "2001:db8:cafe::17", "{value}");
        }
        for value in ["for=unknown", "for=_hidden", "by=198.51.100.1", "", ";;=,"] {
            assert_eq!(client("10.0.0.1", &[value]), "10.0.0.1", "{value}");
        }
    }

    #[test]
    fn one_of_both_headers_counts() {
        let addresses = with_proxies(&["10.0.0.0/8"], AddressLimit::Set(1));
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED, HeaderValue::from_static("for=203.0.113.7"));
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("198.51.100.1"));
        let client = addresses.client(address("10.0.0.1"), &headers);
        assert_eq!(client, address("198.51.100.1"));
    }
}
