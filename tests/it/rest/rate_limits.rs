//! Limits on the number of requests.

use pretty_assertions::assert_eq;
use reqwest::{Client, Method};

use super::*;

/// Sends a request until it is refused because of a rate limit, and returns the refusal.
async fn until_refused(request: impl Fn() -> reqwest::RequestBuilder) -> Answer {
    until("a refusal", || async {
        let answer = Answer::of(request()).await;
        (answer.status == 429).then_some(answer)
    })
    .await
}

fn assert_refused(answer: &Answer, class: &str) {
    let body = answer.json();
    assert_eq!(body["code"], "TOO_MANY_REQUESTS", "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("retry in "), "{message}");
    let seconds = answer.header("retry-after").unwrap();
    assert!(seconds.parse::<u64>().unwrap() >= 1, "{seconds}");
    let policy = answer.header("ratelimit-policy").unwrap();
    assert!(policy.starts_with(&format!("\"{class}\";q=")), "{policy}");
    let left = answer.header("ratelimit").unwrap();
    assert_eq!(left, format!("\"{class}\";r=0;t={seconds}"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[actix_web::test]
async fn address_limit_refuses_everything_but_preflights() {
    let fed = Fed::start(&[
        ("RATE_LIMIT_ADDRESS", "1:20"),
        ("ALLOWED_ORIGINS", "https://shop.example"),
    ])
    .await;
    let shop = |method, path| {
        let request = Client::new().request(method, fed.url(path));
        request.header("Origin", "https://shop.example")
    };
    let refused = until_refused(|| shop(Method::GET, "/v1/events")).await;
    assert_refused(&refused, "address");
    // The page can read why.
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://shop.example")
    );
    assert_refused(
        &until_refused(|| shop(Method::GET, "/nowhere")).await,
        "address",
    );
    for _ in 0..50 {
        let request = shop(Method::OPTIONS, "/v1/events");
        let request = request.header("Access-Control-Request-Method", "GET");
        assert_eq!(Answer::of(request).await.status, 204);
        let health = format!("http://{}/livez", fed.platform.health(Role::Odds));
        assert_eq!(Answer::get(&health).await.status, 200);
    }
    let metric = "odds_http_rate_limited_total{class=\"address\"}";
    fed.platform
        .until_metric(Role::Odds, metric, |count| count >= 2.0)
        .await;
    // The bucket fills again.
    until("an accepted request", || async {
        let answer = Answer::of(shop(Method::GET, "/v1/events")).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn reads_and_writes_have_separate_limits() {
    let platform = TestPlatform::start(&[("RATE_LIMIT_WRITE", "1:5")]).await;
    let url = |path| format!("http://{}{path}", platform.wallet());
    let deposit = || {
        let body = json!({"userId": "u", "amount_cents": 1}).to_string();
        let request = Client::new().post(url("/wallet/deposit"));
        request
            .header("Content-Type", "application/json")
            .body(body)
    };
    assert_eq!(Answer::of(deposit()).await.status, 200);
    assert_refused(&until_refused(deposit).await, "write");
    for _ in 0..50 {
        assert_eq!(Answer::get(&url("/wallet?userId=u")).await.status, 200);
    }
    let page = platform.metrics(Role::Wallet).await;
    for (class, refused) in [
        ("write", true),
        ("read", false),
        ("address", false),
        ("socket", false),
    ] {
        let name = format!("wallet_http_rate_limited_total{{class=\"{class}\"}}");
        let count = crate::support::metric(&page, &name).unwrap();
        assert_eq!(count > 0.0, refused, "{class}");
    }
    platform.stop().await;
}

#[actix_web::test]
async fn opened_sockets_are_limited() {
    let fed = Fed::start(&[("RATE_LIMIT_SOCKETS", "1:5")]).await;
    let upgrade = || {
        Client::new()
            .get(fed.url("/ws/odds"))
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    assert_refused(&until_refused(upgrade).await, "socket");
    assert_eq!(Answer::get(&fed.url("/v1/events")).await.status, 200);
    let metric = "odds_ws_refused_upgrades_total{reason=\"TOO_MANY_REQUESTS\"}";
    fed.platform
        .until_metric(Role::Odds, metric, |count| count >= 1.0)
        .await;
}

#[actix_web::test]
async fn clients_of_a_proxy_are_limited_separately() {
    let fed = Fed::start(&[
        ("RATE_LIMIT_READ", "1:5"),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
    ])
    .await;
    let from = |header: &'static str, client: &'static str| {
        Client::new()
            .get(fed.url("/v1/events"))
            .header(header, client)
    };
    let limited = ("X-Forwarded-For", "2001:db8::1");
    assert_refused(&until_refused(|| from(limited.0, limited.1)).await, "read");
    for (header, client) in [
        ("X-Forwarded-For", "2001:db8:0:1::1"),
        ("X-Forwarded-For", "2001:db8::1, 192.0.2.1"),
        ("Forwarded", "for=\"[2001:db8:0:2::1]:4711\";proto=https"),
    ] {
        assert_eq!(
            Answer::of(from(header, client)).await.status,
            200,
            "{client}"
        );
    }
    // The same /64, and the other header.
    until_refused(|| from("Forwarded", "for=\"[2001:db8::ffff]\"")).await;
}
