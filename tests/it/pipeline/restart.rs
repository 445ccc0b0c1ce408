//! The platform stops, and restarts on its database.

use sports_bet_platform::config::settings::Role;

use super::*;
use crate::support::{are_real, original_frame};

/// Odds without what depends on whether their source is live.
fn without_trust(odds: &[Value]) -> Vec<Value> {
    let mut odds = odds.to_vec();
    for market in &mut odds {
        let fields = market.as_object_mut().unwrap();
        fields.retain(|field, _| !["status", "stale", "asOf"].contains(&field.as_str()));
    }
    odds
}

#[actix_web::test]
async fn second_start_continues_the_first() {
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let variables = TestPlatform::fed(&url, &[]);
    let platform = TestPlatform::start(&variables).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    let frames: Vec<_> = (1..=30)
        .map(|version| original_frame("M", &at(version), version))
        .collect();
    frames.iter().for_each(|frame| link.send(frame.as_str()));
    link.send(market_frame("M", "btts", None, 31, 31));
    let before = updates_until(&mut client, 31).await;
    let shown = rest_odds(&platform, "M").await;
    let folder = platform.stop().await;
    assert_eq!(client.close_code().await, 1001);
    link.until_over().await;
    assert_eq!(
        Database::of(&folder).versions("M"),
        (1..=30).collect::<Vec<_>>(),
        "everything was finished before the stop"
    );

    let platform = TestPlatform::start_in(folder, &variables).await;
    // The supplier has not answered yet: this comes from the database.
    let stored = rest_odds(&platform, "M").await;
    assert_eq!(without_trust(&stored), without_trust(&shown));
    if !are_real() {
        let is_shown_open = |odds: &Value| odds["status"] == "open" || odds["stale"] != true;
        assert!(!stored.iter().any(is_shown_open), "{stored:?}");
    }
    let mut client = platform.client().await;
    client.subscribe("M").await;
    let snapshot = client.next_of("snapshot").await;
    let numbers = snapshot["markets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|market| &market["seq"])
        .collect::<Vec<_>>();
    assert_eq!(
        numbers,
        shown.iter().map(|odds| &odds["seq"]).collect::<Vec<_>>()
    );
    assert!(
        snapshot["seq"].as_u64().unwrap() >= before.last().unwrap().0,
        "{snapshot}"
    );

    // The supplier resends everything, then sends something new.
    let link = LiveLink::accept(&supplier).await;
    frames.iter().for_each(|frame| link.send(frame.as_str()));
    link.send(market_frame("M", "btts", None, 31, 31));
    link.send(original_frame("M", &at(32), 32));
    let after = updates_until(&mut client, 32).await;
    assert_eq!(versions_of(&after), [32], "nothing is published twice");
    assert!(
        after[0].0 > before.last().unwrap().0,
        "{after:?} after {before:?}"
    );
    let duplicates = "odds_proc_updates_rejected_total{reason=\"duplicate\"}";
    platform
        .until_metric(Role::Processor, duplicates, |count| count == 2.0)
        .await;

    let folder = platform.stop().await;
    let database = Database::of(&folder);
    assert_eq!(
        database.versions("M"),
        (1..=30).chain([32]).collect::<Vec<_>>()
    );
    assert_eq!(database.history("M", market_key("btts", None)).len(), 1);
    // Store and books assign the same sequence numbers.
    let stored = database
        .store
        .load_event(&EventId::new("M").unwrap())
        .unwrap();
    assert_eq!(stored.iter().map(|state| state.seq).max(), Some(after[0].0));
}

#[actix_web::test]
async fn seq_grows_over_restarts() {
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let variables = TestPlatform::fed(&url, &[]);
    let mut folder = Folder::new();
    let mut seen = Vec::new();
    for round in 0..4 {
        let platform = TestPlatform::start_in(folder, &variables).await;
        let link = LiveLink::accept(&supplier).await;
        let mut client = platform.subscriber("M").await;
        if round == 0 {
            appear(&link, &mut client, "M").await;
        }
        for version in round * 5 + 1..=round * 5 + 5 {
            link.send(original_frame("M", &at(version), version));
        }
        seen.extend(updates_until(&mut client, round * 5 + 5).await);
        folder = platform.stop().await;
    }
    assert_eq!(versions_of(&seen), (1..=20).collect::<Vec<_>>());
    assert_grows(seen.iter().map(|(seq, _)| *seq));
    assert_eq!(
        Database::of(&folder).versions("M"),
        (1..=20).collect::<Vec<_>>()
    );
}

#[actix_web::test]
async fn stop_during_flood_loses_nothing() {
    let supplier = FakeSupplier::start().await;
    // Small delayed batches: much is in flight when the stop begins.
    let variables = [("BUS_BATCH_SIZE", "10"), ("STORE_BATCH_WAIT", "20ms")];
    let platform = TestPlatform::fed_by(&[supplier.url()], &variables).await;
    let link = LiveLink::accept(&supplier).await;
    (1..=2_000).for_each(|version| link.send(original_frame("M", &at(version), version)));
    let mut client = platform.subscriber("M").await;
    let received = client.next_of("update").await["payload"]["version"]
        .as_i64()
        .unwrap();
    let published = platform
        .until_metric(
            Role::Ingest,
            "odds_ingest_updates_published_total",
            |count| count > 300.0,
        )
        .await;
    let folder = platform.stop().await;
    let mut received = received;
    while let Ok(message) = client.next_or_close().await {
        received = message["payload"]["version"].as_i64().unwrap_or(received);
    }
    let versions = Database::of(&folder).versions("M");
    assert!(
        versions.len() as f64 >= published,
        "{} of {published} kept",
        versions.len()
    );
    assert!(
        versions.len() as i64 >= received,
        "a client received version {received}, {} are stored",
        versions.len()
    );
    assert_eq!(
        versions,
        (1..=versions.len() as i64).collect::<Vec<_>>(),
        "without a hole"
    );
}

/// The feed has suspended the market, and the supplier sends it unchanged after a restart.
#[actix_web::test]
async fn unchanged_market_opens_after_restart() {
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let quick = [
        ("SUPPLIER_STALE_AFTER", "1s"),
        ("SUPPLIER_PING_INTERVAL", "50ms"),
    ];
    let variables = TestPlatform::fed(&url, &quick);
    let platform = TestPlatform::start(&variables).await;
    let is_shown = |platform: &TestPlatform, status: &'static str| {
        let url = platform.url("/v1/events/M/odds");
        async move {
            until(status, || async {
                let (_, odds) = get_json(&url).await;
                (odds[0]["status"] == status).then_some(())
            })
            .await
        }
    };
    let frame = original_frame("M", &at(1), 1);
    let mut link = supplier.accept().await;
    link.send(frame.clone()).await;
    link.live_until(is_shown(&platform, "open")).await;
    // From here on the supplier answers no ping.
    let suspended = "odds_ingest_suspended_as_stale_total";
    platform
        .until_metric(Role::Ingest, suspended, |count| count == 1.0)
        .await;
    let folder = platform.stop().await;
    drop(link);
    let stored = Database::of(&folder).history("M", market_key("1x2", None));
    assert_eq!(stored.len(), 2, "the update and its suspension");

    let platform = TestPlatform::start_in(folder, &variables).await;
    let link = LiveLink::accept(&supplier).await;
    link.send(frame);
    is_shown(&platform, "open").await;
    platform.stop().await;
}
