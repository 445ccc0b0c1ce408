//! The messages of the WebSocket protocol.

use pretty_assertions::assert_eq;
use serde_json::json;
use sports_bet_platform::config::settings::Role;

use super::raw::{End, RawClient, text};
use super::{EVENT, change, change_of, start, total, until_delivered, until_total};
use crate::support::{OddsClient, TestPlatform, until};

const PING: &str = r#"{"type":"ping"}"#;

async fn assert_open(client: &mut OddsClient) {
    client.send(PING).await;
    assert_eq!(client.next().await, json!({"type": "pong"}));
}

/// A subscriber receives a snapshot, then each change until it unsubscribes.
#[actix_web::test]
async fn subscriber_gets_snapshot_then_changes() {
    let (platform, mut supplier) = start(&[]).await;
    let mut client = platform.client().await;
    client.subscribe(EVENT).await;
    assert_eq!(
        client.next().await,
        json!({"type": "snapshot", "eventId": EVENT, "seq": 0, "markets": []})
    );

    supplier.send(change(1)).await;
    let update = client.next().await;
    assert_eq!(
        (&update["type"], &update["eventId"]),
        (&json!("update"), &json!(EVENT))
    );
    // It may be conflated: the book may still have been reading the database.
    assert_eq!(update["payload"]["version"], 1);
    let seq = update["seq"].as_u64().unwrap();

    let mut second = platform.client().await;
    second.subscribe(EVENT).await;
    let market = json!({"seq": seq, "payload": update["payload"]});
    assert_eq!(
        second.next().await,
        json!({"type": "snapshot", "eventId": EVENT, "seq": seq, "markets": [market], "payload": update["payload"]})
    );

    client
        .send(json!({"type": "unsubscribe", "eventId": EVENT}).to_string())
        .await;
    assert_eq!(
        client.next().await,
        json!({"type": "unsubscribed", "eventId": EVENT})
    );
    supplier.send(change(2)).await;
    let update = second.next().await;
    assert_eq!(
        (&update["payload"]["version"], update.get("conflated")),
        (&json!(2), None)
    );
    assert!(update["seq"].as_u64().unwrap() > seq);
    assert_open(&mut client).await;
}

#[actix_web::test]
async fn subscriber_gets_only_its_events() {
    let (platform, mut supplier) = start(&[]).await;
    let mut client = platform.subscriber(EVENT).await;
    let mut other = platform.subscriber("OTHER").await;
    supplier.send(change_of("OTHER", "1x2", 1, 1)).await;
    assert_eq!(other.next().await["eventId"], "OTHER");
    supplier.send(change(1)).await;
    assert_eq!(client.next().await["eventId"], EVENT);
}

/// Subscribing twice sends the snapshot again, and each change still once.
#[actix_web::test]
async fn second_subscribe_only_resends_the_snapshot() {
    let (platform, mut supplier) = start(&[]).await;
    let mut client = platform.subscriber(EVENT).await;
    client.subscribe(EVENT).await;
    assert_eq!(client.next().await["type"], "snapshot");
    for version in 1..=3 {
        supplier.send(change(version)).await;
        assert_eq!(client.next().await["payload"]["version"], version);
    }
    assert_open(&mut client).await;
    platform
        .until_metric(Role::Odds, "odds_ws_subscriptions", |subscriptions| {
            subscriptions == 1.0
        })
        .await;
}

/// Where callers are not checked, a credential changes nothing, and is accepted as any other text.
#[actix_web::test]
async fn unchecked_credential_is_acknowledged() {
    let (platform, _supplier) = start(&[]).await;
    let mut client = platform.subscriber(EVENT).await;
    for credential in ["eyJhbGciOi", "anything"] {
        let auth = json!({"type": "auth", "token": credential});
        client.send(auth.to_string()).await;
        assert_eq!(client.next().await, json!({"type": "authenticated"}));
    }
    assert_open(&mut client).await;
    let url = format!("ws://{}/ws/odds?token=anything", platform.odds());
    assert!(tokio_tungstenite::connect_async(url).await.is_ok());
}

