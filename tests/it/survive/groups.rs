//! Several processors and several odds processes: partitions move, and all clients receive the same
//! data.

use std::collections::BTreeMap;

use super::outcome::{assert_quiet_log, hot_copy, until_everywhere};
use super::witness::Witness;
use crate::support::{Cluster, Database, PATIENT, ServerProcess, until};

/// Waits until a processor has stored and published something.
async fn until_works(process: &ServerProcess) {
    for name in [
        "odds_proc_messages_consumed_total",
        "odds_proc_updates_applied_total",
    ] {
        let now = process.metric("processor", name).await.unwrap();
        until(name, async || {
            process
                .metric("processor", name)
                .await
                .filter(|count| *count > now)
        })
        .await;
    }
}

/// While partitions move between processors, nothing is lost, duplicated or reordered.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn rebalances_lose_and_reorder_nothing() {
    let cluster = Cluster::new(20, &PATIENT).await;
    let mut first = cluster.start("processor").await;
    let mut second = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let _ingest = cluster.start("ingest").await;
    let witness = Witness::of(odds.odds(), &cluster.supplier).await;
    let moves = async |what: &str| {
        let took = witness.until_every_event_moves(&cluster.supplier).await;
        println!("{what}: every event is published again after {took:.1?}");
    };
    moves("at first").await;
    until_works(&first).await;
    until_works(&second).await;
    moves("two processors").await;

    first.kill().await;
    moves("one killed").await;
    let third = cluster.start("processor").await;
    until_works(&third).await;
    until_works(&second).await;
    moves("one added").await;
    second.signal("TERM").await;
    let status = second.ended().await;
    assert!(status.success(), "{status}: {}", second.log());
    moves("one stopped").await;
    let fourth = cluster.start("processor").await;
    until_works(&fourth).await;
    moves("one added again").await;

    cluster.supplier.send_at(0);
    witness.until_last(&cluster.supplier).await;
    until_everywhere(&cluster, &Database::of_cluster(&cluster), odds.odds()).await;
    for (name, process) in [("second", &second), ("third", &third), ("fourth", &fourth)] {
        assert_quiet_log(name, process, 100);
    }
    for process in [&third, &fourth] {
        let page = process.metrics("processor").await;
        let is_counter = |line: &&str| {
            line.starts_with("odds_proc_updates_")
                || line.starts_with("odds_proc_messages_consumed")
        };
        println!(
            "{}",
            page.lines()
                .filter(is_counter)
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
    let seen = witness.seen();
    println!(
        "{} updates received, {} conflated, longest silence {:.1?}",
        seen.updates, seen.conflated, seen.silence
    );
}

/// Panics if the two clients know different numbers of one change. Returns how many changes both
/// know.
fn assert_same(one: &BTreeMap<(String, i64), u64>, other: &BTreeMap<(String, i64), u64>) -> usize {
    let both = one
        .iter()
        .filter_map(|(change, number)| Some((change, number, other.get(change)?)));
    let both: Vec<_> = both.collect();
    for (change, one, other) in &both {
        assert_eq!(one, other, "{change:?} has two numbers");
    }
    both.len()
}

/// Every client of every odds process receives the same sequence number for the same change.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn seq_is_equal_on_all_odds_processes() {
    let cluster = Cluster::new(20, &PATIENT).await;
    let supplier = &cluster.supplier;
    let mut processor = cluster.start("processor").await;
    let mut odds = vec![cluster.start("odds").await, cluster.start("odds").await];
    let _ingest = cluster.start("ingest").await;
    let mut witnesses = Vec::new();
    for process in &odds {
        witnesses.push(Witness::of(process.odds(), supplier).await);
    }
    witnesses[1].until_more(supplier, 2_000).await;
    // Clients and an instance that join late start from a snapshot.
    witnesses.push(Witness::of(odds[0].odds(), supplier).await);
    odds.push(cluster.start("odds").await);
    witnesses.push(Witness::of(odds[2].odds(), supplier).await);
    witnesses[3].until_more(supplier, 1_000).await;
    // From here on another processor numbers the changes.
    let _second = cluster.start("processor").await;
    processor.kill().await;
    let took = witnesses[3].until_every_event_moves(supplier).await;
    println!("another processor: every event is published again after {took:.1?}");
    witnesses.push(Witness::of(odds[2].odds(), supplier).await);
    witnesses[4].until_more(supplier, 1_000).await;
    supplier.send_at(0);
    for witness in &witnesses {
        witness.until_last(supplier).await;
    }
    let database = Database::of_cluster(&cluster);
    until_everywhere(&cluster, &database, odds[2].odds()).await;

    let first = witnesses[0].seen();
    for witness in &witnesses[1..] {
        let other = witness.seen();
        let both = assert_same(&first.numbers, &other.numbers);
        println!(
            "{both} changes of {} and {} have the same number",
            first.numbers.len(),
            other.numbers.len()
        );
        // Enough to compare. A client that lags on a busy machine receives conflated changes.
        assert!(both > 100, "{both}");
        assert_eq!(first.last, other.last);
    }
    for event in supplier.events() {
        let stored = format!("SELECT seq AS number FROM odds_current WHERE event_id = '{event}'");
        let (published, _) = first.last[&event];
        assert_eq!(
            (
                hot_copy(&cluster, &event).2,
                database.number(&stored) as u64
            ),
            (published, published),
            "{event}"
        );
    }
}
