//! A blocked database, and a full bus.

use std::time::Duration;

use sports_bet_platform::config::settings::Role;

use super::*;
use crate::support::{metric, original_frame};

/// Mistake 4: offsets were committed before the database had written, so failed writes were lost.
#[actix_web::test]
async fn locked_database_does_not_stop_prices() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let database = Database::of(&platform.folder);
    let mut client = platform.subscriber("M").await;
    let lock = database.lock();
    for version in 1..=100 {
        link.send(original_frame("M", &at(version), version));
        assert_eq!(
            versions_of(&updates_until(&mut client, version).await),
            [version]
        );
    }
    // Wait for a failed batch, so that a retry writes it.
    platform
        .until_metric(
            Role::Processor,
            "odds_proc_errors_total{stage=\"store\"}",
            |count| count >= 1.0,
        )
        .await;
    platform
        .until_metric(Role::Processor, &platform.live_lag(), |lag| lag == 0.0)
        .await;
    assert!(database.versions("M").is_empty());
    for version in 101..=200 {
        link.send(original_frame("M", &at(version), version));
    }
    let seen = updates_until(&mut client, 200).await;
    assert_eq!(
        rest_odds(&platform, "M").await[0]["seq"],
        seen.last().unwrap().0
    );
    drop(lock);
    database
        .until_versions("M", &(1..=200).collect::<Vec<_>>())
        .await;
    platform
        .until_metric(Role::Processor, &platform.store_lag(), |lag| lag == 0.0)
        .await;
    let stored = database
        .store
        .load_event(&EventId::new("M").unwrap())
        .unwrap();
    assert_eq!(
        stored[0].seq,
        seen.last().unwrap().0,
        "store and books count alike"
    );
    platform.stop().await;
}

/// Dead letters that arrive while the database is locked are stored afterwards.
#[actix_web::test]
async fn embedded_dead_letters_survive_database_lock() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let database = Database::of(&platform.folder);
    let mut client = platform.subscriber("M").await;
    let lock = database.lock();
    (0..50).for_each(|number| link.send(format!("garbage {number}")));
    link.send(original_frame("M", &at(1), 1));
    updates_until(&mut client, 1).await;
    platform
        .until_metric(
            Role::Processor,
            "odds_proc_errors_total{stage=\"dead_letter\"}",
            |count| count >= 1.0,
        )
        .await;
    assert!(database.dead_letters().is_empty());
    drop(lock);
    let kept = database.until_dead_letters(50).await;
    let raw: Vec<_> = kept
        .iter()
        .map(|one| String::from_utf8_lossy(&one.raw).into_owned())
        .collect();
    assert_eq!(
        raw,
        (0..50)
            .map(|number| format!("garbage {number}"))
            .collect::<Vec<_>>()
    );
    platform
        .until_metric(Role::Processor, "odds_proc_dead_letters_total", |count| {
            count == 50.0
        })
        .await;
    platform.stop().await;
}

/// Mistake 8: an update that could not be published was dropped.
#[actix_web::test]
async fn full_embedded_bus_blocks_the_supplier() {
    const CAPACITY: i64 = 20;
    const FRAMES: i64 = 700;
    let supplier = FakeSupplier::start().await;
    let variables = [
        ("EMBEDDED_BUS_CAPACITY", "20"),
        ("WS_SESSION_QUEUE", "1000"),
        ("SUPPLIER_PING_INTERVAL", "200ms"),
    ];
    let platform = TestPlatform::fed_by(&[supplier.url()], &variables).await;
    let link = LiveLink::accept(&supplier).await;
    let database = Database::of(&platform.folder);
    let mut client = platform.subscriber("M").await;
    let lock = database.lock();
    // More bytes than all buffers in between hold.
    let padding = "x".repeat(64 * 1024);
    for version in 1..=FRAMES {
        let frame = original_frame("M", &at(version), version);
        link.send(format!(
            "{},\"padding\":\"{padding}\"}}",
            frame.strip_suffix('}').unwrap()
        ));
    }
    // Clients receive everything the bus accepts, whatever the database does.
    let seen = updates_until(&mut client, CAPACITY).await;
    assert_eq!(versions_of(&seen), (1..=CAPACITY).collect::<Vec<_>>());
    platform
        .until_metric(Role::Ingest, "odds_ingest_bus_depth", |depth| {
            depth == CAPACITY as f64
        })
        .await;
    // The supplier is blocked: nothing more leaves it for a while.
    let mut sent = link.sent.clone();
    within("the supplier cannot send", async {
        while tokio::time::timeout(Duration::from_millis(700), sent.changed())
            .await
            .is_ok()
        {}
    })
    .await;
    let held_back_at = *link.sent.borrow();
    assert!(
        held_back_at < FRAMES as usize,
        "the supplier could send everything"
    );
    let page = platform.metrics(Role::Ingest).await;
    // A batch is counted after all of it is on the bus.
    assert!(metric(&page, "odds_ingest_updates_published_total").unwrap() <= CAPACITY as f64);
    // The feed holds the batches that are waiting, four of at most 1 MiB, and has read no further.
    let read = metric(&page, "odds_ingest_frames_total").unwrap() as i64;
    assert!(
        (CAPACITY + 1..=CAPACITY + 4 * 16).contains(&read),
        "{read} frames were read"
    );
    assert!(database.versions("M").is_empty());
    assert!(!link.is_over(), "the blocked supplier stays connected");

    drop(lock);
    let rest = updates_until(&mut client, FRAMES).await;
    assert_grows(seen.iter().chain(&rest).map(|(seq, _)| *seq));
    database
        .until_versions("M", &(1..=FRAMES).collect::<Vec<_>>())
        .await;
    let history = database.history("M", market_key("1x2", None));
    assert!(
        history.is_sorted_by_key(|entry| entry.cursor.row),
        "written in a different order than sent"
    );
    let page = platform.metrics(Role::Ingest).await;
    assert_eq!(metric(&page, "odds_ingest_connects_total"), Some(1.0));
    assert!(metric(&page, "odds_ingest_bus_wait_seconds_total").unwrap() > 0.5);
    platform.stop().await;
}

#[actix_web::test]
async fn long_batch_wait_still_writes() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[("STORE_BATCH_WAIT", "300ms")]).await;
    let link = LiveLink::accept(&supplier).await;
    link.send(original_frame("M", &at(1), 1));
    link.send("garbage");
    let database = Database::of(&platform.folder);
    database.until_versions("M", &[1]).await;
    database.until_dead_letters(1).await;
    platform.stop().await;
}
