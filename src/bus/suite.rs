//! The contract of every bus, written against the trait; [`bus_suite`] runs it for each
//! implementation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use pretty_assertions::assert_eq;

use super::*;

/// Generates one test per check. `$open` returns an empty topic with four partitions; the optional
/// attribute is added to each test.
macro_rules! bus_suite {
    ($check:ident, $open:expr $(, $ignore:meta)?) => {
        #[tokio::test]
        $(#[$ignore])?
        async fn $check() {
            $crate::bus::suite::bounded($crate::bus::suite::$check($open)).await;
        }
    };
    ($open:expr $(, $ignore:meta)?) => {
        $crate::bus::suite::bus_suite! { every_group_reads_keys_in_order, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { records_are_returned_unchanged, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { batches_in_flight_keep_their_order, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { empty_publish_succeeds, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { uncommitted_records_are_delivered_again, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { cancelled_wait_loses_no_records, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { batch_respects_maximum, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { unknown_partitions_are_ignored, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { lag_returns_to_zero, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { concurrent_publishers_lose_no_records, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { commits_of_group_are_awaited, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { stalled_group_is_an_error, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { ping_answers, $open $(, $ignore)? }
    };
}
pub(crate) use bus_suite;

/// As [`bus_suite`], for compacted topics. `$open` returns an empty one.
macro_rules! compacted_suite {
    ($check:ident, $open:expr $(, $ignore:meta)?) => {
        $crate::bus::suite::bus_suite! { $check, $open $(, $ignore)? }
    };
    ($open:expr $(, $ignore:meta)?) => {
        $crate::bus::suite::bus_suite! { compacted_reader_gets_held_then_published, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { every_compacted_reader_gets_everything, $open $(, $ignore)? }
        $crate::bus::suite::bus_suite! { cancelled_compacted_read_loses_nothing, $open $(, $ignore)? }
    };
}
pub(crate) use compacted_suite;

type Bus = Arc<dyn Topic>;
type Compacted = Arc<dyn CompactedTopic>;

/// Fails a check that hangs.
pub(super) async fn bounded(check: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(60), check)
        .await
        .expect("the check should end in time");
}

/// A unique group name: a bus may outlive the test, and its groups with it.
pub(super) fn group_name() -> String {
    format!("test-{:016x}", fastrand::u64(..))
}

pub(super) fn record(key: &str, value: u32) -> NewRecord {
    let payload = Bytes::from(value.to_string());
    NewRecord {
        key: Bytes::from(key.to_owned()),
        payload,
        headers: Vec::new(),
    }
}

pub(super) fn value(record: &Record) -> u32 {
    String::from_utf8_lossy(&record.record.payload)
        .parse()
        .unwrap()
}

/// The next records, skipping revocations.
pub(super) async fn next(group: &mut Box<dyn Subscription>, max: usize) -> Vec<Record> {
    loop {
        if let ConsumerEvent::Records(records) =
            group.next_batch(max, Duration::ZERO).await.unwrap()
        {
            return records;
        }
    }
}

/// Reads and commits `count` records.
pub(super) async fn take(group: &mut Box<dyn Subscription>, count: usize) -> Vec<Record> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let batch = next(group, count - taken.len()).await;
        group.commit(&Position::after(&batch));
        taken.extend(batch);
    }
    taken
}

/// `count` records numbered from 0, spread over seven keys.
pub(super) fn numbered(count: u32) -> Vec<NewRecord> {
    (0..count)
        .map(|n| record(&format!("k{}", n % 7), n))
        .collect()
}

/// Asserts that each key is in one partition and its values grow with its offsets.
pub(super) fn assert_ordered(batch: &[Record]) {
    let mut last: BTreeMap<Bytes, (u32, u64, u32)> = BTreeMap::new();
    for record in batch {
        let now = (record.partition, record.offset, value(record));
        if let Some(before) = last.insert(record.record.key.clone(), now) {
            assert_eq!(before.0, now.0, "a key stays in its partition");
            assert!(before.1 < now.1 && before.2 < now.2, "{before:?} {now:?}");
        }
    }
}

pub(super) fn values(batch: &[Record]) -> BTreeSet<u32> {
    batch.iter().map(value).collect()
}

pub(super) fn every_group_reads_keys_in_order(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut live = bus.subscribe(&group_name()).unwrap();
        let mut store = bus.subscribe(&group_name()).unwrap();
        bus.publish(numbered(100)).await.unwrap();
        for group in [&mut live, &mut store] {
            let batch = take(group, 100).await;
            assert_ordered(&batch);
            assert_eq!(values(&batch), (0..100).collect());
        }
    })
}

pub(super) fn records_are_returned_unchanged(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let bytes: Bytes = (0..=255_u8).collect();
        let header = |name: &str, value: &Bytes| (name.to_owned(), value.clone());
        let sent = [
            NewRecord {
                key: Bytes::new(),
                payload: bytes.clone(),
                headers: vec![header("h", &bytes)],
            },
            NewRecord {
                key: bytes.clone(),
                payload: Bytes::new(),
                headers: Vec::new(),
            },
            NewRecord {
                key: Bytes::from_static(b"k"),
                payload: Bytes::from_static(b"\xff\xfe\0"),
                headers: vec![
                    header("twice", &bytes),
                    header("twice", &Bytes::new()),
                    header("ção", &bytes),
                ],
            },
        ];
        let mut group = bus.subscribe(&group_name()).unwrap();
        for record in &sent {
            bus.publish(vec![record.clone()]).await.unwrap();
            assert_eq!(take(&mut group, 1).await[0].record, *record);
        }
    })
}

/// Enqueues `count` batches of `size` numbered records, without waiting for acknowledgements.
pub(super) async fn enqueue_batches(bus: &Bus, count: u32, size: u32) -> Vec<Acknowledgement> {
    let records = numbered(count * size);
    let mut acknowledgements = Vec::new();
    for batch in records.chunks(size as usize) {
        acknowledgements.push(bus.enqueue(batch.to_vec()).await);
    }
    acknowledgements
}

pub(super) fn batches_in_flight_keep_their_order(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut group = bus.subscribe(&group_name()).unwrap();
        let acknowledgements = enqueue_batches(&bus, 50, 3).await;
        // Whoever waits first does not matter.
        for acknowledgement in acknowledgements.into_iter().rev() {
            assert_eq!(acknowledgement.received().await, Ok(()));
        }
        let read = take(&mut group, 150).await;
        assert_ordered(&read);
        assert_eq!(values(&read), (0..150).collect());
    })
}

pub(super) fn empty_publish_succeeds(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move { assert_eq!(bus.publish(Vec::new()).await, Ok(())) })
}

pub(super) fn uncommitted_records_are_delivered_again(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let name = group_name();
        let mut group = bus.subscribe(&name).unwrap();
        bus.publish((0..4).map(|n| record("k", n)).collect())
            .await
            .unwrap();
        assert_eq!(values(&take(&mut group, 2).await), BTreeSet::from([0, 1]));
        let mut uncommitted = Vec::new();
        while uncommitted.len() < 2 {
            uncommitted.extend(next(&mut group, 9).await);
        }
        group.close().await;
        drop(group);
        let mut again = bus.subscribe(&name).unwrap();
        let batch = take(&mut again, 2).await;
        assert_eq!(batch, uncommitted);
        again.close().await;
    })
}

pub(super) fn cancelled_wait_loses_no_records(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut group = bus.subscribe(&group_name()).unwrap();
        let publishing = tokio::spawn(bus.publish((0..50).map(|n| record("k", n)).collect()));
        let mut read = Vec::new();
        while read.len() < 50 {
            let waiting = group.next_batch(10, Duration::from_millis(1));
            if let Ok(Ok(ConsumerEvent::Records(batch))) =
                tokio::time::timeout(Duration::from_micros(1_200), waiting).await
            {
                read.extend(batch);
            }
        }
        publishing.await.unwrap().unwrap();
        assert_eq!(
            read.iter().map(value).collect::<Vec<_>>(),
            (0..50).collect::<Vec<_>>()
        );
    })
}

