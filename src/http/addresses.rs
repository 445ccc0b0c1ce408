//! Counts connections and sessions by client address, so that no address takes all of them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Once};
use std::time::Duration;

use actix_web::http::header::{FORWARDED, HeaderMap, HeaderName};
use ipnet::IpNet;
use log::warn;

use crate::runtime::permits::{AddressPermit, PermitCounts};
use crate::telemetry::log_limit::LogLimit;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A refused address is logged at most once a minute.
static REFUSED: LogLimit = LogLimit::every(Duration::from_secs(60));
/// Logged once per process.
static UNTRUSTED_LOCAL_PROXY: Once = Once::new();

/// Who sends a request, as limits by address count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The client with this address.
    Known(IpAddr),
    /// A trusted proxy that sends a request of its own, which is not limited by address.
    Proxy(IpAddr),
    /// A client that the trusted proxy with this address does not identify. All of them count as
    /// one.
    Unidentified(IpAddr),
}

impl Client {
    /// The address that its requests are counted by.
    pub fn address(self) -> IpAddr {
        match self {
            Client::Known(address) | Client::Proxy(address) | Client::Unidentified(address) => {
                address
            }
        }
    }

    /// Whether it runs on this host, so that default limits do not apply to it.
    pub(super) fn is_local(self) -> bool {
        let is_identified = !matches!(self, Client::Unidentified(_));
        is_identified && self.address().is_loopback()
    }
}

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

    /// The maximum for a client, if it is limited.
    pub(super) fn of(self, client: Client) -> Option<usize> {
        match self {
            AddressLimit::Default(_) if client.is_local() => None,
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
        take(&self.connections, Client::Known(address))
            .inspect_err(|max| log_refusal("HTTP_MAX_CONNECTIONS_PER_ADDRESS", address, *max))
    }

    /// Counts a session of a client. Sessions that a trusted proxy opens for itself are not
    /// counted.
    pub fn take_session(&self, client: Client) -> Result<Option<AddressPermit>, TooMany> {
        if let Client::Proxy(_) = client {
            return Ok(None);
        }
        take(&self.sessions, client)
            .inspect_err(|max| log_refusal("WS_MAX_SESSIONS_PER_ADDRESS", client.address(), *max))
    }

    /// The client of a connection. For a trusted proxy this is the last address in
    /// `X-Forwarded-For`, or else in `Forwarded`, that is not a trusted proxy. The headers are
    /// ignored on other connections.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Client {
        if !self.is_trusted(peer) {
            if peer.is_loopback() && is_forwarded(headers) {
                UNTRUSTED_LOCAL_PROXY.call_once(|| warn_of_untrusted_proxy(peer));
            }
            return Client::Known(peer);
        }
        if headers.contains_key(X_FORWARDED_FOR) {
            self.last_untrusted(peer, listed(headers, X_FORWARDED_FOR))
        } else {
            self.last_untrusted(peer, listed(headers, FORWARDED).map(forwarded_for))
        }
    }

    /// Follows `forwarded`, the last first, as long as each address is that of a trusted proxy.
    /// Behind an element that is not an address nothing is known.
    fn last_untrusted<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl Iterator<Item = &'a [u8]>,
    ) -> Client {
        let mut proxy = peer;
        for element in forwarded {
            let Some(address) = parse_address(element) else {
                return Client::Unidentified(proxy);
            };
            let address = address.to_canonical();
            if !self.is_trusted(address) {
                return Client::Known(address);
            }
            proxy = address;
        }
        Client::Proxy(proxy)
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
    client: Client,
) -> Result<Option<AddressPermit>, TooMany> {
    let Some(max) = limit.of(client) else {
        return Ok(None);
    };
    counts
        .acquire(counted(client.address()), max)
        .map(Some)
        .ok_or(TooMany(max))
}

