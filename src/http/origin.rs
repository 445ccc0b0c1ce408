//! Checks who may call a public port. A web page can reach any server that its user can reach, so
//! each request is checked before it is routed: the host name it uses (`Host`; a foreign name is a
//! sign of DNS rebinding) and, if it changes something or opens a socket, the page it comes from
//! (`Origin`, `Sec-Fetch-Site`). So are preflights
//! (`cors.rs`).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use log::warn;
use prometheus::IntCounterVec;

use super::cors;
use super::errors::ApiError;
use crate::telemetry::log_limit::LogLimit;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Names with these suffixes cannot be registered in the public DNS, so no foreign page can be
/// served from them.
const PRIVATE_SUFFIXES: [&str; 6] = [
    ".localhost",
    ".internal",
    ".svc",
    ".local",
    ".home.arpa",
    ".test",
];
/// Maximum length of a header's text in a message or a log line, in characters.
const MAX_SHOWN: usize = 120;

/// The same origin or host is logged at most once a minute.
static REFUSALS: LogLimit = LogLimit::every(Duration::from_secs(60));

/// The name and the port of an authority, such as `odds.example:443` or `[::1]:8080`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authority<'a> {
    /// Without brackets and without a final dot.
    pub(super) name: &'a str,
    ip: Option<IpAddr>,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Parses an authority without user information.
    pub(crate) fn parse(text: &'a str) -> Option<Authority<'a>> {
        if let Some(rest) = text.strip_prefix('[') {
            let (name, rest) = rest.split_once(']')?;
            let ip = name.parse::<Ipv6Addr>().ok()?;
            let port = if rest.is_empty() {
                None
            } else {
                Some(parse_port(rest.strip_prefix(':')?)?)
            };
            return Some(Authority {
                name,
                ip: Some(ip.into()),
                port,
            });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(parse_port(port)?)),
            None => (text, None),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let is_name = name.len() <= 253 && name.split('.').all(is_label);
        is_name.then(|| Authority {
            name,
            ip: name.parse().ok(),
            port,
        })
    }

    fn is_same_host(&self, other: &Authority) -> bool {
        match (self.ip, other.ip) {
            (None, None) => self.name.eq_ignore_ascii_case(other.name),
            (ip, other) => ip == other,
        }
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0)
}

/// The single `Host` header of a request.
pub(crate) fn host(headers: &HeaderMap) -> Result<Authority<'_>, ApiError> {
    let bad = |problem: &str| ApiError::BadRequest(format!("the header Host {problem}"));
    let mut hosts = headers.get_all(header::HOST);
    match (hosts.next(), hosts.next()) {
        (None, _) => Err(bad("is missing")),
        (_, Some(_)) => Err(bad("is given twice")),
        (Some(host), None) => host
            .to_str()
            .ok()
            .and_then(Authority::parse)
            .ok_or_else(|| bad("is not a name or address with a port")),
    }
}

/// Whether two origins are the same, or an origin is that of a host. A default port may be written
/// or omitted. Behind a proxy that terminates TLS the scheme of a host is unknown, so the scheme of
/// the origin is assumed.
fn is_same_origin(origin: &str, other: Authority) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => 443,
        _ if scheme.eq_ignore_ascii_case("http") => 80,
        _ => return false,
    };
    let port = |authority: Authority| authority.port.unwrap_or(default_port);
    Authority::parse(authority)
        .is_some_and(|own| own.is_same_host(&other) && port(own) == port(other))
}

/// Whether an origin is one of `allowed`.
pub(super) fn is_listed(origin: &str, allowed: &[String]) -> bool {
    allowed.iter().any(|allowed| {
        allowed == "*"
            || allowed.eq_ignore_ascii_case(origin)
            || allowed
                .split_once("://")
                .is_some_and(|(scheme, authority)| {
                    let has_scheme = origin
                        .get(..scheme.len())
                        .is_some_and(|own| own.eq_ignore_ascii_case(scheme));
                    has_scheme
                        && Authority::parse(authority)
                            .is_some_and(|authority| is_same_origin(origin, authority))
                })
    })
}

