//! The bus against a real Kafka: `cargo nextest run --run-ignored only -E 'test(real_engines)'`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::KafkaBus;
use super::testing::{name, settings};
use super::topics::TopicKind;
use crate::bus::dead_letter;
use crate::bus::suite::{
    assert_ordered, bounded, held, next, numbered, publish_compacted, published, record, take,
    value, values,
};
use crate::bus::{
    BusError, CompactedTopic, ConsumerEvent, NewRecord, Position, ReadEvent, Record, Subscription,
    Topic, TopicReader,
};
use crate::cli::dlq;
use crate::config::settings::BusSettings;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::timestamp::Timestamp;
use crate::testing::until;

/// The brokers from the environment.
fn brokers() -> String {
    std::env::var("KAFKA_BROKERS").unwrap_or_else(|_| {
        panic!("KAFKA_BROKERS is not set: scripts/engines up && eval \"$(scripts/engines export)\", or run make test")
    })
}

fn engine_settings() -> BusSettings {
    BusSettings {
        kafka_topic_partitions: 4,
        ..settings(&brokers())
    }
}

/// A unique topic with four partitions.
fn topic() -> Arc<dyn Topic> {
    KafkaBus::new(&engine_settings(), "test")
        .unwrap()
        .topic(&name("suite"))
}

mod every_bus {
    crate::bus::suite::bus_suite!(super::topic(), ignore = "needs the real engines: make test");
}

fn bus(settings: &BusSettings) -> KafkaBus {
    KafkaBus::new(settings, "test").unwrap()
}

fn admin() -> AdminClient<DefaultClientContext> {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", brokers()).create().unwrap()
}

async fn delete(topic: &str) {
    let deleted = admin()
        .delete_topics(&[topic], &AdminOptions::new())
        .await
        .unwrap();
    assert!(deleted[0].is_ok(), "{deleted:?}");
}

/// The records that the members of a group have read, in reading order.
type Log = Arc<Mutex<Vec<Record>>>;

/// A member that processes and commits records until it is stopped.
fn member(
    mut group: Box<dyn Subscription>,
    gracefully: bool,
    stop: Arc<Notify>,
    log: Log,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                () = stop.notified() => break,
                event = group.next_batch(20, Duration::ZERO) => event.unwrap(),
            };
            if let ConsumerEvent::Records(batch) = event {
                log.lock().unwrap().extend(batch.iter().cloned());
                group.commit(&Position::after(&batch));
            }
        }
        if gracefully {
            group.close().await;
        }
    })
}

/// Asserts that the last record read of each key is its newest: a record that is read again moves
/// to the end.
fn assert_keys_end_in_order(read: &[Record], count: u32) {
    assert_eq!(values(read), (0..count).collect());
    let mut last = HashMap::new();
    for record in read {
        last.insert(record.record.key.clone(), value(record));
    }
    for (key, value) in last {
        assert_eq!(
            value,
            (0..count)
                .rev()
                .find(|n| key == format!("k{}", n % 7))
                .unwrap(),
            "{key:?}"
        );
    }
}

