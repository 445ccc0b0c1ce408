//! The extended protocol: clients that resume, and that choose how often they are told something.

use std::time::Duration;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use sports_bet_platform::domain::timestamp::Timestamp;
use tempfile::TempDir;

use super::{EVENT, change, change_of, start, until_total};
use crate::support::{
    Cluster, FakeSupplier, Follower, OddsClient, PATIENT, ServerProcess, SteadySupplier,
    TestPlatform, get_json, until,
};

/// Subscribes until the snapshot has an epoch: it is read from the database in the background.
pub(super) async fn resumable(platform: &TestPlatform) -> (Follower, OddsClient) {
    until("an epoch", || async {
        let mut follower = Follower::default();
        let (client, _) = follower.resume(platform.odds(), EVENT).await;
        follower.epoch.is_some().then_some((follower, client))
    })
    .await
}

fn payload_versions(snapshot: &Value) -> Vec<i64> {
    let markets = snapshot["markets"].as_array().unwrap();
    let version = |market: &Value| market["payload"]["version"].as_i64().unwrap();
    markets.iter().map(version).collect()
}

/// R1, R2, R4 and R5: also after a restart, a client gets what it missed, or everything.
#[actix_web::test]
async fn client_resumes_after_connection_loss_and_restart() {
    let (platform, mut supplier) = start(&[]).await;
    let (mut follower, mut client) = resumable(&platform).await;
    for (version, market) in [(1, "1x2"), (2, "btts"), (3, "totals")] {
        supplier.send(change_of(EVENT, market, version, 1)).await;
        follower.receive(&client.next_of("update").await);
    }
    assert!(follower.epoch.is_some());
    let (_client, snapshot) = follower.resume(platform.odds(), EVENT).await;
    assert_eq!(snapshot["recovered"], true);
    assert_eq!(snapshot["markets"], json!([]));
    assert_eq!(snapshot["conflateMs"], 0);
    supplier.send(change_of(EVENT, "btts", 4, 1)).await;
    client.next_of("update").await;
    let (_client, snapshot) = follower.resume(platform.odds(), EVENT).await;
    assert_eq!(
        (&snapshot["recovered"], payload_versions(&snapshot)),
        (&json!(true), vec![4])
    );
    assert_eq!(snapshot["markets"][0]["why"], "resume");

    let mut ahead = follower.clone();
    ahead.since += 1_000_000_000_000;
    let (_client, snapshot) = ahead.resume(platform.odds(), EVENT).await;
    assert_eq!(
        (&snapshot["recovered"], payload_versions(&snapshot).len()),
        (&json!(false), 3)
    );

    until_total(&platform, "odds_ws_resumes_total", 3.0).await;

    drop(supplier);
    let folder = platform.stop().await;
    let next = FakeSupplier::start().await;
    let url = next.url();
    let variables = TestPlatform::fed(&url, &[("SUPPLIER_READ_TIMEOUT", "10m")]);
    let platform = TestPlatform::start_in(folder, &variables).await;
    let mut supplier = next.accept().await;
    supplier.send(change_of(EVENT, "totals", 5, 1)).await;
    until("the change after the restart", || async {
        let mut again = follower.clone();
        let (_client, snapshot) = again.resume(platform.odds(), EVENT).await;
        let is_resumed = snapshot["recovered"] == true && payload_versions(&snapshot) == [5];
        let is_replaced = snapshot["recovered"] == false && again.markets.len() == 3;
        (is_resumed || is_replaced && again.markets["totals"]["version"] == 5).then_some(())
    })
    .await;
}

