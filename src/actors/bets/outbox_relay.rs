//! Publishes outbox rows: our own immediately after commit, rows left by other processes within a
//! second of their lease expiring. Delivery is at least once: a row leaves the outbox only after
//! the bus has acknowledged its record.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use log::warn;
use tokio::sync::watch;

use super::messages::PublishOutbox;
use crate::bus::dead_letter::{self, header};
use crate::bus::{BusError, NewRecord, Topic};
use crate::domain::dead_letter::DeadLetter;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::clock::Clock;
use crate::runtime::drain::Drain;
use crate::runtime::health::HealthCell;
use crate::store::blocking::blocking;
use crate::store::money::{MoneyStore, OutboxRow, OutboxTopic};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::OutboxMetrics;

/// Stages that can fail, as metric label values.
pub const STAGES: [&str; 4] = ["take", "publish", "mark", "refused"];

/// How often the relay queries the outbox.
const INTERVAL: Duration = Duration::from_secs(1);
/// Backoff between attempts to publish a batch.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(1),
};

/// Whether the bus accepts outbox records; shared by all relays of this process.
static PUBLISHING: HealthCell = HealthCell::new("the outbox cannot be published");
/// Limits the log of records that cannot be published, by reason.
static DEAD_LETTERS: LogLimit = LogLimit::every(Duration::from_secs(60));

/// Batch sizes, queue limits and lease of the relay.
#[derive(Clone, Copy, Debug)]
pub struct RelaySettings {
    /// Maximum number of rows in one publish.
    pub batch: usize,
    /// Maximum number of queued rows per topic; further rows stay in the outbox until there is
    /// room.
    pub waiting: usize,
    /// How long this process leases the rows it takes from the outbox.
    pub lease: Duration,
    /// How long shutdown waits for rows in flight.
    pub drain_limit: Duration,
}

/// The destination of the rows of one topic.
#[derive(Clone)]
pub struct OutboxTarget {
    /// The topic.
    pub topic: Arc<dyn Topic>,
    /// Receives the records that the topic rejects permanently.
    pub dead_letters: Arc<dyn Topic>,
}

/// The actor that publishes the outbox.
pub struct OutboxRelay {
    store: Arc<dyn MoneyStore>,
    queues: [TopicQueue; 2],
    settings: RelaySettings,
    /// Rows that are queued, in flight, or published but not yet marked; they are skipped if taken
    /// again.
    known: HashSet<i64>,
    /// Rows marked while an outbox query was running, whose result may still contain them.
    marked_during_take: Vec<i64>,
    /// Published rows that are not yet marked in the database.
    unmarked: Vec<i64>,
    is_marking: bool,
    is_taking: bool,
    is_draining: bool,
    idle: watch::Sender<bool>,
    health: Arc<HealthCell>,
    clock: Clock,
    metrics: OutboxMetrics,
}

struct TopicQueue {
    of: OutboxTopic,
    target: OutboxTarget,
    waiting: VecDeque<OutboxRow>,
    is_publishing: bool,
}

/// The result of publishing a batch.
#[derive(Default)]
struct Published {
    done: Vec<i64>,
    /// Rows that stay in the outbox.
    left: Vec<i64>,
}

impl OutboxRelay {
    /// Publishes the outbox of `store`.
    pub fn new(
        store: Arc<dyn MoneyStore>,
        bet_placed: OutboxTarget,
        bet_confirmed: OutboxTarget,
        settings: RelaySettings,
        clock: Clock,
        metrics: OutboxMetrics,
    ) -> OutboxRelay {
        let queue = |of, target| TopicQueue {
            of,
            target,
            waiting: VecDeque::new(),
            is_publishing: false,
        };
        OutboxRelay {
            store,
            queues: [
                queue(OutboxTopic::BetPlaced, bet_placed),
                queue(OutboxTopic::BetConfirmed, bet_confirmed),
            ],
            settings,
            known: HashSet::new(),
            marked_during_take: Vec::new(),
            unmarked: Vec::new(),
            is_marking: false,
            is_taking: false,
            is_draining: false,
            idle: watch::Sender::new(true),
            health: Arc::new(HealthCell::new("the outbox cannot be read or written")),
            clock,
            metrics,
        }
    }

    /// The relay's health, for the readiness check. It covers the database only, not the bus.
    pub fn health(&self) -> Arc<HealthCell> {
        self.health.clone()
    }

    fn enqueue(&mut self, rows: Vec<OutboxRow>, context: &mut Context<Self>) {
        for row in rows {
            let Some(queue) = self.queues.iter_mut().find(|queue| queue.of == row.topic) else {
                continue;
            };
            if queue.waiting.len() < self.settings.waiting && self.known.insert(row.id) {
                queue.waiting.push_back(row);
            }
        }
        for index in 0..self.queues.len() {
            self.publish(index, context);
        }
        self.update_idle();
    }

