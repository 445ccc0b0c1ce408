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

/// Waits for a state of the first event's `1x2` in REST.
async fn until_state(platform: &TestPlatform, name: &str, wanted: impl Fn(&Value) -> bool) {
    until(name, async || {
        let odds = rest_odds(platform, "MATCH_001").await;
        let market = odds.into_iter().find(|one| one["market"] == "1x2")?;
        wanted(&market).then_some(())
    })
    .await;
}

/// A match goes through the whole platform: the market closes, is settled, and opens for the next round;
/// its results are published, and nothing is refused.
#[actix_web::test]
async fn match_is_played_to_its_result() {
    let variables = [
        ("SIMULATOR_MATCH_DURATION", "2s"),
        ("SIMULATOR_EVENTS", "2"),
        ("SIMULATOR_RATE", "50"),
    ];
    let platform = TestPlatform::start(&variables).await;
    let ended = |market: &Value| {
        ["settled", "cancelled"]
            .map(Value::from)
            .contains(&market["status"])
    };
    until_state(&platform, "a result", ended).await;
    until_state(&platform, "the next round", |market| {
        market["status"] == "open"
    })
    .await;
    until_state(&platform, "the next result", ended).await;
    platform
        .until_metric(
            Role::Ingest,
            "odds_ingest_results_published_total",
            |count| {
                // Each market's round is opened and decided twice.
                count >= 8.0
            },
        )
        .await;
    let folder = platform.stop().await;
    let database = Database::of(&folder);
    assert!(database.dead_letters().is_empty());
    let market = MarketKey {
        name: MarketName::new("1x2").unwrap(),
        line: None,
    };
    let history = database.history("MATCH_001", market);
    let states = history.iter().map(|entry| {
        let update = &entry.update;
        (update.status.as_str(), update.in_play)
    });
    let states: Vec<_> = states
        .filter(|(status, _)| *status != "suspended")
        .collect();
    let reopened = states
        .iter()
        .skip_while(|(status, _)| !["settled", "cancelled"].contains(status));
    assert!(
        reopened.clone().any(|state| *state == ("open", false)),
        "{states:?}"
    );
    assert!(
        reopened.clone().any(|state| *state == ("closed", true)),
        "{states:?}"
    );
}

/// An `ingest` that was away gets the results that it has missed.
#[actix_web::test]
async fn restarted_ingest_recovers_results() {
    let variables = [
        ("ROLE", "simulator"),
        ("SIMULATOR_MATCH_DURATION", "2s"),
        ("SIMULATOR_EVENTS", "2"),
    ];
    let simulator = TestPlatform::start(&variables).await;
    let url = format!("ws://{}/ws", simulator.simulator());
    let mut folder = Folder::new();
    for _ in 0..2 {
        let started = TestPlatform::fed(&url, &[]);
        let platform = TestPlatform::start_in(folder, &started).await;
        platform
            .until_metric(
                Role::Ingest,
                "odds_ingest_results_published_total",
                |count| count >= 2.0,
            )
            .await;
        folder = platform.stop().await;
    }
    simulator.stop().await;
}
