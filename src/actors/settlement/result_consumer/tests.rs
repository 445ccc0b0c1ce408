use std::time::Duration;

use actix::Actor;
use bytes::Bytes;
use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;
use crate::actors::settlement::testing::{House, home_won, other};
use crate::bus::embedded::EmbeddedTopic;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::settlement::testing::by;
use crate::runtime::drain::Drain;

/// Counts the messages to the settler.
struct ProbeSettler(Arc<parking_lot::Mutex<usize>>);

impl Actor for ProbeSettler {
    type Context = Context<Self>;
}

impl Handler<ResultsStored> for ProbeSettler {
    type Result = ();

    fn handle(&mut self, _: ResultsStored, _: &mut Context<Self>) {
        *self.0.lock() += 1;
    }
}

struct Consumed {
    letters: Vec<DeadLetter>,
    told: usize,
}

/// Passes records to a consumer until it has read them all.
async fn consume(house: &House, records: Vec<String>) -> Consumed {
    let topic = EmbeddedTopic::new("market_results", 1, 100);
    let dead = EmbeddedTopic::new("dead_letters", 1, 100);
    let mut letters = dead.subscribe("reader").unwrap();
    let told = Arc::new(parking_lot::Mutex::new(0));
    let settings = ConsumerSettings {
        group: "g".to_owned(),
        topic: "market_results".to_owned(),
        batch_size: 100,
        linger: Duration::ZERO,
        limits: Plausibility::any_time(),
    };
    let targets = ResultTargets {
        store: house.store.clone(),
        settler: ProbeSettler(told.clone()).start().recipient(),
        dead_letters: Arc::new(dead),
    };
    let subscription = topic.subscribe("g").unwrap();
    let consumer = ResultConsumer::task(
        settings,
        subscription,
        targets,
        house.clock(),
        house.metrics.clone(),
    )
    .start();
    let records = records.into_iter().map(|payload| NewRecord {
        key: Bytes::from_static(b"MATCH_002"),
        payload: Bytes::from(payload),
        headers: Vec::new(),
    });
    topic.publish(records.collect()).await.unwrap();
    consumer.send(Drain).await.unwrap();
    let mut read = Vec::new();
    while letters.lag() > 0 {
        let batch = letters.next_batch(100, Duration::ZERO).await.unwrap();
        if let crate::bus::ConsumerEvent::Records(batch) = batch {
            read.extend(batch.iter().map(dead_letter::read));
            letters.commit(&crate::bus::Position::after(&batch));
        }
    }
    let told = *told.lock();
    Consumed {
        letters: read,
        told,
    }
}

#[actix_web::test]
async fn records_are_stored_once() {
    let house = House::open();
    let record = home_won(1).to_json();
    let consumed = consume(&house, vec![record.clone(), record.clone()]).await;
    assert!(consumed.letters.is_empty());
    assert!(consumed.told > 0);
    let event = home_won(1).event_id;
    let stored = house.store.event_results(&event, 10).unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].record, home_won(1));
    let count = |outcome: &str| house.metrics.records.with_label_values(&[outcome]).get();
    assert_eq!((count("new"), count("known")), (1, 1));
}

#[actix_web::test]
async fn conflict_is_kept_and_counted() {
    let house = House::open();
    let lost = other(
        "settlement",
        1,
        json!({"selections": [{"id": "home", "result": "lost"}]}),
    );
    consume(&house, vec![home_won(1).to_json(), lost.to_json()]).await;
    let event = home_won(1).event_id;
    assert_eq!(house.store.event_results(&event, 10).unwrap().len(), 2);
    assert_eq!(
        house.metrics.records.with_label_values(&["conflict"]).get(),
        1
    );
}

#[actix_web::test]
async fn bad_records_are_kept_as_dead_letters() {
    let house = House::open();
    let operator = by("operator:Ann", home_won(1)).to_json();
    let records = vec!["{".to_owned(), operator.clone(), home_won(2).to_json()];
    let consumed = consume(&house, records).await;
    let read: Vec<_> = consumed
        .letters
        .iter()
        .map(|letter| (letter.reason.as_str(), letter.raw.clone()))
        .collect();
    assert_eq!(
        read,
        [
            ("malformed", Bytes::from_static(b"{")),
            (RESERVED_SOURCE, Bytes::from(operator)),
        ]
    );
    let event = home_won(1).event_id;
    assert_eq!(house.store.event_results(&event, 10).unwrap().len(), 1);
}
