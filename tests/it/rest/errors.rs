//! Errors: `{"code","message"}`, the right status, and recovery after the cause is gone.

use pretty_assertions::assert_eq;
use reqwest::Method;

use super::*;
use crate::support::raw;

/// Asserts the status and code of an error, and returns its message.
fn refused(answer: &Answer, status: u16, code: &str) -> String {
    let body = answer.json();
    assert_eq!(
        (answer.status, body["code"].as_str()),
        (status, Some(code)),
        "{body}"
    );
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
    body["message"].as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn event_is_404_until_it_appears() {
    let mut fed = Fed::start(&[]).await;
    for path in [
        "/v1/events/E/odds",
        "/v1/events/E/markets",
        "/v1/events/E/markets/1x2/history",
    ] {
        let message = refused(&Answer::get(&fed.url(path)).await, 404, "EVENT_NOT_FOUND");
        assert!(message.contains("`E`"), "{message}");
    }
    let mut client = fed.platform.subscriber("E").await;
    fed.send("E", [1]).await;
    client.next_of("update").await;
    // The 404 is not cached: as soon as a client receives the event, REST shows it too.
    assert_eq!(fed.get("/v1/events/E/odds").await[0]["version"], 1);
    assert_eq!(fed.get("/v1/events/E/markets").await[0]["market"], "1x2");
    fed.stored(1).await;
    assert_eq!(
        fed.get("/v1/events/E/markets/1x2/history").await["entries"][0]["version"],
        1
    );
}

#[actix_web::test]
async fn not_found_names_the_missing_part() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    let get = async |path: &str| Answer::get(&fed.url(path)).await;
    let history = "/v1/events/E/markets";
    refused(
        &get(&format!("{history}/none/history")).await,
        404,
        "MARKET_NOT_FOUND",
    );
    refused(
        &get(&format!("{history}/1x2/history?line=2.5")).await,
        404,
        "MARKET_NOT_FOUND",
    );
    refused(
        &get(&format!("{history}/%20x/history")).await,
        404,
        "MARKET_NOT_FOUND",
    );
    refused(
        &get("/v1/events/none/markets/1x2/history").await,
        404,
        "EVENT_NOT_FOUND",
    );
    for path in [
        "/v1",
        "/v1/",
        "/v1/event",
        "/v2/events",
        "/v1/events/",
        "/v1/events/E",
        "/v1/events/E/odds/more",
    ] {
        let message = refused(&get(path).await, 404, "NOT_FOUND");
        assert!(message.contains(&format!("`{path}`")), "{message}");
    }
    // Invalid ids: too long, with a control character, or with white space at an end.
    for id in [&"x".repeat(129), "%00", "%0A", "%20E", "E%20"] {
        refused(
            &get(&format!("/v1/events/{id}/odds")).await,
            404,
            "EVENT_NOT_FOUND",
        );
        refused(
            &get(&format!("/v1/events/{id}/markets/1x2/history")).await,
            404,
            "EVENT_NOT_FOUND",
        );
    }
}

#[actix_web::test]
async fn invalid_parameter_is_named() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    for (path, wrong) in [
        (
            "/v1/events",
            &[
                "limit=0",
                "limit=10001",
                "limit=x",
                "limit=-1",
                "limit=1.5",
                "after=%20x",
            ][..],
        ),
        (
            "/v1/events/E/markets/1x2/history",
            &[
                "limit=0",
                "limit=1001",
                "limit=99999999999999999999999",
                "line=x",
                "line=1e9",
                "from=yesterday",
                "from=2025-11-09",
                "to=9999999",
                "to=2025-11-09T21:07:45",
                "cursor=x",
                "cursor=1_2",
                "cursor=9223372036854775807_1_1",
            ][..],
        ),
    ] {
        for query in wrong {
            let message = refused(
                &Answer::get(&fed.url(&format!("{path}?{query}"))).await,
                400,
                "BAD_QUERY",
            );
            let parameter = query.split('=').next().unwrap();
            assert!(
                message.starts_with(&format!("{parameter}: ")),
                "{query}: {message}"
            );
        }
    }
    assert_eq!(
        Answer::get(&fed.url("/v1/events?unknown=1")).await.status,
        200,
        "unknown parameters are ignored"
    );
}