pub(super) fn batch_respects_maximum(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut group = bus.subscribe(&group_name()).unwrap();
        bus.publish(numbered(40)).await.unwrap();
        let mut read = Vec::new();
        while read.len() < 40 {
            let batch = next(&mut group, 3).await;
            assert!((1..=3).contains(&batch.len()));
            read.extend(batch);
        }
        assert_eq!(values(&read), (0..40).collect());
    })
}

pub(super) fn unknown_partitions_are_ignored(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut group = bus.subscribe(&group_name()).unwrap();
        bus.publish(vec![record("k", 1)]).await.unwrap();
        let batch = next(&mut group, 1).await;
        let mut position = Position::default();
        position.advance(7_000, 9);
        position.advance(batch[0].partition, batch[0].offset);
        group.commit(&position);
        group.commit(&Position::default());
        bus.publish(vec![record("k", 2)]).await.unwrap();
        assert_eq!(values(&take(&mut group, 1).await), BTreeSet::from([2]));
    })
}

pub(super) fn lag_returns_to_zero(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut group = bus.subscribe(&group_name()).unwrap();
        bus.publish(numbered(20)).await.unwrap();
        let batch = next(&mut group, 1).await;
        while group.lag() < 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(group.lag(), 20);
        group.commit(&Position::after(&batch));
        assert_eq!(group.lag(), 19);
        take(&mut group, 19).await;
        assert_eq!(group.lag(), 0);
    })
}

/// How long the group of a test may commit nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is published later is not waited for.
pub(super) fn commits_of_group_are_awaited(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let name = group_name();
        bus.committed_by(&name, PATIENCE).await.unwrap();
        let mut group = bus.subscribe(&name).unwrap();
        bus.publish(numbered(20)).await.unwrap();
        let mut waiting = bus.committed_by(&name, PATIENCE);
        take(&mut group, 19).await;
        let early = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
        assert!(early.is_err(), "one record is not committed");
        take(&mut group, 1).await;
        bus.publish(numbered(1)).await.unwrap();
        waiting.await.unwrap();
    })
}

