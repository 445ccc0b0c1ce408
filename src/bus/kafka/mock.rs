//! The bus against librdkafka's mock cluster, which returns errors on command that a real cluster
//! cannot be made to return.

use std::io::{Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::Producer;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientContext, Statistics};

use super::KafkaBus;
use super::testing::settings;
use super::topics::TopicKind;
use crate::bus::health::SubscriptionHealth;
use crate::bus::suite::{
    bounded, enqueue_batches, held, next, publish_compacted, record, take, value, values,
};
use crate::bus::{NewRecord, ReadEvent, Topic, TopicReader, dead_letter};
use crate::config::settings::BusSettings;

/// The defaults with the shortest session timeout that the mock accepts.
fn short_session(brokers: &str) -> BusSettings {
    BusSettings {
        kafka_session_timeout: Duration::from_secs(6),
        ..settings(brokers)
    }
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn refused_join_is_reported_until_accepted() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 1_000];
        kafka.request_errors(RDKafkaApiKey::JoinGroup, &refused);
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.topic("t");
        let mut group = topic.subscribe("g").unwrap();
        let health = group.health();
        // Whether or not the first error has arrived by now.
        assert!(
            health
                .problem()
                .is_some_and(|text| text.starts_with("joining the group g"))
        );
        until(|| {
            health
                .problem()
                .is_some_and(|text| text.contains("GroupAuthorizationFailed"))
        })
        .await;
        // The topic exists, which is independent of the group.
        topic.ping().await.unwrap();
        assert!(health.problem().is_some());
        kafka.clear_request_errors(RDKafkaApiKey::JoinGroup);
        until(|| health.problem().is_none()).await;
        topic.publish(vec![record("k", 7)]).await.unwrap();
        assert_eq!(
            next(&mut group, 1)
                .await
                .iter()
                .map(value)
                .collect::<Vec<_>>(),
            [7]
        );
    })
    .await;
}

#[tokio::test]
async fn expired_session_is_reported_until_rejoined() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let bus = KafkaBus::new(&short_session(&kafka.bootstrap_servers()), "test").unwrap();
        let group = bus.topic("t").subscribe("g").unwrap();
        let health = group.health();
        until(|| health.problem().is_none()).await;
        let not_yet = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 1_000];
        kafka.request_errors(RDKafkaApiKey::JoinGroup, &not_yet);
        kafka.request_errors(
            RDKafkaApiKey::Heartbeat,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID],
        );
        until(|| {
            health
                .problem()
                .is_some_and(|text| text.contains("the session expired"))
        })
        .await;
        kafka.clear_request_errors(RDKafkaApiKey::JoinGroup);
        until(|| health.problem().is_none()).await;
    })
    .await;
}

/// Until the new consumer has joined, the member does not count as reading.
#[tokio::test]
async fn fenced_consumer_is_recreated() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let topic = KafkaBus::new(&short_session(&kafka.bootstrap_servers()), "test")
            .unwrap()
            .topic("t");
        let mut group = topic.subscribe("g").unwrap();
        let health = group.health();
        until(|| health.problem().is_none()).await;
        let fenced = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID];
        kafka.request_errors(RDKafkaApiKey::Heartbeat, &fenced);
        until(|| {
            health
                .problem()
                .is_some_and(|text| text.contains("recreating the consumer"))
        })
        .await;
        until(|| health.problem().is_none()).await;
        topic.publish(vec![record("k", 7)]).await.unwrap();
        assert_eq!(
            take(&mut group, 1)
                .await
                .iter()
                .map(value)
                .collect::<Vec<_>>(),
            [7]
        );
    })
    .await;
}

/// A bootstrap server that knows only the broker's address, or reports that there is none yet. It
/// implements the part of <https://kafka.apache.org/protocol> that a client uses there: ApiVersions
/// (version 3), Metadata (version 1).
struct Bootstrap {
    address: String,
    reports_no_broker: Arc<AtomicBool>,
}

