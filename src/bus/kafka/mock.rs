//! The bus against librdkafka's own mock of a cluster, which refuses on command what a real one cannot be made to.

use std::time::Duration;

use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::KafkaBus;
use super::testing::settings;
use crate::bus::suite::{bounded, next, record, value};
use crate::bus::{NewRecord, dead_letter};
use crate::config::settings::BusSettings;

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
        assert!(health.problem().is_some_and(|text| text.starts_with("joining the group g")));
        until(|| health.problem().is_some_and(|text| text.contains("GroupAuthorizationFailed"))).await;
        // The topic is there, which says nothing of the group.
        topic.ping().await.unwrap();
        assert!(health.problem().is_some());
        kafka.clear_request_errors(RDKafkaApiKey::JoinGroup);
        until(|| health.problem().is_none()).await;
        topic.publish(vec![record("k", 7)]).await.unwrap();
        assert_eq!(next(&mut group, 1).await.iter().map(value).collect::<Vec<_>>(), [7]);
    })
    .await;
}

#[tokio::test]
async fn a_member_whose_session_ended_does_not_read_until_the_group_takes_it_in_again() {
    bounded(async {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 1, 1).unwrap();
        // The shortest that the mock takes.
        let brief =
            BusSettings { kafka_session_timeout: Duration::from_secs(6), ..settings(&kafka.bootstrap_servers()) };
        let bus = KafkaBus::new(&brief, "test").unwrap();
        let group = bus.topic("t").subscribe("g").unwrap();
        let health = group.health();
        until(|| health.problem().is_none()).await;
        let not_yet = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 1_000];
        kafka.request_errors(RDKafkaApiKey::JoinGroup, &not_yet);
        kafka.request_errors(RDKafkaApiKey::Heartbeat, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
        until(|| health.problem().is_some_and(|text| text.contains("the session ended"))).await;
        kafka.clear_request_errors(RDKafkaApiKey::JoinGroup);
        until(|| health.problem().is_none()).await;
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
        let letter = |size: usize| NewRecord { payload: Bytes::from(vec![b'x'; size]), ..record("k", 0) };
        // One that this program never publishes, and one that the broker takes not before the second cut.
        dead_letter::publish(&*topic, vec![letter(3_000_000), letter(10)]).await.unwrap();
        let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2];
        kafka.request_errors(RDKafkaApiKey::Produce, &refused);
        dead_letter::publish(&*topic, vec![letter(1_000_000)]).await.unwrap();
        let mut group = topic.subscribe("g").unwrap();
        let mut read = Vec::new();
        while read.len() < 3 {
            read.extend(next(&mut group, 9).await);
        }
        let sizes = read.iter().map(|record| (record.record.payload.len(), record.header("truncated_from")));
        let cut = [(10, None), (262_144, Some("3000000")), (65_536, Some("1000000"))];
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
        assert!(text.ends_with("partition 1 of the topic t has no leader"), "{text}");
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