fn log_refusal(setting: &'static str, address: IpAddr, TooMany(max): TooMany) {
    let address = counted(address);
    if let Some(repeated) = REFUSED.check(&format!("{setting} {address}")) {
        warn!(address:%, max, repeated; "client refused: {setting} reached; if this is a proxy, add it to TRUSTED_PROXIES");
    }
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED)
}

fn warn_of_untrusted_proxy(address: IpAddr) {
    warn!(address:%; "X-Forwarded-For and Forwarded from this address are ignored; if a proxy on this host forwards requests, add its address to TRUSTED_PROXIES: default limits by address do not apply to its clients");
}

/// The elements of a header that lists them, the last first. Elements are separated by commas,
/// also within quotes, and need not be text: whatever a client sends, the elements that proxies
/// append are not hidden.
fn listed(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(name).rev();
    values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
}

/// The value of `for` in an element of `Forwarded` (RFC 7239); empty if there is none.
fn forwarded_for(element: &[u8]) -> &[u8] {
    let mut pairs = element.split(|byte| *byte == b';');
    let value = pairs.find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        name.trim_ascii()
            .eq_ignore_ascii_case(b"for")
            .then(|| value.trim_ascii())
    });
    let value = value.unwrap_or_default();
    let unquoted = value.strip_prefix(b"\"");
    unquoted
        .and_then(|rest| rest.strip_suffix(b"\""))
        .unwrap_or(value)
}