impl Bootstrap {
    /// Reports the one broker of `cluster`, and the topic `t` with one partition.
    fn for_cluster(cluster: &str) -> Bootstrap {
        let (host, port) = cluster.rsplit_once(':').unwrap();
        let broker = (host.to_owned(), port.parse::<i32>().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let reports_no_broker = Arc::new(AtomicBool::new(false));
        let knows = reports_no_broker.clone();
        std::thread::spawn(move || {
            for link in listener.incoming().flatten() {
                let broker = broker.clone();
                let reports_no_broker = knows.clone();
                std::thread::spawn(move || serve(link, &broker, &reports_no_broker));
            }
        });
        Bootstrap {
            address,
            reports_no_broker,
        }
    }
}

fn serve(
    mut link: TcpStream,
    broker: &(String, i32),
    reports_no_broker: &AtomicBool,
) -> Result<()> {
    const METADATA: i16 = 3;
    loop {
        let mut size = [0; 4];
        link.read_exact(&mut size)?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize];
        link.read_exact(&mut request)?;
        let api = i16::from_be_bytes([request[0], request[1]]);
        let body = if api == METADATA {
            metadata(broker, reports_no_broker.load(Ordering::SeqCst))
        } else {
            api_versions()
        };
        let size = (4 + body.len() as u32).to_be_bytes();
        // The response size, the correlation id and the body.
        link.write_all(&[&size[..], &request[4..8], &body].concat())?;
    }
}

/// No error; Metadata up to version 1 and ApiVersions up to 3; no throttling. Compact array lengths
/// are one higher, and no field is tagged.
fn api_versions() -> Vec<u8> {
    vec![
        0, 0, 3, 0, 3, 0, 0, 0, 1, 0, 0, 18, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0,
    ]
}

fn metadata((host, port): &(String, i32), reports_no_broker: bool) -> Vec<u8> {
    let number = |number: i32| number.to_be_bytes().to_vec();
    let text = |text: &str| [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat();
    let no_rack = vec![0xff, 0xff];
    let no_error = vec![0, 0];
    let no_leader = vec![0, 5];
    let is_internal = vec![0];
    // The broker is the controller and the leader.
    let (brokers, error, broker) = if reports_no_broker {
        (number(0), no_leader, number(-1))
    } else {
        (
            [number(1), number(1), text(host), number(*port), no_rack].concat(),
            no_error,
            number(1),
        )
    };
    let topics = [number(1), error.clone(), text("t"), is_internal];
    let partitions = [
        number(1),
        error,
        number(0),
        broker.clone(),
        number(1),
        number(1),
        number(1),
        number(1),
    ];
    [brokers, broker, topics.concat(), partitions.concat()].concat()
}

/// Consumers that were told of no broker are recreated, and no record is lost.
#[tokio::test]
async fn consumers_without_brokers_are_recreated() {
    const GROUPS: usize = 16;
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let bootstrap = Bootstrap::for_cluster(&kafka.bootstrap_servers());
        let topic = KafkaBus::new(&short_session(&bootstrap.address), "test")
            .unwrap()
            .topic("t");
        let mut groups: Vec<_> = (0..GROUPS)
            .map(|n| topic.subscribe(&format!("g{n}")).unwrap())
            .collect();
        let healths: Vec<_> = groups.iter().map(|group| group.health()).collect();
        let problems = || healths.iter().filter_map(SubscriptionHealth::problem);
        let is_one_lost = || problems().any(|text| text.contains("it has lost all brokers"));
        until(|| problems().next().is_none()).await;
        // The only broker goes down, and the bootstrap server reports no broker. Some of the
        // clients then forget the bootstrap address, too.
        loop {
            bootstrap.reports_no_broker.store(true, Ordering::SeqCst);
            kafka.broker_down(1).unwrap();
            let lost = tokio::time::timeout(Duration::from_secs(4), until(is_one_lost)).await;
            bootstrap.reports_no_broker.store(false, Ordering::SeqCst);
            kafka.broker_up(1).unwrap();
            if lost.is_ok() {
                break;
            }
            until(|| problems().next().is_none()).await;
        }
        topic.publish(vec![record("k", 7)]).await.unwrap();
        for group in &mut groups {
            assert_eq!(
                next(group, 1).await.iter().map(value).collect::<Vec<_>>(),
                [7]
            );
        }
        until(|| problems().next().is_none()).await;
    })
    .await;
}

