use bytes::Bytes;

use super::*;

const NOW: Duration = Duration::ZERO;

crate::bus::suite::bus_suite!(Arc::new(EmbeddedTopic::new("t", 4, 1_000)));

fn record(key: &str, value: u32) -> NewRecord {
    let payload = Bytes::from(value.to_string());
    NewRecord {
        key: Bytes::from(key.to_owned()),
        payload,
        headers: Vec::new(),
    }
}

fn records(given: Result<ConsumerEvent, BusError>) -> Vec<Record> {
    match given.unwrap() {
        ConsumerEvent::Records(records) => records,
        other => panic!("no new records: {other:?}"),
    }
}

/// Takes the available records and commits them.
async fn take(group: &mut Box<dyn Subscription>, max: usize) -> Vec<Record> {
    let batch = records(group.next_batch(max, NOW).await);
    group.commit(&Position::after(&batch));
    batch
}

fn values(batch: &[Record]) -> Vec<String> {
    batch
        .iter()
        .map(|record| String::from_utf8(record.record.payload.to_vec()).unwrap())
        .collect()
}

#[tokio::test]
async fn second_reader_resumes_after_last_commit() {
    let topic = EmbeddedTopic::new("t", 1, 100);
    let mut group = topic.subscribe("g").unwrap();
    topic
        .publish((0..4).map(|n| record("k", n)).collect())
        .await
        .unwrap();
    assert_eq!(values(&take(&mut group, 2).await), ["0", "1"]);
    assert_eq!(values(&records(group.next_batch(2, NOW).await)), ["2", "3"]);
    assert_eq!(group.lag(), 2);
    drop(group);
    let mut again = topic.subscribe("g").unwrap();
    let batch = take(&mut again, 9).await;
    assert_eq!(values(&batch), ["2", "3"]);
    assert_eq!(batch[0].offset, 2);
    assert_eq!((again.lag(), topic.depth()), (0, 0));
}

/// A full topic blocks the publisher until the slowest group commits; no record is dropped.
#[tokio::test]
async fn publisher_waits_for_slowest_group() {
    let topic = EmbeddedTopic::new("t", 2, 10);
    let mut fast = topic.subscribe("fast").unwrap();
    let mut slow = topic.subscribe("slow").unwrap();
    let publishing = tokio::spawn(topic.publish((0..25).map(|n| record("k", n)).collect()));
    let mut seen = Vec::new();
    while seen.len() < 10 {
        seen.extend(values(&take(&mut fast, 100).await));
    }
    assert_eq!(topic.depth(), 10);
    assert!(!publishing.is_finished());
    let mut slow_seen = Vec::new();
    while slow_seen.len() < 25 {
        slow_seen.extend(values(&take(&mut slow, 4).await));
        assert!(topic.depth() <= 10);
        if let Some(batch) = take(&mut fast, 100).now_or_never() {
            seen.extend(values(&batch));
        }
        tokio::task::yield_now().await;
    }
    publishing.await.unwrap().unwrap();
    let all: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    assert_eq!(slow_seen, all);
    while seen.len() < 25 {
        seen.extend(values(&take(&mut fast, 100).await));
    }
    assert_eq!(seen, all);
}

#[tokio::test(start_paused = true)]
async fn cancelled_linger_loses_no_records() {
    let topic = EmbeddedTopic::new("t", 1, 100);
    let mut group = topic.subscribe("g").unwrap();
    topic.publish(vec![record("k", 0)]).await.unwrap();
    let linger = Duration::from_millis(5);
    assert!(
        tokio::time::timeout(Duration::from_millis(1), group.next_batch(10, linger))
            .await
            .is_err()
    );
    let publisher = topic.clone();
    let later = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(2)).await;
        publisher.publish(vec![record("k", 1)]).await
    });
    assert_eq!(
        values(&records(group.next_batch(10, linger).await)),
        ["0", "1"]
    );
    later.await.unwrap().unwrap();
}

#[tokio::test]
async fn busy_partition_does_not_starve_others() {
    let topic = EmbeddedTopic::new("t", 2, 10_000);
    let mut group = topic.subscribe("g").unwrap();
    let mut key_of: HashMap<u32, String> = HashMap::new();
    for n in 0.. {
        let key = format!("k{n}");
        topic.publish(vec![record(&key, 0)]).await.unwrap();
        let batch = take(&mut group, 1).await;
        key_of.insert(batch[0].partition, key);
        if key_of.len() == 2 {
            break;
        }
    }
    topic
        .publish((0..1_000).map(|n| record(&key_of[&0], n)).collect())
        .await
        .unwrap();
    topic.publish(vec![record(&key_of[&1], 7)]).await.unwrap();
    let mut partitions = Vec::new();
    for _ in 0..2 {
        partitions.extend(
            records(group.next_batch(10, NOW).await)
                .iter()
                .map(|record| record.partition),
        );
    }
    assert!(partitions.contains(&1));
}

/// A group that has not joined yet starts after the records that the others have committed.
#[tokio::test(start_paused = true)]
async fn trimmed_records_are_not_awaited() {
    let topic = EmbeddedTopic::new("t", 1, 100);
    let mut other = topic.subscribe("other").unwrap();
    topic.publish(vec![record("k", 0)]).await.unwrap();
    let mut waiting = topic.committed_by("new", Duration::from_secs(30));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
    assert!(early.is_err(), "the record waits for the group");
    // The partition begins after the end that is waited for.
    topic.publish(vec![record("k", 1)]).await.unwrap();
    assert_eq!(take(&mut other, 9).await.len(), 2);
    waiting.await.unwrap();
}