/// Allows pages of this server and of the `allowed` origins. A request with neither `Origin` nor
/// `Sec-Fetch-Site` does not come from a page: browsers send both with every request that changes
/// something, and `Origin` with every handshake.
pub(crate) fn check_page(headers: &HeaderMap, allowed: &[String]) -> Result<(), ApiError> {
    let mut origins = headers.get_all(header::ORIGIN);
    if let Some(origin) = origins.next() {
        if origins.next().is_some() {
            return Err(ApiError::BadRequest(
                "the header Origin is given twice".to_owned(),
            ));
        }
        let text = origin.to_str().unwrap_or("");
        if is_listed(text, allowed) {
            return Ok(());
        }
        if !is_same_origin(text, host(headers)?) {
            return Err(ApiError::OriginNotAllowed(shown(origin.as_bytes())));
        }
    }
    let mut sites = headers.get_all(SEC_FETCH_SITE);
    match sites.find(|site| !matches!(site.as_bytes(), b"same-origin" | b"none")) {
        None => Ok(()),
        Some(site) => Err(ApiError::OriginNotAllowed(format!(
            "Sec-Fetch-Site: {}",
            shown(site.as_bytes())
        ))),
    }
}

/// Text from outside in the form that is shown and logged: short, and in visible ASCII.
fn shown(text: &[u8]) -> String {
    text.escape_ascii()
        .to_string()
        .chars()
        .take(MAX_SHOWN)
        .collect()
}

/// The host names that a server accepts.
#[derive(Clone, Debug)]
pub struct HostRule {
    /// `ALLOWED_HOSTS`.
    pub listed: Vec<String>,
    /// Whether any name is accepted if none is listed: right if everything that is served is
    /// public.
    pub any_unless_listed: bool,
}

impl HostRule {
    /// IP addresses and private names are always allowed: DNS rebinding cannot take them over, so a
    /// page served from them is not foreign.
    fn allows(&self, host: &Authority) -> bool {
        let name = host.name;
        let ends_with = |suffix: &str| {
            name.len() > suffix.len()
                && name.as_bytes()[name.len() - suffix.len()..]
                    .eq_ignore_ascii_case(suffix.as_bytes())
        };
        host.ip.is_some()
            || !name.contains('.')
            || PRIVATE_SUFFIXES.into_iter().any(ends_with)
            || self
                .listed
                .iter()
                .any(|listed| listed == "*" || listed.eq_ignore_ascii_case(name))
            || self.any_unless_listed && self.listed.is_empty()
    }
}

/// Checks every request of a public port before it is routed. Ports for health and metrics have no
/// such check: probes and scrapers use any name, and nothing there is private or can be changed.
pub struct RequestGuard {
    /// The host names that the server accepts.
    pub hosts: HostRule,
    /// Foreign origins whose pages may change something, and read responses.
    pub origins: Vec<String>,
    /// Requests refused, by code.
    pub refused: IntCounterVec,
}

impl RequestGuard {
    /// Checks a request. A refusal is counted and logged.
    pub fn check(&self, request: &ServiceRequest) -> Result<(), ApiError> {
        let checked = self.decide(request);
        if let Err(refusal) = &checked {
            self.refused.with_label_values(&[refusal.code().0]).inc();
            log_refusal(refusal);
        }
        checked
    }

    fn decide(&self, request: &ServiceRequest) -> Result<(), ApiError> {
        let uri = request.uri();
        if uri.scheme().is_some() || uri.authority().is_some() {
            return Err(ApiError::BadRequest(
                "the request target must be a path, without scheme and host".to_owned(),
            ));
        }
        let host = host(request.headers())?;
        if !self.hosts.allows(&host) {
            return Err(ApiError::HostNotAllowed(shown(host.name.as_bytes())));
        }
        if request.method().is_safe() && !cors::is_preflight(request.head()) {
            Ok(())
        } else {
            check_page(request.headers(), &self.origins)
        }
    }
}

/// Logs a refused origin or host, each at most once a minute.
pub(crate) fn log_refusal(refusal: &ApiError) {
    let (what, name) = match refusal {
        ApiError::OriginNotAllowed(origin) => ("origin", origin),
        ApiError::HostNotAllowed(host) => ("host", host),
        _ => return,
    };
    if let Some(repeated) = REFUSALS.check(&format!("{what} {name}")) {
        warn!(repeated; "request refused: {what} `{name}` is not allowed");
    }
}

#[cfg(test)]
mod tests;