#[actix_web::test]
async fn broken_escapes_are_rejected() {
    let fed = Fed::start(&[]).await;
    for path in [
        "/v1/events/%zz/odds",
        "/v1/events/%ff/odds",
        "/v1/events/E%/markets",
        "/v1/events/E/markets/%C3/history",
        "/v1/events?after=%zz",
        "/v1/events?after=%ff",
        "/v1/events?limit=1%",
    ] {
        // Bypasses reqwest, which normalizes URLs.
        let answer = raw(
            fed.platform.odds(),
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(
            answer.contains(r#"{"code":"BAD_REQUEST","message":"the URL contains "#),
            "{path}: {answer}"
        );
        assert!(
            answer.contains("cache-control: no-store"),
            "{path}: {answer}"
        );
    }
}

#[actix_web::test]
async fn non_http_only_ends_its_connection() {
    let fed = Fed::start(&[]).await;
    let long = format!(
        "GET /v1/events/{}/odds HTTP/1.1\r\nHost: x\r\n\r\n",
        "x".repeat(300_000)
    );
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "GET /v1/events\r\n\r\n",
        "GET /v1/ev ents HTTP/1.1\r\n\r\n",
        &long,
    ] {
        let answer = raw(fed.platform.odds(), garbage).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    assert_eq!(fed.get("/v1/events").await, json!([]));
}

#[actix_web::test]
async fn wrong_method_lists_allowed_ones() {
    let fed = Fed::start(&[]).await;
    let client = reqwest::Client::new();
    for (path, allowed) in [
        ("/v1/events", "GET, HEAD, OPTIONS"),
        ("/v1/events/E/markets", "GET, HEAD, OPTIONS"),
        ("/v1/events/E/odds", "GET, HEAD, OPTIONS"),
        ("/v1/events/E/markets/1x2/history", "GET, HEAD, OPTIONS"),
        ("/ws/odds", "GET, OPTIONS"),
    ] {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = Answer::of(client.request(method.clone(), fed.url(path))).await;
            let message = refused(&answer, 405, "METHOD_NOT_ALLOWED");
            assert_eq!(answer.header("allow"), Some(allowed), "{path}");
            assert!(message.contains(method.as_str()), "{message}");
        }
    }
    let health = format!("http://{}/healthz", fed.platform.health(Role::Odds));
    refused(
        &Answer::of(client.post(&health)).await,
        405,
        "METHOD_NOT_ALLOWED",
    );
    assert_eq!(
        Answer::of(client.head(&health)).await.status,
        200,
        "load balancers use HEAD"
    );
}

#[actix_web::test]
async fn bodies_are_limited_by_size_and_type() {
    let fed = Fed::start(&[]).await;
    let client = reqwest::Client::new();
    let ask = |kind: &str, size: usize| {
        let request = client
            .get(fed.url("/v1/events"))
            .header("Content-Type", kind);
        Answer::of(request.body(vec![b' '; size]))
    };
    refused(
        &ask("application/json", 64 * 1024 + 1).await,
        413,
        "PAYLOAD_TOO_LARGE",
    );
    let message = refused(&ask("text/xml", 1).await, 415, "UNSUPPORTED_MEDIA_TYPE");
    assert!(message.contains("text/xml"), "{message}");
    assert_eq!(
        ask("application/json; charset=utf-8", 64 * 1024)
            .await
            .status,
        200
    );
    // Announced as huge and never sent: rejected by the announced length.
    let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n";
    let answer = raw(fed.platform.odds(), head).await;
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.contains("PAYLOAD_TOO_LARGE"),
        "{answer}"
    );
}

#[actix_web::test]
async fn database_failure_is_a_temporary_503() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    let database = fed.database();
    database.execute(
        "ALTER TABLE odds_current RENAME TO away; ALTER TABLE odds_history RENAME TO also_away",
    );
    for path in ["/v1/events", "/v1/events/E/markets/1x2/history"] {
        let answer = Answer::get(&fed.url(path)).await;
        refused(&answer, 503, "STORE_UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    // The books need no database and continue.
    fed.send("E", [2]).await;
    until("the live path continues", || async {
        let (_, odds) = get_json(&fed.url("/v1/events/E/odds")).await;
        (odds[0]["version"] == 2).then_some(())
    })
    .await;
    let failures = r#"odds_proc_errors_total{stage="store"}"#;
    fed.platform
        .until_metric(Role::Processor, failures, |count| count >= 1.0)
        .await;
    database.execute(
        "ALTER TABLE away RENAME TO odds_current; ALTER TABLE also_away RENAME TO odds_history",
    );
    fed.stored(2).await;
    let history = fed.get("/v1/events/E/markets/1x2/history").await;
    assert_eq!(
        history["entries"].as_array().unwrap().len(),
        2,
        "updates from the outage are stored"
    );
    assert_eq!(fed.get("/v1/events").await.as_array().unwrap().len(), 1);
}

#[actix_web::test]
async fn embedded_lookup_failure_is_503_not_404() {
    let mut fed = Fed::start(&[]).await;
    fed.send("E", [1]).await;
    fed.stored(1).await;
    let folder = fed.platform.stop().await;
    Database::of(&folder).execute("ALTER TABLE odds_current RENAME TO away");
    let fed = TestPlatform::fed("ws://127.0.0.1:1/ws", &[]);
    let platform = TestPlatform::start_at_once_in(folder, &fed).await;
    for path in ["/v1/events/E/odds", "/v1/events/E/markets"] {
        refused(
            &Answer::get(&platform.url(path)).await,
            503,
            "ODDS_UNAVAILABLE",
        );
    }
    Database::of(&platform.folder).execute("ALTER TABLE away RENAME TO odds_current");
    let odds = until("the odds", async || {
        let (status, odds) = get_json(&platform.url("/v1/events/E/odds")).await;
        (status == 200).then_some(odds)
    })
    .await;
    assert_eq!(odds[0]["version"], 1);
}
