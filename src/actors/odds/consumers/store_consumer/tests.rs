use std::time::Duration;

use super::*;
use crate::actors::consumers::IDLE_POLL;
use crate::actors::odds::consumers::testing::{ProbeStore, future_update, record, settings};
use crate::bus::embedded::EmbeddedTopic;
use crate::bus::{ConsumerEvent, dead_letter};
use crate::domain::odds::update::testing::*;
use crate::runtime::drain::Drain;

#[actix_web::test]
async fn failed_batch_is_retried_before_commit() {
    tokio::time::pause();
    let topic = EmbeddedTopic::new("t", 1, 100);
    let (store, batches) = ProbeStore::failing(4);
    let dead = EmbeddedTopic::new("dead", 1, 100);
    let mut dead_group = dead.subscribe("g").unwrap();
    let metrics = ProcessorMetrics::new().unwrap();
    let subscription = topic.subscribe("g").unwrap();
    let consumer = StoreConsumer::task(
        settings(Duration::ZERO),
        subscription,
        store,
        Arc::new(dead),
        metrics.clone(),
    )
    .start();
    let garbage = record(&b"{garbage"[..]);
    topic
        .publish(vec![
            record(update(1, 1, 1).to_json()),
            garbage,
            record(update(1, 2, 2).to_json()),
        ])
        .await
        .unwrap();
    consumer.send(Drain).await.unwrap();
    assert_eq!(topic.depth(), 0);
    let batches = std::mem::take(&mut *batches.lock());
    let updates: Vec<_> = batches
        .iter()
        .flat_map(|batch| &batch.updates)
        .map(|one| (one.position, one.update.revision.version))
        .collect();
    assert_eq!(updates, [(0, 1), (2, 2)]);
    let ConsumerEvent::Records(dead) = dead_group.next_batch(9, Duration::ZERO).await.unwrap()
    else {
        panic!("revoked")
    };
    assert_eq!(dead.len(), 1, "once, regardless of retries");
    let letter = dead_letter::read(&dead[0]);
    assert_eq!(
        (&letter.raw[..], &letter.reason[..], &letter.origin[..]),
        (&b"{garbage"[..], "malformed", "t/0/1")
    );
    assert_eq!(
        (&dead[0].record.key[..], dead[0].header("source_offset")),
        (&b"k"[..], Some("1"))
    );
    assert_eq!(metrics.errors.with_label_values(&["store"]).get(), 4);
    assert_eq!(
        (
            metrics.errors.with_label_values(&["decode"]).get(),
            metrics.consumed.get()
        ),
        (1, 3)
    );
}

#[actix_web::test]
async fn future_record_becomes_dead_letter() {
    let topic = EmbeddedTopic::new("t", 1, 100);
    let (store, batches) = ProbeStore::failing(2);
    let dead = EmbeddedTopic::new("dead", 1, 100);
    let mut dead_group = dead.subscribe("g").unwrap();
    let metrics = ProcessorMetrics::new().unwrap();
    let subscription = topic.subscribe("g").unwrap();
    let consumer = StoreConsumer::task(
        settings(Duration::ZERO),
        subscription,
        store,
        Arc::new(dead),
        metrics.clone(),
    )
    .start();
    let settlement = future_update(1)
        .to_json()
        .replacen('{', r#"{"type":"settlement","#, 1);
    let payloads = [
        future_update(1).to_json(),
        update(1, 2, 2).to_json(),
        settlement,
    ];
    topic.publish(payloads.map(record).into()).await.unwrap();
    consumer.send(Drain).await.unwrap();
    let batches = std::mem::take(&mut *batches.lock());
    let positions: Vec<_> = batches
        .iter()
        .flat_map(|batch| &batch.updates)
        .map(|one| one.position)
        .collect();
    assert_eq!(positions, [1]);
    let ConsumerEvent::Records(dead) = dead_group.next_batch(9, Duration::ZERO).await.unwrap()
    else {
        panic!("revoked")
    };
    let reasons: Vec<_> = dead
        .iter()
        .map(|one| dead_letter::read(one).reason)
        .collect();
    assert_eq!(reasons, ["future", "unknown_type"]);
    for reason in reasons {
        let count = metrics.refused.with_label_values(&["store", &reason]).get();
        assert_eq!(count, 1, "{reason}: once, regardless of retries");
    }
}

#[actix_web::test]
async fn linger_may_exceed_idle_poll() {
    tokio::time::pause();
    let topic = EmbeddedTopic::new("t", 1, 100);
    let (store, batches) = ProbeStore::failing(0);
    let metrics = ProcessorMetrics::new().unwrap();
    let dead_letters = Arc::new(EmbeddedTopic::new("dead", 1, 100));
    let subscription = topic.subscribe("g").unwrap();
    let consumer = StoreConsumer::task(
        settings(3 * IDLE_POLL),
        subscription,
        store,
        dead_letters,
        metrics,
    )
    .start();
    topic
        .publish(vec![record(update(1, 1, 1).to_json())])
        .await
        .unwrap();
    let drained = tokio::time::timeout(20 * IDLE_POLL, consumer.send(Drain)).await;
    assert!(drained.is_ok(), "a batch that is not full is processed too");
    assert_eq!(batches.lock().len(), 1);
}

/// A record that was refused at the first attempt stays refused: its update was not stored with the
/// others.
#[actix_web::test]
async fn retry_judges_records_at_first_read() {
    let (store, batches) = ProbeStore::failing(0);
    let dead = EmbeddedTopic::new("dead", 1, 100);
    let metrics = ProcessorMetrics::new().unwrap();
    let subscription = EmbeddedTopic::new("t", 1, 100).subscribe("g").unwrap();
    let dead_letters = DeadLetters::new(
        Arc::new(dead.clone()),
        &settings(Duration::ZERO),
        &*subscription,
        &metrics,
    );
    let consumer = StoreConsumer {
        store,
        dead_letters,
        reader: UpdateReader::new(
            settings(Duration::ZERO).limits,
            "store",
            metrics.refused.clone(),
        ),
        metrics,
    };
    let mut recent = update(1, 1, 1);
    recent.revision.updated_at = Timestamp::now();
    let batch = [Record {
        partition: 0,
        offset: 1,
        published_at: None,
        record: record(recent.to_json()),
    }];
    let an_hour_ago = Timestamp::now().earlier_by(Duration::from_secs(3_600));
    let mut progress = StoreProgress {
        read_at: Some(an_hour_ago),
        ..StoreProgress::default()
    };
    consumer.attempt(&batch, &mut progress).await.unwrap();
    assert_eq!((batches.lock().len(), dead.depth()), (0, 1));
}
