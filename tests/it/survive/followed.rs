//! Processes that read the odds topic themselves, while no processor runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::outcome::{assert_quiet_log, hot_copy, until_everywhere};
use super::witness::{Witness, rest_version, until_all};
use crate::support::{Cluster, Database, PATIENT, get_json, until, within};

/// The number that REST shows of each event.
async fn numbers(cluster: &Cluster, odds: SocketAddr) -> BTreeMap<String, u64> {
    let mut numbers = BTreeMap::new();
    for event in cluster.supplier.events() {
        let (_, odds) = get_json(&format!("http://{odds}/v1/events/{event}/odds")).await;
        numbers.insert(event, odds[0]["seq"].as_u64().unwrap());
    }
    numbers
}

/// Waits until each event is shown without the mark of stale prices. No such answer is older than
/// `shown`.
async fn until_fresh(odds: SocketAddr, shown: BTreeMap<String, u64>) {
    let mut stale: BTreeSet<_> = shown.keys().collect();
    while !stale.is_empty() {
        for (event, shown) in &shown {
            let (status, odds) = get_json(&format!("http://{odds}/v1/events/{event}/odds")).await;
            if status != 200 || odds[0]["stale"] == true {
                continue;
            }
            let number = odds[0]["seq"].as_u64().unwrap();
            assert!(number >= *shown, "{event}: {number} after {shown}");
            stale.remove(event);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Prices arrive while the processor is dead. A process that is killed meanwhile shows nothing older
/// when it is back, and the processor gives the changes the same numbers later.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn prices_arrive_without_a_processor() {
    let cluster = Cluster::new(10, &PATIENT).await;
    let mut processor = cluster.start("processor").await;
    let first = cluster.start("odds").await;
    let mut second = cluster.start("odds").await;
    let ingest = cluster.start("ingest").await;
    let witness = Witness::of(first.odds(), &cluster.supplier).await;
    witness.until_more(&cluster.supplier, 500).await;
    // Without a processor its stored markets cannot be checked, and the source stays recovering.
    until("the source is live", || async {
        let live = "odds_ingest_sources{state=\"live\"}";
        let live = ingest.metric("ingest", live).await;
        live.filter(|count| *count == 1.0)
    })
    .await;
    processor.kill().await;
    witness.until_more(&cluster.supplier, 1_000).await;
    second.kill().await;
    witness.until_more(&cluster.supplier, 1_000).await;
    cluster.supplier.send_at(0);
    witness.until_last(&cluster.supplier).await;
    let event = cluster.supplier.events().next().unwrap();
    let (cached, _, _) = hot_copy(&cluster, &event);
    assert!(cached < cluster.supplier.last()[0], "the cache lags");
    let shown = numbers(&cluster, first.odds()).await;
    let second = cluster.start_at_once("odds").await;
    let fresh = tokio::spawn(until_fresh(second.odds(), shown.clone()));
    until_all(&cluster.supplier, "shown after a restart", async |event| {
        rest_version(second.odds(), event).await
    })
    .await;
    assert_eq!(numbers(&cluster, second.odds()).await, shown);

    let processor = cluster.start("processor").await;
    first.until_ready().await;
    second.until_ready().await;
    within("fresh prices", fresh).await.unwrap();
    let database = Database::of_cluster(&cluster);
    until_everywhere(&cluster, &database, first.odds()).await;
    for odds in [&first, &second] {
        assert_eq!(numbers(&cluster, odds.odds()).await, shown);
    }
    for (event, number) in shown {
        assert_eq!(hot_copy(&cluster, &event).2, number);
    }
    drop(witness.seen());
    for (name, process) in [("odds", &first), ("odds", &second), ("ingest", &ingest)] {
        assert_quiet_log(name, process, 100);
    }
    drop(processor);
}
