//! The default setup: every role in one process, fed by its own simulator.

use std::collections::BTreeMap;

use sports_bet_platform::config::settings::Role;
use sports_bet_platform::store::events::EventQuery;

use super::*;

/// The versions of each event's `1x2`, as the simulator counts them.
fn versions_by_event(database: &Database) -> BTreeMap<String, Vec<i64>> {
    let query = EventQuery {
        limit: 1_000,
        ..EventQuery::default()
    };
    let events = database.store.list_events(&query).unwrap().events;
    events
        .iter()
        .map(|event| {
            (
                event.event_id.to_string(),
                database.versions(event.event_id.as_str()),
            )
        })
        .collect()
}

#[actix_web::test]
async fn default_run_stores_each_price_once() {
    let platform = TestPlatform::start(&[("SIMULATOR_RATE", "300")]).await;
    let mut client = platform.subscriber("MATCH_001").await;
    let mut seqs = Vec::new();
    for _ in 0..20 {
        seqs.push(client.next_change().await["seq"].as_u64().unwrap());
    }
    assert_grows(seqs);
    let published = "odds_ingest_updates_published_total";
    let published = platform
        .until_metric(Role::Ingest, published, |count| count >= 400.0)
        .await;
    let folder = platform.stop().await;
    let database = Database::of(&folder);
    let versions = versions_by_event(&database);
    assert_eq!(versions.len(), 12);
    for (event, versions) in &versions {
        assert!(
            versions.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{event} has gaps: {versions:?}"
        );
        let current = database
            .store
            .load_event(&EventId::new(event).unwrap())
            .unwrap();
        assert_eq!(
            Some(&current[0].update.revision.version),
            versions.last(),
            "{event}"
        );
    }
    let rows: usize = versions.values().map(Vec::len).sum();
    assert!(
        rows as f64 >= published,
        "{rows} rows of {published} published"
    );
    assert!(database.dead_letters().is_empty());
}

#[actix_web::test]
async fn history_holds_everything_the_simulator_sent() {
    let simulator = TestPlatform::start(&[("ROLE", "simulator"), ("SIMULATOR_RATE", "400")]).await;
    let url = format!("ws://{}/ws", simulator.simulator());
    let platform = TestPlatform::fed_by(std::slice::from_ref(&url), &[]).await;
    platform
        .until_metric(
            Role::Ingest,
            "odds_ingest_updates_published_total",
            |count| count >= 300.0,
        )
        .await;
    simulator.stop().await;
    // The connection ends after everything the simulator had sent.
    platform
        .until_metric(Role::Ingest, "odds_ingest_suppliers_connected", |count| {
            count == 0.0
        })
        .await;
    let page = platform.metrics(Role::Ingest).await;
    let published = crate::support::metric(&page, "odds_ingest_updates_published_total").unwrap();
    let folder = platform.stop().await;
    let versions = versions_by_event(&Database::of(&folder));
    assert_eq!(
        versions.values().map(Vec::len).sum::<usize>() as f64,
        published
    );
    for (event, versions) in versions {
        assert!(
            versions.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{event} has gaps: {versions:?}"
        );
    }
}

/// All markets of the simulator appear in REST and in snapshots.
#[actix_web::test]
async fn all_simulator_markets_are_shown() {
    let variables = [
        ("SIMULATOR_MARKETS", "1x2,total_goals,btts"),
        ("SIMULATOR_EVENTS", "4"),
        ("SIMULATOR_RATE", "200"),
    ];
    let platform = TestPlatform::start(&variables).await;
    let shown = until("every market", async || {
        let odds = rest_odds(&platform, "MATCH_003").await;
        (odds.len() == 5).then_some(odds)
    })
    .await;
    let keys: Vec<_> = shown
        .iter()
        .map(|one| (one["market"].as_str().unwrap(), one["line"].as_f64()))
        .collect();
    let goals = |line| ("total_goals", Some(line));
    assert_eq!(
        keys,
        [
            ("1x2", None),
            ("btts", None),
            goals(1.5),
            goals(2.5),
            goals(3.5)
        ]
    );
    let mut client = platform.client().await;
    client.subscribe("MATCH_003").await;
    let snapshot = client.next().await;
    assert_eq!(snapshot["markets"].as_array().unwrap().len(), 5);
    assert_eq!(snapshot["payload"]["market"], "1x2");
    let mut moved = std::collections::BTreeSet::new();
    while moved.len() < 5 {
        let update = client.next_of("update").await;
        moved.insert(format!(
            "{} {}",
            update["payload"]["market"], update["payload"]["line"]
        ));
    }
    platform.stop().await;
}
