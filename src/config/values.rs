//! Value parsers of the settings.
//!
//! Every error here names the expected form, worded to complete the sentence "want …".

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::{IpNet, Ipv4Net};
use secrecy::SecretString;
use url::{Host, Url};

use super::address::SecretUrl;
use super::endpoint::{Endpoint, EndpointError};
use crate::domain::ids::{MAX_ID_BYTES, Source};
use crate::domain::wallet::amount::Amount;
use crate::telemetry::log_filter::check_filter;

/// Maximum duration: 100 years. Longer ones would overflow the clocks that they are added to.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Parses a supplier's address: a scheme that names a wire format, a host, and a port if the scheme
/// has no default port.
pub(super) fn supplier_url(text: &str) -> Result<Endpoint, String> {
    let want = "ws://, wss://, betfair:// or betfairs:// with a host; betfair:// also with a port";
    match text.trim().parse() {
        Ok(Endpoint::Betfair { port: 0, .. }) => Err(want.to_owned()),
        Ok(endpoint) => Ok(endpoint),
        Err(EndpointError::Address(problem)) => Err(format!("{want}, but {problem}")),
        Err(EndpointError::TooMuch(scheme)) => Err(format!(
            "{scheme}://host:port and nothing else: its protocol has no user and password; set BETFAIR_APP_KEY and \
             BETFAIR_SESSION_TOKEN"
        )),
        Err(_) => Err(want.to_owned()),
    }
}

/// Parses an origin as browsers send it, or `*`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text == "*" {
        return Ok(text.to_owned());
    }
    named_origin(text).ok_or_else(|| format!("* or {NAMED_ORIGIN}"))
}

/// Parses an origin that may change state, so `*` is rejected.
pub(super) fn exact_origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text == "*" {
        return Err(format!("{NAMED_ORIGIN}; * would let any page move money"));
    }
    named_origin(text).ok_or_else(|| NAMED_ORIGIN.to_owned())
}

const NAMED_ORIGIN: &str =
    "an origin like https://example.com or http://localhost:3000, with its whole name (no *.)";

/// An origin in the form that browsers send: without a default port.
fn named_origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    // A wildcard would match nothing: origins are compared as a whole.
    let has_name = url
        .host_str()
        .is_some_and(|host| !host.is_empty() && !host.contains('*'));
    let bare = has_name
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && !text.contains('@');
    let origin = url.origin();
    bare.then(|| {
        if origin.is_tuple() {
            origin.ascii_serialization()
        } else {
            url.as_str().trim_end_matches('/').to_owned()
        }
    })
}

/// Parses a host name of this server, without a port.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let text = text.trim().trim_end_matches('.');
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_name = !text.is_empty()
        && text.split('.').all(|label| !label.is_empty())
        && text.bytes().all(is_known);
    if text == "*" || is_name {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("* or a host name like odds.example.com, without scheme and port".to_owned())
    }
}

/// Accepts any secret. Its content is checked where it is used, so that no error can display it.
pub(super) fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

/// Parses an address to bind to.
pub(super) fn ip_address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| "an IP address like 127.0.0.1, 0.0.0.0 or ::1".to_owned())
}

/// Parses an IP address or a network of proxies. IPv4 in the form of IPv6 is the IPv4 address that
/// clients are known by. A network of all addresses is rejected: nobody would be limited.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text
        .parse()
        .or_else(|_| address())
        .map_err(|_| "an address or a network like 10.0.0.7 or 10.0.0.0/8".to_owned())?;
    let network = unmapped(network);
    if network.prefix_len() == 0 {
        return Err(
            "the addresses or networks of your proxies; if every address is one, no client is limited"
                .to_owned(),
        );
    }
    Ok(network)
}

/// The IPv4 network that an IPv6 network below `::ffff:0:0/96` stands for, or the network itself.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = network else {
        return network;
    };
    let prefix = v6.prefix_len().checked_sub(MAPPED);
    let v4 = v6.addr().to_ipv4_mapped().zip(prefix);
    v4.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(network, IpNet::V4)
}

/// Parses a port.
pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| "a port number from 0 to 65535".to_owned())
}

