//! A stale price is never shown as live: the last prices of a supplier do not stay open after it is
//! gone.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use sports_bet_platform::cli::replay::{self, ReplayConfig};
use sports_bet_platform::config::settings::Role;

use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    FakeSupplier, OddsClient, ReservedPort, SupplierLink, TestPlatform, get_json, original_frame,
    until, within,
};

const QUICK: &[(&str, &str)] = &[
    ("SUPPLIER_STALE_AFTER", "1s"),
    ("SUPPLIER_PING_INTERVAL", "50ms"),
];

async fn status(client: &mut OddsClient) -> String {
    client.next_of("update").await["payload"]["status"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Reads updates until one has this status. The market is suspended twice, by an update and because
/// its source is stale, and opens when both have ended.
async fn until_update(client: &mut OddsClient, expected: &str) {
    while status(client).await != expected {}
}

async fn rest_status(platform: &TestPlatform, event: &str) -> String {
    let (_, odds) = get_json(&platform.url(&format!("/v1/events/{event}/odds"))).await;
    odds[0]["status"].as_str().unwrap_or("unknown").to_owned()
}

/// The markets of a lost supplier are suspended, and reopen when it sends the same state again.
#[actix_web::test]
async fn lost_supplier_suspends_its_markets() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], QUICK).await;
    let mut client = platform.subscriber("E").await;
    let frame = original_frame("E", "2026-01-01T00:00:00Z", 7);
    for _ in 0..2 {
        let mut link = supplier.accept().await;
        link.send(frame.clone()).await;
        link.live_until(until_update(&mut client, "open")).await;
        drop(link);
        until_update(&mut client, "suspended").await;
        assert_eq!(rest_status(&platform, "E").await, "suspended");
    }
    let mut link = supplier.accept().await;
    link.send(original_frame("E", "2026-01-01T00:00:01Z", 8))
        .await;
    link.live_until(until_update(&mut client, "open")).await;
    platform.stop().await;
}

/// A connected supplier that answers nothing counts as lost; one that answers pings does not.
#[actix_web::test]
async fn silent_supplier_suspends_its_markets() {
    let silent = FakeSupplier::start().await;
    let quiet = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[silent.url(), quiet.url()], QUICK).await;
    let mut client = platform.subscriber("SILENT").await;
    let mut silent_link = silent.accept().await;
    let mut quiet_link = quiet.accept().await;
    quiet_link
        .send(original_frame("QUIET", "2026-01-01T00:00:00Z", 1))
        .await;
    let pongs = actix_web::rt::spawn(async move { quiet_link.serve_pings().await });
    silent_link
        .send(original_frame("SILENT", "2026-01-01T00:00:00Z", 1))
        .await;
    let first = silent_link.live_until(status(&mut client)).await;
    assert_eq!(first, "open");
    assert_eq!(status(&mut client).await, "suspended");
    platform
        .until_metric(
            Role::Ingest,
            "odds_ingest_suspended_as_stale_total",
            |count| count == 1.0,
        )
        .await;
    assert_eq!(rest_status(&platform, "QUIET").await, "open");
    pongs.abort();
    platform.stop().await;
}

/// Betfair markets are suspended while the exchange is gone, and reopen with its first message.
#[actix_web::test]
async fn lost_exchange_suspends_betfair_markets() {
    let file = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/betfair/1.197931750.jsonl");
    // Slow enough that the market stays open throughout the test.
    let port = ReservedPort::take();
    let config = ReplayConfig {
        speed: "1".parse().unwrap(),
        listen: port.address,
        ..ReplayConfig::at_once(vec![file])
    };
    let replay = replay::start(config.clone()).await.unwrap();
    // Heartbeats arrive at most twice a second.
    let quick = [
        ("SUPPLIER_STALE_AFTER", "2s"),
        ("SUPPLIER_PING_INTERVAL", "50ms"),
    ];
    let platform = TestPlatform::fed_by(&[format!("betfair://{}", replay.addr)], &quick).await;
    let event = "1.197931750";
    let is = |wanted: &'static str| {
        let platform = &platform;
        async move {
            until(wanted, || async {
                (rest_status(platform, event).await == wanted).then_some(())
            })
            .await
        }
    };
    is("open").await;
    replay.stop().await;
    is("suspended").await;
    let again = replay::start(config).await.unwrap();
    is("open").await;
    platform.stop().await;
    again.stop().await;
}

async fn until_status(platform: &TestPlatform, event: &str, wanted: &str) {
    until(&format!("{event} is {wanted}"), || async {
        (rest_status(platform, event).await == wanted).then_some(())
    })
    .await;
}

