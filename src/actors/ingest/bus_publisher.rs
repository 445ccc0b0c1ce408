//! Publishes the updates of the feeds to the bus, several batches at a time. It replies after the
//! bus has accepted a batch, so a full bus applies backpressure to the feeds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::messages::Publish;
use crate::bus::{BusError, NewRecord, Topic};
use crate::bus::{dead_letter, update_header};
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::supplier::MarketRevision;
use crate::telemetry::metrics::IngestMetrics;

/// How often the depth of the bus is reported.
const DEPTH_INTERVAL: Duration = Duration::from_millis(500);

/// The actor in front of the bus.
pub(crate) struct BusPublisher {
    updates: Arc<dyn Topic>,
    dead_letters: Arc<dyn Topic>,
    metrics: IngestMetrics,
}

impl BusPublisher {
    /// Publishes updates to one topic and undecodable frames to another.
    pub(crate) fn new(
        updates: Arc<dyn Topic>,
        dead_letters: Arc<dyn Topic>,
        metrics: IngestMetrics,
    ) -> BusPublisher {
        BusPublisher {
            updates,
            dead_letters,
            metrics,
        }
    }

    fn report_depth(&self) {
        self.metrics.bus_depth.set(self.updates.depth() as i64);
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
        let enqueueing = self.updates.enqueue(update_records(&message));
        let letters = message
            .dead_letters
            .iter()
            .map(dead_letter::of_supplier)
            .collect();
        let dead_letters = self.dead_letters.clone();
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
            let dead_letters = dead_letter::publish(&*dead_letters, letters).await;
            let updates = match acknowledgement.await {
                Ok(acknowledgement) => acknowledgement.received().await,
                Err(_) => Err(BusError::Closed),
            };
            let result = dead_letters.and(updates);
            metrics.bus_wait.inc_by(started.elapsed().as_secs_f64());
            if result.is_ok() {
                metrics.published.inc_by(published);
            }
            result
        })
    }
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
            key: Bytes::copy_from_slice(update.event_id.as_str().as_bytes()),
            payload: update.to_json().into(),
            headers: headers.collect(),
        }
    };
    message.updates.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::EmbeddedTopic;
    use crate::bus::{ConsumerEvent, Position, Record, Subscription};
    use crate::domain::dead_letter::DeadLetter;
    use crate::domain::odds::update::testing::*;
    use crate::domain::timestamp::Timestamp;

    async fn next(group: &mut Box<dyn Subscription>) -> Vec<Record> {
        match group.next_batch(9, Duration::ZERO).await.unwrap() {
            ConsumerEvent::Records(records) => records,
            other => panic!("no records: {other:?}"),
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
        let updates = Arc::new(EmbeddedTopic::new("t", 2, 10));
        let dead = Arc::new(EmbeddedTopic::new("t", 1, 10));
        let mut update_group = updates.subscribe("g").unwrap();
        let mut dead_group = dead.subscribe("g").unwrap();
        let publisher = BusPublisher::new(updates, dead, IngestMetrics::new().unwrap()).start();
        let sent = update(1, 1, 1);
        let [given_up, silent] = [2, 3].map(|event| OddsUpdate {
            status: MarketStatus::Suspended,
            ..update(event, 1, 1)
        });
        let message = Publish {
            updates: vec![sent.clone(), given_up.clone(), silent.clone()],
            dead_letters: vec![letter()],
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
    }

    /// A full bus blocks the feed and loses no update.
    #[actix_web::test]
    async fn full_bus_applies_backpressure() {
        let updates = Arc::new(EmbeddedTopic::new("t", 1, 1));
        let mut group = updates.subscribe("g").unwrap();
        let dead = Arc::new(EmbeddedTopic::new("t", 1, 1));
        let publisher =
            BusPublisher::new(updates.clone(), dead, IngestMetrics::new().unwrap()).start();
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
