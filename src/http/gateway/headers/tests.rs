use pretty_assertions::assert_eq;

use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(
            ActixName::from_bytes(name.as_bytes()).unwrap(),
            ActixValue::from_str(value).unwrap(),
        );
    }
    headers
}

fn hop(peer: &str, is_trusted: bool) -> Hop<'static> {
    Hop {
        peer: Some(peer.parse().unwrap()),
        is_trusted,
        host: "bets.example:8000",
        scheme: "http",
        is_authentication_required: false,
    }
}

/// The headers as lines, in order of their names.
fn lines(headers: &http::HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    lines
}

#[test]
fn end_to_end_headers_are_passed_on() {
    let sent = headers(&[
        ("Host", "bets.example:8000"),
        ("Authorization", "Bearer x"),
        ("Idempotency-Key", "k"),
        ("Origin", "https://shop.example"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("Connection", "close, X-Hop"),
        ("Connection", "Keep-Alive"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic x"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("X-Hop", "1"),
        ("Content-Length", "5"),
        ("Expect", "100-continue"),
    ]);
    assert_eq!(
        lines(&to_service(&sent, &hop("192.0.2.1", false))),
        [
            "authorization: Bearer x",
            "cookie: a=1",
            "cookie: b=2",
            "forwarded: for=192.0.2.1;host=\"bets.example:8000\";proto=http",
            "host: bets.example:8000",
            "idempotency-key: k",
            "origin: https://shop.example",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: bets.example:8000",
            "x-forwarded-proto: http",
        ]
    );
}

/// A client that names them in `Connection` cannot hide from which page, or by whom, a request is
/// sent.
#[test]
fn headers_that_services_decide_by_are_not_removed() {
    let kept = ["authorization", "origin", "sec-fetch-site", "x-api-key"];
    let mut sent = headers(&kept.map(|name| (name, "x")));
    sent.append(
        ActixName::from_static("connection"),
        ActixValue::from_static("Authorization, Origin, Sec-Fetch-Site, X-Api-Key"),
    );
    let passed_on = to_service(&sent, &hop("192.0.2.1", false));
    for name in kept {
        assert_eq!(passed_on.get(name).unwrap(), "x", "{name}");
    }
}

/// Only the gateway says whether callers must be authenticated.
#[test]
fn required_authentication_is_passed_on() {
    let sent = headers(&[("Sports-Bet-Auth", "off")]);
    for is_authentication_required in [false, true] {
        let hop = Hop {
            is_authentication_required,
            ..hop("192.0.2.1", false)
        };
        let passed_on = to_service(&sent, &hop);
        let expected = is_authentication_required.then(|| HeaderValue::from_static("required"));
        assert_eq!(passed_on.get(REQUIRED), expected.as_ref());
    }
}

#[test]
fn forwarded_headers_count_from_trusted_proxies_only() {
    let sent = headers(&[
        ("Forwarded", "for=198.51.100.7"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-For", "198.51.100.7"),
        ("X-Forwarded-Host", "shop.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Port", "443"),
        ("X-Real-IP", "198.51.100.7"),
    ]);
    assert_eq!(
        lines(&to_service(&sent, &hop("2001:db8::1", false))),
        [
            "forwarded: for=\"[2001:db8::1]\";host=\"bets.example:8000\";proto=http",
            "host: bets.example:8000",
            "x-forwarded-for: 2001:db8::1",
            "x-forwarded-host: bets.example:8000",
            "x-forwarded-proto: http",
        ]
    );
    assert_eq!(
        lines(&to_service(&sent, &hop("10.0.0.1", true))),
        [
            "forwarded: for=198.51.100.7, for=10.0.0.1;host=\"bets.example:8000\";proto=http",
            "host: bets.example:8000",
            "x-forwarded-for: 203.0.113.9, 198.51.100.7, 10.0.0.1",
            "x-forwarded-host: shop.example",
            "x-forwarded-proto: https",
        ]
    );
}

/// Bytes of a client that are not text do not remove the address that a proxy has appended.
#[test]
fn unreadable_chain_is_passed_on() {
    let mut sent = HeaderMap::new();
    for name in ["forwarded", X_FORWARDED_FOR] {
        for value in [&b"\xff, 198.51.100.7"[..], b"10.0.0.2"] {
            let name = ActixName::from_bytes(name.as_bytes()).unwrap();
            sent.append(name, ActixValue::from_bytes(value).unwrap());
        }
    }
    let out = to_service(&sent, &hop("10.0.0.1", true));
    assert_eq!(
        out["x-forwarded-for"].as_bytes(),
        b"\xff, 198.51.100.7, 10.0.0.2, 10.0.0.1"
    );
    assert_eq!(
        out["forwarded"].as_bytes(),
        b"\xff, 198.51.100.7, 10.0.0.2, for=10.0.0.1;host=\"bets.example:8000\";proto=http"
    );
    let out = to_service(&sent, &hop("192.0.2.1", false));
    assert_eq!(out["x-forwarded-for"], "192.0.2.1");
}

/// A service believes the gateway, so a stranger's trace must not get there.
#[test]
fn trace_of_stranger_is_removed() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let sent = headers(&[("traceparent", parent), ("tracestate", "a=1")]);
    let out = to_service(&sent, &hop("10.0.0.1", true));
    assert_eq!(out["traceparent"], parent);
    assert_eq!(out["tracestate"], "a=1");
    let mut out = to_service(&sent, &hop("192.0.2.1", false));
    assert!(!out.contains_key("traceparent") && !out.contains_key("tracestate"));
    set_trace(&mut out, parent.parse().unwrap());
    assert_eq!(out["traceparent"], parent);
}

#[test]
fn doubtful_scheme_of_proxy_is_replaced() {
    for bad in ["ftp", "https, http", ""] {
        let sent = headers(&[("X-Forwarded-Proto", bad)]);
        let out = to_service(&sent, &hop("10.0.0.1", true));
        assert_eq!(out["x-forwarded-proto"], "http", "{bad}");
    }
}

#[test]
fn answers_lose_headers_of_their_connection() {
    let mut answer = http::HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("etag", "\"1\""),
        ("link", "<a>; rel=next"),
        ("link", "<b>; rel=prev"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("content-length", "7"),
    ] {
        append(&mut answer, name, value.as_bytes());
    }
    let passed: Vec<_> = to_client(&answer)
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    assert_eq!(
        passed,
        [
            "content-type: application/json",
            "etag: \"1\"",
            "link: <a>; rel=next",
            "link: <b>; rel=prev"
        ]
    );
}
