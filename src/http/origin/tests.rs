use actix_web::http::Method;
use actix_web::test::TestRequest;
use prometheus::Opts;
use rstest::rstest;

use super::*;

fn guard(listed: &[&str], any_unless_listed: bool) -> RequestGuard {
    RequestGuard {
        hosts: HostRule {
            listed: listed.iter().map(|name| (*name).to_owned()).collect(),
            any_unless_listed,
        },
        origins: vec!["https://shop.example".to_owned()],
        refused: IntCounterVec::new(Opts::new("refused", "refused"), &["code"]).unwrap(),
    }
}

fn ask(
    guard: &RequestGuard,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
) -> &'static str {
    let mut request = TestRequest::with_uri(target).method(method);
    for header in headers {
        request = request.append_header(*header);
    }
    guard
        .check(&request.to_srv_request())
        .map_or_else(|error| error.code().0, |()| "ok")
}

#[rstest]
#[case("127.0.0.1:8082", "ok")]
#[case("[::1]:8082", "ok")]
#[case("192.168.1.7", "ok")]
#[case("localhost:8082", "ok")]
#[case("LOCALHOST", "ok")]
#[case("app.localhost", "ok")]
#[case("wallet:8082", "ok")]
#[case("sports_bet-wallet-1", "ok")]
#[case("wallet.bets.svc.cluster.local", "ok")]
#[case("wallet.bets.svc", "ok")]
#[case("wallet.local", "ok")]
#[case("wallet.home.arpa", "ok")]
#[case("wallet.test", "ok")]
#[case("host.docker.internal:8082", "ok")]
#[case("bets.example", "ok")]
#[case("BETS.example.:443", "ok")]
#[case("evil.example", "HOST_NOT_ALLOWED")]
#[case("evil.example:8082", "HOST_NOT_ALLOWED")]
#[case("evil.example.:8082", "HOST_NOT_ALLOWED")]
#[case("127.0.0.1.evil.example", "HOST_NOT_ALLOWED")]
#[case("localhost.evil.example", "HOST_NOT_ALLOWED")]
#[case("notlocalhost.example", "HOST_NOT_ALLOWED")]
#[case("sub.bets.example", "HOST_NOT_ALLOWED")]
#[case("", "BAD_REQUEST")]
#[case(".", "BAD_REQUEST")]
#[case("a..b", "BAD_REQUEST")]
#[case("user@127.0.0.1", "BAD_REQUEST")]
#[case("user:pass@127.0.0.1:80", "BAD_REQUEST")]
#[case("127.0.0.1:", "BAD_REQUEST")]
#[case("127.0.0.1:0", "BAD_REQUEST")]
#[case("127.0.0.1:65536", "BAD_REQUEST")]
#[case("127.0.0.1:+80", "BAD_REQUEST")]
#[case("127.0.0.1:8080:8080", "BAD_REQUEST")]
#[case("::1", "BAD_REQUEST")]
#[case("[::1", "BAD_REQUEST")]
#[case("[::1]8080", "BAD_REQUEST")]
#[case("[fe80::1%25eth0]", "BAD_REQUEST")]
#[case("a b", "BAD_REQUEST")]
#[case("a/b", "BAD_REQUEST")]
#[case("127.0.0.1, evil.example", "BAD_REQUEST")]
fn host_must_be_own(#[case] host: &str, #[case] expected: &str) {
    let guard = guard(&["bets.example"], false);
    assert_eq!(
        ask(&guard, Method::GET, "/wallet?userId=u", &[("host", host)]),
        expected
    );
    assert_eq!(
        guard.refused.with_label_values(&[expected]).get(),
        u64::from(expected != "ok")
    );
}

#[test]
fn public_port_takes_any_name_unless_listed() {
    let ask = |listed: &[&str], host| {
        ask(
            &guard(listed, true),
            Method::GET,
            "/v1/events",
            &[("host", host)],
        )
    };
    assert_eq!(ask(&[], "odds.example"), "ok");
    assert_eq!(ask(&[], "user@odds.example"), "BAD_REQUEST");
    assert_eq!(ask(&["odds.example"], "odds.example:443"), "ok");
    assert_eq!(ask(&["odds.example"], "evil.example"), "HOST_NOT_ALLOWED");
    assert_eq!(ask(&["*"], "evil.example"), "ok");
}

