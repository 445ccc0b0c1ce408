//! The relay with topics that are unavailable, stall, or reject records.

use std::sync::Mutex;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pretty_assertions::assert_eq;
use rstest::rstest;

use super::*;
use crate::actors::testing::money::FakeMoney;
use crate::bus::{NewRecord, Subscription};
use crate::telemetry::metrics::ConfirmationMetrics;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

/// How a probe topic treats records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TopicBehaviour {
    Takes,
    /// Stalls, as Kafka topics do during an outage.
    Waits,
    /// Returns `Unavailable`.
    Away,
    /// Rejects batches with a record that contains this text.
    Refuses(&'static str),
}

struct ProbeTopic {
    behaviour: watch::Sender<TopicBehaviour>,
    /// Accepted batches, in order.
    taken: Arc<Mutex<Vec<Vec<NewRecord>>>>,
}

impl ProbeTopic {
    fn new(behaviour: TopicBehaviour) -> Arc<ProbeTopic> {
        Arc::new(ProbeTopic {
            behaviour: watch::Sender::new(behaviour),
            taken: Arc::default(),
        })
    }

    fn payloads(&self) -> Vec<Vec<String>> {
        let text = |record: &NewRecord| String::from_utf8(record.payload.to_vec()).unwrap();
        self.taken
            .lock()
            .unwrap()
            .iter()
            .map(|batch| batch.iter().map(text).collect())
            .collect()
    }
}

impl Topic for ProbeTopic {
    fn name(&self) -> &str {
        "probe"
    }

    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        let mut behaviour = self.behaviour.subscribe();
        let taken = self.taken.clone();
        async move {
            let behaviour = *behaviour
                .wait_for(|behaviour| *behaviour != TopicBehaviour::Waits)
                .await
                .unwrap();
            let refuses = |record: &NewRecord, word: &str| {
                String::from_utf8_lossy(&record.payload).contains(word)
            };
            match behaviour {
                TopicBehaviour::Away => return Err(BusError::Unavailable("away".to_owned())),
                TopicBehaviour::Refuses(word)
                    if records.iter().any(|record| refuses(record, word)) =>
                {
                    return Err(BusError::TooLarge("too large".to_owned()));
                }
                _ => taken.lock().unwrap().push(records),
            }
            Ok(())
        }
        .boxed()
    }

    fn subscribe(&self, _: &str) -> Result<Box<dyn Subscription>, BusError> {
        Err(BusError::Closed)
    }

    fn depth(&self) -> usize {
        0
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        std::future::ready(Ok(())).boxed()
    }
}

struct Relayed {
    store: Arc<FakeMoney>,
    placed: Arc<ProbeTopic>,
    confirmed: Arc<ProbeTopic>,
    dead: Arc<ProbeTopic>,
    metrics: OutboxMetrics,
    clock: Clock,
    health: Arc<HealthCell>,
    relay: Addr<OutboxRelay>,
}

fn start(behaviour: TopicBehaviour) -> Relayed {
    tokio::time::pause();
    let store = Arc::new(FakeMoney::default());
    let placed = ProbeTopic::new(behaviour);
    let confirmed = ProbeTopic::new(TopicBehaviour::Takes);
    let settled = ProbeTopic::new(TopicBehaviour::Takes);
    let dead = ProbeTopic::new(TopicBehaviour::Takes);
    let clock = Clock::of_tokio();
    let metrics = ConfirmationMetrics::new().unwrap().outbox_metrics();
    let settings = RelaySettings {
        batch: 3,
        waiting: 6,
        lease: LEASE,
        drain_limit: 5 * SECOND,
    };
    let target = |topic: &Arc<ProbeTopic>| OutboxTarget {
        topic: topic.clone(),
        dead_letters: dead.clone(),
    };
    let relay = OutboxRelay::new(
        store.clone(),
        OutboxTargets {
            bet_placed: target(&placed),
            bet_confirmed: target(&confirmed),
            bet_settled: target(&settled),
        },
        settings,
        clock.clone(),
        metrics.clone(),
    );
    let health = relay.health();
    Relayed {
        store,
        placed,
        confirmed,
        dead,
        metrics,
        clock,
        health,
        relay: relay.start(),
    }
}

