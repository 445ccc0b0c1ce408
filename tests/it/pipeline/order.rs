//! Duplicates, late updates, restarts of a supplier, and several markets and events at once.

use sports_bet_platform::config::settings::Role;

use super::*;
use crate::support::{metric, original_frame};

/// Mistake 3: late and duplicate messages won.
#[actix_web::test]
async fn duplicate_and_late_updates_stay_hidden() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    appear(&link, &mut client, "M").await;
    let rejected =
        |reason: &str| format!("odds_proc_updates_rejected_total{{reason=\"{reason}\"}}");
    // The new book may have loaded its first update from the store, and then rejected it as a
    // duplicate.
    let known = metric(
        &platform.metrics(Role::Processor).await,
        &rejected("duplicate"),
    )
    .unwrap_or_default();
    for version in [1, 3, 1, 2, 3, 3, 2, 4] {
        link.send(original_frame("M", &at(version), version));
    }
    let seen = updates_until(&mut client, 4).await;
    assert_eq!(versions_of(&seen), [1, 3, 4]);
    assert_grows(seen.iter().map(|(seq, _)| *seq));
    until_rest(&platform, "M", 4).await;
    platform
        .until_metric(Role::Processor, &rejected("duplicate"), |count| {
            count >= known + 2.0
        })
        .await;
    platform
        .until_metric(Role::Processor, &rejected("older"), |count| count == 3.0)
        .await;
    // The late update was published to the store once: the history has it once.
    Database::of(&platform.folder)
        .until_versions("M", &[1, 2, 3, 4])
        .await;
    let folder = platform.stop().await;
    assert_eq!(Database::of(&folder).versions("M"), [1, 2, 3, 4]);
}

#[actix_web::test]
async fn higher_version_wins_at_equal_time() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    appear(&link, &mut client, "M").await;
    for version in [10, 12, 11, 13] {
        link.send(original_frame("M", &at(5), version));
    }
    assert_eq!(
        versions_of(&updates_until(&mut client, 13).await),
        [10, 12, 13]
    );
    platform.stop().await;
}

#[actix_web::test]
async fn restarted_supplier_may_count_from_one() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    link.send(original_frame("M", &at(10), 977));
    link.send(original_frame("M", &at(11), 978));
    let before = updates_until(&mut client, 978).await;
    drop(link);
    let link = LiveLink::accept(&supplier).await;
    link.send(original_frame("M", &at(20), 1));
    link.send(original_frame("M", &at(21), 2));
    let after = updates_until(&mut client, 2).await;
    assert_eq!(versions_of(&after), [1, 2]);
    assert_grows(before.iter().chain(&after).map(|(seq, _)| *seq));
    Database::of(&platform.folder)
        .until_versions("M", &[977, 978, 1, 2])
        .await;
    platform.stop().await;
}

/// Mistake 2: a second market overwrote the first, and a replay doubled the history.
#[actix_web::test]
async fn markets_and_lines_are_kept_apart() {
    let supplier = FakeSupplier::start().await;
    let platform = TestPlatform::fed_by(&[supplier.url()], &[]).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.subscriber("M").await;
    appear(&link, &mut client, "M").await;
    let markets = [
        ("1x2", None),
        ("btts", None),
        ("total_goals", Some(2.5)),
        ("total_goals", Some(3.5)),
    ];
    // Each is sent twice, as by a supplier that resends its state.
    for _ in 0..2 {
        for version in 1..=3 {
            for (market, line) in markets {
                link.send(market_frame("M", market, line, version, version));
            }
        }
    }
    link.send(market_frame("M", "end", None, 9, 9));
    let seen = updates_until(&mut client, 9).await;
    assert_eq!(seen.len(), 13, "{seen:?}");
    assert_grows(seen.iter().map(|(seq, _)| *seq));

    let odds = rest_odds(&platform, "M").await;
    let shown: Vec<_> = odds
        .iter()
        .map(|one| (one["market"].as_str().unwrap(), one["line"].as_f64()))
        .collect();
    let expected = [
        ("1x2", None),
        ("appears", None),
        ("btts", None),
        ("end", None),
        ("total_goals", Some(2.5)),
        ("total_goals", Some(3.5)),
    ];
    assert_eq!(shown, expected);
    assert!(
        odds.iter().all(
            |one| ["appears", "end"].contains(&one["market"].as_str().unwrap())
                || one["version"] == 3
        ),
        "{odds:?}"
    );

    let folder = platform.stop().await;
    let database = Database::of(&folder);
    for (market, line) in [
        ("1x2", None),
        ("btts", None),
        ("total_goals", Some("2.5")),
        ("total_goals", Some("3.5")),
    ] {
        let history = database.history("M", market_key(market, line));
        let versions: Vec<_> = history
            .iter()
            .map(|entry| entry.cursor.revision.version)
            .collect();
        assert_eq!(versions, [1, 2, 3], "{market} {line:?}");
    }
}

