//! A stale price is never shown as live: what a supplier last said does not stay open when it is
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

#[actix_web::test]
async fn the_markets_of_a_supplier_that_is_gone_are_suspended_and_open_again_when_it_says_the_same_again()
 {
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

#[actix_web::test]
async fn a_supplier_that_is_connected_and_answers_nothing_is_as_good_as_gone_and_one_that_answers_pings_is_not()
 {
    let (silent, quiet) = (FakeSupplier::start().await, FakeSupplier::start().await);
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

#[actix_web::test]
async fn betfair_markets_are_suspended_while_the_exchange_is_gone_and_open_again_with_its_first_word()
 {
    let file = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/betfair/1.197931750.jsonl");
    // Slow enough that the market stays open all through the test.
    let port = ReservedPort::take();
    let config = ReplayConfig {
        speed: "1".parse().unwrap(),
        listen: port.address,
        ..ReplayConfig::at_once(vec![file])
    };
    let replay = replay::start(config.clone()).await.unwrap();
    // Heartbeats come twice a second at the most.
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