#[tokio::test]
async fn records_move_to_new_producer() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.kafka_topic("t", Some(TopicKind::Log));
        topic.publish(vec![record("k", 1)]).await.unwrap();
        kafka.broker_down(1).unwrap();
        let publishing = tokio::spawn(topic.publish(vec![record("k", 2)]));
        let producers = &bus.inner.producers;
        let lost = producers.current().unwrap();
        until(|| lost.in_flight_count() > 0).await;
        // As the statistics look after it has forgotten every broker.
        (0..2).for_each(|_| lost.context().stats(Statistics::default()));
        assert!(!Arc::ptr_eq(&lost, &producers.current().unwrap()));
        until(|| lost.in_flight_count() == 0).await;
        kafka.broker_up(1).unwrap();
        publishing.await.unwrap().unwrap();
        let mut group = topic.subscribe("g").unwrap();
        let read = take(&mut group, 2).await;
        assert_eq!(read.iter().map(value).collect::<Vec<_>>(), [1, 2]);
    })
    .await;
}

#[tokio::test]
async fn oversized_dead_letter_is_truncated() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("dead", 1, 1).unwrap();
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.topic("dead");
        let letter = |size: usize| NewRecord {
            payload: Bytes::from(vec![b'x'; size]),
            ..record("k", 0)
        };
        // One letter exceeds this program's limit; the broker accepts the other only after the
        // second truncation.
        dead_letter::publish(&*topic, vec![letter(3_000_000), letter(10)])
            .await
            .unwrap();
        let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2];
        kafka.request_errors(RDKafkaApiKey::Produce, &refused);
        dead_letter::publish(&*topic, vec![letter(1_000_000)])
            .await
            .unwrap();
        let mut group = topic.subscribe("g").unwrap();
        let mut read = Vec::new();
        while read.len() < 3 {
            read.extend(next(&mut group, 9).await);
        }
        let sizes = read
            .iter()
            .map(|record| (record.record.payload.len(), record.header("truncated_from")));
        let expected = [
            (10, None),
            (262_144, Some("3000000")),
            (65_536, Some("1000000")),
        ];
        assert_eq!(sizes.collect::<Vec<_>>(), expected);
    })
    .await;
}

/// Batches in flight that Kafka fails are sent again until all is stored.
#[tokio::test]
async fn failed_batches_in_flight_are_not_lost() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 2, 1).unwrap();
        let topic = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test")
            .unwrap()
            .topic("t");
        topic.publish(vec![record("first", 140)]).await.unwrap();
        println!("the first record is stored");
        let failed = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER; 3];
        kafka.request_errors(RDKafkaApiKey::Produce, &failed);
        let acknowledgements = enqueue_batches(&topic, 20, 7).await;
        println!("all batches are sent");
        for (batch, acknowledgement) in acknowledgements.into_iter().enumerate() {
            assert_eq!(acknowledgement.received().await, Ok(()));
            println!("batch {batch} is stored");
        }
        let mut group = topic.subscribe("g").unwrap();
        let mut read = Vec::new();
        while values(&read).len() < 141 {
            read.extend(next(&mut group, 99).await);
            println!("{} values are read", values(&read).len());
        }
    })
    .await;
}

#[tokio::test]
async fn leaderless_partition_does_not_stop_others() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 2, 1).unwrap();
        kafka.partition_leader("t", 1, None).unwrap();
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.topic("t");
        let text = topic.ping().await.unwrap_err().to_string();
        assert!(
            text.ends_with("partition 1 of the topic t has no leader"),
            "{text}"
        );
        let keys = (0..50).map(|n| format!("k{n}"));
        // Publishing to the healthy partition is acknowledged.
        let publishing = keys.map(|key| Box::pin(bus.topic("t").publish(vec![record(&key, 0)])));
        futures_util::future::select_ok(publishing).await.unwrap();
        kafka.partition_leader("t", 1, Some(1)).unwrap();
        while topic.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// A state is not worth waiting for: while Kafka is away, publishing fails in bounded time and