    /// Publishes queued rows of a topic, unless a publish is running. Topics do not wait for each
    /// other.
    fn publish(&mut self, index: usize, context: &mut Context<Self>) {
        let Some(queue) = self.queues.get_mut(index) else {
            return;
        };
        if queue.is_publishing || queue.waiting.is_empty() {
            return;
        }
        queue.is_publishing = true;
        let rows: Vec<_> = queue
            .waiting
            .drain(..queue.waiting.len().min(self.settings.batch.max(1)))
            .collect();
        let publishing = publish_rows(queue.target.clone(), rows, self.metrics.clone());
        let name = queue.of.as_str();
        context.spawn(
            publishing
                .into_actor(self)
                .map(move |published, relay, context| {
                    relay.queues[index].is_publishing = false;
                    relay
                        .metrics
                        .published
                        .with_label_values(&[name])
                        .inc_by(published.done.len() as u64);
                    for id in &published.left {
                        relay.known.remove(id);
                    }
                    relay.unmarked.extend(published.done);
                    relay.mark(context);
                    relay.publish(index, context);
                    relay.update_idle();
                }),
        );
    }

    fn mark(&mut self, context: &mut Context<Self>) {
        if self.is_marking || self.unmarked.is_empty() {
            return;
        }
        self.is_marking = true;
        let (store, rows) = (self.store.clone(), std::mem::take(&mut self.unmarked));
        let marking = blocking(move || Ok((store.published(&rows), rows)));
        context.spawn(marking.into_actor(self).map(|marked, relay, context| {
            relay.is_marking = false;
            match marked {
                Ok((Ok(()), rows)) => {
                    relay.marked_during_take.extend(rows);
                    if !relay.is_taking {
                        relay.forget_marked();
                    }
                    relay.health.record_success();
                    relay.mark(context);
                }
                // Keep the rows in `known`, so that this process does not publish them again. The
                // timer retries the mark.
                Ok((Err(error), rows)) => {
                    relay.failed("mark", &error);
                    relay.unmarked.extend(rows);
                }
                // The blocking task failed and the row ids are lost: they are published again after
                // their lease expires.
                Err(error) => relay.failed("mark", &error),
            }
            relay.update_idle();
        }));
    }

    /// Takes rows without a valid lease, as many as there is room for.
    fn take(&mut self, context: &mut Context<Self>) {
        let waiting: usize = self
            .queues
            .iter()
            .map(|queue| queue.waiting.len())
            .max()
            .unwrap_or_default();
        let room = self
            .settings
            .waiting
            .saturating_sub(waiting)
            .min(self.settings.batch);
        if self.is_taking || self.is_draining || room == 0 {
            return;
        }
        self.is_taking = true;
        let (store, now, leased_until) = (
            self.store.clone(),
            self.clock.now(),
            self.clock.after(self.settings.lease),
        );
        let taking = blocking(move || store.take_outbox(now, leased_until, room));
        context.spawn(taking.into_actor(self).map(move |taken, relay, context| {
            relay.is_taking = false;
            match taken {
                Ok(rows) => {
                    relay.health.record_success();
                    let is_more_there = rows.len() == room;
                    relay.enqueue(rows, context);
                    relay.forget_marked();
                    if is_more_there {
                        relay.take(context);
                    }
                }
                Err(error) => {
                    relay.failed("take", &error);
                    relay.forget_marked();
                }
            }
        }));
    }

    fn forget_marked(&mut self) {
        for id in self.marked_during_take.drain(..) {
            self.known.remove(&id);
        }
    }

    fn report_depth(&mut self, context: &mut Context<Self>) {
        let store = self.store.clone();
        let depth = blocking(move || store.outbox_depth());
        context.spawn(depth.into_actor(self).map(|depth, relay, _| {
            // `take` reports failures of the store.
            if let Ok(depth) = depth {
                relay.metrics.rows.set(depth.rows as i64);
                let age = depth.oldest.map_or(0.0, |oldest| {
                    relay.clock.now().seconds_since(oldest).max(0.0)
                });
                relay.metrics.oldest.set(age);
            }
        }));
    }

    fn failed(&self, stage: &str, error: &dyn std::fmt::Display) {
        self.metrics.failures.with_label_values(&[stage]).inc();
        self.health.record_failure(error);
    }

    fn update_idle(&self) {
        let is_busy = self
            .queues
            .iter()
            .any(|queue| queue.is_publishing || !queue.waiting.is_empty());
        let is_idle = !is_busy && !self.is_marking && self.unmarked.is_empty();
        self.idle
            .send_if_modified(|idle| std::mem::replace(idle, is_idle) != is_idle);
    }
}