/// Parses a log filter.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    check_filter(text).map(|()| text.to_owned())
}

/// Parses the name of a Kafka topic.
pub(super) fn topic(text: &str) -> Result<String, String> {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    if (1..=249).contains(&text.len()) && text.chars().all(legal) && !matches!(text, "." | "..") {
        Ok(text.to_owned())
    } else {
        Err("a topic name: up to 249 letters, digits, dots, underscores and hyphens".to_owned())
    }
}

/// Parses the name of a source, as in the field `source` of an update.
pub(super) fn source(text: &str) -> Result<Source, String> {
    Source::new(text.trim())
        .map_err(|_| format!("a list of names of 1 to {MAX_ID_BYTES} bytes, with commas"))
}

/// Parses the name of a deployment, which becomes part of a channel name. `alive` is reserved: it
/// is the channel of an earlier version.
pub(super) fn deployment(text: &str) -> Result<String, String> {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    if (1..=64).contains(&text.len()) && text.chars().all(legal) && text != "alive" {
        Ok(text.to_owned())
    } else {
        Err(
            "a name other than alive: up to 64 letters, digits, dots, underscores and hyphens"
                .to_owned(),
        )
    }
}

/// Parses a duration that may be zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err("a duration up to 100years, like 0s, 500ms, 15s or 1m30s".to_owned()),
    }
}

/// Parses a duration that must not be zero: an interval, limit or delay that would otherwise become
/// a busy loop.
pub(crate) fn duration_above_zero(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("a duration above zero and up to 100years, like 500ms, 15s or 1m30s".to_owned()),
    }
}

/// Parses a duration that must exceed the one-second interval of a periodic task.
pub(super) fn duration_above_a_second(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(duration) if duration > Duration::from_secs(1) => Ok(duration),
        _ => Err("a duration above 1s and up to 100years, like 1500ms, 5s or 1m30s".to_owned()),
    }
}

/// Parses a duration that must be at least twice the one-second interval of a periodic task, so that
/// one late run is not taken for silence.
pub(super) fn duration_from_two_seconds(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(duration) if duration >= Duration::from_secs(2) => Ok(duration),
        _ => Err("a duration of at least 2s and up to 100years, like 3s or 1m30s".to_owned()),
    }
}

/// Parses the duration of a simulated match: 0, or long enough that clients can see what happens.
pub(super) fn match_duration(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(24 * 3_600);
    match duration(text) {
        Ok(duration) if duration.is_zero() => Ok(duration),
        Ok(duration) if (Duration::from_secs(1)..=longest).contains(&duration) => Ok(duration),
        _ => Err("a duration from 1s to 24h, like 2m or 90m, or 0s".to_owned()),
    }
}

/// Parses a whole number from `least` to `most`.
pub(super) fn whole<T>(
    least: T,
    most: T,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: std::str::FromStr + PartialOrd + fmt::Display + Copy + Send + Sync + 'static,
{
    move |text| match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("a whole number from {least} to {most}")),
    }
}

/// Parses a number of bytes from `least` to `most`.
pub(super) fn size(
    least: ByteSize,
    most: ByteSize,
) -> impl Fn(&str) -> Result<ByteSize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse::<ByteSize>() {
        Ok(size) if size >= least && size <= most => Ok(size),
        _ => Err(format!(
            "a size from {least} to {most}, like 65536, 64KiB or 1MiB"
        )),
    }
}

/// Parses an amount of money in cents.
pub(super) fn amount(text: &str) -> Result<Amount, String> {
    let amount = text
        .trim()
        .parse()
        .ok()
        .and_then(|cents| Amount::new(cents).ok());
    amount.ok_or_else(|| "a whole number of cents, at least 1".to_owned())
}

/// Parses an ISO 4217 currency code.
pub(super) fn currency(text: &str) -> Result<String, String> {
    let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_code {
        Ok(text.to_owned())
    } else {
        Err("a code of three capital letters like BRL".to_owned())
    }
}

