//! The topic is deleted and recreated, and Redis is flushed, while everything runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::admin::AdminOptions;

use super::outage::{self, Follower, eventually, fall_silent};
use crate::support::{Cluster, Database, ServerProcess, SteadySupplier, get_json, kafka_admin};

const EVENTS: usize = 20;

/// Sequence numbers do not decrease when the topic is recreated and Redis is flushed.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn seq_survives_topic_recreation_and_flush() {
    recreate_while_running(1).await;
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn seq_survives_with_two_processors() {
    recreate_while_running(2).await;
}

async fn recreate_while_running(processors: usize) {
    let cluster = outage::cluster(EVENTS, &[]).await;
    let database = Database::of(&cluster.folder);
    let events: Vec<String> = cluster.supplier.events().collect();
    let mut running = start(&cluster, processors).await;
    cluster.supplier.send_at(400);
    let broadcasts = Broadcasts::of(&cluster);
    let stayed = Follower::of(running[0].odds(), events.clone()).await;
    stayed.until_received(&events, 30).await;
    // Both orders of flushing and deleting are tested.
    for round in 0..2 {
        // A single processor is the only one that knows the last published numbers: the store lags,
        // and the contents of Redis will be gone.
        let lock = (processors == 1).then(|| database.lock());
        if lock.is_some() {
            stayed.until_received(&events, 20).await;
        }
        let before: Vec<_> = events.iter().map(|event| stayed.last(event)).collect();
        let since = Instant::now();
        if round == 0 {
            delete_topic(&cluster).await;
            flush(&cluster);
        } else {
            flush(&cluster);
            delete_topic(&cluster).await;
        }
        eprintln!(
            "round {round}: deleted and flushed in {:?}",
            since.elapsed()
        );
        stayed.until_received(&events, 20).await;
        eprintln!(
            "round {round}: prices of every event flow {:?} after the topic was deleted",
            since.elapsed()
        );
        drop(lock);
        check_new(&cluster, &running[0], &before, &stayed).await;
    }
    let last = fall_silent(&cluster, &stayed).await;
    broadcasts.check();
    let lost = until_followed(&database, &last).await;
    eprintln!(
        "{lost} of {} versions were lost with the old topics",
        last.iter().sum::<i64>()
    );

    let before: Vec<_> = events.iter().map(|event| stayed.last(event)).collect();
    stayed.check();
    drop(stayed);
    for process in &mut running {
        process.signal("TERM").await;
        assert!(process.ended().await.success());
    }
    let running = start(&cluster, processors).await;
    let after = Follower::of(running[0].odds(), events.clone()).await;
    after.until_at(&last).await;
    for (event, (seq, _)) in events.iter().zip(&before) {
        assert!(
            after.last(event).0 >= *seq,
            "{event}: {seq} before the restart, then {:?}",
            after.last(event)
        );
    }
    cluster.supplier.send_at(400);
    after.until_received(&events, 20).await;
    check_new(&cluster, &running[0], &before, &after).await;
    let last = fall_silent(&cluster, &after).await;
    assert_eq!(
        until_followed(&database, &last).await,
        lost,
        "no more versions are lost"
    );
    broadcasts.check();
}

/// Starts `odds`, then the processors, then `ingest`, without waiting for any of them.
async fn start(cluster: &Cluster, processors: usize) -> Vec<ServerProcess> {
    let mut running = vec![cluster.start_at_once("odds").await];
    for _ in 0..processors {
        running.push(cluster.start_at_once("processor").await);
    }
    running.push(cluster.start_at_once("ingest").await);
    for process in &running {
        process.until_ready().await;
    }
    running
}

