//! Answers through the gateway are those of the service's own port.

use pretty_assertions::assert_eq;
use reqwest::Method;
use rstest::rstest;

use super::*;
use crate::support::{raw, within};

/// Status, headers in order except the date, and body.
async fn ask(method: &Method, url: &str, body: Option<&str>) -> (u16, Vec<String>, String) {
    ask_for("gzip", method, url, body).await
}

async fn ask_for(
    encoding: &str,
    method: &Method,
    url: &str,
    body: Option<&str>,
) -> (u16, Vec<String>, String) {
    let mut request = reqwest::Client::new()
        .request(method.clone(), url)
        .header("Accept-Encoding", encoding);
    if let Some(body) = body {
        request = request
            .header("Content-Type", "application/json")
            .body(body.to_owned());
    }
    let answer = within(url, request.send()).await.unwrap();
    let mut headers: Vec<String> = answer
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    headers.sort();
    let status = answer.status().as_u16();
    // Compressed bodies are compared as they are.
    let body = answer.bytes().await.unwrap().to_vec();
    (status, headers, String::from_utf8_lossy(&body).into_owned())
}

#[rstest]
#[case(Services::Mounted)]
#[case(Services::Forwarded)]
#[actix_web::test]
async fn answers_equal_those_of_the_service(#[case] place: Services) {
    let mut behind = Behind::start(place, &[]).await;
    behind.show("E", 1).await;
    behind.link.send(market("a/b", 1)).await;
    let url = format!("http://{}/v1/events/a%2Fb/odds", behind.services.odds());
    until("the second event", || async {
        (reqwest::get(&url).await.unwrap().status() == 200).then_some(())
    })
    .await;
    let deposit = r#"{"userId":"U","amount_cents":500,"external_ref":"first"}"#;
    let (odds, wallet, bets) = (
        behind.services.odds(),
        behind.services.wallet(),
        behind.services.bets(),
    );
    let cases = [
        (
            Method::POST,
            "wallet",
            wallet,
            "/wallet/deposit",
            Some(deposit),
        ),
        (Method::GET, "odds", odds, "/", None),
        (Method::GET, "odds", odds, "/v1/events", None),
        (Method::GET, "odds", odds, "/v1/events?limit=0", None),
        (Method::GET, "odds", odds, "/v1/events/E/odds", None),
        (Method::HEAD, "odds", odds, "/v1/events/E/odds", None),
        (Method::GET, "odds", odds, "/v1/events/E/markets", None),
        (
            Method::GET,
            "odds",
            odds,
            "/v1/events/E/markets/1x2/history",
            None,
        ),
        (Method::GET, "odds", odds, "/v1/events/none/odds", None),
        (Method::GET, "odds", odds, "/v1/events/a%2Fb/odds", None),
        (
            Method::GET,
            "odds",
            odds,
            "/v1/events/S%C3%A3o%20P/odds",
            None,
        ),
        (Method::GET, "odds", odds, "/v1/none", None),
        (Method::GET, "odds", odds, "/v1/events?limit=1", None),
        (Method::GET, "odds", odds, "/openapi.yaml", None),
        (Method::GET, "bets", bets, "/swagger/", None),
        (Method::GET, "odds", odds, "//v1/events", None),
        (Method::GET, "odds", odds, "/api/odds/v1/events", None),
        (Method::DELETE, "odds", odds, "/v1/events", None),
        (Method::GET, "odds", odds, "/ws/odds", None),
        (Method::GET, "wallet", wallet, "/wallet?userId=U", None),
        (Method::GET, "wallet", wallet, "/wallet", None),
        (Method::GET, "wallet", wallet, "/wallet/deposit", None),
        (
            Method::POST,
            "wallet",
            wallet,
            "/wallet/deposit",
            Some("{}"),
        ),
        (Method::POST, "wallet", wallet, "/wallet/deposit", Some("")),
        (Method::POST, "wallet", wallet, "/wallet/deposit", None),
        (Method::GET, "bets", bets, "/bets?userId=U", None),
        (Method::GET, "bets", bets, "/bets/none", None),
        (Method::POST, "bets", bets, "/bets", Some("[]")),
    ];
    for (method, service, own, path, body) in cases {
        let gateway = behind.gateway();
        let direct = ask(&method, &format!("http://{own}{path}"), body).await;
        let through = ask(
            &method,
            &format!("http://{gateway}/api/{service}{path}"),
            body,
        )
        .await;
        assert_eq!(through, direct, "{method} {path}");
    }
    behind.stop().await;
}

