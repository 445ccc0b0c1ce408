//! What the gateway sends to a service, and what it makes of its answers.

use pretty_assertions::assert_eq;
use serde_json::Value;
use sports_bet_platform::config::settings::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_service::FakeService;
use super::gateway_before;
use crate::support::{ReservedPort, TestPlatform, metric, raw, until, within};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}";

fn url(gateway: &TestPlatform, path: &str) -> String {
    format!("http://{}{path}", gateway.gateway())
}

/// Status and code of an answer.
async fn ask(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = within("an answer", request.send()).await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    assert!(status < 400 || body["message"].is_string(), "{body}");
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

async fn value(gateway: &TestPlatform, series: &str) -> f64 {
    let page = gateway.metrics(Role::Gateway).await;
    metric(&page, series).unwrap_or_else(|| panic!("no {series}"))
}

#[actix_web::test]
async fn request_arrives_with_its_own_headers() {
    let service = FakeService::start().await;
    let gateway = gateway_before(service.address(), &[]).await;
    let request = reqwest::Client::new()
        .post(url(&gateway, "/api/bets/bets?a=%2F&b=%C3%A9"))
        .header("Authorization", "Bearer secret")
        .header("X-Api-Key", "key")
        .header("Idempotency-Key", "once")
        .header("Connection", "x-mine")
        .header("X-Mine", "1")
        .header("X-Forwarded-For", "198.51.100.1")
        .header("Forwarded", "for=198.51.100.1")
        .header("Content-Type", "application/json")
        .body("{\"a\":1}");
    let answering = async {
        let mut arrived = service.request().await;
        arrived.read_body(7).await;
        arrived.send(OK).await;
        arrived
    };
    let (answer, arrived) = tokio::join!(ask(request), answering);
    assert_eq!(answer, (200, String::new()));
    let first = arrived.head.lines().next().unwrap();
    assert_eq!(first, "POST /bets?a=%2F&b=%C3%A9 HTTP/1.1");
    assert_eq!(arrived.body, b"{\"a\":1}");
    let host = gateway.gateway().to_string();
    for (name, expected) in [
        ("host", &[host.as_str()][..]),
        ("authorization", &["Bearer secret"]),
        ("x-api-key", &["key"]),
        ("idempotency-key", &["once"]),
        ("content-type", &["application/json"]),
        ("content-length", &["7"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-host", &[&host]),
        ("x-forwarded-proto", &["http"]),
        ("connection", &[]),
        ("x-mine", &[]),
    ] {
        assert_eq!(arrived.header(name), expected, "{name}");
    }
    let forwarded = format!("for=127.0.0.1;host=\"{host}\";proto=http");
    assert_eq!(arrived.header("forwarded"), [forwarded]);
}

#[actix_web::test]
async fn trusted_proxy_says_for_whom_it_forwards() {
    let service = FakeService::start().await;
    let gateway = gateway_before(service.address(), &[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    let request = reqwest::Client::new()
        .get(url(&gateway, "/api/odds/v1/events"))
        .header("X-Forwarded-For", "198.51.100.1")
        .header("X-Forwarded-Proto", "https");
    let answering = async {
        let mut arrived = service.request().await;
        arrived.send(OK).await;
        arrived
    };
    let (_, arrived) = tokio::join!(ask(request), answering);
    assert_eq!(
        arrived.header("x-forwarded-for"),
        ["198.51.100.1, 127.0.0.1"]
    );
    assert_eq!(arrived.header("x-forwarded-proto"), ["https"]);
}

#[actix_web::test]
async fn answer_keeps_end_to_end_headers_only() {
    let service = FakeService::start().await;
    let gateway = gateway_before(service.address(), &[]).await;
    service.answer_all(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\nlink: <a>\r\nlink: <b>\r\nconnection: x-mine\r\nx-mine: 1\r\n\
         keep-alive: timeout=5\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    );
    let answer = reqwest::get(url(&gateway, "/api/odds/v1/events"))
        .await
        .unwrap();
    assert_eq!(answer.status(), 429);
    let headers = answer.headers();
    assert_eq!(headers["retry-after"], "3");
    assert_eq!(
        headers.get_all("link").iter().collect::<Vec<_>>(),
        ["<a>", "<b>"]
    );
    assert!(!headers.contains_key("x-mine") && !headers.contains_key("keep-alive"));
    assert_eq!(answer.text().await.unwrap(), "{}");
}

#[actix_web::test]
async fn silent_service_is_504() {
    let service = FakeService::start().await;
    let timeouts = [
        ("GATEWAY_ANSWER_TIMEOUT", "200ms"),
        ("GATEWAY_CONNECT_TIMEOUT", "200ms"),
    ];
    let gateway = gateway_before(service.address(), &timeouts).await;
    let client = reqwest::Client::new();
    let asking = ask(client.get(url(&gateway, "/api/odds/v1/events")));
    let (answer, _arrived) = tokio::join!(asking, service.request());
    assert_eq!(answer, (504, "UPSTREAM_TIMEOUT".to_owned()));
    let errors = r#"gateway_upstream_errors_total{error="timeout",service="odds"}"#;
    assert_eq!(value(&gateway, errors).await, 1.0);
    let requests = r#"gateway_http_requests_total{service="odds",status="504"}"#;
    assert_eq!(value(&gateway, requests).await, 1.0);
}

/// A read is sent once more if no connection was made; what may move money never is.
#[actix_web::test]
async fn refused_connection_is_502() {
    let port = ReservedPort::take();
    let url_of_service = format!("http://{}", port.address);
    let gateway = TestPlatform::start_at_once_in(
        crate::support::Folder::new(),
        &[
            ("ROLE", "gateway"),
            ("GATEWAY_ODDS_URL", &url_of_service),
            ("GATEWAY_WALLET_URL", &url_of_service),
            ("GATEWAY_BETS_URL", &url_of_service),
        ],
    )
    .await;
    let client = reqwest::Client::new();
    let unavailable = (502, "UPSTREAM_UNAVAILABLE".to_owned());
    let read = client.get(url(&gateway, "/api/odds/v1/events"));
    assert_eq!(ask(read).await, unavailable);
    let write = client
        .post(url(&gateway, "/api/wallet/wallet/deposit"))
        .body("{}");
    assert_eq!(ask(write).await, unavailable);
    for (service, retries) in [("odds", 1.0), ("wallet", 0.0)] {
        let series = format!(r#"gateway_upstream_retries_total{{service="{service}"}}"#);
        assert_eq!(value(&gateway, &series).await, retries, "{service}");
    }
}

/// Whether a request was executed is unknown, so it is not sent again.
#[actix_web::test]
async fn broken_connection_is_502_without_retry() {
    let service = FakeService::start().await;
    let gateway = gateway_before(service.address(), &[]).await;
    let client = reqwest::Client::new();
    let asking = ask(client.get(url(&gateway, "/api/odds/v1/events")));
    let breaking = async { drop(service.request().await) };
    let (answer, ()) = tokio::join!(asking, breaking);
    assert_eq!(answer, (502, "UPSTREAM_UNAVAILABLE".to_owned()));
    let errors = r#"gateway_upstream_errors_total{error="broken",service="odds"}"#;
    assert_eq!(value(&gateway, errors).await, 1.0);
}

/// The client must not take a part for the whole.
#[actix_web::test]
async fn broken_answer_breaks_off_at_the_client() {
    let service = FakeService::start().await;
    let gateway = gateway_before(service.address(), &[]).await;
    let breaking = async {
        let mut arrived = service.request().await;
        arrived
            .send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
            .await;
    };
    let asking = reqwest::get(url(&gateway, "/api/odds/v1/events"));
    let (answer, ()) = tokio::join!(asking, breaking);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    within("the end", answer.bytes()).await.unwrap_err();
}

#[actix_web::test]
async fn answer_is_passed_on_as_it_arrives() {
    let service = FakeService::start().await;
    let gateway = gateway_before(service.address(), &[]).await;
    let asking = reqwest::get(url(&gateway, "/api/odds/v1/events"));
    let beginning = async {
        let mut arrived = service.request().await;
        arrived
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            .await;
        arrived
    };
    let (answer, mut arrived) = tokio::join!(asking, beginning);
    let mut answer = answer.unwrap();
    assert_eq!(
        within("the first part", answer.chunk())
            .await
            .unwrap()
            .unwrap(),
        "one"
    );
    arrived.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(
        within("the second part", answer.chunk())
            .await
            .unwrap()
            .unwrap(),
        "two"
    );
    assert!(answer.chunk().await.unwrap().is_none());
}

#[actix_web::test]
async fn large_bodies_reach_no_service() {
    let service = FakeService::start().await;
    let gateway = gateway_before(service.address(), &[]).await;
    let client = reqwest::Client::new();
    let post = |size: usize| {
        let request = client.post(url(&gateway, "/api/bets/bets"));
        ask(request.body(vec![b'x'; size]))
    };
    let answering = async {
        let mut arrived = service.request().await;
        arrived.read_body(64 * 1024).await;
        arrived.send(OK).await;
    };
    let (answer, ()) = tokio::join!(post(64 * 1024), answering);
    assert_eq!(answer.0, 200);
    assert_eq!(
        post(64 * 1024 + 1).await,
        (413, "PAYLOAD_TOO_LARGE".to_owned())
    );
    // Announced and never sent.
    let head = "POST /api/bets/bets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n";
    let answer = raw(gateway.gateway(), head).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // Without an announced length.
    let mut stream = TcpStream::connect(gateway.gateway()).await.unwrap();
    let head = "POST /api/bets/bets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..5 {
        // The gateway may have closed the connection.
        let _ = stream.write_all(chunk.as_bytes()).await;
    }
    let mut answer = Vec::new();
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[actix_web::test]
async fn gateway_is_ready_while_a_service_is_reachable() {
    let service = FakeService::start().await;
    let port = ReservedPort::take();
    let (reachable, lost) = (
        format!("http://{}", service.address()),
        format!("http://{}", port.address),
    );
    let gateway = TestPlatform::start(&[
        ("ROLE", "gateway"),
        ("GATEWAY_ODDS_URL", &lost),
        ("GATEWAY_WALLET_URL", &lost),
        ("GATEWAY_BETS_URL", &reachable),
    ])
    .await;
    let healthz = format!("http://{}/healthz", gateway.health(Role::Gateway));
    let becomes = async |status: u16| {
        until("readiness", || async {
            (reqwest::get(&healthz).await.unwrap().status() == status).then_some(())
        })
        .await;
    };
    becomes(200).await;
    drop(service);
    becomes(503).await;
}
