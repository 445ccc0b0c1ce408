//! SIGTERM under load: every role stops gracefully and in time, even if an engine is down.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::outcome::{assert_quiet_log, hot_copy, positions, until_everywhere};
use super::witness::{Witness, until_all};
use crate::support::{
    Cluster, Database, PATIENT, Positions, PrivateEngine, ServerProcess, records, until,
};

const IN_TIME: Duration = Duration::from_secs(10);

/// Stops a process, which must exit successfully and in time.
async fn stop(name: &str, process: &mut ServerProcess) {
    process.signal("TERM").await;
    assert_clean_exit(name, process).await;
}

async fn assert_clean_exit(name: &str, process: &mut ServerProcess) {
    let began = Instant::now();
    let status = process.ended().await;
    println!("{name} ends with {status} after {:.1?}", began.elapsed());
    assert!(status.success(), "{name}: {status}: {}", process.log());
    assert!(began.elapsed() < IN_TIME, "{name}: {}", process.log());
    assert_quiet_log(name, process, 100);
}

/// Asserts that the groups have committed exactly the records that are processed. Returns how many
/// records the store group has left.
fn assert_committed_is_done(cluster: &Cluster, database: &Database) -> i64 {
    let sandbox = cluster.folder.sandbox();
    let stored = positions(cluster, sandbox.store_group());
    let published = positions(cluster, sandbox.live_group());
    // An update resent on a new connection is one more record, but not one more history row.
    let mut rows = HashSet::new();
    let mut last: HashMap<String, i64> = HashMap::new();
    for record in records(
        sandbox.value("KAFKA_BROKERS").unwrap(),
        sandbox.value("KAFKA_TOPIC_ODDS").unwrap(),
    ) {
        let update: serde_json::Value = serde_json::from_slice(&record.record.payload).unwrap();
        let event = update["event_id"].as_str().unwrap().to_owned();
        let version = update["version"].as_i64().unwrap();
        let is_before =
            |group: &Positions| (record.offset as i64) < group[&(record.partition as i32)].0;
        if is_before(&published) {
            last.insert(event.clone(), version);
        }
        if is_before(&stored) {
            rows.insert((event, version));
        }
    }
    let history = database.number("SELECT count(*) AS number FROM odds_history");
    assert_eq!(
        rows.len() as i64,
        history,
        "the store group's positions and the history"
    );
    for event in cluster.supplier.events() {
        let done = last.get(&event).copied().unwrap_or_default();
        assert_eq!(
            hot_copy(cluster, &event).0,
            done,
            "the live group's position and the hot copy of {event}"
        );
    }
    stored.values().map(|(next, end)| end - next).sum()
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn sigterm_under_load_leaves_nothing_half_done() {
    let cluster = Cluster::new(20, &PATIENT).await;
    let supplier = &cluster.supplier;
    let mut processor = cluster.start("processor").await;
    let mut odds = cluster.start("odds").await;
    let mut ingest = cluster.start("ingest").await;
    let database = Database::of_cluster(&cluster);
    let witness = Witness::of(odds.odds(), supplier).await;
    witness.until_more(supplier, 2_000).await;

    stop("processor", &mut processor).await;
    assert_committed_is_done(&cluster, &database);
    let done: i64 = positions(&cluster, cluster.folder.sandbox().store_group())
        .values()
        .map(|(next, _)| next)
        .sum();
    let mut processor = cluster.start("processor").await;
    witness.until_more(supplier, 1_000).await;

    stop("odds", &mut odds).await;
    let (code, seen) = witness.close_code().await;
    assert_eq!(code, Some(1001));
    println!(
        "{} updates received, {} conflated, longest silence {:.1?}",
        seen.updates, seen.conflated, seen.silence
    );
    let mut odds = cluster.start("odds").await;
    let witness = Witness::of(odds.odds(), supplier).await;
    witness.until_more(supplier, 1_000).await;

    // Nothing is lost so far, and the second processor has read exactly the records that the first
    // had not processed.
    supplier.send_at(0);
    witness.until_last(supplier).await;
    until_everywhere(&cluster, &database, odds.odds()).await;
    let read = processor
        .metric("processor", "odds_proc_messages_consumed_total")
        .await
        .unwrap();
    assert_eq!(
        read as i64,
        supplier.sent() as i64 - done,
        "records read by the second processor"
    );

    witness.until_more(supplier, 1_000).await;
    stop("ingest", &mut ingest).await;
    let mut ingest = cluster.start("ingest").await;
    witness.until_more(supplier, 1_000).await;

    // All processes at once.
    for process in [&ingest, &processor, &odds] {
        process.signal("TERM").await;
    }
    for (name, process) in [
        ("ingest", &mut ingest),
        ("processor", &mut processor),
        ("odds", &mut odds),
    ] {
        assert_clean_exit(name, process).await;
    }
    assert_eq!(witness.close_code().await.0, Some(1001));
    let left = assert_committed_is_done(&cluster, &database);
    println!("{left} records remain on the bus");

    let _processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let _ingest = cluster.start("ingest").await;
    let witness = Witness::of(odds.odds(), supplier).await;
    witness.until_more(supplier, 500).await;
    supplier.send_at(0);
    witness.until_last(supplier).await;
    // Of each ingest connection a prefix without gaps was accepted, and of the last connection
    // everything.
    until_all(supplier, "in the history", async |event| {
        database.versions(event).last().copied().unwrap_or(0)
    })
    .await;
    assert_eq!(supplier.connections(), 3);
    for event in supplier.events() {
        let versions = database.versions(&event);
        let gaps: Vec<_> = versions
            .windows(2)
            .filter(|pair| pair[1] != pair[0] + 1)
            .collect();
        assert!(
            gaps.len() <= 2 && gaps.iter().all(|pair| pair[1] > pair[0]),
            "{event}: {gaps:?}"
        );
    }
}

/// Stops the processor while an engine is down; nothing may be lost.
async fn stops_without(kind: &'static str, stage: &str) {
    let engine = PrivateEngine::up(kind).await;
    let cluster = Cluster::new(20, &[&PATIENT[..], &engine.variables()].concat()).await;
    let supplier = &cluster.supplier;
    let mut processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let _ingest = cluster.start("ingest").await;
    let witness = Witness::of(odds.odds(), supplier).await;
    witness.until_more(supplier, 1_000).await;
    engine.kill().await;
    let failures = format!("odds_proc_errors_total{{stage=\"{stage}\"}}");
    until(&failures, async || {
        processor
            .metric("processor", &failures)
            .await
            .filter(|count| *count > 0.0)
    })
    .await;
    stop("processor", &mut processor).await;
    // A processor that starts during the outage waits for the engine, and can be stopped as well.
    let mut second = cluster.start_at_once("processor").await;
    supplier.until_sent(1_000).await;
    stop("the second", &mut second).await;
    engine.start().await;
    let _third = cluster.start("processor").await;
    supplier.send_at(0);
    witness.until_last(supplier).await;
    until_everywhere(&cluster, &Database::of_cluster(&cluster), odds.odds()).await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn processor_stops_cleanly_without_database() {
    stops_without("postgres", "store").await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn processor_stops_cleanly_without_cache() {
    stops_without("redis", "cache").await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn processor_stops_cleanly_with_hanging_database() {
    let cluster = Cluster::new(20, &PATIENT).await;
    let supplier = &cluster.supplier;
    let mut processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let _ingest = cluster.start("ingest").await;
    let database = Database::of_cluster(&cluster);
    let witness = Witness::of(odds.odds(), supplier).await;
    witness.until_more(supplier, 1_000).await;
    let lock = database.lock();
    let lag = cluster.folder.sandbox().store_lag();
    // The batch in progress waits for the lock longer than the stop may take.
    until(&lag, async || {
        processor
            .metric("processor", &lag)
            .await
            .filter(|lag| *lag > 100.0)
    })
    .await;
    processor.signal("TERM").await;
    let began = Instant::now();
    let status = processor.ended().await;
    println!("ends with {status} after {:.1?}", began.elapsed());
    assert!(status.success(), "{status}: {}", processor.log());
    assert!(began.elapsed() < IN_TIME);
    drop(lock);
    let _second = cluster.start("processor").await;
    supplier.send_at(0);
    witness.until_last(supplier).await;
    until_everywhere(&cluster, &database, odds.odds()).await;
}
