//! Failover between the sources of a market, with two processors of which one is killed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::{Cluster, OddsTopic, ServerProcess, get_json, original_frame, until};

const EVENTS: usize = 16;

/// Reports the states of the sources a and b, as an `ingest` does, until it is dropped.
struct Reporter {
    first: Arc<Mutex<&'static str>>,
    task: tokio::task::JoinHandle<()>,
}

impl Reporter {
    fn start(cluster: &Cluster) -> Reporter {
        let topic = OddsTopic::existing(&cluster.folder, "KAFKA_TOPIC_SOURCE_STATUS");
        let first = Arc::new(Mutex::new("live"));
        let current = first.clone();
        let task = actix_web::rt::spawn(async move {
            loop {
                let state = *current.lock();
                let reports = [("a", state), ("b", "live")].map(|(source, state)| {
                    let report = json!({"source": source, "reporter": "test", "state": state, "at": "2026-01-01T00:00:00Z"});
                    (format!("{source}/test").into(), report.to_string().into())
                });
                topic.publish(reports.into()).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Reporter { first, task }
    }

    fn report_first(&self, state: &'static str) {
        *self.first.lock() = state;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Publishes this version of every event.
async fn publish(topic: &OddsTopic, source: &str, version: i64) {
    let records = (0..EVENTS).map(|event| {
        let event = format!("E{event}");
        let at = format!("2026-01-01T00:00:{version:02}Z");
        let frame = original_frame(&event, &at, version).replace("test-supplier", source);
        (event.into_bytes(), frame.into_bytes())
    });
    topic.publish(records.collect()).await;
}

/// Waits until every event is shown as open, in this version.
async fn until_shown(odds: &ServerProcess, source: &str, version: i64) {
    until_shown_as(odds, source, version, "open").await;
}

async fn until_shown_as(odds: &ServerProcess, source: &str, version: i64, status: &str) {
    for event in 0..EVENTS {
        let url = format!("http://{}/v1/events/E{event}/odds", odds.odds());
        until(
            &format!("{source} {version} {status} of E{event}"),
            || async {
                let (_, odds) = get_json(&url).await;
                let odds: &Value = &odds[0];
                let is_shown = odds["source"] == source && odds["version"] == version;
                (is_shown && odds["status"] == status).then_some(())
            },
        )
        .await;
    }
}

/// A processor that takes over partitions knows the owner of each market from the database, and what
/// the other sources sent from the bus.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn killed_processor_leaves_failover_to_another() {
    let variables = [
        ("SUPPLIER_PRIORITY", "a,b"),
        ("FAILOVER_MAX_AGE", "2m"),
        ("FAILBACK_AFTER", "1s"),
    ];
    let cluster = Cluster::new(1, &variables).await;
    let mut killed = cluster.start("processor").await;
    let _other = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let updates = OddsTopic::existing(&cluster.folder, "KAFKA_TOPIC_SUPPLIERS");
    let reporter = Reporter::start(&cluster);
    publish(&updates, "a", 1).await;
    until_shown(&odds, "a", 1).await;
    publish(&updates, "b", 2).await;
    publish(&updates, "a", 3).await;
    until_shown(&odds, "a", 3).await;
    let group = cluster.folder.sandbox().value("KAFKA_GROUP_SELECTOR");
    updates.until_done(group.unwrap()).await;

    killed.kill().await;
    reporter.report_first("stale");
    // The source b sends nothing more.
    until_shown(&odds, "b", 2).await;
    publish(&updates, "b", 4).await;
    until_shown(&odds, "b", 4).await;

    reporter.report_first("live");
    publish(&updates, "a", 5).await;
    until_shown(&odds, "a", 5).await;
}

/// The reports about all sources do not arrive for a while, and no source sends anything: the
/// markets are suspended by those who show them, and as before afterwards.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn interrupted_reports_leave_quiet_markets_alone() {
    let cluster = Cluster::new(1, &[("SUPPLIER_PRIORITY", "a,b")]).await;
    let _processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let updates = OddsTopic::existing(&cluster.folder, "KAFKA_TOPIC_SUPPLIERS");
    let reporter = Reporter::start(&cluster);
    publish(&updates, "a", 1).await;
    publish(&updates, "b", 2).await;
    until_shown(&odds, "a", 1).await;
    drop(reporter);
    until_shown_as(&odds, "a", 1, "suspended").await;
    let _reporter = Reporter::start(&cluster);
    until_shown(&odds, "a", 1).await;
}