/// Answers pings and sends `frame` every 100 ms until the future is dropped.
async fn repeat(link: &mut SupplierLink, frame: &str) {
    let mut interval = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            _ = interval.tick() => link.send(frame).await,
            received = link.socket.next() => assert!(matches!(received, Some(Ok(_))), "{received:?}"),
        }
    }
}

/// That the supplier answers pings does not make up for words that nobody can read. The first
/// readable one opens everything again, because nothing was lost.
#[actix_web::test]
async fn unreadable_supplier_suspends_its_markets() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], QUICK).await;
    let mut link = supplier.accept().await;
    link.send(original_frame("E", "2026-01-01T00:00:00Z", 1))
        .await;
    link.live_until(until_status(&platform, "E", "open")).await;
    let unreadable = r#"{"event_id":"OTHER","market":"1x2","status":"halted"}"#;
    tokio::select! {
        () = repeat(&mut link, unreadable) => {}
        () = until_status(&platform, "E", "suspended") => {}
    }
    let readable = original_frame("OTHER", "2026-01-01T00:00:00Z", 1);
    tokio::select! {
        () = repeat(&mut link, &readable) => {}
        () = until_status(&platform, "E", "open") => {}
    }
    platform.stop().await;
}

/// A silence on one connection loses nothing, so quiet markets open with the first sign of life.
#[actix_web::test]
async fn quiet_markets_reopen_after_silence() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], QUICK).await;
    let mut link = supplier.accept().await;
    link.send(original_frame("E", "2026-01-01T00:00:00Z", 1))
        .await;
    until_status(&platform, "E", "suspended").await;
    link.live_until(until_status(&platform, "E", "open")).await;
    platform.stop().await;
}

/// What an earlier process left open is suspended if the supplier does not send it any more, and
/// opens with its next message, even if that repeats the last one.
#[actix_web::test]
async fn market_unsent_after_restart_is_suspended() {
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let variables = TestPlatform::fed(&url, &[]);
    let platform = TestPlatform::start(&variables).await;
    let mut link = supplier.accept().await;
    let frame = |event: &str| original_frame(event, "2026-01-01T00:00:00Z", 1);
    for event in ["QUIET", "SENT"] {
        link.send(frame(event)).await;
        until_status(&platform, event, "open").await;
    }
    let folder = platform.stop().await;
    drop(link);
    let platform = TestPlatform::start_in(folder, &variables).await;
    let mut link = supplier.accept().await;
    link.send(frame("SENT")).await;
    until_status(&platform, "QUIET", "suspended").await;
    until_status(&platform, "SENT", "open").await;
    let suspended = "odds_ingest_suspended_unsent_total";
    platform
        .until_metric(Role::Ingest, suspended, |count| count == 1.0)
        .await;
    link.send(frame("QUIET")).await;
    until_status(&platform, "QUIET", "open").await;
    platform.stop().await;
}

/// The next request for recovery.
async fn recover_request(link: &mut SupplierLink) -> Value {
    loop {
        let received = within("a request for recovery", link.socket.next()).await;
        if let Message::Text(text) = received.unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

/// After a gap the supplier sends what has changed, and says that this was all: unchanged markets
/// open without a message of their own.
#[actix_web::test]
async fn recovery_reopens_unchanged_markets() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], QUICK).await;
    let mut link = supplier.accept().await;
    let request = recover_request(&mut link).await;
    assert_eq!(request["after"], Value::Null, "nothing is known yet");
    link.send(original_frame("E", "2026-01-01T00:01:00Z", 1))
        .await;
    link.live_until(until_status(&platform, "E", "open")).await;
    drop(link);
    until_status(&platform, "E", "suspended").await;
    let mut link = supplier.accept().await;
    let request = recover_request(&mut link).await;
    assert_eq!(request["after"], "2026-01-01T00:00:50Z");
    let recovered = json!({"type": "recovered", "request": request["request"]});
    link.send(recovered.to_string()).await;
    link.live_until(until_status(&platform, "E", "open")).await;
    platform.stop().await;
}

#[actix_web::test]
async fn bet_stop_suspends_event() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let mut link = supplier.accept().await;
    link.send(original_frame("E", "2026-01-01T00:00:00Z", 1))
        .await;
    until_status(&platform, "E", "open").await;
    let stop = r#"{"type":"bet_stop","event_id":"E","status":"suspended","updated_at":"2026-01-01T00:00:01Z","version":2}"#;
    link.send(stop).await;
    until_status(&platform, "E", "suspended").await;
    link.send(original_frame("E", "2026-01-01T00:00:02Z", 3))
        .await;
    until_status(&platform, "E", "open").await;
    platform.stop().await;
}