/// Mistake 5: events lost their order once there was a second partition.
#[actix_web::test]
async fn partitions_keep_the_order_of_events() {
    const EVENTS: i64 = 12;
    const VERSIONS: i64 = 40;
    let supplier = FakeSupplier::start().await;
    let variables = [
        ("EMBEDDED_BUS_PARTITIONS", "8"),
        ("BUS_BATCH_SIZE", "7"),
        ("WS_SESSION_QUEUE", "1000"),
    ];
    let platform = TestPlatform::fed_by(&[supplier.url()], &variables).await;
    let link = LiveLink::accept(&supplier).await;
    let mut client = platform.client().await;
    let event = |number: i64| format!("EVENT_{number}");
    for number in 0..EVENTS {
        client.subscribe(&event(number)).await;
        client.next_of("snapshot").await;
        appear(&link, &mut client, &event(number)).await;
    }
    for version in 1..=VERSIONS {
        (0..EVENTS)
            .for_each(|number| link.send(original_frame(&event(number), &at(version), version)));
    }
    let mut seen = std::collections::BTreeMap::<String, Vec<(u64, i64)>>::new();
    for _ in 0..EVENTS * VERSIONS {
        let update = client.next_of("update").await;
        let one = (
            update["seq"].as_u64().unwrap(),
            update["payload"]["version"].as_i64().unwrap(),
        );
        seen.entry(update["eventId"].as_str().unwrap().to_owned())
            .or_default()
            .push(one);
    }
    let folder = platform.stop().await;
    let database = Database::of(&folder);
    let all: Vec<_> = (1..=VERSIONS).collect();
    for number in 0..EVENTS {
        let seen = &seen[&event(number)];
        assert_eq!(versions_of(seen), all, "{}", event(number));
        assert_grows(seen.iter().map(|(seq, _)| *seq));
        let history = database.history(&event(number), market_key("1x2", None));
        assert!(
            history.is_sorted_by_key(|entry| entry.cursor.row),
            "written in a different order than sent"
        );
        assert_eq!(database.versions(&event(number)), all);
    }
}

#[actix_web::test]
async fn identical_suppliers_give_each_update_once() {
    let suppliers = [FakeSupplier::start().await, FakeSupplier::start().await];
    let platform = TestPlatform::fed_by(&[suppliers[0].url(), suppliers[1].url()], &[]).await;
    let links = [
        LiveLink::accept(&suppliers[0]).await,
        LiveLink::accept(&suppliers[1]).await,
    ];
    let mut client = platform.subscriber("M").await;
    for version in 1..=20 {
        links
            .iter()
            .for_each(|link| link.send(original_frame("M", &at(version), version)));
    }
    let seen = updates_until(&mut client, 20).await;
    assert_grows(seen.iter().map(|(_, version)| *version as u64));
    platform
        .until_metric(
            Role::Ingest,
            "odds_ingest_updates_published_total",
            |count| count == 40.0,
        )
        .await;
    let folder = platform.stop().await;
    assert_eq!(
        Database::of(&folder).versions("M"),
        (1..=20).collect::<Vec<_>>()
    );
}
