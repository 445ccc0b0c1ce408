//! Publishes the updates of the feeds to the bus, several batches at a time. It replies after the
//! bus has accepted a batch, so a full bus applies backpressure to the feeds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::messages::Publish;
use crate::bus::trace_header::{self, end_sends};
use crate::bus::{BusError, NewRecord, Topic};
use crate::bus::{dead_letter, update_header};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::settlement::record::ResultRecord;
use crate::supplier::MarketRevision;
use crate::telemetry::metrics::IngestMetrics;
use crate::telemetry::trace::Span;

/// How often the depth of the bus is reported.
const DEPTH_INTERVAL: Duration = Duration::from_millis(500);

/// The topics of what suppliers send.
#[derive(Clone)]
pub(crate) struct IngestTopics {
    /// Odds updates.
    pub updates: Arc<dyn Topic>,
    /// Frames that could not be decoded.
    pub dead_letters: Arc<dyn Topic>,
    /// Results of markets.
    pub results: Arc<dyn Topic>,
    /// Frames whose results could not be decoded, or need an operator.
    pub result_dead_letters: Arc<dyn Topic>,
}

/// The actor in front of the bus.
pub(crate) struct BusPublisher {
    topics: IngestTopics,
    metrics: IngestMetrics,
}

impl BusPublisher {
    /// Publishes each kind of content to its topic.
    pub(crate) fn new(topics: IngestTopics, metrics: IngestMetrics) -> BusPublisher {
        BusPublisher { topics, metrics }
    }

    fn report_depth(&self) {
        let depth = self.topics.updates.depth();
        self.metrics.bus_depth.set(depth as i64);
    }
}

impl Actor for BusPublisher {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        // Report even if nothing is published: consumers continue to drain the bus.
        context.run_interval(DEPTH_INTERVAL, |publisher, _| publisher.report_depth());
    }
}

impl Handler<Publish> for BusPublisher {
    type Result = ResponseFuture<Result<(), BusError>>;

    fn handle(&mut self, message: Publish, context: &mut Context<Self>) -> Self::Result {
        self.metrics.publisher_depth.dec();
        self.report_depth();
        let published = message.updates.len() as u64;
        let mut records = update_records(&message);
        let spans = trace_records(&message, &mut records, self.topics.updates.name());
        let enqueueing = self.topics.updates.enqueue(records);
        let others = publish_others(&self.topics, &message, &self.metrics);
        let metrics = self.metrics.clone();
        let started = Instant::now();
        let (enqueued, acknowledgement) = oneshot::channel();
        // The next message waits until this one is enqueued, so that messages of a feed reach the
        // bus in the order in which they were sent. It does not wait for the acknowledgement.
        context.wait(enqueueing.into_actor(self).map(|acknowledgement, _, _| {
            // The feed may be gone.
            let _ = enqueued.send(acknowledgement);
        }));
        Box::pin(async move {
            let others = others.await;
            let updates = match acknowledgement.await {
                Ok(acknowledgement) => acknowledgement.received().await,
                Err(_) => Err(BusError::Closed),
            };
            let result = others.and(updates);
            end_sends(spans, &result);
            metrics.bus_wait.inc_by(started.elapsed().as_secs_f64());
            if result.is_ok() {
                metrics.published.inc_by(published);
            }
            result
        })
    }
}

/// Publishes what has a topic of its own. Its order does not matter.
fn publish_others(
    topics: &IngestTopics,
    message: &Publish,
    metrics: &IngestMetrics,
) -> impl Future<Output = Result<(), BusError>> + use<> {
    let letters = |letters: &[DeadLetter]| letters.iter().map(dead_letter::of_supplier).collect();
    let dead_letters = letters(&message.dead_letters);
    let result_dead_letters = letters(&message.result_dead_letters);
    let results: Vec<_> = message.results.iter().map(result_record).collect();
    let published = metrics.results_published.clone();
    let topics = topics.clone();
    async move {
        dead_letter::publish(&*topics.dead_letters, dead_letters).await?;
        dead_letter::publish(&*topics.result_dead_letters, result_dead_letters).await?;
        if !results.is_empty() {
            let count = results.len() as u64;
            topics.results.publish(results).await?;
            published.inc_by(count);
        }
        Ok(())
    }
}

fn result_record(result: &ResultRecord) -> NewRecord {
    NewRecord::of_event(&result.event_id, result.to_json())
}

/// Begins the spans of the traced updates, and adds them to their records.
fn trace_records(message: &Publish, records: &mut [NewRecord], topic: &str) -> Vec<Span> {
    if message.traced.is_empty() {
        return Vec::new();
    }
    let mut spans = Vec::new();
    for (update, record) in message.updates.iter().zip(records) {
        let revision = MarketRevision::of(update);
        let traced = message.traced.iter().find(|(it, _)| *it == revision);
        if let Some((_, parent)) = traced {
            let span = trace_header::begin_send(Some(*parent), topic, record);
            spans.push(span.with_market(&update.event_id, &update.market));
        }
    }
    spans
}