async fn two_members_and_one_leaves(gracefully: bool) {
    const ROUND: u32 = 70;
    let topic = bus(&engine_settings()).topic(&name("members"));
    let group = name("group");
    let log = Log::default();
    let stop = Arc::new(Notify::new());
    let never = Arc::new(Notify::new());
    let _first = member(topic.subscribe(&group).unwrap(), true, never, log.clone());
    let second = member(
        topic.subscribe(&group).unwrap(),
        gracefully,
        stop.clone(),
        log.clone(),
    );
    let mut sent = 0;
    for round in 0..30 {
        topic
            .publish(
                (sent..sent + ROUND)
                    .map(|n| record(&format!("k{}", n % 7), n))
                    .collect(),
            )
            .await
            .unwrap();
        sent += ROUND;
        if round == 15 {
            stop.notify_one();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.await.unwrap();
    // Records the second member had not committed move to the first.
    while values(&log.lock().unwrap()).len() < sent as usize {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_keys_end_in_order(&log.lock().unwrap(), sent);
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn leaving_member_hands_over_partitions() {
    bounded(Box::pin(two_members_and_one_leaves(true))).await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn dropped_member_hands_over_partitions() {
    bounded(Box::pin(two_members_and_one_leaves(false))).await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn partition_moves_after_work_is_committed() {
    bounded(Box::pin(async {
        let topic = bus(&engine_settings()).topic(&name("revoke"));
        let group = name("group");
        let mut first = topic.subscribe(&group).unwrap();
        topic.publish(numbered(200)).await.unwrap();
        let mut held = Vec::new();
        while held.len() < 200 {
            held.extend(next(&mut first, 200).await);
        }
        let mut second = topic.subscribe(&group).unwrap();
        // The first member still works; the second gets no records.
        let early = tokio::time::timeout(Duration::from_secs(3), next(&mut second, 9)).await;
        assert!(early.is_err(), "both members read: {early:?}");
        first.commit(&Position::after(&held));
        let event = first.next_batch(9, Duration::ZERO).await.unwrap();
        let ConsumerEvent::Revoked {
            partitions: moved,
            are_records_lost: false,
        } = event
        else {
            panic!("{event:?}")
        };
        assert!(
            !moved.is_empty() && moved.len() < 4,
            "some partitions stay: {moved:?}"
        );
        // Everything was committed before the partitions moved: the second member starts with new
        // records.
        topic
            .publish((200..400).map(|n| record(&format!("k{n}"), n)).collect())
            .await
            .unwrap();
        let read = next(&mut second, 9).await;
        assert!(
            read.iter()
                .all(|record| value(record) >= 200 && moved.contains(&record.partition)),
            "{read:?}"
        );
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn idle_reader_buffers_bounded_records() {
    const COUNT: u32 = 30_000;
    bounded(Box::pin(async {
        let topic = bus(&engine_settings()).kafka_topic(&name("pause"), Some(TopicKind::Log));
        let group = topic.member(&name("group"), None).unwrap();
        let member = group.member.clone();
        let mut group: Box<dyn Subscription> = Box::new(group);
        for part in 0..6 {
            let values = part * 5_000..(part + 1) * 5_000;
            topic
                .publish(values.map(|n| record(&format!("k{}", n % 7), n)).collect())
                .await
                .unwrap();
        }
        while !member.inbox().is_full() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held = member.inbox().ready(usize::MAX);
        assert!((10_000..10_200).contains(&held), "{held}");
        let read = take(&mut group, COUNT as usize).await;
        assert_ordered(&read);
        assert_eq!(values(&read), (0..COUNT).collect());
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn member_without_partitions_counts_as_joined() {
    bounded(Box::pin(async {
        let topic = bus(&BusSettings {
            kafka_topic_partitions: 1,
            ..engine_settings()
        })
        .topic(&name("one"));
        let group = name("group");
        let members = [
            topic.subscribe(&group).unwrap(),
            topic.subscribe(&group).unwrap(),
        ];
        for member in &members {
            assert_eq!(
                member.health().problem(),
                Some(format!("joining the group {group}"))
            );
        }
        while members
            .iter()
            .any(|member| member.health().problem().is_some())
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn rejected_session_timeout_is_reported() {
    bounded(Box::pin(async {
        // Below the brokers' minimum, which is 6 s by default and 1 s in scripts/engines.
        let topic = bus(&BusSettings {
            kafka_session_timeout: Duration::from_millis(500),
            ..engine_settings()
        })
        .topic(&name("t"));
        let group = topic.subscribe(&name("group")).unwrap();
        while !group
            .health()
            .problem()
            .is_some_and(|text| text.contains("InvalidSessionTimeout"))
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn paused_partition_is_read_after_returning() {
    const COUNT: u32 = 30_000;
    bounded(Box::pin(async {
        let topic = bus(&engine_settings()).kafka_topic(&name("paused"), Some(TopicKind::Log));
        let group = name("group");
        let first = topic.member(&group, None).unwrap();
        let member = first.member.clone();
        let mut first: Box<dyn Subscription> = Box::new(first);
        for part in 0..6 {
            let values = part * 5_000..(part + 1) * 5_000;
            topic
                .publish(values.map(|n| record(&format!("k{}", n % 7), n)).collect())
                .await
                .unwrap();
        }
        while !member.inbox().is_full() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // All partitions are paused, and some move to another member.
        let mut second = topic.subscribe(&group).unwrap();
        while member.inbox().assigned().len() == 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut read = Vec::new();
        // The first member resumes its partitions; then the others come back.
        while !member.inbox().is_empty() {
            if let ConsumerEvent::Records(batch) =
                first.next_batch(1_000, Duration::ZERO).await.unwrap()
            {
                read.extend(batch);
            }
        }
        second.close().await;
        while values(&read).len() < COUNT as usize {
            read.extend(next(&mut first, 1_000).await);
        }
        assert_eq!(values(&read), (0..COUNT).collect());
    }))
    .await;
}

/// The next member of a group reads again what its predecessor has committed.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn replay_ends_at_committed_position() {
    bounded(Box::pin(async {
        let topic = bus(&engine_settings()).topic(&name("replay"));
        let group = name("group");
        let replaying = || topic.subscribe_with_replay(&group, Duration::from_secs(600));
        let mut first = replaying().unwrap();
        topic.publish(numbered(50)).await.unwrap();
        let mut read = Vec::new();
        while read.len() < 50 {
            // A new group has no position, so all of it is new.
            read.extend(take(&mut first, 50).await);
        }
        first.close().await;
        let publishing = topic.publish((50..60).map(|n| record("k", n)).collect());
        publishing.await.unwrap();
        let mut second = replaying().unwrap();
        let (mut replayed, mut read) = (Vec::new(), Vec::new());
        while values(&read).len() < 10 || values(&replayed).len() < 50 {
            match second.next_batch(99, Duration::ZERO).await.unwrap() {
                ConsumerEvent::Records(batch) => read.extend(batch),
                ConsumerEvent::Replayed(batch) => replayed.extend(batch),
                ConsumerEvent::Revoked { partitions, .. } => panic!("revoked: {partitions:?}"),
            }
        }
        assert_eq!(values(&replayed), (0..50).collect());
        assert_eq!(values(&read), (50..60).collect());
        assert_eq!(second.lag(), 10);
        second.commit(&Position::after(&read));
        second.close().await;
        let mut third = topic.subscribe_with_replay(&group, Duration::ZERO).unwrap();
        topic.publish(vec![record("k", 60)]).await.unwrap();
        assert_eq!(values(&take(&mut third, 1).await), [60].into());
    }))
    .await;
}

/// The group needs longer for all records than it may commit nothing.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn lagging_group_that_advances_is_awaited() {
    const PATIENCE: Duration = Duration::from_secs(4);
    bounded(Box::pin(async {
        let topic = topic();
        let group = name("group");
        let mut member = topic.subscribe(&group).unwrap();
        topic.publish(numbered(8)).await.unwrap();
        let waiting = tokio::spawn(topic.committed_by(&group, PATIENCE));
        for _ in 0..8 {
            assert!(!waiting.is_finished());
            tokio::time::sleep(PATIENCE / 5).await;
            take(&mut member, 1).await;
        }
        waiting.await.unwrap().unwrap();
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn deleted_topic_is_recreated() {
    bounded(Box::pin(async {
        let topic = bus(&engine_settings()).topic(&name("deleted"));
        let mut group = topic.subscribe(&name("group")).unwrap();
        topic.publish(numbered(50)).await.unwrap();
        take(&mut group, 50).await;
        delete(topic.name()).await;
        let publishing = topic.publish((50..60).map(|n| record("k", n)).collect());
        publishing.await.unwrap();
        let mut read = Vec::new();
        let mut revoked = false;
        // State of the old topic is discarded, and the new topic is read from its start.
        while values(&read).len() < 10 || !revoked {
            match group.next_batch(99, Duration::ZERO).await.unwrap() {
                ConsumerEvent::Records(batch) => read.extend(batch),
                ConsumerEvent::Revoked {
                    are_records_lost, ..
                } => {
                    assert!(are_records_lost);
                    revoked = true;
                }
                ConsumerEvent::Replayed(_) => panic!("nothing is replayed"),
            }
        }
        assert_eq!(values(&read), (50..60).collect());
        assert_eq!(
            read.iter().map(|record| record.offset).min(),
            Some(0),
            "from the start of the new topic"
        );
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn longer_recreated_topic_is_read_from_start() {
    bounded(Box::pin(async {
        let topic = bus(&engine_settings()).topic(&name("longer"));
        let mut group = topic.subscribe(&name("group")).unwrap();
        topic
            .publish((0..5).map(|n| record("k", n)).collect())
            .await
            .unwrap();
        take(&mut group, 5).await;
        delete(topic.name()).await;
        // As fast as possible: the old offsets exist in the new topic before the reader notices.
        let admin = admin();
        let made = NewTopic::new(topic.name(), 4, TopicReplication::Fixed(1));
        while admin
            .create_topics([&made], &AdminOptions::new())
            .await
            .unwrap()[0]
            .is_err()
        {}
        bus(&engine_settings())
            .topic(topic.name())
            .publish((5..105).map(|n| record("k", n)).collect())
            .await
            .unwrap();
        let mut read = Vec::new();
        while values(&read).len() < 100 {
            let batch = next(&mut group, 99).await;
            group.commit(&Position::after(&batch));
            read.extend(batch);
        }
        assert_eq!(values(&read), (5..105).collect());
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn oversized_record_is_rejected_others_published() {
    bounded(Box::pin(async {
        let topic = topic();
        let mut group = topic.subscribe(&name("group")).unwrap();
        let large = NewRecord {
            payload: vec![b'x'; 3_000_000].into(),
            ..record("k", 0)
        };
        let refused = topic
            .publish(vec![record("k", 1), large, record("k", 2)])
            .await;
        let Err(BusError::TooLarge(text)) = refused else {
            panic!("{refused:?}")
        };
        assert!(
            text.contains("3000001 bytes") && text.contains("2097152"),
            "{text}"
        );
        assert_eq!(
            take(&mut group, 2)
                .await
                .iter()
                .map(value)
                .collect::<Vec<_>>(),
            [1, 2]
        );
        // This program accepts the record and the broker does not: the topic was created by another
        // program.
        let other = name("small");
        let made =
            NewTopic::new(&other, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "2000");
        assert!(
            admin()
                .create_topics([&made], &AdminOptions::new())
                .await
                .unwrap()[0]
                .is_ok()
        );
        let topic = bus(&engine_settings()).topic(&other);
        let large = NewRecord {
            payload: vec![b'x'; 5_000].into(),
            ..record("k", 0)
        };
        let refused = topic.publish(vec![large]).await;
        let Err(BusError::TooLarge(text)) = refused else {
            panic!("{refused:?}")
        };
        assert!(
            text.contains("5001 bytes") && text.contains("max.message.bytes"),
            "{text}"
        );
        topic.publish(vec![record("k", 3)]).await.unwrap();
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn existing_topic_is_not_changed() {
    bounded(Box::pin(async {
        let there = name("there");
        let made = NewTopic::new(&there, 3, TopicReplication::Fixed(1));
        assert!(
            admin()
                .create_topics([&made], &AdminOptions::new())
                .await
                .unwrap()[0]
                .is_ok()
        );
        let topic = bus(&engine_settings()).topic(&there);
        topic.publish(vec![record("k", 1)]).await.unwrap();
        let found = admin();
        let found = found
            .inner()
            .fetch_metadata(Some(&there), Duration::from_secs(5))
            .unwrap();
        assert_eq!(found.topics()[0].partitions().len(), 3);
    }))
    .await;
}

/// A follower reads partitions that are added while it runs, from their beginning, and nothing of
/// the others twice.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn follower_reads_added_partitions() {
    bounded(Box::pin(async {
        let settings = engine_settings();
        let name = name("grown");
        let records = |range: Range<u32>| range.map(|n| record(&format!("k{n}"), n)).collect();
        let topic = bus(&settings).topic(&name);
        topic.publish(records(0..20)).await.unwrap();
        let mut follower = topic.follow("g").unwrap();
        let mut read = Vec::new();
        while values(&read).len() < 20 {
            read.extend(next_read(&mut follower).await);
        }
        let grown = NewPartitions::new(&name, 12);
        let altered = admin().create_partitions([&grown], &AdminOptions::new());
        assert!(altered.await.unwrap()[0].is_ok());
        // A producer that knows all partitions.
        until("all partitions are known", || partition_count(&name) == 12).await;
        let topic = bus(&settings).topic(&name);
        topic.publish(records(20..120)).await.unwrap();
        while values(&read).len() < 120 {
            read.extend(next_read(&mut follower).await);
        }
        assert!(read.iter().any(|record| record.partition >= 4));
        assert_eq!(read.len(), 120, "some records were read twice");
    }))
    .await;
}

/// The next records of a follower.
async fn next_read(follower: &mut Box<dyn TopicReader>) -> Vec<Record> {
    match follower.next().await.unwrap() {
        ReadEvent::Held(records) | ReadEvent::Published(records) => records,
        ReadEvent::CaughtUp => Vec::new(),
    }
}

fn partition_count(topic: &str) -> usize {
    let admin = admin();
    let client = admin.inner();
    let found = client.fetch_metadata(Some(topic), Duration::from_secs(5));
    found.unwrap().topics()[0].partitions().len()
}

/// Forwards connections to Kafka once started; before that, nothing listens.
async fn forward(listener: tokio::net::TcpListener) {
    let target = brokers().split(',').next().unwrap().to_owned();
    while let Ok((mut from, _)) = listener.accept().await {
        let target = target.clone();
        tokio::spawn(async move {
            if let Ok(mut to) = tokio::net::TcpStream::connect(target).await {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn unreachable_broker_is_reported_and_awaited() {
    bounded(Box::pin(async {
        let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = reserved.local_addr().unwrap();
        drop(reserved);
        let topic = bus(&BusSettings {
            kafka_brokers: Some(address.to_string()),
            ..engine_settings()
        })
        .topic(&name("late"));
        let mut group = topic.subscribe(&name("group")).unwrap();
        let publishing = tokio::spawn(topic.publish(numbered(10)));
        let text = loop {
            let Err(BusError::Unavailable(text)) = topic.ping().await else {
                panic!("the broker should be unreachable")
            };
            if text != "no answer in time" {
                break text;
            }
        };
        assert!(
            text.contains(&address.port().to_string()) && text.contains("Connection refused"),
            "{text}"
        );
        assert!(!publishing.is_finished());
        assert_eq!(topic.depth(), 10);
        tokio::spawn(forward(
            tokio::net::TcpListener::bind(address).await.unwrap(),
        ));
        publishing.await.unwrap().unwrap();
        assert_eq!(topic.ping().await, Ok(()));
        assert_eq!(values(&take(&mut group, 10).await), (0..10).collect());
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn dead_letters_are_listed_and_replayed() {
    bounded(Box::pin(async {
        let odds = name("odds");
        let dead = name("dead");
        let kafka = bus(&engine_settings());
        let topic = kafka.topic(&odds);
        let letters = kafka.topic(&dead);
        let origin = odds.as_str();
        let reason = "malformed";
        let letter = |raw: &'static [u8]| DeadLetter {
            received_at: Timestamp::now(),
            origin: format!("{origin}/0/7"),
            reason: reason.to_owned(),
            detail: "no JSON".to_owned(),
            raw: Bytes::from_static(raw),
        };
        let source = Record {
            partition: 0,
            offset: 7,
            published_at: None,
            record: record("MATCH_001", 0),
        };
        // Twice: its writer was killed before it had committed.
        let twice = dead_letter::of_record(&letter(b"\xff\x00{]"), &odds, &source);
        letters.publish(vec![twice.clone(), twice]).await.unwrap();
        letters
            .publish(vec![dead_letter::of_supplier(&letter(
                b"{\"event_id\":\"MATCH_002\"}",
            ))])
            .await
            .unwrap();
        let run = async |words: &[&str]| {
            let brokers = brokers();
            let of = [
                "--kafka-brokers",
                &brokers,
                "--kafka-topic-odds",
                &odds,
                "--kafka-topic-odds-dlq",
                &dead,
            ];
            let words: Vec<&str> = words.iter().copied().chain(of).collect();
            let mut out = Vec::new();
            let done = dlq::run(&dlq::testing::args(&words), &mut out).await;
            done.map(|()| out).map_err(|error| error.to_string())
        };
        let text = String::from_utf8(run(&["list"]).await.unwrap()).unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split('\t').collect())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(
            (lines[0][2], lines[0][4]),
            ("malformed", "\\xff\\x00{]"),
            "the newest is last: {text}"
        );
        let id = lines[0][0];
        assert_eq!(run(&["show", id, "--raw"]).await.unwrap(), b"\xff\x00{]");
        let page = String::from_utf8(run(&["show", id]).await.unwrap()).unwrap();
        assert!(
            page.contains("source_offset: 7\n") && page.contains("ff 00 7b 5d"),
            "{page}"
        );
        assert_eq!(
            run(&["show", "0:999999"]).await.unwrap_err(),
            "dead letter 0:999999 does not exist"
        );
        let output = run(&["replay", "--all", "--dry-run"]).await.unwrap();
        assert!(String::from_utf8_lossy(&output).contains("2 would be published"));
        let output = run(&["replay", "--all", "--reason", "other"])
            .await
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output),
            format!("0 published to {odds}\n")
        );
        let output = run(&["replay", "--all"]).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output),
            format!("2 published to {odds}\n")
        );
        run(&["replay", id]).await.unwrap();
        let mut group = topic.subscribe(&name("group")).unwrap();
        let mut read: Vec<_> = take(&mut group, 3)
            .await
            .into_iter()
            .map(|record| record.record)
            .collect();
        read.sort_by(|one, other| one.key.cmp(&other.key));
        assert_eq!(
            read.iter().map(|it| &it.key[..]).collect::<Vec<_>>(),
            [b"MATCH_001", b"MATCH_001", b"MATCH_002"]
        );
        assert_eq!(read[0].payload, &b"\xff\x00{]"[..]);
        assert!(
            read[0].headers[0].1.starts_with(dead.as_bytes()),
            "{:?}",
            read[0].headers
        );
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn dlq_fails_fast_without_kafka() {
    bounded(Box::pin(async {
        for words in [&["list"][..], &["replay", "--all"]] {
            let words: Vec<&str> = words
                .iter()
                .copied()
                .chain(["--kafka-brokers", "127.0.0.1:9"])
                .collect();
            let failure = dlq::run(&dlq::testing::args(&words), &mut Vec::new())
                .await
                .unwrap_err()
                .to_string();
            assert!(
                failure.starts_with("KAFKA_BROKERS: ") && failure.contains("127.0.0.1:9"),
                "{failure}"
            );
        }
    }))
    .await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn close_without_kafka_ends_in_time() {
    bounded(Box::pin(async {
        let topic = bus(&BusSettings {
            kafka_brokers: Some("127.0.0.1:9".to_owned()),
            ..engine_settings()
        })
        .topic("never");
        let mut group = topic.subscribe("g").unwrap();
        group.close().await;
        assert_eq!(
            group.next_batch(1, Duration::ZERO).await,
            Err(BusError::Closed)
        );
    }))
    .await;
}

/// Publishes one record per transaction: committed ones, and an aborted one at the end.
fn publish_in_transactions(topic: &str, committed: u32) {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let timeout = Duration::from_secs(30);
    let mut config = rdkafka::ClientConfig::new();
    config
        .set("bootstrap.servers", brokers())
        .set("transactional.id", name("transactions"));
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(timeout).unwrap();
    for n in 0..=committed {
        producer.begin_transaction().unwrap();
        let payload = n.to_string();
        producer
            .send(BaseRecord::to(topic).key("k").payload(&payload))
            .map_err(|(error, _)| error)
            .unwrap();
        producer.flush(timeout).unwrap();
        if n < committed {
            producer.commit_transaction(timeout).unwrap();
        } else {
            producer.abort_transaction(timeout).unwrap();
        }
    }
}

/// The group's committed offsets and the ends of the partitions.
fn committed_and_end(topic: &str, group: &str) -> Vec<(i64, i64)> {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::{Offset, TopicPartitionList};
    let timeout = Duration::from_secs(10);
    let mut config = rdkafka::ClientConfig::new();
    let consumer: BaseConsumer = config
        .set("bootstrap.servers", brokers())
        .set("group.id", group)
        .create()
        .unwrap();
    let mut asked = TopicPartitionList::new();
    for partition in 0..4 {
        asked.add_partition(topic, partition);
    }
    let committed = consumer.committed_offsets(asked, timeout).unwrap();
    let place = |partition: i32, offset| {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, timeout)
            .unwrap();
        (
            if let Offset::Offset(offset) = offset {
                offset
            } else {
                low
            },
            high,
        )
    };
    committed
        .elements()
        .iter()
        .map(|element| place(element.partition(), element.offset()))
        .collect()
}

/// Transaction markers take offsets, and an aborted record is never read.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn transaction_markers_leave_no_lag() {
    bounded(Box::pin(async {
        let topic = bus(&engine_settings()).topic(&name("transactions"));
        let group = name("group");
        let mut member = topic.subscribe(&group).unwrap();
        topic.publish(vec![record("k", 0)]).await.unwrap();
        take(&mut member, 1).await;
        let of = topic.name().to_owned();
        tokio::task::spawn_blocking(move || publish_in_transactions(&of, 2))
            .await
            .unwrap();
        let read = take(&mut member, 2).await;
        assert_eq!(
            values(&read),
            (0..2).collect(),
            "the aborted record is not read"
        );
        let is_done = |topic: String, group: String| {
            let committed_and_end =
                tokio::task::spawn_blocking(move || committed_and_end(&topic, &group));
            async {
                committed_and_end
                    .await
                    .unwrap()
                    .iter()
                    .all(|(committed, end)| committed == end)
            }
        };
        while member.lag() > 0 || !is_done(topic.name().to_owned(), group.clone()).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Another member starts where this one ended and has no lag either.
        member.close().await;
        let mut next = topic.subscribe(&group).unwrap();
        topic.publish(vec![record("k", 9)]).await.unwrap();
        assert_eq!(values(&take(&mut next, 1).await), [9].into());
    }))
    .await;
}

mod every_compacted_topic {
    crate::bus::suite::compacted_suite!(
        super::compacted(),
        ignore = "needs the real engines: make test"
    );
}

fn compacted() -> Arc<dyn CompactedTopic> {
    bus(&engine_settings()).compacted_topic(&name("states"))
}

/// A topic that is deleted under its reader is created again and read from its new beginning.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn recreated_compacted_topic_is_read() {
    bounded(Box::pin(async {
        let topic_name = name("states");
        let topic = bus(&engine_settings()).compacted_topic(&topic_name);
        let mut reader = topic.read().unwrap();
        held(&mut reader).await;
        for value in 0..5 {
            publish_compacted(&topic, vec![record("k", value)]).await;
        }
        published(&mut reader, "k", 4).await;
        delete(&topic_name).await;
        publish_compacted(&topic, vec![record("k", 7)]).await;
        // One may still have gone to the deleted topic.
        let publishing = tokio::spawn(async move {
            loop {
                let _ = topic.publish(vec![record("k", 8)]).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        published(&mut reader, "k", 8).await;
        publishing.abort();
    }))
    .await;
}