#[test]
fn request_without_one_host_is_bad() {
    let guard = guard(&[], true);
    assert_eq!(ask(&guard, Method::GET, "/", &[]), "BAD_REQUEST");
    assert_eq!(
        ask(&guard, Method::GET, "/", &[("host", "x"), ("host", "x")]),
        "BAD_REQUEST"
    );
    for target in ["http://evil.example/wallet", "https://127.0.0.1/wallet"] {
        assert_eq!(
            ask(&guard, Method::GET, target, &[("host", "127.0.0.1")]),
            "BAD_REQUEST",
            "{target}"
        );
    }
}

#[rstest]
#[case(&[], "ok")]
#[case(&[("origin", "http://127.0.0.1:8082")], "ok")]
#[case(&[("origin", "http://127.0.0.1:8082"), ("sec-fetch-site", "same-origin")], "ok")]
#[case(&[("origin", "https://shop.example"), ("sec-fetch-site", "cross-site")], "ok")]
#[case(&[("origin", "https://SHOP.example:443")], "ok")]
#[case(&[("sec-fetch-site", "none")], "ok")]
#[case(&[("origin", "http://shop.example")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "https://shop.example:444")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "https://evil.example")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "http://127.0.0.1:8083")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "http://127.0.0.1")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "http://127.0.0.1:8082.evil.example")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "http://127.0.0.1:8082/")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "null")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "file://")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("sec-fetch-site", "cross-site")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("sec-fetch-site", "same-site")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "http://127.0.0.1:8082"), ("sec-fetch-site", "cross-site")], "ORIGIN_NOT_ALLOWED")]
#[case(&[("origin", "http://127.0.0.1:8082"), ("origin", "https://evil.example")], "BAD_REQUEST")]
fn page_must_be_own_or_listed(#[case] headers: &[(&str, &str)], #[case] expected: &str) {
    let all: Vec<_> = [("host", "127.0.0.1:8082")]
        .into_iter()
        .chain(headers.iter().copied())
        .collect();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        assert_eq!(
            ask(&guard(&[], false), method, "/wallet/withdraw", &all),
            expected,
            "{headers:?}"
        );
    }
    // Requests that only read are not checked: no response allows a foreign page to read it.
    assert_eq!(
        ask(&guard(&[], false), Method::GET, "/wallet", &all),
        "ok",
        "{headers:?}"
    );
}

#[rstest]
#[case("https://odds.example", "odds.example:443", true)]
#[case("https://odds.example:443", "odds.example", true)]
#[case("https://odds.example", "odds.example", true)]
#[case("http://odds.example", "odds.example:80", true)]
#[case("http://odds.example:80", "odds.example", true)]
#[case("HTTPS://Odds.Example", "oDDS.eXAMPLE:443", true)]
#[case("https://odds.example.", "odds.example:443", true)]
#[case("https://odds.example", "odds.example.:443", true)]
#[case("http://[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", true)]
#[case("http://[::1]", "[::1]:80", true)]
#[case("http://odds.example:8080", "odds.example:8080", true)]
#[case("https://odds.example", "odds.example:80", false)]
#[case("http://odds.example", "odds.example:443", false)]
#[case("https://odds.example:8443", "odds.example", false)]
#[case("https://odds.example", "odds.example:8443", false)]
#[case("https://odds.example.evil.example", "odds.example", false)]
#[case("https://evil.example", "odds.example", false)]
#[case("ws://odds.example", "odds.example:80", false)]
#[case("https://user@odds.example", "odds.example", false)]
#[case("http://[::2]", "[::1]:80", false)]
#[case("http://127.0.0.1", "localhost", false)]
fn default_ports_are_equal(#[case] origin: &str, #[case] host: &str, #[case] is_same: bool) {
    let headers = [("host", host), ("origin", origin)];
    let expected = if is_same { "ok" } else { "ORIGIN_NOT_ALLOWED" };
    assert_eq!(
        ask(&guard(&[], true), Method::POST, "/", &headers),
        expected,
        "{origin} {host}"
    );
}

#[test]
fn refusal_shows_no_control_characters() {
    let request = TestRequest::default().insert_header(("host", "x"));
    let origin = header::HeaderValue::from_bytes(b"http://\xff\tevil").unwrap();
    let request = request
        .insert_header((header::ORIGIN, origin))
        .to_http_request();
    let refusal = check_page(request.headers(), &[]).unwrap_err();
    assert!(
        refusal.to_string().contains(r"`http://\xff\tevil`"),
        "{refusal}"
    );
    let long = TestRequest::default()
        .insert_header(("host", "x"))
        .insert_header(("origin", "a".repeat(5_000)));
    assert!(
        check_page(long.to_http_request().headers(), &[])
            .unwrap_err()
            .to_string()
            .len()
            < 400
    );
}
