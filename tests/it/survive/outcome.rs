//! The state that every store must reach in the end, whatever happened on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use redis::Commands;
use serde_json::Value;

use super::witness::{rest_version, until_all};
use crate::support::{Cluster, Database, Positions, ServerProcess, SteadySupplier};

/// The version in `odds:book:{event}`, that in `odds:current:{event}`, and the seq in the former; 0
/// if missing.
pub fn hot_copy(cluster: &Cluster, event: &str) -> (i64, i64, u64) {
    let url = cluster
        .variables()
        .iter()
        .rev()
        .find(|(name, _)| name == "REDIS_URL")
        .unwrap();
    let mut redis = redis::Client::open(url.1.as_str())
        .unwrap()
        .get_connection()
        .unwrap();
    let book: Option<String> = redis.hget(format!("odds:book:{event}"), "1x2").unwrap();
    let current: Option<String> = redis.get(format!("odds:current:{event}")).unwrap();
    let read = |text: Option<String>| {
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    };
    let book = read(book);
    let current = read(current);
    let version = |payload: &Value| payload["version"].as_i64().unwrap_or_default();
    (
        version(&book["payload"]),
        version(&current),
        book["seq"].as_u64().unwrap_or_default(),
    )
}

/// The version in `odds_current`.
fn current(database: &Database, event: &str) -> i64 {
    database.number(&format!(
        "SELECT coalesce(max(version), 0) AS number FROM odds_current WHERE event_id = '{event}'"
    ))
}

/// Waits until hot copy, database and REST are at the supplier's last version of each event, and
/// until the history holds every version that was sent, once and in order.
pub async fn until_everywhere(cluster: &Cluster, database: &Database, odds: SocketAddr) {
    let supplier = &cluster.supplier;
    assert_eq!(
        supplier.connections(),
        1,
        "the supplier's connection was lost"
    );
    let mut sent: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
    for (event, version) in supplier.sent_last() {
        sent.entry(event).or_default().push(version);
    }
    until_all(supplier, "in the database", async |event| {
        current(database, event)
    })
    .await;
    until_all(supplier, "in Redis", async |event| {
        hot_copy(cluster, event).0
    })
    .await;
    until_all(supplier, "in the original's key", async |event| {
        hot_copy(cluster, event).1
    })
    .await;
    until_all(supplier, "over REST", async |event| {
        rest_version(odds, event).await
    })
    .await;
    for (number, versions) in &sent {
        let event = SteadySupplier::event(*number);
        let stored = database.versions(&event);
        assert!(
            stored == *versions,
            "{event}: {} versions sent, {} rows",
            versions.len(),
            stored.len()
        );
    }
    let rows = "SELECT count(*) AS number FROM odds_history";
    assert_eq!(
        database.number(rows),
        sent.values().map(Vec::len).sum::<usize>() as i64,
        "the history"
    );
    let disorder =
        "SELECT count(*) AS number FROM (SELECT version, lag(version) OVER (PARTITION BY event_id ORDER BY id)
        AS before FROM odds_history) AS rows WHERE version <= before";
    assert_eq!(
        database.number(disorder),
        0,
        "rows that were written after a later one"
    );
}

/// A group's committed offsets.
pub fn positions(cluster: &Cluster, group: &str) -> Positions {
    crate::support::positions(cluster.folder.sandbox(), group)
}

/// The CPU time a process has used so far, in seconds.
pub fn cpu_seconds(process: &ServerProcess) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Prints the CPU use of an idle process.
pub async fn print_idle(name: &str, process: &ServerProcess) {
    let before = cpu_seconds(process);
    let began = std::time::Instant::now();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let used = (cpu_seconds(process) - before) / began.elapsed().as_secs_f64();
    println!(
        "{name}: {:.1} % of a core while nothing happens",
        used * 100.0
    );
}

/// Panics if the log has more lines than this, or contains a panic.
pub fn assert_quiet_log(name: &str, process: &ServerProcess, most: usize) {
    let log = process.log();
    let lines = log.lines().count();
    println!("{name}: {lines} lines of log");
    assert!(
        lines <= most && !log.contains("panicked"),
        "{name}: {lines} lines:\n{log}"
    );
}
