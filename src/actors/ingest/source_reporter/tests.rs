use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::actors::ingest::messages::HeardSource;
use crate::bus::embedded_compacted::EmbeddedCompactedTopic;
use crate::bus::{NewRecord, ReadEvent, TopicReader};
use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceReport;
use crate::domain::timestamp::Timestamp;
use crate::testing::until;

fn heard(state: SourceState) -> SourcesHeard {
    SourcesHeard {
        reporter: "r".into(),
        sources: vec![HeardSource {
            source: Source::new("a").unwrap(),
            state,
            at: Timestamp::from_micros(1_700_000_000_000_000).unwrap(),
        }],
    }
}

async fn next_state(reader: &mut Box<dyn TopicReader>) -> (String, SourceReport) {
    loop {
        if let ReadEvent::Published(records) = reader.next().await.unwrap() {
            let record = &records[0].record;
            let key = String::from_utf8(record.key.to_vec()).unwrap();
            return (key, serde_json::from_slice(&record.payload).unwrap());
        }
    }
}

#[actix_web::test]
async fn states_reach_the_topic_and_are_repeated() {
    let topic = Arc::new(EmbeddedCompactedTopic::default());
    let mut reader = topic.read().unwrap();
    let metrics = IngestMetrics::new().unwrap();
    let reporter = SourceReporter::new(topic, Duration::from_secs(60), metrics.clone()).start();
    for state in [SourceState::Recovering, SourceState::Live] {
        reporter.send(heard(state)).await.unwrap();
        let (key, report) = next_state(&mut reader).await;
        assert_eq!((key.as_str(), report.state), ("a/r", state));
    }
    let (_, repeated) = next_state(&mut reader).await;
    insta::assert_snapshot!(serde_json::to_string(&repeated).unwrap(), @r#"{"source":"a","reporter":"r","state":"live","at":"2023-11-14T22:13:20Z"}"#);
    let live = metrics.sources.with_label_values(&["live"]);
    until("one source is live", || live.get() == 1).await;
}

/// Fails the first publishes.
#[derive(Default)]
struct FailingTopic {
    topic: EmbeddedCompactedTopic,
    published: AtomicUsize,
}

impl CompactedTopic for FailingTopic {
    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        if self.published.fetch_add(1, Ordering::SeqCst) < 2 {
            let failure = Err(BusError::Unavailable("away".to_owned()));
            return std::future::ready(failure).boxed();
        }
        self.topic.publish(records)
    }

    fn read(&self) -> Result<Box<dyn TopicReader>, BusError> {
        self.topic.read()
    }
}

#[actix_web::test]
async fn failed_publish_is_counted_and_followed_by_the_next() {
    let topic = Arc::new(FailingTopic::default());
    let mut reader = topic.read().unwrap();
    let metrics = IngestMetrics::new().unwrap();
    let reporter = SourceReporter::new(topic, Duration::from_secs(60), metrics.clone()).start();
    reporter.send(heard(SourceState::Live)).await.unwrap();
    assert_eq!(next_state(&mut reader).await.1.state, SourceState::Live);
    assert_eq!(metrics.source_reports_failed.get(), 2);
}
