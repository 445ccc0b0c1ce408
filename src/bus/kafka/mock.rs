//! The bus against librdkafka's own mock of a cluster, which refuses on command what a real one
//! cannot be made to.

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
use crate::bus::health::SubscriptionHealth;
use crate::bus::suite::{bounded, next, record, take, value};
use crate::bus::{NewRecord, Topic, dead_letter};
use crate::config::settings::BusSettings;

/// The defaults with the shortest sessions that the mock takes.
fn brief(brokers: &str) -> BusSettings {
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
async fn a_group_that_does_not_let_a_member_in_is_a_problem_until_it_does() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 1_000];
        kafka.request_errors(RDKafkaApiKey::JoinGroup, &refused);
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.topic("t");
        let mut group = topic.subscribe("g").unwrap();
        let health = group.health();
        // Whether the first refusal has come by now or not.
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
        // The topic is there, which says nothing of the group.
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
async fn a_member_whose_session_ended_does_not_read_until_the_group_takes_it_in_again() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let bus = KafkaBus::new(&brief(&kafka.bootstrap_servers()), "test").unwrap();
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
                .is_some_and(|text| text.contains("the session ended"))
        })
        .await;
        kafka.clear_request_errors(RDKafkaApiKey::JoinGroup);
        until(|| health.problem().is_none()).await;
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_failed_for_good_is_made_anew_and_does_not_count_as_reading_until_then() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let topic = KafkaBus::new(&brief(&kafka.bootstrap_servers()), "test")
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
                .is_some_and(|text| text.contains("the consumer is made anew"))
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

/// An address to begin at, of a server that knows nothing but who the broker is, or that there is
/// none yet. It speaks as much of <https://kafka.apache.org/protocol> as a client asks there:
/// ApiVersions (version 3), Metadata (version 1).
struct Bootstrap {
    address: String,
    knows_nobody: Arc<AtomicBool>,
}

impl Bootstrap {
    /// Tells of the one broker of `cluster`, and of the topic `t` with one partition.
    fn of(cluster: &str) -> Bootstrap {
        let (host, port) = cluster.rsplit_once(':').unwrap();
        let broker = (host.to_owned(), port.parse::<i32>().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let knows_nobody = Arc::new(AtomicBool::new(false));
        let knows = knows_nobody.clone();
        std::thread::spawn(move || {
            for link in listener.incoming().flatten() {
                let (broker, knows_nobody) = (broker.clone(), knows.clone());
                std::thread::spawn(move || serve(link, &broker, &knows_nobody));
            }
        });
        Bootstrap {
            address,
            knows_nobody,
        }
    }
}

fn serve(mut link: TcpStream, broker: &(String, i32), knows_nobody: &AtomicBool) -> Result<()> {
    const METADATA: i16 = 3;
    loop {
        let mut size = [0; 4];
        link.read_exact(&mut size)?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize];
        link.read_exact(&mut request)?;
        let api = i16::from_be_bytes([request[0], request[1]]);
        let body = if api == METADATA {
            metadata(broker, knows_nobody.load(Ordering::SeqCst))
        } else {
            api_versions()
        };
        let size = (4 + body.len() as u32).to_be_bytes();
        // The number of the request, and what it asked for.
        link.write_all(&[&size[..], &request[4..8], &body].concat())?;
    }
}

/// No error; Metadata up to version 1 and ApiVersions up to 3; no throttling. Lengths count one
/// more, and no field is tagged.
fn api_versions() -> Vec<u8> {
    vec![
        0, 0, 3, 0, 3, 0, 0, 0, 1, 0, 0, 18, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0,
    ]
}

fn metadata((host, port): &(String, i32), knows_nobody: bool) -> Vec<u8> {
    let number = |number: i32| number.to_be_bytes().to_vec();
    let text = |text: &str| [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat();
    let (no_rack, no_error, no_leader, is_internal) =
        (vec![0xff, 0xff], vec![0, 0], vec![0, 5], vec![0]);
    // The broker is the controller and the leader.
    let (brokers, error, broker) = if knows_nobody {
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

#[tokio::test]
async fn readers_that_were_told_of_no_broker_are_made_anew_and_nothing_is_lost() {
    const GROUPS: usize = 16;
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let bootstrap = Bootstrap::of(&kafka.bootstrap_servers());
        let topic = KafkaBus::new(&brief(&bootstrap.address), "test")
            .unwrap()
            .topic("t");
        let mut groups: Vec<_> = (0..GROUPS)
            .map(|n| topic.subscribe(&format!("g{n}")).unwrap())
            .collect();
        let healths: Vec<_> = groups.iter().map(|group| group.health()).collect();
        let problems = || healths.iter().filter_map(SubscriptionHealth::problem);
        let is_one_lost = || problems().any(|text| text.contains("it knows no broker any more"));
        until(|| problems().next().is_none()).await;
        // The only broker goes, and whoever is asked at the address to begin at has not heard of
        // any yet. Some of the clients forget that address, too.
        loop {
            bootstrap.knows_nobody.store(true, Ordering::SeqCst);
            kafka.broker_down(1).unwrap();
            let lost = tokio::time::timeout(Duration::from_secs(4), until(is_one_lost)).await;
            bootstrap.knows_nobody.store(false, Ordering::SeqCst);
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
async fn what_a_lost_producer_has_goes_by_a_new_one() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.kafka_topic("t");
        topic.publish(vec![record("k", 1)]).await.unwrap();
        kafka.broker_down(1).unwrap();
        let publishing = tokio::spawn(topic.publish(vec![record("k", 2)]));
        let producers = &bus.inner.producers;
        let lost = producers.current().unwrap();
        until(|| lost.in_flight_count() > 0).await;
        // As its figures say when it has forgotten every broker.
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
async fn a_dead_letter_that_is_too_large_is_cut() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("dead", 1, 1).unwrap();
        let bus = KafkaBus::new(&settings(&kafka.bootstrap_servers()), "test").unwrap();
        let topic = bus.topic("dead");
        let letter = |size: usize| NewRecord {
            payload: Bytes::from(vec![b'x'; size]),
            ..record("k", 0)
        };
        // One that this program never publishes, and one that the broker takes not before the
        // second cut.
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
        let cut = [
            (10, None),
            (262_144, Some("3000000")),
            (65_536, Some("1000000")),
        ];
        assert_eq!(sizes.collect::<Vec<_>>(), cut);
    })
    .await;
}

#[tokio::test]
async fn a_partition_without_a_leader_is_told_and_the_others_go_on() {
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
        // Whichever of these goes to the partition that is well is answered.
        let publishing = keys.map(|key| Box::pin(bus.topic("t").publish(vec![record(&key, 0)])));
        futures_util::future::select_ok(publishing).await.unwrap();
        kafka.partition_leader("t", 1, Some(1)).unwrap();
        while topic.ping().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