fn update_records(message: &Publish) -> Vec<NewRecord> {
    let marks: [(_, HashSet<_>); 2] = [
        (
            update_header::HANDED_OVER,
            message.handed_over.iter().cloned().collect(),
        ),
        (
            update_header::UNCONFIRMED,
            message.unconfirmed.iter().cloned().collect(),
        ),
    ];
    let record = |update: &OddsUpdate| {
        let headers = marks
            .iter()
            .filter(|(_, marked)| {
                // The suspension of a market may have the revision of its open state.
                !marked.is_empty()
                    && update.status != MarketStatus::Open
                    && marked.contains(&MarketRevision::of(update))
            })
            .map(|(header, _)| ((*header).to_owned(), Bytes::from_static(b"1")));
        NewRecord {
            headers: headers.collect(),
            ..NewRecord::of_event(&update.event_id, update.to_json())
        }
    };
    message.updates.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::EmbeddedTopic;
    use crate::bus::{ConsumerEvent, Position, Record, Subscription};
    use crate::domain::odds::update::testing::*;
    use crate::domain::settlement::testing::home;
    use crate::domain::timestamp::Timestamp;

    async fn next(group: &mut Box<dyn Subscription>) -> Vec<Record> {
        match group.next_batch(9, Duration::ZERO).await.unwrap() {
            ConsumerEvent::Records(records) => records,
            other => panic!("no records: {other:?}"),
        }
    }

    fn topics(capacity: usize) -> IngestTopics {
        let topic = || -> Arc<dyn Topic> { Arc::new(EmbeddedTopic::new("t", 1, capacity)) };
        IngestTopics {
            updates: topic(),
            dead_letters: topic(),
            results: topic(),
            result_dead_letters: topic(),
        }
    }

    fn letter() -> DeadLetter {
        DeadLetter {
            received_at: Timestamp::now(),
            origin: "ws://supplier".to_owned(),
            reason: "malformed".to_owned(),
            detail: "no JSON".to_owned(),
            raw: Bytes::from_static(b"\xff\x00garbage"),
        }
    }

    #[actix_web::test]
    async fn updates_and_dead_letters_arrive_unchanged() {
        let topics = topics(10);
        let mut update_group = topics.updates.subscribe("g").unwrap();
        let mut dead_group = topics.dead_letters.subscribe("g").unwrap();
        let mut result_group = topics.results.subscribe("g").unwrap();
        let mut result_dead_group = topics.result_dead_letters.subscribe("g").unwrap();
        let metrics = IngestMetrics::new().unwrap();
        let publisher = BusPublisher::new(topics, metrics.clone()).start();
        let result = home(60, 1, "won");
        let refused = DeadLetter {
            reason: "unfit_dead_heat".to_owned(),
            ..letter()
        };
        let sent = update(1, 1, 1);
        let [given_up, silent] = [2, 3].map(|event| OddsUpdate {
            status: MarketStatus::Suspended,
            ..update(event, 1, 1)
        });
        let message = Publish {
            traced: Vec::new(),
            updates: vec![sent.clone(), given_up.clone(), silent.clone()],
            dead_letters: vec![letter()],
            results: vec![result.clone()],
            result_dead_letters: vec![refused.clone()],
            handed_over: vec![MarketRevision::of(&given_up)],
            unconfirmed: vec![MarketRevision::of(&silent)],
        };
        publisher.send(message).await.unwrap().unwrap();
        let mut records = next(&mut update_group).await;
        records.sort_by_key(|read| read.record.key.clone());
        assert_eq!(records[1].header(update_header::HANDED_OVER), Some("1"));
        assert_eq!(records[2].header(update_header::UNCONFIRMED), Some("1"));
        let read = records.remove(0);
        assert_eq!(&read.record.key[..], b"MATCH_001");
        assert!(read.record.headers.is_empty());
        assert_eq!(OddsUpdate::from_json(&read.record.payload).unwrap(), sent);
        let dead = next(&mut dead_group).await.remove(0);
        let stored = dead_letter::read(&dead);
        assert_eq!(
            (&stored.origin, &stored.reason, &stored.raw),
            (&letter().origin, &letter().reason, &letter().raw)
        );
        let read = next(&mut result_group).await.remove(0);
        assert_eq!(&read.record.key[..], b"MATCH_002");
        assert_eq!(
            ResultRecord::from_json(&read.record.payload).unwrap(),
            result
        );
        assert_eq!(metrics.results_published.get(), 1);
        let dead = next(&mut result_dead_group).await;
        let stored = dead_letter::read(&dead[0]);
        assert_eq!(dead.len(), 1);
        assert_eq!(
            (&stored.reason, &stored.raw),
            (&refused.reason, &refused.raw)
        );
    }

    /// A full bus blocks the feed and loses no update.
    #[actix_web::test]
    async fn full_bus_applies_backpressure() {
        let topics = topics(1);
        let updates = topics.updates.clone();
        let mut group = updates.subscribe("g").unwrap();
        let publisher = BusPublisher::new(topics, IngestMetrics::new().unwrap()).start();
        let publish = |version| Publish {
            updates: vec![update(1, 1, version)],
            ..Publish::default()
        };
        publisher.send(publish(1)).await.unwrap().unwrap();
        let second = actix_web::rt::spawn(publisher.send(publish(2)));
        let third = actix_web::rt::spawn(publisher.send(publish(3)));
        for version in 1..=3 {
            let batch = next(&mut group).await;
            assert_eq!(batch.len(), 1);
            let read = OddsUpdate::from_json(&batch[0].record.payload).unwrap();
            assert_eq!(read.revision.version, version);
            assert_eq!(updates.depth(), 1);
            group.commit(&Position::after(&batch));
        }
        second.await.unwrap().unwrap().unwrap();
        third.await.unwrap().unwrap().unwrap();
    }
}