/// A process that is behind another one does not show a client older prices: it waits for the changes
/// that the client has already got.
#[actix_web::test]
async fn process_behind_its_client_waits() {
    let (platform, mut supplier) = start(&[]).await;
    let (follower, mut client) = resumable(&platform).await;
    let mut follower = follower;
    let mut version = 1;
    supplier.send(change(version)).await;
    follower.receive(&client.next_of("update").await);
    // On a busy machine the change may take longer than the process waits.
    for _ in 0..20 {
        let since = follower.since + 1;
        let mut ahead = OddsClient::connect(platform.odds()).await;
        let subscribe =
            json!({"type": "subscribe", "eventId": EVENT, "since": since, "epoch": follower.epoch});
        ahead.send(subscribe.to_string()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        version += 1;
        supplier.send(change(version)).await;
        let snapshot = ahead.next_of("snapshot").await;
        follower.receive(&client.next_of("update").await);
        if snapshot["seq"].as_u64() >= Some(since) {
            platform.stop().await;
            return;
        }
    }
    panic!("the process shows older prices than its client has");
}

/// R4: a client that resumes after SIGKILL shows what a new client is shown.
#[tokio::test]
async fn embedded_kill_leaves_no_hole() {
    let folder = TempDir::new().unwrap();
    let load = [
        ("SIMULATOR_RATE", "2000"),
        ("SIMULATOR_EVENTS", "4"),
        ("SIMULATOR_MARKETS", "1x2,total_goals"),
        // The store lags, so that each kill loses changes that clients have already seen.
        ("STORE_BATCH_WAIT", "80ms"),
    ];
    // Nothing changes any more.
    let quiet = [
        ("ROLE", "ingest,processor,odds"),
        ("SUPPLIER_URLS", "ws://127.0.0.1:1/stream"),
    ];
    let mut follower = Follower::default();
    for _ in 0..4 {
        let mut server = ServerProcess::start(folder.path(), &load).await;
        let (mut client, _) = follower.resume(server.odds(), EVENT).await;
        for _ in 0..50 + fastrand::usize(..200) {
            follower.receive(&client.next().await);
        }
        server.kill().await;
        server.ended().await;

        let mut server = ServerProcess::start(folder.path(), &quiet).await;
        let (client, _) = follower.resume(server.odds(), EVENT).await;
        until_equal(follower, client, server.odds(), EVENT).await;
        follower = Follower::default();
        follower.resume(server.odds(), EVENT).await;
        server.kill().await;
        server.ended().await;
    }
}

/// Reads until the client shows what a new one is shown.
async fn until_equal(
    follower: Follower,
    client: OddsClient,
    address: std::net::SocketAddr,
    event: &str,
) {
    let following = tokio::sync::Mutex::new((follower, client));
    until("what a new client is shown", || async {
        let (follower, client) = &mut *following.lock().await;
        let mut fresh = Follower::default();
        fresh.resume(address, event).await;
        if follower.markets == fresh.markets {
            return Some(());
        }
        let message = tokio::time::timeout(Duration::from_millis(200), client.next()).await;
        follower.receive(&message.ok()?);
        None
    })
    .await;
}

/// R3: any process of the role `odds` continues where another one ended.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn client_resumes_at_another_process() {
    let cluster = Cluster::new(3, &PATIENT).await;
    let _processor = cluster.start("processor").await;
    let first = cluster.start("odds").await;
    let second = cluster.start("odds").await;
    let _ingest = cluster.start("ingest").await;
    let event = SteadySupplier::event(0);
    cluster.supplier.send_at(100);
    let mut follower = Follower::default();
    let mut resumed = 0;
    for round in 0..20 {
        let server = if round % 2 == 0 { &first } else { &second };
        // A process whose broadcasts are late does not know the last number yet.
        until("the process knows what the client knows", || async {
            let url = format!("http://{}/v1/events/{event}/odds", server.odds());
            let (_, odds) = get_json(&url).await;
            (odds[0]["seq"].as_u64()? >= follower.since).then_some(())
        })
        .await;
        let (since, had_epoch) = (follower.since, follower.epoch.is_some());
        let (mut client, snapshot) = follower.resume(server.odds(), &event).await;
        let is_resumed = snapshot["recovered"] == true;
        // Otherwise it says that nobody can resume, because prices are stale on a busy machine.
        assert!(
            is_resumed || !had_epoch || snapshot.get("epoch").is_none(),
            "{snapshot}"
        );
        if is_resumed {
            resumed += 1;
            let markets = snapshot["markets"].as_array().unwrap();
            assert!(
                markets.iter().all(|it| it["seq"].as_u64() > Some(since)),
                "{snapshot}"
            );
        }
        for _ in 0..20 {
            follower.receive(&client.next().await);
        }
    }
    assert!(resumed >= 15, "resumed {resumed} times");
    cluster.supplier.send_at(0);
    let (client, _) = follower.resume(first.odds(), &event).await;
    until_equal(follower, client, second.odds(), &event).await;
}

#[actix_web::test]
async fn requested_conflation_is_echoed_and_bypassed_by_suspension() {
    let (platform, mut supplier) = start(&[]).await;
    let mut plain = platform.subscriber(EVENT).await;
    let mut client = platform.client().await;
    let subscribe = |millis: Value| {
        json!({"type": "subscribe", "eventIds": [EVENT], "conflateMs": millis}).to_string()
    };
    for bad in [json!(120_001), json!(-1), json!("x")] {
        client.send(subscribe(bad)).await;
        assert_eq!(client.next().await["code"], "BAD_CONFLATE_MS");
    }
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next().await["type"], "pong");
    client.send(subscribe(json!(61_000))).await;
    assert_eq!(client.next().await["conflateMs"], 120_000);
    for version in 1..=3 {
        supplier.send(change(version)).await;
        plain.next_of("update").await;
    }
    let mut suspended: Value = serde_json::from_str(&change(4)).unwrap();
    suspended["market"] = "btts".into();
    suspended["status"] = "suspended".into();
    supplier.send(suspended.to_string()).await;
    let held = client.next().await;
    assert_eq!(
        (&held["payload"]["version"], &held["conflated"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(held["why"], "requested");
    let now = client.next().await;
    assert_eq!(
        (&now["payload"]["version"], now.get("conflated")),
        (&json!(4), None)
    );
    // A second subscribe changes the settings.
    client.send(subscribe(json!(0))).await;
    assert_eq!(client.next().await["conflateMs"], 0);
    supplier.send(change(5)).await;
    assert_eq!(client.next().await["payload"]["version"], 5);
}

/// R8.
#[actix_web::test]
async fn quiet_connection_gets_heartbeats() {
    let (platform, _supplier) = start(&[]).await;
    let mut client = platform.client().await;
    client
        .send(json!({"type": "subscribe", "eventId": EVENT, "heartbeatMs": 499}).to_string())
        .await;
    assert_eq!(client.next().await["code"], "BAD_HEARTBEAT_MS");
    let before = Timestamp::now();
    client
        .send(json!({"type": "subscribe", "eventId": EVENT, "heartbeatMs": 500}).to_string())
        .await;
    assert_eq!(client.next().await["heartbeatMs"], 500);
    let mut earlier = before;
    for _ in 0..3 {
        let heartbeat = client.next().await;
        assert_eq!(heartbeat["type"], "heartbeat");
        let as_of: Timestamp = heartbeat["asOf"].as_str().unwrap().parse().unwrap();
        assert!(as_of > earlier && as_of <= Timestamp::now(), "{heartbeat}");
        earlier = as_of;
    }
}
