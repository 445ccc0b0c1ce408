//! A thousand clients on one event.

use futures_util::future::join_all;

use super::raw::{End, RawClient, text};
use super::{EVENT, change, change_of, start, total, until_total};
use crate::support::{TestPlatform, until};

const CLIENTS: usize = 1_000;
const CHANGES: u64 = 20;
const SUBSCRIBE: &str = r#"{"type":"subscribe","eventId":"MATCH_001"}"#;
/// With the shortest step.
const CONFLATED: &str = r#"{"type":"subscribe","eventId":"MATCH_001","conflateMs":50}"#;

async fn connect_clients(platform: &TestPlatform, subscribe: &str) -> Vec<RawClient> {
    // Each client needs three descriptors in this process: its own, the server's, and the server's
    // duplicated handle.
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let mut clients = Vec::with_capacity(CLIENTS);
    while clients.len() < CLIENTS {
        clients.extend(join_all((0..50).map(|_| RawClient::connect(platform.odds()))).await);
    }
    let subscribe = text(subscribe);
    join_all(clients.iter_mut().map(async |client| {
        client.send(&subscribe).await;
        let snapshot = client.next_text().await;
        assert!(snapshot.text().starts_with(r#"{"type":"snapshot""#));
    }))
    .await;
    clients
}

/// Reads the changes `from..=to`: each exactly once, in order, with increasing seq, and none
/// conflated.
async fn read_all(client: &mut RawClient, from: u64, to: u64) {
    let mut last_seq = 0;
    for version in from..=to {
        let update = client.next_text().await;
        assert_eq!(update.number("version"), version);
        assert!(update.number("seq") > last_seq && !update.text().contains("conflated"));
        last_seq = update.number("seq");
    }
}

/// A thousand clients receive every change in order, with and without a stalled client among them.
#[actix_web::test]
async fn thousand_clients_get_every_change_in_order() {
    let limits = [("SLOW_CLIENT_LIMIT", "1s"), ("WS_SESSION_QUEUE", "32")];
    let (platform, mut supplier) = start(&limits).await;
    let mut clients = connect_clients(&platform, SUBSCRIBE).await;
    until_total(&platform, "odds_ws_subscriptions", CLIENTS as f64).await;
    supplier.send(change(1)).await;
    join_all(clients.iter_mut().map(|client| read_all(client, 1, 1))).await;
    let sending = async {
        for version in 2..=CHANGES {
            supplier.send(change(version)).await;
        }
    };
    tokio::join!(
        sending,
        join_all(
            clients
                .iter_mut()
                .map(|client| read_all(client, 2, CHANGES))
        )
    );
    until_total(
        &platform,
        "odds_ws_deliveries_total",
        (CLIENTS as u64 * CHANGES) as f64,
    )
    .await;
    // Counted once per change and thread; the clients are spread over two threads.
    until_total(
        &platform,
        "odds_end_to_end_seconds_count",
        (2 * CHANGES) as f64,
    )
    .await;

    // One more client, stalled by large changes of a second event.
    let mut stalled = RawClient::connect_narrow(platform.odds()).await;
    stalled.subscribe(EVENT).await;
    stalled.subscribe("LARGE").await;
    let mut version = CHANGES;
    let mut large = 0;
    while total(&platform, "odds_ws_evictions_total").await < 1.0 {
        for _ in 0..40 {
            large += 1;
            supplier.send(change_of("LARGE", "1x2", large, 5_000)).await;
        }
        let from = version + 1;
        version += 4;
        for version in from..=version {
            supplier.send(change(version)).await;
        }
        join_all(
            clients
                .iter_mut()
                .map(|client| read_all(client, from, version)),
        )
        .await;
    }
    assert_eq!(stalled.end().await, End::BrokenOff);
    until_total(&platform, "odds_ws_sessions", CLIENTS as f64).await;
    supplier.send(change(version + 1)).await;
    join_all(
        clients
            .iter_mut()
            .map(|client| read_all(client, version + 1, version + 1)),
    )
    .await;
}

/// A thousand clients of one conflation step cost as many encodings as one of them: each change is
/// encoded once when it arrives, and at most once more for the step.
#[actix_web::test]
async fn thousand_conflated_clients_share_encodings() {
    let (platform, mut supplier) = start(&[]).await;
    let mut clients = connect_clients(&platform, CONFLATED).await;
    until_total(&platform, "odds_ws_subscriptions", CLIENTS as f64).await;
    // What the last change cost is counted after what all others have cost.
    for (last, changes) in [(CHANGES, CHANGES), (CHANGES + 1, 1)] {
        for version in last + 1 - changes..=last {
            supplier.send(change(version)).await;
        }
        join_all(clients.iter_mut().map(|client| read_until(client, last))).await;
    }
    let encodings = "odds_ws_encodings_total";
    let encoded = until(encodings, || async {
        let encoded = total(&platform, encodings).await;
        (encoded > CHANGES as f64).then_some(encoded)
    })
    .await;
    assert!(encoded <= (2 * CHANGES + 2) as f64, "{encoded}");
    assert!(total(&platform, "odds_ws_deliveries_total").await >= (2 * CLIENTS) as f64);
}

/// Reads until this change arrives.
async fn read_until(client: &mut RawClient, version: u64) {
    while client.next_text().await.number("version") < version {}
}
