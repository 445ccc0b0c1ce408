//! Requests that a page of a foreign origin can make a browser send: under its own origin, or by
//! DNS rebinding.

use std::net::SocketAddr;

use pretty_assertions::assert_eq;
use serde_json::json;
use sports_bet_platform::config::settings::Role;

use super::BetsHarness;
use crate::support::{ServerProcess, raw, until, within};

/// A `POST` with exactly these headers besides the length.
fn request(path: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect();
    format!(
        "POST {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// For example `403 ORIGIN_NOT_ALLOWED`, or the status alone.
fn code(answer: &str) -> String {
    let status = answer.split(' ').nth(1).unwrap_or("none");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    body["code"]
        .as_str()
        .map_or(status.to_owned(), |code| format!("{status} {code}"))
}

/// Every write path, with its port and a valid body.
fn writes(harness: &BetsHarness) -> Vec<(SocketAddr, &'static str, String)> {
    let order = |reference: &str| {
        json!({"userId": "u", "amount_cents": 10, "external_ref": reference}).to_string()
    };
    let wallet = harness.platform.wallet();
    let bet = json!({"userId": "u", "eventId": "E", "market": "1x2", "selection": "home", "stake_cents": 100,
        "odd_value": 1.5, "oddsChange": "any"});
    vec![
        (wallet, "/wallet/deposit", order("foreign")),
        (wallet, "/wallet/withdraw", order("foreign")),
        (wallet, "/wallet/reserve", order("foreign")),
        (wallet, "/wallet/commit", order("held")),
        (wallet, "/wallet/refund", order("held")),
        (harness.platform.bets(), "/bets", bet.to_string()),
        (
            harness.simulator.simulator(),
            "/supplier/confirm",
            json!({"betId": "foreign"}).to_string(),
        ),
        (
            harness.simulator.simulator(),
            "/supplier/cancel",
            json!({"betId": "foreign"}).to_string(),
        ),
    ]
}

/// A user with 900 available and 100 held, and an event to bet on.
async fn start_harness(variables: &[(&str, &str)]) -> BetsHarness {
    let mut harness = BetsHarness::open(variables, variables).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let held = json!({"userId": "u", "amount_cents": 100, "external_ref": "held"});
    assert_eq!(harness.wallet("reserve", held).await.code(), "200");
    harness
}

async fn assert_untouched(harness: &BetsHarness) {
    let ledger = harness
        .get(harness.platform.wallet(), "/wallet/ledger?userId=u")
        .await
        .json();
    assert_eq!(
        (
            harness.balance("u").await,
            ledger["entries"].as_array().unwrap().len()
        ),
        ((900, 100), 2)
    );
    let bets = harness
        .get(harness.platform.bets(), "/bets?userId=u")
        .await
        .json();
    assert_eq!(bets["entries"], json!([]));
    assert_eq!(
        harness
            .get(harness.simulator.simulator(), "/supplier/bets/foreign")
            .await
            .status,
        404
    );
}

/// The headers that Chrome sends for `fetch(url, {method: "POST", mode: "no-cors", body})`, and
/// others that a page can cause.
#[actix_web::test]
async fn foreign_page_moves_no_money() {
    let harness = start_harness(&[]).await;
    let json = "Content-Type: application/json";
    let text = "Content-Type: text/plain;charset=UTF-8";
    let (evil, cross) = ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site");
    for (address, path, body) in writes(&harness) {
        let host = format!("Host: {address}");
        let other_port = format!("Origin: http://{}:1", address.ip());
        let own = format!("Origin: http://{address}");
        for (headers, expected) in [
            (
                vec![
                    evil,
                    cross,
                    "Sec-Fetch-Mode: no-cors",
                    "Sec-Fetch-Dest: empty",
                    text,
                ],
                "403 ORIGIN_NOT_ALLOWED",
            ),
            (vec![evil, text], "403 ORIGIN_NOT_ALLOWED"),
            (vec![evil, json], "403 ORIGIN_NOT_ALLOWED"),
            // A body without a content type is sent as a Blob without one.
            (vec![evil], "403 ORIGIN_NOT_ALLOWED"),
            (vec!["Origin: null", cross, json], "403 ORIGIN_NOT_ALLOWED"),
            (vec!["Origin: null", json], "403 ORIGIN_NOT_ALLOWED"),
            (vec![cross, json], "403 ORIGIN_NOT_ALLOWED"),
            (
                vec!["Sec-Fetch-Site: same-site", json],
                "403 ORIGIN_NOT_ALLOWED",
            ),
            (
                vec![&other_port, "Sec-Fetch-Site: same-site", json],
                "403 ORIGIN_NOT_ALLOWED",
            ),
            (vec![&own, evil, json], "400 BAD_REQUEST"),
            (vec![&own, text], "415 UNSUPPORTED_MEDIA_TYPE"),
            (vec![text], "415 UNSUPPORTED_MEDIA_TYPE"),
            (
                vec!["Content-Type: application/x-www-form-urlencoded"],
                "415 UNSUPPORTED_MEDIA_TYPE",
            ),
            (
                vec!["Content-Type: multipart/form-data; boundary=x"],
                "415 UNSUPPORTED_MEDIA_TYPE",
            ),
            (vec![], "415 UNSUPPORTED_MEDIA_TYPE"),
        ] {
            let headers: Vec<_> = [host.as_str()].into_iter().chain(headers).collect();
            assert_eq!(
                code(&raw(address, request(path, &headers, &body)).await),
                expected,
                "{path} {headers:?}"
            );
        }
    }
    assert_untouched(&harness).await;
    for (platform, role, name) in [
        (&harness.platform, Role::Wallet, "wallet_http_refused_total"),
        (&harness.platform, Role::Bets, "bets_http_refused_total"),
        (
            &harness.simulator,
            Role::Simulator,
            "supplier_http_refused_total",
        ),
    ] {
        platform
            .until_metric(
                role,
                &format!("{name}{{code=\"ORIGIN_NOT_ALLOWED\"}}"),
                |count| count >= 9.0,
            )
            .await;
    }
    harness.close().await;
}

/// After DNS rebinding a page has the same origin as the server, under a name that is not the
/// server's.
#[actix_web::test]
async fn foreign_host_reaches_no_wallet() {
    let harness = start_harness(&[]).await;
    let json = "Content-Type: application/json";
    for (address, path, body) in writes(&harness) {
        let rebound = [
            format!("Host: evil.example:{}", address.port()),
            format!("Origin: http://evil.example:{}", address.port()),
            "Sec-Fetch-Site: same-origin".to_owned(),
        ];
        let rebound: Vec<_> = rebound.iter().map(String::as_str).chain([json]).collect();
        let user = format!("Host: a@{address}");
        for (headers, expected) in [
            (rebound.as_slice(), "421 HOST_NOT_ALLOWED"),
            (&["Host: evil.example", json], "421 HOST_NOT_ALLOWED"),
            (
                &["Host: 127.0.0.1.evil.example", json],
                "421 HOST_NOT_ALLOWED",
            ),
            (&[&user, json], "400 BAD_REQUEST"),
            (&["Host: 127.0.0.1:x", json], "400 BAD_REQUEST"),
            // Rejected by the HTTP parser, without a code.
            (&["Host: 127.0.0.1", "Host: evil.example", json], "400"),
            (&[json], "400"),
        ] {
            assert_eq!(
                code(&raw(address, request(path, headers, &body)).await),
                expected,
                "{path} {headers:?}"
            );
        }
        let absolute = request(
            &format!("http://{address}{path}"),
            &[&format!("Host: {address}"), json],
            &body,
        );
        assert_eq!(
            code(&raw(address, absolute).await),
            "400 BAD_REQUEST",
            "{path}"
        );
    }
    assert_untouched(&harness).await;
    // It cannot read anything either.
    for (address, path) in [
        (harness.platform.wallet(), "/wallet?userId=u"),
        (harness.platform.wallet(), "/wallet/ledger?userId=u"),
        (harness.platform.bets(), "/bets?userId=u"),
        (harness.simulator.simulator(), "/supplier/bets/foreign"),
    ] {
        let get = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        let answer = raw(address, get).await;
        assert_eq!(code(&answer), "421 HOST_NOT_ALLOWED", "{path}");
        assert!(
            !answer.contains("balance") && !answer.to_lowercase().contains("access-control"),
            "{answer}"
        );
    }
    // The health and metrics ports accept any host name, since probes use any.
    let health = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        "probe.example"
    );
    assert_eq!(
        code(&raw(harness.platform.health(Role::Wallet), health).await),
        "200"
    );
    harness.close().await;
}

#[actix_web::test]
async fn own_and_allowed_callers_are_served() {
    let listed = [
        ("ALLOWED_HOSTS", "bets.example.com"),
        ("ALLOWED_ORIGINS", "https://shop.example"),
    ];
    let harness = start_harness(&listed).await;
    let address = harness.platform.wallet();
    let own = format!("Host: {address}");
    let (own_origin, local) = (
        format!("Origin: http://{address}"),
        format!("Host: localhost:{}", address.port()),
    );
    let local_origin = format!("Origin: http://localhost:{}", address.port());
    let callers: &[&[&str]] = &[
        &[&own],
        &[&own, "Sec-Fetch-Site: none"],
        &[&own, &own_origin, "Sec-Fetch-Site: same-origin"],
        &[&local, &local_origin, "Sec-Fetch-Site: same-origin"],
        &["Host: wallet:8082"],
        &["Host: [::1]:8082", "Origin: http://[0::1]:8082"],
        &[
            "Host: Bets.Example.COM.:443",
            "Origin: https://bets.example.com",
            "Sec-Fetch-Site: same-origin",
        ],
        &[
            &own,
            "Origin: https://shop.example",
            "Sec-Fetch-Site: cross-site",
        ],
    ];
    for (number, headers) in callers.iter().enumerate() {
        let headers: Vec<_> = headers
            .iter()
            .copied()
            .chain(["Content-Type: application/json"])
            .collect();
        let body = json!({"userId": "v", "amount_cents": 1, "external_ref": format!("d{number}")})
            .to_string();
        assert_eq!(
            code(&raw(address, request("/wallet/deposit", &headers, &body)).await),
            "200",
            "{headers:?}"
        );
    }
    assert_eq!(harness.balance("v").await, (callers.len() as i64, 0));
    harness.close().await;
}

#[tokio::test]
async fn refused_caller_is_logged_once() {
    let folder = tempfile::TempDir::new().unwrap();
    let process = ServerProcess::start(folder.path(), &[("SIMULATOR_RATE", "1")]).await;
    let address = process.wallet();
    for number in 0..120 {
        let name = if number < 20 {
            "evil.example".to_owned()
        } else {
            format!("evil{number}.example")
        };
        let origin = format!("Origin: https://{name}\u{e9}\tx");
        let headers = [
            &format!("Host: {address}"),
            "Content-Type: text/plain",
            &origin,
        ];
        within(
            "an answer",
            raw(address, request("/wallet/withdraw", &headers, "{}")),
        )
        .await;
    }
    let line = r"request refused: origin `https://evil.example\xc3\xa9\tx` is not allowed";
    until("the refusal is logged", || async {
        process.log().contains(line).then_some(())
    })
    .await;
    let refusals: Vec<_> = process
        .log()
        .lines()
        .filter(|line| line.contains("request refused"))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        refusals
            .iter()
            .filter(|logged| logged.contains(line))
            .count(),
        1,
        "{refusals:#?}"
    );
    // Only this many origins are logged separately; the others share a line.
    assert_eq!(refusals.len(), 33, "{refusals:#?}");
}