pub(super) fn stalled_group_is_an_error(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let name = group_name();
        let mut group = bus.subscribe(&name).unwrap();
        bus.publish(numbered(2)).await.unwrap();
        take(&mut group, 1).await;
        let stalled = bus.committed_by(&name, Duration::from_millis(300)).await;
        let error = stalled.unwrap_err().to_string();
        assert!(error.contains("committed nothing"), "{error}");
        let waiting = bus.committed_by(&name, PATIENCE);
        take(&mut group, 1).await;
        waiting.await.unwrap();
    })
}

pub(super) fn concurrent_publishers_lose_no_records(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut group = bus.subscribe(&group_name()).unwrap();
        let publisher = |p: u32| {
            (0..50)
                .map(move |n| record(&format!("p{p}"), 50 * p + n))
                .collect::<Vec<_>>()
        };
        let publishing: Vec<_> = (0..4)
            .map(|p| tokio::spawn(bus.publish(publisher(p))))
            .collect();
        let batch = take(&mut group, 200).await;
        assert_ordered(&batch);
        assert_eq!(values(&batch), (0..200).collect());
        for published in publishing {
            published.await.unwrap().unwrap();
        }
        while bus.depth() > 0 {
            tokio::task::yield_now().await;
        }
    })
}

pub(super) fn ping_answers(bus: Bus) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        while bus.ping().await.is_err() {}
        assert_eq!(bus.ping().await, Ok(()));
        assert!(!bus.name().is_empty());
    })
}

/// Publishes as soon as the topic accepts it: a new topic may have to be created first.
pub(super) async fn publish_compacted(topic: &Compacted, records: Vec<NewRecord>) {
    while topic.publish(records.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The latest value of each key, from everything until the reader has caught up.
pub(super) async fn held(reader: &mut Box<dyn TopicReader>) -> BTreeMap<Bytes, u32> {
    let mut latest = BTreeMap::new();
    loop {
        match reader.next().await.unwrap() {
            ReadEvent::Held(records) => add(&mut latest, &records),
            ReadEvent::CaughtUp => return latest,
            ReadEvent::Published(records) => panic!("not caught up: {records:?}"),
        }
    }
}

/// Reads until the latest value of `key` is `wanted`; returns the latest value of each key.
pub(super) async fn published(
    reader: &mut Box<dyn TopicReader>,
    key: &'static str,
    wanted: u32,
) -> BTreeMap<Bytes, u32> {
    let mut latest = BTreeMap::new();
    while latest.get(key.as_bytes()) != Some(&wanted) {
        match reader.next().await.unwrap() {
            ReadEvent::Published(records) => add(&mut latest, &records),
            event => panic!("already caught up: {event:?}"),
        }
    }
    latest
}

fn add(latest: &mut BTreeMap<Bytes, u32>, records: &[Record]) {
    latest.extend(
        records
            .iter()
            .map(|read| (read.record.key.clone(), value(read))),
    );
}

fn map(entries: &[(&'static str, u32)]) -> BTreeMap<Bytes, u32> {
    entries
        .iter()
        .map(|(key, value)| (Bytes::from_static(key.as_bytes()), *value))
        .collect()
}

pub(super) fn compacted_reader_gets_held_then_published(
    topic: Compacted,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut early = topic.read().unwrap();
        assert_eq!(held(&mut early).await, map(&[]));
        publish_compacted(&topic, vec![record("a", 1), record("b", 1)]).await;
        publish_compacted(&topic, vec![record("a", 2)]).await;
        let mut late = topic.read().unwrap();
        assert_eq!(held(&mut late).await, map(&[("a", 2), ("b", 1)]));
        assert_eq!(
            published(&mut early, "a", 2).await,
            map(&[("a", 2), ("b", 1)])
        );
        publish_compacted(&topic, vec![record("b", 2)]).await;
        assert_eq!(published(&mut late, "b", 2).await, map(&[("b", 2)]));
    })
}

pub(super) fn every_compacted_reader_gets_everything(topic: Compacted) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut readers = Vec::new();
        for _ in 0..3 {
            let mut reader = topic.read().unwrap();
            held(&mut reader).await;
            readers.push(reader);
        }
        for number in 0..100 {
            publish_compacted(&topic, vec![record("k", number)]).await;
        }
        for mut reader in readers {
            published(&mut reader, "k", 99).await;
        }
    })
}

pub(super) fn cancelled_compacted_read_loses_nothing(topic: Compacted) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut reader = topic.read().unwrap();
        held(&mut reader).await;
        let publishing = tokio::spawn({
            let topic = topic.clone();
            async move {
                for number in 0..50 {
                    publish_compacted(&topic, vec![record(&format!("k{number}"), number)]).await;
                }
            }
        });
        let mut read = BTreeMap::new();
        while read.len() < 50 {
            let next = tokio::time::timeout(Duration::from_micros(700), reader.next()).await;
            if let Ok(Ok(ReadEvent::Published(records))) = next {
                add(&mut read, &records);
            }
        }
        publishing.await.unwrap();
    })
}