impl Relayed {
    /// Writes rows with a lease of this process, as after a commit.
    fn write(&self, topic: OutboxTopic, payloads: &[&str]) -> Vec<OutboxRow> {
        let until = self.clock.now().later_by(LEASE);
        payloads
            .iter()
            .map(|text| {
                self.store
                    .write_outbox(topic, text, self.clock.now(), until)
            })
            .collect()
    }

    /// Writes rows without a lease, as a dead process leaves them.
    fn leave(&self, payloads: &[&str]) {
        let now = self.clock.now();
        payloads
            .iter()
            .for_each(|text| drop(self.store.write_outbox(OutboxTopic::Placed, text, now, now)));
    }

    async fn publish(&self, rows: Vec<OutboxRow>) {
        self.relay.send(PublishOutbox(rows)).await.unwrap();
    }

    fn rows_left(&self) -> u64 {
        self.store.outbox_depth().unwrap().rows
    }

    fn failures(&self, stage: &str) -> u64 {
        self.metrics.failures.with_label_values(&[stage]).get()
    }
}

/// Committed rows are published immediately and in order, and leave the outbox.
#[actix_web::test]
async fn committed_rows_are_published_in_order() {
    let relayed = start(TopicBehaviour::Takes);
    let rows = relayed.write(OutboxTopic::Placed, &["a", "b", "c", "d"]);
    relayed.publish(rows).await;
    relayed
        .publish(relayed.write(OutboxTopic::Confirmed, &["x"]))
        .await;
    relayed.relay.send(Drain).await.unwrap();
    assert_eq!(relayed.placed.payloads(), [vec!["a", "b", "c"], vec!["d"]]);
    assert_eq!(relayed.confirmed.payloads(), [vec!["x"]]);
    let key = relayed.placed.taken.lock().unwrap()[0][0].key.clone();
    assert_eq!(key, relayed.store.key_of("a"));
    assert_eq!(relayed.rows_left(), 0);
    let published = |topic| relayed.metrics.published.with_label_values(&[topic]).get();
    assert_eq!(
        (published("bet_placed"), published("bet_confirmed")),
        (4, 1)
    );
}

/// Rows of dead processes are found, in batches if there is not enough room.
#[actix_web::test]
async fn rows_of_dead_process_are_published() {
    let relayed = start(TopicBehaviour::Takes);
    relayed.leave(&["a", "b", "c", "d", "e", "f", "g", "h"]);
    let kept = relayed.write(OutboxTopic::Placed, &["from another process"]);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(
        relayed.placed.payloads().concat(),
        ["a", "b", "c", "d", "e", "f", "g", "h"]
    );
    assert_eq!(relayed.rows_left(), 1, "the row is leased");
    tokio::time::sleep(LEASE).await;
    assert_eq!(
        (
            relayed.rows_left(),
            relayed.placed.payloads().concat().len()
        ),
        (0, 9)
    );
    // The writer submits its rows late: they are published again, and readers deduplicate.
    relayed.publish(kept).await;
    relayed.relay.send(Drain).await.unwrap();
    assert_eq!(relayed.placed.payloads().concat().len(), 10);
}