impl Actor for OutboxRelay {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.take(context);
        context.run_interval(INTERVAL, |relay, context| {
            relay.mark(context);
            relay.take(context);
            relay.report_depth(context);
        });
    }
}

impl Handler<PublishOutbox> for OutboxRelay {
    type Result = ();

    fn handle(&mut self, rows: PublishOutbox, context: &mut Context<Self>) {
        self.enqueue(rows.0, context);
    }
}

impl Handler<Drain> for OutboxRelay {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.is_draining = true;
        let (mut idle, limit) = (self.idle.subscribe(), self.settings.drain_limit);
        Box::pin(async move {
            if tokio::time::timeout(limit, idle.wait_for(|idle| *idle))
                .await
                .is_err()
            {
                warn!("shutting down with unpublished rows: they stay in the outbox");
            }
        })
    }
}

/// Publishes rows of one topic, however long the bus is unavailable.
async fn publish_rows(
    target: OutboxTarget,
    rows: Vec<OutboxRow>,
    metrics: OutboxMetrics,
) -> Published {
    let mut published = Published::default();
    match publish(&target, &rows, &metrics).await {
        Ok(()) => published.done.extend(rows.iter().map(|row| row.id)),
        Err(BusError::Closed) => published.left.extend(rows.iter().map(|row| row.id)),
        // Publish one by one: the error does not name the rejected record.
        Err(_) => {
            for row in rows {
                let is_done = match publish(&target, std::slice::from_ref(&row), &metrics).await {
                    Ok(()) => true,
                    Err(refusal) => send_to_dead_letters(&target, &row, &refusal, &metrics).await,
                };
                if is_done {
                    published.done.push(row.id)
                } else {
                    published.left.push(row.id)
                }
            }
        }
    }
    published
}

/// Publishes until the bus accepts the rows or rejects them permanently.
async fn publish(
    target: &OutboxTarget,
    rows: &[OutboxRow],
    metrics: &OutboxMetrics,
) -> Result<(), BusError> {
    let mut backoff = Backoff::new(RETRY, rows.first().map_or(0, |row| row.id as u64));
    loop {
        match target
            .topic
            .publish(rows.iter().map(record).collect())
            .await
        {
            Err(error @ (BusError::Unavailable(_) | BusError::Unreachable(_))) => {
                metrics.failures.with_label_values(&["publish"]).inc();
                PUBLISHING.record_failure(&error);
                tokio::time::sleep(backoff.next_delay()).await;
            }
            answer => {
                PUBLISHING.record_success();
                return answer;
            }
        }
    }
}

fn record(row: &OutboxRow) -> NewRecord {
    NewRecord {
        key: row.key.clone().into(),
        payload: row.payload.clone().into(),
        headers: Vec::new(),
    }
}

/// Sends a row that its topic rejects to the dead letters. Returns whether that succeeded.
async fn send_to_dead_letters(
    target: &OutboxTarget,
    row: &OutboxRow,
    refusal: &BusError,
    metrics: &OutboxMetrics,
) -> bool {
    let reason = match refusal {
        BusError::Closed => return false,
        BusError::TooLarge(_) => "too_large",
        _ => "refused",
    };
    metrics.failures.with_label_values(&["refused"]).inc();
    let letter = DeadLetter {
        received_at: crate::domain::timestamp::Timestamp::now(),
        origin: format!("outbox/{}", row.id),
        reason: reason.to_owned(),
        detail: refusal.to_string(),
        raw: Bytes::from(row.payload.clone()),
    };
    let mut record = dead_letter::of_supplier(&letter);
    record.key = row.key.clone().into();
    record.headers.push((
        header::SOURCE_TOPIC.to_owned(),
        Bytes::copy_from_slice(target.topic.name().as_bytes()),
    ));
    let mut backoff = Backoff::new(RETRY, row.id as u64);
    loop {
        match dead_letter::publish(&*target.dead_letters, vec![record.clone()]).await {
            Ok(()) => {
                if let Some(repeated) = DEAD_LETTERS.check(reason) {
                    warn!(row = row.id, repeated; "outbox row sent to dead letters: {refusal}");
                }
                return true;
            }
            Err(BusError::Unavailable(_) | BusError::Unreachable(_)) => {
                tokio::time::sleep(backoff.next_delay()).await
            }
            Err(error) => {
                if let Some(repeated) = DEAD_LETTERS.check("not kept") {
                    warn!(row = row.id, repeated; "outbox row could not be published or sent to dead letters: {error}");
                }
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests;
