//! Kafka outage under load: the supplier is blocked, none of its updates is lost, and no old price
//! is shown as new.

use std::time::{Duration, Instant};

use super::outage::{
    self, Costs, Follower, OUTAGE, eventually, fall_silent, readiness, until_down, until_stored,
    until_up,
};
use crate::support::{Cluster, Database, PrivateEngine, SteadySupplier, get_json};

const EVENTS: usize = 20;

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn stopped_kafka_blocks_supplier_without_loss() {
    away(false).await;
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn killed_kafka_blocks_supplier_without_loss() {
    away(true).await;
}

async fn away(is_killed: bool) {
    let kafka = PrivateEngine::up("kafka").await;
    let cluster = outage::cluster(EVENTS, &kafka.variables()).await;
    let database = Database::of(&cluster.folder);
    let processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let ingest = cluster.start("ingest").await;
    let events: Vec<String> = cluster.supplier.events().collect();
    cluster.supplier.send_at(300);
    let follower = Follower::of(odds.odds(), events.clone()).await;
    follower.until_received(&events, 5).await;

    let costs = Costs::of(&[
        ("ingest", &ingest),
        ("processor", &processor),
        ("odds", &odds),
    ]);
    if is_killed {
        kafka.kill().await
    } else {
        kafka.stop().await
    }
    let since = Instant::now();
    eprintln!("readiness: {}", until_down(&ingest, "ingest", "bus").await);
    eprintln!(
        "readiness: {}",
        until_down(&processor, "processor", "bus").await
    );
    let sent = cluster.supplier.sent();
    // The processor believes that it has left its group, and reads nothing until it has rejoined.
    eprintln!(
        "readiness: {}",
        until_down(&processor, "processor", "live group").await
    );
    // No processor follows the bus, so prices may be old: they are marked stale and still served.
    eprintln!("readiness: {}", until_down(&odds, "odds", "feed").await);
    let newcomer = Follower::of(odds.odds(), events.clone()).await;
    newcomer.until_at(&[1; EVENTS]).await;
    while since.elapsed() < OUTAGE {
        let (status, shown) = get_json(&format!(
            "http://{}/v1/events/{}/odds",
            odds.odds(),
            events[0]
        ))
        .await;
        assert_eq!((status, &shown[0]["stale"]), (200, &true.into()), "{shown}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let buffered = cluster.supplier.sent() - sent;
    let connections = cluster.supplier.connections();
    eprintln!(
        "while Kafka was away the supplier sent {buffered} updates, over {connections} connections so far"
    );
    costs.report("Kafka away").await;

    let known: Vec<i64> = events.iter().map(|event| follower.last(event).1).collect();
    kafka.start().await;
    let back = Instant::now();
    // Prices must not count as fresh before the processor reads again.
    let asking = until_up(&odds, "odds");
    if tokio::time::timeout(Duration::from_secs(80), asking)
        .await
        .is_err()
    {
        let of_odds = readiness(&odds, "odds").await;
        let of_processor = readiness(&processor, "processor").await;
        panic!(
            "{of_odds:?}, {of_processor:?}\n{}\n{}",
            odds.log(),
            processor.log()
        );
    }
    let (_, body) = readiness(&processor, "processor").await;
    assert!(
        !body.contains("live group"),
        "odds became ready after {:?}: {body}",
        back.elapsed()
    );
    eprintln!(
        "prices count as fresh {:?} after Kafka is back",
        back.elapsed()
    );
    eventually("new prices", async || {
        events
            .iter()
            .zip(&known)
            .all(|(event, known)| follower.last(event).1 > *known)
            .then_some(())
    })
    .await;
    eprintln!(
        "new prices of every event {:?} after Kafka is back",
        back.elapsed()
    );
    until_up(&ingest, "ingest").await;
    until_up(&processor, "processor").await;
    eprintln!(
        "all roles are ready {:?} after Kafka is back",
        back.elapsed()
    );
    follower.until_received(&events, 20).await;
    newcomer.check();
    let last = fall_silent(&cluster, &follower).await;
    eprintln!("over {} connections", cluster.supplier.connections());
    if cluster.supplier.connections() == 1 {
        until_stored(&database, &last).await;
    } else {
        stored_since_it_reconnected(&cluster, &database, &last).await;
    }
    costs.report("Kafka back").await;
}

/// All updates sent over the supplier's last connection are in the history, and the history has no
/// duplicates.
async fn stored_since_it_reconnected(cluster: &Cluster, database: &Database, last: &[i64]) {
    let sent = cluster.supplier.sent_last();
    for (number, last) in last.iter().enumerate() {
        let event = SteadySupplier::event(number);
        eventually(&format!("version {last} of {event}"), async || {
            (database.versions(&event).last() == Some(last)).then_some(())
        })
        .await;
        let versions = database.versions(&event);
        assert!(
            versions.windows(2).all(|pair| pair[0] < pair[1]),
            "{event}: {versions:?}"
        );
        let missing: Vec<_> = sent
            .iter()
            .filter(|one| one.0 == number && versions.binary_search(&one.1).is_err())
            .collect();
        assert!(
            missing.is_empty(),
            "{event}: sent after reconnecting and lost: {missing:?}"
        );
    }
}