/// An address, also with a port, and of IPv6 also in brackets.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
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
        assert!(
            addresses
                .take_session(Client::Known(address("192.0.2.1")))
                .is_ok()
        );
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

    fn client(peer: &str, name: &HeaderName, forwarded: &[&[u8]]) -> String {
        let addresses = with_proxies(&["10.0.0.0/8"], AddressLimit::Set(1));
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(name.clone(), HeaderValue::from_bytes(value).unwrap());
        }
        match addresses.client(address(peer), &headers) {
            Client::Known(client) => client.to_string(),
            Client::Proxy(proxy) => format!("proxy {proxy}"),
            Client::Unidentified(proxy) => format!("unidentified behind {proxy}"),
        }
    }

    #[test]
    fn only_proxies_may_forward_addresses() {
        let client = |peer: &str, forwarded: &[&str]| {
            let values: Vec<&[u8]> = forwarded.iter().map(|value| value.as_bytes()).collect();
            client(peer, &X_FORWARDED_FOR, &values)
        };
        for (peer, forwarded, expected) in [
            ("192.0.2.9", &["198.51.100.1"][..], "192.0.2.9"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            (
                "10.0.0.1",
                &["203.0.113.7, 198.51.100.1, 10.0.0.2"],
                "198.51.100.1",
            ),
            ("10.0.0.1", &["203.0.113.7", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["2001:db8::7"], "2001:db8::7"),
            ("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.2"], "proxy 10.0.0.2"),
            ("10.0.0.1", &[], "proxy 10.0.0.1"),
            (
                "10.0.0.1",
                &["203.0.113.7, rubbish"],
                "unidentified behind 10.0.0.1",
            ),
            (
                "10.0.0.1",
                &["203.0.113.7, unknown, 10.0.0.2"],
                "unidentified behind 10.0.0.2",
            ),
            ("10.0.0.1", &[""], "unidentified behind 10.0.0.1"),
        ] {
            assert_eq!(client(peer, forwarded), expected, "{forwarded:?}");
        }
    }

    /// Bytes that a client sends beyond ASCII or UTF-8 do not hide what a proxy appends.
    #[test]
    fn unreadable_elements_hide_no_client() {
        for (forwarded, expected) in [
            (&[&b"\xff, 198.51.100.1"[..]][..], "198.51.100.1"),
            (&[b"\xc3\xa9,\t198.51.100.1 , 10.0.0.2"], "198.51.100.1"),
            (&[b"\xff", b"198.51.100.1"], "198.51.100.1"),
            (&[b"\xff, 198.51.100.1", b"10.0.0.2"], "198.51.100.1"),
            (&[b"198.51.100.1", b"\xff"], "unidentified behind 10.0.0.1"),
            (
                &[b"198.51.100.1, \xff, 10.0.0.2"],
                "unidentified behind 10.0.0.2",
            ),
            (&[b"198.51.100.1\xff"], "unidentified behind 10.0.0.1"),
        ] {
            let shown: Vec<_> = forwarded
                .iter()
                .map(|value| value.escape_ascii().to_string())
                .collect();
            let client = |header: &HeaderName, values: &[&[u8]]| client("10.0.0.1", header, values);
            assert_eq!(client(&X_FORWARDED_FOR, forwarded), expected, "{shown:?}");
            let elements: Vec<Vec<u8>> =
                forwarded.iter().map(|value| as_forwarded(value)).collect();
            let elements: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
            assert_eq!(client(&FORWARDED, &elements), expected, "{shown:?}");
        }
        let host = b"for=203.0.113.7, for=198.51.100.1;host=\"\xff\"";
        assert_eq!(
            client("10.0.0.1", &FORWARDED, &[host.as_slice()]),
            "198.51.100.1"
        );
    }

    /// The same list as elements of `Forwarded`.
    fn as_forwarded(list: &[u8]) -> Vec<u8> {
        let elements = list.split(|byte| *byte == b',');
        let elements: Vec<Vec<u8>> = elements
            .map(|element| [b"proto=https;for=", element.trim_ascii()].concat())
            .collect();
        elements.join(&b", "[..])
    }

    #[test]
    fn forwarded_header_is_read() {
        let client = |peer: &str, value: &str| client(peer, &FORWARDED, &[value.as_bytes()]);
        assert_eq!(client("192.0.2.9", "for=198.51.100.1"), "192.0.2.9");
        for value in [
            "for=198.51.100.1",
            "proto=https;For=198.51.100.1;by=203.0.113.43",
            "for=\"198.51.100.1:4711\"",
            "for=203.0.113.7, for=198.51.100.1, for=10.0.0.2",
            // What a client sends cannot hide what a proxy appends.
            "for=\"203.0.113.7, for=198.51.100.1",
        ] {
            assert_eq!(client("10.0.0.1", value), "198.51.100.1", "{value}");
        }
        for value in [
            "for=\"[2001:db8:cafe::17]:4711\"",
            "for=\"[2001:db8:cafe::17]\"",
        ] {
            assert_eq!(client("10.0.0.1", value), "2001:db8:cafe::17", "{value}");
        }
        for value in ["for=unknown", "for=_hidden", "by=198.51.100.1", "", ";;=,"] {
            let expected = "unidentified behind 10.0.0.1";
            assert_eq!(client("10.0.0.1", value), expected, "{value}");
        }
    }

    /// They count together, also behind a proxy on the same host, which is exempt itself.
    #[test]
    fn unidentified_clients_have_limits() {
        let loopback = address("127.0.0.1");
        let addresses = with_proxies(&["127.0.0.0/8"], AddressLimit::Default(1));
        let mut headers = HeaderMap::new();
        let unreadable = HeaderValue::from_bytes(b"\xff").unwrap();
        headers.insert(X_FORWARDED_FOR, unreadable);
        let client = addresses.client(loopback, &headers);
        let _held = addresses.take_session(client).unwrap();
        assert_eq!(addresses.take_session(client).err(), Some(TooMany(1)));
        let proxy = addresses.client(loopback, &HeaderMap::new());
        assert!(matches!(addresses.take_session(proxy), Ok(None)));
    }

    #[test]
    fn one_of_both_headers_counts() {
        let addresses = with_proxies(&["10.0.0.0/8"], AddressLimit::Set(1));
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED, HeaderValue::from_static("for=203.0.113.7"));
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("198.51.100.1"));
        let client = addresses.client(address("10.0.0.1"), &headers);
        assert_eq!(client, Client::Known(address("198.51.100.1")));
    }
}
