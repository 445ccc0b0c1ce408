//! Repeated SIGKILL.

use std::time::Duration;

use super::*;

/// Duplicate history rows.
const DUPLICATES: &str = "SELECT count(*) AS number FROM (SELECT 1 FROM odds_history
    GROUP BY event_id, market, line, version, updated_at, source HAVING count(*) > 1)";
/// Markets whose current state is not the newest row of their history.
const NOT_THE_NEWEST: &str = "SELECT count(*) AS number FROM odds_current AS current WHERE NOT EXISTS (
    SELECT 1 FROM odds_history AS newest
    WHERE newest.event_id = current.event_id AND newest.market = current.market AND newest.line = current.line
        AND newest.updated_at = current.updated_at AND newest.version = current.version
        AND newest.selections = current.selections AND newest.status = current.status
        AND NOT EXISTS (SELECT 1 FROM odds_history AS later
            WHERE later.event_id = newest.event_id AND later.market = newest.market AND later.line = newest.line
                AND (later.updated_at, later.version) > (newest.updated_at, newest.version)))";
/// History rows whose market has no current state.
const WITHOUT_STATE: &str = "SELECT count(*) AS number FROM odds_history AS row WHERE NOT EXISTS (
    SELECT 1 FROM odds_current AS current
    WHERE current.event_id = row.event_id AND current.market = row.market AND current.line = row.line)";
const BROKEN: &str =
    "SELECT count(*) AS number FROM pragma_integrity_check WHERE integrity_check <> 'ok'";

/// After SIGKILL at any moment the data is consistent, and sequence numbers never decrease.
#[tokio::test]
async fn kills_never_corrupt_or_count_backwards() {
    let folder = TempDir::new().unwrap();
    let load = [
        ("SIMULATOR_RATE", "3000"),
        ("SIMULATOR_EVENTS", "8"),
        ("SIMULATOR_MARKETS", "1x2,total_goals"),
        // The store lags, so that each kill loses sequence numbers that clients have already seen.
        ("STORE_BATCH_WAIT", "80ms"),
    ];
    let mut seen = 0;
    let mut rows = 0;
    for round in 0..10 {
        let mut server = ServerProcess::start(folder.path(), &load).await;
        let mut client = server.client().await;
        client.subscribe("MATCH_001").await;
        let moment = tokio::time::Instant::now() + Duration::from_millis(20 + fastrand::u64(..250));
        let mut updates = 0;
        while updates < 5 || tokio::time::Instant::now() < moment {
            let message = client.next().await;
            // The states of the sources have no number.
            let Some(seq) = message["seq"].as_u64() else {
                continue;
            };
            // An event of which nothing was stored is unknown after the restart: its snapshot is
            // empty and does not carry the earlier seq.
            let nothing = message["type"] == "snapshot" && message["markets"] == json!([]);
            assert!(
                nothing || client.is_repeated() || seq >= seen,
                "round {round}: {seen} was published before {message}"
            );
            seen = seen.max(seq);
            updates += u64::from(message["type"] == "update");
        }
        server.kill().await;
        server.ended().await;

        let database = &mut database(folder.path());
        for (what, sql) in [
            ("broken", BROKEN),
            ("duplicates", DUPLICATES),
            ("current state is not the newest row", NOT_THE_NEWEST),
            ("without state", WITHOUT_STATE),
        ] {
            assert_eq!(number(database, sql), 0, "round {round}: {what}");
        }
        let now = number(database, "SELECT count(*) AS number FROM odds_history");
        assert!(now >= rows, "round {round}: {rows} rows became {now}");
        rows = now;
    }
    assert!(rows > 0);
    let mut server = ServerProcess::start(folder.path(), &load).await;
    let (status, odds) = get_json(&format!(
        "http://{}/v1/events/MATCH_001/odds",
        server.odds()
    ))
    .await;
    assert_eq!((status, odds.as_array().unwrap().len()), (200, 4));
    server.signal("TERM").await;
    assert!(server.ended().await.success());
}