async fn delete_topic(cluster: &Cluster) {
    let sandbox = cluster.folder.sandbox();
    let topic = sandbox.value("KAFKA_TOPIC_ODDS").unwrap();
    let admin = kafka_admin(sandbox.value("KAFKA_BROKERS").unwrap());
    let deleted = admin
        .delete_topics(&[topic], &AdminOptions::new())
        .await
        .unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

fn flush(cluster: &Cluster) {
    let url = cluster.folder.sandbox().value("REDIS_URL").unwrap();
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let () = redis::cmd("FLUSHDB").query(&mut connection).unwrap();
}

/// A new WebSocket client, REST and a process that starts now must not show a seq or version below
/// those published before.
async fn check_new(
    cluster: &Cluster,
    odds: &ServerProcess,
    before: &[(u64, i64)],
    stayed: &Follower,
) {
    let events: Vec<String> = cluster.supplier.events().collect();
    let fresh = cluster.start("odds").await;
    for process in [odds, &fresh] {
        let newcomer = Follower::of(process.odds(), events.clone()).await;
        newcomer.until_received(&events, 2).await;
        for (event, (seq, version)) in events.iter().zip(before) {
            let (status, odds) =
                get_json(&format!("http://{}/v1/events/{event}/odds", process.odds())).await;
            assert_eq!(status, 200, "{odds}");
            let now = (
                odds[0]["seq"].as_u64().unwrap(),
                odds[0]["version"].as_i64().unwrap(),
            );
            assert!(
                now.0 >= *seq && now.1 >= *version,
                "{event}: ({seq}, {version}) before, {now:?} by REST"
            );
            let now = newcomer.last(event);
            assert!(
                now.0 >= *seq && now.1 >= *version,
                "{event}: ({seq}, {version}) before, {now:?} over WebSocket"
            );
        }
    }
    stayed.check();
}

/// Waits until the history of each event ends at the last version; returns how many versions are
/// missing.
async fn until_followed(database: &Database, last: &[i64]) -> i64 {
    let mut missing = 0;
    for (number, last) in last.iter().enumerate() {
        let event = SteadySupplier::event(number);
        let versions = eventually(&format!("version {last} of {event}"), async || {
            let versions = database.versions(&event);
            (versions.last() == Some(last)).then_some(versions)
        })
        .await;
        assert!(
            versions.windows(2).all(|pair| pair[0] < pair[1]),
            "{event}: {versions:?}"
        );
        missing += last - versions.len() as i64;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    missing
}

/// The broadcasts between the processes, with the sequence numbers that every odds instance shows.
struct Broadcasts {
    observed: Arc<Mutex<Observed>>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Observed {
    count: usize,
    last: HashMap<String, u64>,
    faults: Vec<String>,
}

impl Broadcasts {
    fn of(cluster: &Cluster) -> Broadcasts {
        let sandbox = cluster.folder.sandbox();
        let client = redis::Client::open(sandbox.value("REDIS_URL").unwrap()).unwrap();
        let channel = sandbox.value("REDIS_PUBSUB_CHANNEL").unwrap().to_owned();
        let broadcasts = Broadcasts {
            observed: Arc::default(),
            stop: Arc::default(),
        };
        let observed = broadcasts.observed.clone();
        let stop = broadcasts.stop.clone();
        let mut connection = client.get_connection().unwrap();
        std::thread::spawn(move || {
            connection
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let mut listening = connection.as_pubsub();
            listening.subscribe(&channel).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let Ok(message) = listening.get_message() else {
                    continue;
                };
                observed
                    .lock()
                    .unwrap()
                    .take(&serde_json::from_slice(message.get_payload_bytes()).unwrap());
            }
        });
        broadcasts
    }

    /// Panics if a published seq was not larger than the one before.
    fn check(&self) {
        let observed = self.observed.lock().unwrap();
        assert!(observed.count > 0);
        assert!(
            observed.faults.is_empty(),
            "{} faults, the first: {}",
            observed.faults.len(),
            observed.faults[0]
        );
    }
}

impl Observed {
    fn take(&mut self, message: &serde_json::Value) {
        self.count += 1;
        let event = message["eventId"].as_str().unwrap().to_owned();
        let seq = message["seq"].as_u64().unwrap();
        let last = self.last.entry(event).or_default();
        // A known change may be published again; an older seq must not.
        if seq < *last {
            self.faults.push(format!("seq {last}, then {message}"));
        }
        *last = seq;
    }
}

impl Drop for Broadcasts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
