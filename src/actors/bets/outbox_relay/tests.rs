//! The relay before topics that are away, full, or refuse.

use std::sync::Mutex;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pretty_assertions::assert_eq;
use rstest::rstest;

use super::*;
use crate::actors::testing::money::FakeMoney;
use crate::bus::Subscription;
use crate::telemetry::metrics::ConfirmationMetrics;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

/// What a topic does with records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TopicBehaviour {
    Takes,
    /// Waits, as Kafka's topics do while it is away.
    Waits,
    /// Says that it is away.
    Away,
    /// Takes no record with this text in it.
    Refuses(&'static str),
}

struct ProbeTopic {
    mood: watch::Sender<TopicBehaviour>,
    /// Batches, in their order.
    taken: Arc<Mutex<Vec<Vec<NewRecord>>>>,
}

impl ProbeTopic {
    fn new(mood: TopicBehaviour) -> Arc<ProbeTopic> {
        Arc::new(ProbeTopic {
            mood: watch::Sender::new(mood),
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
        let (mut mood, taken) = (self.mood.subscribe(), self.taken.clone());
        async move {
            let mood = *mood
                .wait_for(|mood| *mood != TopicBehaviour::Waits)
                .await
                .unwrap();
            let refuses = |record: &NewRecord, word: &str| {
                String::from_utf8_lossy(&record.payload).contains(word)
            };
            match mood {
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
    trouble: Arc<HealthCell>,
    relay: Addr<OutboxRelay>,
}

fn start(mood: TopicBehaviour) -> Relayed {
    tokio::time::pause();
    let store = Arc::new(FakeMoney::default());
    let (placed, confirmed, dead) = (
        ProbeTopic::new(mood),
        ProbeTopic::new(TopicBehaviour::Takes),
        ProbeTopic::new(TopicBehaviour::Takes),
    );
    let (clock, metrics) = (
        Clock::of_tokio(),
        ConfirmationMetrics::new().unwrap().outbox_metrics(),
    );
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
        target(&placed),
        target(&confirmed),
        settings,
        clock.clone(),
        metrics.clone(),
    );
    let trouble = relay.trouble();
    Relayed {
        store,
        placed,
        confirmed,
        dead,
        metrics,
        clock,
        trouble,
        relay: relay.start(),
    }
}

impl Relayed {
    /// Writes rows as whoever commits a change does: leased to this process.
    fn write(&self, topic: OutboxTopic, payloads: &[&str]) -> Vec<OutboxRow> {
        let until = self.clock.after(LEASE);
        payloads
            .iter()
            .map(|text| {
                self.store
                    .write_outbox(topic, text, self.clock.now(), until)
            })
            .collect()
    }

    /// Writes rows that a dead process left.
    fn leave(&self, payloads: &[&str]) {
        let now = self.clock.now();
        payloads.iter().for_each(|text| {
            drop(
                self.store
                    .write_outbox(OutboxTopic::BetPlaced, text, now, now),
            )
        });
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

#[actix_web::test]
async fn what_is_committed_is_published_at_once_and_in_order_and_leaves_the_outbox() {
    let relayed = start(TopicBehaviour::Takes);
    let rows = relayed.write(OutboxTopic::BetPlaced, &["a", "b", "c", "d"]);
    relayed.publish(rows).await;
    relayed
        .publish(relayed.write(OutboxTopic::BetConfirmed, &["x"]))
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

#[actix_web::test]
async fn what_a_dead_process_left_is_found_and_more_than_there_is_room_for_comes_in_parts() {
    let relayed = start(TopicBehaviour::Takes);
    relayed.leave(&["a", "b", "c", "d", "e", "f", "g", "h"]);
    let kept = relayed.write(OutboxTopic::BetPlaced, &["of another process"]);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(
        relayed.placed.payloads().concat(),
        ["a", "b", "c", "d", "e", "f", "g", "h"]
    );
    assert_eq!(relayed.rows_left(), 1, "it is leased");
    tokio::time::sleep(LEASE).await;
    assert_eq!(
        (
            relayed.rows_left(),
            relayed.placed.payloads().concat().len()
        ),
        (0, 9)
    );
    // Its writer comes back to it: once more, which readers know.
    relayed.publish(kept).await;
    relayed.relay.send(Drain).await.unwrap();
    assert_eq!(relayed.placed.payloads().concat().len(), 10);
}

#[rstest]
#[case(TopicBehaviour::Waits)]
#[case(TopicBehaviour::Away)]
#[actix_web::test]
async fn while_a_topic_is_away_the_other_goes_on_and_nothing_is_lost_or_published_twice_by_itself(
    #[case] mood: TopicBehaviour,
) {
    let relayed = start(mood);
    let names: Vec<String> = (0..20).map(|number| format!("row {number:02}")).collect();
    let rows = relayed.write(
        OutboxTopic::BetPlaced,
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    relayed.publish(rows.clone()).await;
    relayed.publish(rows).await;
    relayed
        .publish(relayed.write(OutboxTopic::BetConfirmed, &["x"]))
        .await;
    // Longer than a lease: the rows are given out again, and this process has them already.
    tokio::time::sleep(3 * LEASE).await;
    assert_eq!(
        (
            relayed.placed.payloads().len(),
            relayed.confirmed.payloads().len()
        ),
        (0, 1),
        "{mood:?}"
    );
    assert_eq!(relayed.rows_left(), 20);
    assert!(relayed.metrics.rows.get() == 20 && relayed.metrics.oldest.get() > 80.0);
    assert_eq!(
        relayed.failures("publish") > 0,
        mood == TopicBehaviour::Away
    );
    relayed.placed.mood.send_replace(TopicBehaviour::Takes);
    tokio::time::sleep(2 * LEASE).await;
    let mut published = relayed.placed.payloads().concat();
    published.sort();
    assert_eq!(published, names, "{mood:?}");
    assert_eq!(
        (
            relayed.rows_left(),
            relayed.metrics.rows.get(),
            relayed.metrics.oldest.get()
        ),
        (0, 0, 0.0)
    );
}

#[actix_web::test]
async fn what_its_topic_refuses_is_a_dead_letter_and_holds_up_nobody() {
    let relayed = start(TopicBehaviour::Refuses("bad"));
    let rows = relayed.write(OutboxTopic::BetPlaced, &["a", "bad one", "b"]);
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
async fn what_can_go_nowhere_stays_in_the_outbox() {
    let relayed = start(TopicBehaviour::Refuses("bad"));
    relayed.dead.mood.send_replace(TopicBehaviour::Refuses(""));
    relayed
        .publish(relayed.write(OutboxTopic::BetPlaced, &["bad one", "good one"]))
        .await;
    relayed.relay.send(Drain).await.unwrap();
    assert_eq!(
        (relayed.placed.payloads().concat(), relayed.rows_left()),
        (vec!["good one".to_owned()], 1)
    );
}

#[actix_web::test]
async fn a_database_that_is_away_delays_the_mark_and_nothing_is_published_again_for_it() {
    let relayed = start(TopicBehaviour::Takes);
    let rows = relayed.write(OutboxTopic::BetPlaced, &["a"]);
    relayed.store.go_away();
    relayed.publish(rows).await;
    tokio::time::sleep(2 * LEASE).await;
    assert!(relayed.failures("mark") > 10 && relayed.failures("take") > 10);
    assert_eq!(
        relayed.trouble.problem().as_deref(),
        Some("the outbox cannot be read or written")
    );
    relayed.store.come_back();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(
        (relayed.rows_left(), relayed.placed.payloads().concat()),
        (0, vec!["a".to_owned()])
    );
    assert_eq!(relayed.trouble.problem(), None);
}

#[actix_web::test]
async fn a_stop_waits_no_longer_than_its_limit_for_a_bus_that_is_away() {
    let relayed = start(TopicBehaviour::Waits);
    relayed
        .publish(relayed.write(OutboxTopic::BetPlaced, &["a"]))
        .await;
    let started = tokio::time::Instant::now();
    relayed.relay.send(Drain).await.unwrap();
    assert!(started.elapsed() >= 5 * SECOND && started.elapsed() < 6 * SECOND);
    assert_eq!(relayed.rows_left(), 1, "for the next process");
}