#[rstest]
#[case(Services::Mounted)]
#[case(Services::Forwarded)]
#[actix_web::test]
async fn doubtful_paths_reach_no_service(#[case] place: Services) {
    let behind = Behind::start(place, &[]).await;
    for (target, expected) in [
        ("/api/odds/../wallet/wallet?userId=U", "400 BAD_REQUEST"),
        ("/api/odds/%2e%2e/wallet", "400 BAD_REQUEST"),
        ("/api/odds/v1/./events", "400 BAD_REQUEST"),
        ("/api/odds/v1\\events", "400 BAD_REQUEST"),
        ("http://evil.example/api/odds/v1/events", "400 BAD_REQUEST"),
        ("/api/odds/v1/events/%zz/odds", "400 BAD_REQUEST"),
        ("/api/%6fdds/v1/events", "404 NOT_FOUND"),
        ("/api/odds%2fv1/events", "404 NOT_FOUND"),
        ("/api/oddsx", "404 NOT_FOUND"),
        ("/api", "404 NOT_FOUND"),
        ("/v1/events", "404 NOT_FOUND"),
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = raw(behind.gateway(), request).await;
        let (status, code) = expected.split_once(' ').unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{target}: {answer}"
        );
        assert!(
            answer.contains(&format!(r#"{{"code":"{code}""#)),
            "{target}: {answer}"
        );
    }
    behind.stop().await;
}

#[actix_web::test]
async fn prefix_without_slash_is_redirected() {
    let behind = Behind::start(Services::Mounted, &[]).await;
    let request = "GET /api/odds?a=b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = raw(behind.gateway(), request).await;
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    assert!(answer.contains("location: /api/odds/?a=b\r\n"), "{answer}");
    behind.stop().await;
}

/// The page of each public port lists what is there, and every link works.
#[actix_web::test]
async fn every_public_port_says_what_is_there() {
    let behind = Behind::start(Services::Mounted, &[]).await;
    let services = &behind.services;
    for (service, address) in [
        ("odds", services.odds()),
        ("wallet", services.wallet()),
        ("bets", services.bets()),
        ("gateway", services.gateway()),
    ] {
        let url = format!("http://{address}/");
        let (status, _, body) = ask(&Method::GET, &url, None).await;
        let index: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &index["service"]), (200, &json!(service)));
        assert_eq!(index["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(body.lines().count(), 1, "{body}");
        let links = index["links"].as_array().unwrap();
        assert!(!links.is_empty());
        for link in links {
            let (status, _, body) = ask(
                &Method::GET,
                &format!("{url}{}", link["href"].as_str().unwrap()),
                None,
            )
            .await;
            // Those that need a parameter or a handshake say so.
            assert!(status == 200 || status == 400, "{link}: {status} {body}");
        }
        let page = reqwest::Client::new()
            .get(&url)
            .header("Accept", "text/html,*/*;q=0.8");
        let page = page.send().await.unwrap();
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        assert!(page.headers().contains_key("content-security-policy"));
    }
    behind.stop().await;
}

#[actix_web::test]
async fn gateway_checks_host_and_origin() {
    let behind = Behind::start(
        Services::Forwarded,
        &[
            ("ALLOWED_HOSTS", "bets.example.com"),
            ("ALLOWED_ORIGINS", "https://shop.example.com"),
        ],
    )
    .await;
    let body = r#"{"userId":"U","amount_cents":1}"#;
    for (host, origin, status) in [
        ("bets.example.com", "https://bets.example.com", 200),
        ("bets.example.com", "https://shop.example.com", 200),
        ("bets.example.com", "https://evil.example.com", 403),
        ("bets.example.com", "null", 403),
        ("evil.example.com", "https://evil.example.com", 421),
    ] {
        let request = format!(
            "POST /api/wallet/wallet/deposit HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = raw(behind.gateway(), request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host} {origin}: {answer}"
        );
    }
    behind.stop().await;
}