/// nothing is left in a queue.
#[tokio::test]
async fn states_are_dropped_while_kafka_is_away() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("states", 1, 1).unwrap();
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.compacted_topic("states");
        let mut reader = topic.read().unwrap();
        assert_eq!(held(&mut reader).await.len(), 0);
        publish_compacted(&topic, vec![record("k", 1)]).await;
        kafka.broker_down(1).unwrap();
        for value in 2..4 {
            assert!(topic.publish(vec![record("k", value)]).await.is_err());
        }
        kafka.broker_up(1).unwrap();
        publish_compacted(&topic, vec![record("k", 9)]).await;
        let mut read = Vec::new();
        while read.last() != Some(&9) {
            if let ReadEvent::Published(records) = reader.next().await.unwrap() {
                read.extend(records.iter().map(value));
            }
        }
        assert_eq!(read, [1, 9]);
    })
    .await;
}

/// The values that a follower reads until the last of `expected`.
async fn followed(reader: &mut Box<dyn TopicReader>, expected: &[u32]) {
    let mut read = Vec::new();
    while read.last() != expected.last() {
        let event = reader.next().await.unwrap();
        if let ReadEvent::Held(records) | ReadEvent::Published(records) = event {
            read.extend(records.iter().map(value));
        }
    }
    assert_eq!(read, expected);
}

/// A follower reads what the group has not committed, and then all partitions. It takes none from
/// the group, and loses nothing while the broker is away.
#[tokio::test]
async fn follower_reads_beside_the_group() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 2, 1).unwrap();
        let bus = KafkaBus::new(&short_session(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.topic("t");
        let mut group = topic.subscribe("g").unwrap();
        let records = (0..3).map(|value| record("k", value)).collect();
        topic.publish(records).await.unwrap();
        take(&mut group, 2).await;
        group.close().await;
        let mut follower = topic.follow("g").unwrap();
        followed(&mut follower, &[2]).await;
        while follower.next().await.unwrap() != ReadEvent::CaughtUp {}
        topic.publish(vec![record("k", 3)]).await.unwrap();
        followed(&mut follower, &[3]).await;
        kafka.broker_down(1).unwrap();
        let publishing = tokio::spawn(topic.publish(vec![record("k", 4)]));
        // Each takes longer than a poll of the follower.
        for _ in 0..3 {
            while topic.ping().await.is_ok() {}
        }
        kafka.broker_up(1).unwrap();
        publishing.await.unwrap().unwrap();
        followed(&mut follower, &[4]).await;
        let mut group = topic.subscribe("g").unwrap();
        assert_eq!(values(&take(&mut group, 3).await), (2..5).collect());
    })
    .await;
}

/// A process that only follows a topic waits until another one has created it.
#[tokio::test]
async fn followed_topic_is_not_created() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        let settings = settings(&kafka.bootstrap_servers());
        let reading = KafkaBus::for_reading(&settings, "test").unwrap();
        let topic = reading.existing_topic("t");
        let mut follower = topic.follow("g").unwrap();
        let text = topic.ping().await.unwrap_err().to_string();
        assert!(text.ends_with("the topic t is missing"), "{text}");
        kafka.create_topic("t", 1, 1).unwrap();
        let writer = KafkaBus::new(&settings, "test").unwrap().topic("t");
        writer.publish(vec![record("k", 1)]).await.unwrap();
        followed(&mut follower, &[1]).await;
    })
    .await;
}

/// Nothing is known about the commits of a topic that no broker has. At the first start it is being
/// created: that is awaited.
#[tokio::test]
async fn commits_of_missing_topic_are_awaited() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        let bus = KafkaBus::for_reading(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.existing_topic("t");
        let error = topic.committed_by("g", Duration::from_secs(1)).await;
        let text = error.unwrap_err().to_string();
        assert!(text.ends_with("the topic t was not found for 1s"), "{text}");
        let mut waiting = topic.committed_by("g", Duration::from_secs(50));
        let early = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
        assert!(early.is_err(), "{early:?}");
        kafka.create_topic("t", 2, 1).unwrap();
        waiting.await.unwrap();
    })
    .await;
}
