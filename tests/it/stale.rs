//! A stale price is never shown as live: the last prices of a supplier do not stay open after it is
//! gone.

use sports_bet_platform::cli::replay::{self, ReplayConfig};
use sports_bet_platform::config::settings::Role;

use crate::support::{
    FakeSupplier, OddsClient, ReservedPort, TestPlatform, get_json, original_frame, until,
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
        assert_eq!(status(&mut client).await, "open");
        drop(link);
        assert_eq!(status(&mut client).await, "suspended");
        assert_eq!(rest_status(&platform, "E").await, "suspended");
    }
    let mut link = supplier.accept().await;
    link.send(original_frame("E", "2026-01-01T00:00:01Z", 8))
        .await;
    assert_eq!(status(&mut client).await, "open");
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
    assert_eq!(status(&mut client).await, "open");
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