/// While one topic is unavailable the other continues; no row is lost or published twice.
#[rstest]
#[case(TopicBehaviour::Waits)]
#[case(TopicBehaviour::Away)]
#[actix_web::test]
async fn unavailable_topic_does_not_block_other(#[case] behaviour: TopicBehaviour) {
    let relayed = start(behaviour);
    let names: Vec<String> = (0..20).map(|number| format!("row {number:02}")).collect();
    let rows = relayed.write(
        OutboxTopic::Placed,
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    relayed.publish(rows.clone()).await;
    relayed.publish(rows).await;
    relayed
        .publish(relayed.write(OutboxTopic::Confirmed, &["x"]))
        .await;
    // Longer than a lease: the store returns the rows again, but this process has them already.
    tokio::time::sleep(3 * LEASE).await;
    assert_eq!(
        (
            relayed.placed.payloads().len(),
            relayed.confirmed.payloads().len()
        ),
        (0, 1),
        "{behaviour:?}"
    );
    assert_eq!(relayed.rows_left(), 20);
    assert!(relayed.metrics.rows.get() == 20 && relayed.metrics.oldest.get() > 80.0);
    assert_eq!(
        relayed.failures("publish") > 0,
        behaviour == TopicBehaviour::Away
    );
    relayed.placed.behaviour.send_replace(TopicBehaviour::Takes);
    tokio::time::sleep(2 * LEASE).await;
    let mut published = relayed.placed.payloads().concat();
    published.sort();
    assert_eq!(published, names, "{behaviour:?}");
    assert_eq!(
        (
            relayed.rows_left(),
            relayed.metrics.rows.get(),
            relayed.metrics.oldest.get()
        ),
        (0, 0, 0.0)
    );
}

/// A record that its topic rejects is sent to the dead letters and blocks no other record.
#[actix_web::test]
async fn rejected_record_is_dead_lettered() {
    let relayed = start(TopicBehaviour::Refuses("bad"));
    let rows = relayed.write(OutboxTopic::Placed, &["a", "bad one", "b"]);
    let bad = rows[1].clone();
    relayed.publish(rows).await;
    relayed.relay.send(Drain).await.unwrap();
    assert_eq!(relayed.placed.payloads(), [vec!["a"], vec!["b"]]);
    let dead = relayed.dead.taken.lock().unwrap().concat();
    assert_eq!(
        (dead.len(), &dead[0].key[..], &dead[0].payload[..]),
        (1, bad.key.as_bytes(), &b"bad one"[..])
    );
    let header = |name: &str| {
        dead[0]
            .headers
            .iter()
            .find(|(header, _)| header == name)
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(
        (&header("reason")[..], &header("source_topic")[..]),
        (&b"too_large"[..], &b"probe"[..])
    );
    assert_eq!(header("origin"), format!("outbox/{}", bad.id));
    assert_eq!((relayed.rows_left(), relayed.failures("refused")), (0, 1));
}

#[actix_web::test]
async fn undeliverable_row_stays_in_outbox() {
    let relayed = start(TopicBehaviour::Refuses("bad"));
    relayed
        .dead
        .behaviour
        .send_replace(TopicBehaviour::Refuses(""));
    relayed
        .publish(relayed.write(OutboxTopic::Placed, &["bad one", "good one"]))
        .await;
    relayed.relay.send(Drain).await.unwrap();
    assert_eq!(
        (relayed.placed.payloads().concat(), relayed.rows_left()),
        (vec!["good one".to_owned()], 1)
    );
}

/// A database outage delays the mark but causes no second publish.
#[actix_web::test]
async fn database_outage_delays_mark_only() {
    let relayed = start(TopicBehaviour::Takes);
    let rows = relayed.write(OutboxTopic::Placed, &["a"]);
    relayed.store.go_away();
    relayed.publish(rows).await;
    tokio::time::sleep(2 * LEASE).await;
    assert!(relayed.failures("mark") > 10 && relayed.failures("take") > 10);
    assert_eq!(
        relayed.health.problem().as_deref(),
        Some("the outbox cannot be read or written")
    );
    relayed.store.come_back();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(
        (relayed.rows_left(), relayed.placed.payloads().concat()),
        (0, vec!["a".to_owned()])
    );
    assert_eq!(relayed.health.problem(), None);
}

#[actix_web::test]
async fn drain_is_bounded_during_bus_outage() {
    let relayed = start(TopicBehaviour::Waits);
    relayed
        .publish(relayed.write(OutboxTopic::Placed, &["a"]))
        .await;
    let started = tokio::time::Instant::now();
    relayed.relay.send(Drain).await.unwrap();
    assert!(started.elapsed() >= 5 * SECOND && started.elapsed() < 6 * SECOND);
    assert_eq!(relayed.rows_left(), 1, "left for the next process");
}
