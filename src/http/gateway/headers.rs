//! The headers of a forwarded request and its answer.

use std::net::IpAddr;

use actix_web::http::header::{HeaderMap, HeaderName as ActixName, HeaderValue as ActixValue};
use http::header::{self, HeaderName, HeaderValue};

use crate::domain::trace_parent::{TRACEPARENT, TraceParent};
use crate::http::authorization::REQUIRED;

/// Headers that concern only one connection (RFC 9110, 7.6.1), beside those that `Connection`
/// names.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers that the gateway or its HTTP client sets itself.
const OWN: [&str; 7] = [
    "host",
    REQUIRED,
    "content-length",
    // Answered by the server: the body is read before it is forwarded.
    "expect",
    "forwarded",
    "via",
    "x-real-ip",
];
/// Headers that no `Connection` can remove: a service decides by them.
const END_TO_END: [&str; 7] = [
    "authorization",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "origin",
    "sec-fetch-site",
    "x-api-key",
];
/// Headers of traces. Services trust the gateway's headers, so what a client sends is passed on
/// only if it is a trusted proxy.
const TRACE: [&str; 2] = [TRACEPARENT, "tracestate"];
const FORWARDED_PREFIX: &str = "x-forwarded-";
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_HOST: &str = "x-forwarded-host";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The connection on which a request came to the gateway.
pub(super) struct Hop<'a> {
    /// The other end.
    pub peer: Option<IpAddr>,
    /// Whether it is a proxy that may say for whom it forwards.
    pub is_trusted: bool,
    /// The checked header `Host`.
    pub host: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Whether the service must authenticate the caller.
    pub is_authentication_required: bool,
}

/// The headers to send to the service. `Host` stays that of the client, because the service checks
/// it and compares it with `Origin`.
pub(super) fn to_service(headers: &HeaderMap, hop: &Hop) -> http::HeaderMap {
    let mut out = http::HeaderMap::new();
    let named = connection_options(headers.get_all("connection").map(|value| value.as_bytes()));
    for (name, value) in headers {
        let name = name.as_str();
        let is_own = OWN.contains(&name)
            || name.starts_with(FORWARDED_PREFIX)
            || !hop.is_trusted && TRACE.contains(&name);
        if is_own || is_hop_by_hop(name, &named) {
            continue;
        }
        append(&mut out, name, value.as_bytes());
    }
    append(&mut out, "host", hop.host.as_bytes());
    append_forwarded(&mut out, headers, hop);
    if hop.is_authentication_required {
        append(&mut out, REQUIRED, b"required");
    }
    out
}

/// The headers of an answer to send to the client.
pub(super) fn to_client(
    headers: &http::HeaderMap,
) -> impl Iterator<Item = (ActixName, ActixValue)> {
    let values = headers.get_all(header::CONNECTION).iter();
    let named = connection_options(values.map(HeaderValue::as_bytes));
    headers.iter().filter_map(move |(name, value)| {
        // The server frames the body itself.
        if is_hop_by_hop(name.as_str(), &named) || *name == header::CONTENT_LENGTH {
            return None;
        }
        let name = ActixName::from_bytes(name.as_str().as_bytes()).ok()?;
        Some((name, ActixValue::from_bytes(value.as_bytes()).ok()?))
    })
}

/// Says to which trace a forwarded request belongs, and whether it is sampled.
pub(super) fn set_trace(headers: &mut http::HeaderMap, decision: TraceParent) {
    if let Ok(value) = HeaderValue::from_str(&decision.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
}

fn is_hop_by_hop(name: &str, named: &[String]) -> bool {
    HOP_BY_HOP.contains(&name) || named.iter().any(|named| named == name)
}

/// The header names in `Connection`, in lower case.
fn connection_options<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let texts = values.filter_map(|value| std::str::from_utf8(value).ok());
    texts
        .flat_map(|text| text.split(','))
        .map(|option| option.trim().to_ascii_lowercase())
        .filter(|option| !END_TO_END.contains(&option.as_str()))
        .collect()
}

/// Says for whom the request is forwarded. What the client says counts only from a trusted proxy.
fn append_forwarded(out: &mut http::HeaderMap, headers: &HeaderMap, hop: &Hop) {
    let known = |name: &str| -> Vec<&[u8]> {
        if !hop.is_trusted {
            return Vec::new();
        }
        headers
            .get_all(name)
            .map(|value| value.as_bytes())
            .collect()
    };
    // Bytes that are not text do not hide the rest of the chain.
    let chain = |name: &str, own: String| {
        let mut all = known(name);
        all.push(own.as_bytes());
        all.join(&b", "[..])
    };
    let proto = match known(X_FORWARDED_PROTO).as_slice() {
        [b"https"] => "https",
        [b"http"] => "http",
        _ => hop.scheme,
    };
    let host = match known(X_FORWARDED_HOST).as_slice() {
        [host] if host.is_ascii() => host,
        _ => hop.host.as_bytes(),
    };
    append(
        out,
        "forwarded",
        &chain("forwarded", forwarded_element(hop)),
    );
    if let Some(peer) = hop.peer {
        append(
            out,
            X_FORWARDED_FOR,
            &chain(X_FORWARDED_FOR, peer.to_string()),
        );
    }
    append(out, X_FORWARDED_HOST, host);
    append(out, X_FORWARDED_PROTO, proto.as_bytes());
}

/// This hop in the form of RFC 7239. The host has been checked, so it needs no escaping.
fn forwarded_element(hop: &Hop) -> String {
    let peer = match hop.peer {
        Some(IpAddr::V4(peer)) => peer.to_string(),
        Some(IpAddr::V6(peer)) => format!("\"[{peer}]\""),
        None => "unknown".to_owned(),
    };
    format!("for={peer};host=\"{}\";proto={}", hop.host, hop.scheme)
}

/// Adds a header. Both libraries accept the same names and values, so nothing is left out.
fn append(out: &mut http::HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_bytes(value),
    ) {
        out.append(name, value);
    }
}

#[cfg(test)]
mod tests;
