//! Headers of every response, OPTIONS, and errors as problem details.

use pretty_assertions::assert_eq;
use reqwest::Method;

use super::*;
use crate::support::raw;

const DEFAULTS: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
];

#[actix_web::test]
async fn every_response_has_security_headers() {
    let platform = TestPlatform::start(&[]).await;
    let health = |role| platform.health(role);
    for (address, path, status) in [
        (platform.odds(), "/v1/events", 200),
        (platform.odds(), "/v1/events/none/odds", 404),
        (platform.odds(), "/v1/events?limit=0", 400),
        (platform.odds(), "/nowhere", 404),
        (platform.odds(), "/ws/odds", 400),
        (platform.wallet(), "/wallet?userId=nobody", 404),
        (platform.wallet(), "/wallet/deposit", 405),
        (platform.bets(), "/bets/none", 404),
        (platform.simulator(), "/supplier/bets/none", 404),
        (health(Role::Odds), "/livez", 200),
        (health(Role::Wallet), "/metrics", 200),
    ] {
        let answer = Answer::get(&format!("http://{address}{path}")).await;
        assert_eq!(answer.status, status, "{path}");
        for (name, value) in DEFAULTS {
            assert_eq!(answer.header(name), Some(value), "{path}: {name}");
        }
        assert!(answer.header("cache-control").is_some(), "{path}");
        let tls = answer.header("strict-transport-security");
        assert_eq!(tls, None, "{path}: not without TLS");
    }
    // Refused before it is routed, and answered without a handler.
    let head = "GET /wallet HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    let foreign = raw(platform.wallet(), head).await;
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(33 * 1024));
    let large = raw(platform.wallet(), large).await;
    for (answer, status) in [(foreign, "421"), (large, "431")] {
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        for (name, value) in DEFAULTS {
            assert!(answer.contains(&format!("{name}: {value}\r\n")), "{answer}");
        }
    }
    platform.stop().await;
}

#[actix_web::test]
async fn options_lists_methods_of_every_resource() {
    let platform = TestPlatform::start(&[]).await;
    let (read, write) = ("GET, HEAD, OPTIONS", "POST, OPTIONS");
    for (address, path, allowed) in [
        (platform.odds(), "/v1/events", read),
        (platform.odds(), "/v1/events/E/markets", read),
        (platform.odds(), "/v1/events/E/odds", read),
        (platform.odds(), "/v1/events/E/markets/1x2/history", read),
        (platform.odds(), "/ws/odds", "GET, OPTIONS"),
        (platform.wallet(), "/wallet", read),
        (platform.wallet(), "/wallet/ledger", read),
        (platform.wallet(), "/wallet/reservations", read),
        (platform.wallet(), "/wallet/deposit", write),
        (platform.wallet(), "/wallet/withdraw", write),
        (platform.wallet(), "/wallet/reserve", write),
        (platform.wallet(), "/wallet/commit", write),
        (platform.wallet(), "/wallet/refund", write),
        (platform.bets(), "/bets", "GET, HEAD, POST, OPTIONS"),
        (platform.bets(), "/bets/B", read),
        (platform.simulator(), "/supplier/confirm", write),
        (platform.health(Role::Bets), "/healthz", read),
    ] {
        let url = format!("http://{address}{path}");
        let ask = |method| Answer::of(reqwest::Client::new().request(method, &url));
        let answer = ask(Method::OPTIONS).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}");
        assert_eq!(answer.header("allow"), Some(allowed), "{path}");
        let refused = ask(Method::DELETE).await;
        assert_eq!(refused.status, 405, "{path}");
        assert_eq!(refused.header("allow"), Some(allowed), "{path}");
    }
    let unknown = reqwest::Client::new().request(Method::OPTIONS, platform.url("/nowhere"));
    assert_eq!(Answer::of(unknown).await.status, 404);
    platform.stop().await;
}

#[actix_web::test]
async fn problem_details_are_sent_if_wanted() {
    let fed = Fed::start(&[]).await;
    // The first is refused by a handler, the second before it is routed.
    for (path, status, title) in [
        ("/v1/events/E/odds", 404, "Not Found"),
        ("/v1/events/%zz/odds", 400, "Bad Request"),
    ] {
        let ask = async |accept: &str| {
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
            );
            let answer = raw(fed.platform.odds(), head).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            let body: Value = serde_json::from_str(body).unwrap();
            (format!("{head}\r\n"), body)
        };
        let (head, plain) = ask("*/*").await;
        assert!(
            head.contains("content-type: application/json\r\n"),
            "{head}"
        );
        assert_eq!(plain.as_object().unwrap().len(), 2, "{plain}");
        let (head, problem) = ask("application/problem+json").await;
        let media_type = "content-type: application/problem+json\r\n";
        assert!(head.contains(media_type), "{head}");
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["title"], title);
        assert_eq!(problem["status"], status);
        assert_eq!(problem["detail"], plain["message"]);
        for field in ["code", "message"] {
            assert_eq!(problem[field], plain[field]);
        }
    }
}
