//! Repeated SIGKILL of the processor while it receives 1,000 updates per second.

use std::time::{Duration, Instant};

use super::outcome::{assert_quiet_log, print_idle, until_everywhere};
use super::witness::{Witness, poll_rest};
use crate::support::{Cluster, Database, PATIENT};

const KILLS: usize = 20;

/// A processor that is killed 20 times loses nothing and repeats nothing, and sequence numbers
/// never decrease.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn processor_kills_lose_nothing() {
    // The partitions of a killed member are reassigned after this time. With a shorter one, a busy
    // machine would also lose live members.
    let cluster = Cluster::new(
        20,
        &[&PATIENT[..], &[("KAFKA_SESSION_TIMEOUT", "2s")]].concat(),
    )
    .await;
    let mut processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let ingest = cluster.start("ingest").await;
    let witness = Witness::of(odds.odds(), &cluster.supplier).await;
    let rest = poll_rest(odds.odds(), &cluster.supplier);
    let database = Database::of_cluster(&cluster);
    let began = Instant::now();
    witness.until_more(&cluster.supplier, 500).await;
    for kill in 0..KILLS {
        // The three kinds of kill: under normal load; while the database is blocked and the live
        // path goes on; at an arbitrary point of the startup.
        let lock = (kill % 3 == 1).then(|| database.lock());
        if kill % 3 == 2 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..1_500))).await;
        } else {
            witness
                .until_more(&cluster.supplier, 1 + fastrand::usize(..400))
                .await;
        }
        if lock.is_some() {
            // Completed work is committed by now.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        processor.kill().await;
        drop(lock);
        processor = cluster.start_at_once("processor").await;
    }
    witness.until_more(&cluster.supplier, 500).await;
    let took = began.elapsed();
    cluster.supplier.send_at(0);
    let stopped = Instant::now();
    witness.until_last(&cluster.supplier).await;
    until_everywhere(&cluster, &database, odds.odds()).await;
    let sent = cluster.supplier.sent();
    let after = stopped.elapsed();
    let rate = sent as f64 / took.as_secs_f64();
    println!(
        "{KILLS} kills and {sent} updates in {took:.1?}, {rate:.0} a second; all is done after {after:.1?}"
    );
    {
        let seen = witness.seen();
        println!(
            "{} updates received, {} conflated, longest silence {:.1?}",
            seen.updates, seen.conflated, seen.silence
        );
    }
    assert!(!rest.is_finished(), "{:?}", rest.await);
    rest.abort();
    for (name, process) in [
        ("odds", &odds),
        ("processor", &processor),
        ("ingest", &ingest),
    ] {
        print_idle(name, process).await;
        assert_quiet_log(name, process, 100);
    }
}