/// A rejected message is answered with its error code, and the socket stays open.
#[actix_web::test]
async fn rejected_messages_keep_the_socket_open() {
    let (platform, _supplier) = start(&[("WS_MAX_SUBSCRIPTIONS", "1")]).await;
    let mut client = platform.subscriber(EVENT).await;
    let refused = [
        ("hello", "BAD_JSON"),
        (r#"{"eventId":"A"}"#, "BAD_JSON"),
        (r#"["subscribe","A"]"#, "BAD_JSON"),
        (r#"["ping"]"#, "BAD_JSON"),
        (
            r#"{"type":"subscribe","eventId":"A","eventId":"B"}"#,
            "BAD_JSON",
        ),
        (
            r#"{"type":"ping","type":"subscribe","eventId":"A"}"#,
            "BAD_JSON",
        ),
        (r#"{"type":"shout"}"#, "UNKNOWN_TYPE"),
        (r#"{"type":"subscribe"}"#, "BAD_EVENT_ID"),
        (r#"{"type":"unsubscribe","eventId":7}"#, "BAD_EVENT_ID"),
        (
            r#"{"type":"subscribe","eventId":"SECOND"}"#,
            "TOO_MANY_SUBSCRIPTIONS",
        ),
    ];
    for (message, code) in refused {
        client.send(message).await;
        let error = client.next().await;
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{message}"
        );
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_open(&mut client).await;
    }
    until_total(
        &platform,
        "odds_ws_refused_messages_total",
        refused.len() as f64,
    )
    .await;
    // An unsubscribed slot is free again.
    client
        .send(json!({"type": "unsubscribe", "eventId": EVENT}).to_string())
        .await;
    client.subscribe("SECOND").await;
    assert_eq!(client.next_of("snapshot").await["eventId"], "SECOND");
}

async fn rate_limited() -> (TestPlatform, RawClient) {
    let (platform, _) = start(&[("WS_MAX_MESSAGES_PER_SECOND", "5")]).await;
    let client = RawClient::connect(platform.odds()).await;
    (platform, client)
}

/// Sends this many pings at once; returns how many were answered and how many were refused.
async fn pings(client: &mut RawClient, count: usize) -> (usize, usize) {
    client.send(&text(PING).repeat(count)).await;
    let mut pongs = 0;
    let mut refused = 0;
    for _ in 0..count {
        let answer = client.next_text().await;
        pongs += usize::from(answer.text().contains(r#""type":"pong""#));
        refused += usize::from(answer.text().contains(r#""code":"RATE_LIMITED""#));
    }
    (pongs, refused)
}

#[actix_web::test]
async fn rate_limited_messages_keep_the_socket_open() {
    let (_platform, mut client) = rate_limited().await;
    assert_eq!(pings(&mut client, 40).await, (5, 35));
    // Refused messages count towards the rate too; a second later messages are accepted again.
    let client = tokio::sync::Mutex::new(client);
    until("a message is accepted again", || async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        (pings(&mut *client.lock().await, 1).await == (1, 0)).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn message_flood_is_closed() {
    let (_platform, mut client) = rate_limited().await;
    client.send(&text(PING).repeat(51)).await;
    for answer in 0..50 {
        let code = if answer < 5 { "pong" } else { "RATE_LIMITED" };
        assert!(client.next_text().await.text().contains(code));
    }
    assert_eq!(client.end().await, End::Closed(1008));
}

#[actix_web::test]
async fn deliveries_and_latency_are_counted() {
    let (platform, mut supplier) = start(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(platform.subscriber(EVENT).await);
    }
    // The first change is sent alone: a starting book may merge an event's first changes with what
    // it loads.
    for versions in [1..=1, 2..=10] {
        for version in versions.clone() {
            supplier.send(change(version)).await;
        }
        for client in &mut clients {
            for version in versions.clone() {
                assert_eq!(client.next().await["payload"]["version"], version);
            }
        }
    }
    until_delivered(&platform, 30).await;
    // Counted once per change and thread.
    let measured = total(&platform, "odds_end_to_end_seconds_count").await;
    assert!((10.0..=20.0).contains(&measured), "{measured}");
    until_total(&platform, "odds_ws_conflations_total", 0.0).await;
    until_total(&platform, "odds_ws_evictions_total", 0.0).await;
    until_total(&platform, "odds_ws_sessions", 3.0).await;
    until_total(&platform, "odds_ws_subscriptions", 3.0).await;
}