/// Parses an HTTP address, with or without credentials.
pub(super) fn http_url(text: &str) -> Result<SecretUrl, String> {
    let url = url_of(
        text,
        &["http", "https"],
        "an address like http://host:port or https://user:password@host",
    )?;
    if url.without_login().query().is_some() {
        return Err(
            "an address like http://host:port or https://user:password@host, without a query"
                .to_owned(),
        );
    }
    Ok(url)
}

/// Parses the address of a JWKS document. Without encryption, anybody on the way could replace the
/// keys.
pub(super) fn key_set_url(text: &str) -> Result<SecretUrl, String> {
    let want =
        "an address like https://issuer.example.com/jwks.json, or http:// on a loopback address";
    let url = url_of(text, &["http", "https"], want)?;
    let is_loopback = match url.expose().host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.expose().scheme() == "https" || is_loopback {
        Ok(url)
    } else {
        Err(want.to_owned())
    }
}

/// Parses the address of a service behind the gateway. It has no login: the gateway passes on the
/// credentials of its clients.
pub(super) fn service_url(text: &str) -> Result<SecretUrl, String> {
    const WANT: &str = "an address like http://host:port or https://host:port, and nothing else";
    let url = url_of(text, &["http", "https"], WANT)?;
    let address = url.expose();
    let is_bare = address.path() == "/"
        && address.query().is_none()
        && address.username().is_empty()
        && address.password().is_none();
    is_bare.then_some(url).ok_or_else(|| WANT.to_owned())
}

/// Parses the address of a collector of traces. Its login would be part of error texts.
pub(super) fn collector_url(text: &str) -> Result<SecretUrl, String> {
    const WANT: &str =
        "an address like http://collector:4318 or https://host/path, without a login";
    let url = url_of(text, &["http", "https"], WANT)?;
    let address = url.expose();
    let is_bare = address.query().is_none() && url.login().is_none();
    is_bare.then_some(url).ok_or_else(|| WANT.to_owned())
}

/// Parses the name of a process in traces.
pub(super) fn service_name(text: &str) -> Result<String, String> {
    if is_short_text(text) {
        Ok(text.to_owned())
    } else {
        Err("a name of 1 to 128 visible characters like sports-bet-odds".to_owned())
    }
}

fn is_short_text(text: &str) -> bool {
    (1..=128).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// Attributes of a process in traces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceAttributes(pub Vec<(String, String)>);

impl std::str::FromStr for ResourceAttributes {
    type Err = String;

    /// Values may be percent-encoded, as OpenTelemetry defines.
    fn from_str(text: &str) -> Result<ResourceAttributes, String> {
        let want = "a list of key=value pairs with commas, like deployment.environment.name=test";
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
        let read = |pair: &str| {
            let (key, value) = pair.split_once('=')?;
            let value = percent_encoding::percent_decode_str(value.trim());
            let (key, value) = (key.trim(), value.decode_utf8().ok()?);
            let is_good = is_short_text(key) && !value.chars().any(char::is_control);
            is_good.then(|| (key.to_owned(), value.into_owned()))
        };
        let pairs: Option<Vec<_>> = pairs.map(read).collect();
        pairs.map(ResourceAttributes).ok_or_else(|| want.to_owned())
    }
}

/// Parses a WebSocket address, with or without credentials.
pub(crate) fn websocket_url(text: &str) -> Result<SecretUrl, String> {
    url_of(
        text,
        &["ws", "wss"],
        "a ws:// or wss:// address like ws://127.0.0.1:8080/ws/odds",
    )
}

fn url_of(text: &str, schemes: &[&str], want: &str) -> Result<SecretUrl, String> {
    let url =
        SecretUrl::parse(text, schemes).map_err(|problem| format!("{want}, but {problem}"))?;
    if let Some(login) = url.login() {
        login
            .authorization()
            .map_err(|problem| format!("{want}, but {problem}"))?;
    }
    Ok(url)
}

/// Parses a rate per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1_000_000.0 => Ok(rate),
        _ => Err("a number above 0 and up to 1000000".to_owned()),
    }
}

/// Parses a fraction.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a fraction from 0 to 1, like 0.2".to_owned()),
    }
}

#[cfg(test)]
mod tests;
