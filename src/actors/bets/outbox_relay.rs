//! Publishes the outbox: what was committed here at once, and what others left there within a
//! second or when its lease ends. At least once, never lost: a row leaves the outbox only when the
//! bus has its record.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use log::warn;
use tokio::sync::watch;

use crate::actors::bets::messages::PublishOutbox;
use crate::bus::dead_letter::{self, header};
use crate::bus::{BusError, NewRecord, Topic};
use crate::domain::dead_letter::DeadLetter;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::blocking::blocking;
use crate::runtime::clock::Clock;
use crate::runtime::drain::Drain;
use crate::runtime::health::HealthCell;
use crate::store::money::{MoneyStore, OutboxRow, OutboxTopic};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::OutboxMetrics;

/// Stages that can fail, as words for metrics.
pub const STAGES: [&str; 4] = ["take", "publish", "mark", "refused"];

/// How often it looks into the outbox.
const INTERVAL: Duration = Duration::from_secs(1);
/// Delays between tries of a batch that the bus did not take.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    most: Duration::from_secs(1),
};

/// Whether the bus takes what is in the outbox, of all relays of this process.
static PUBLISHING: HealthCell = HealthCell::new("the outbox cannot be published");
/// Records that cannot be published are logged so often at most, each kind.
static DEAD_LETTERS: LogLimit = LogLimit::every(Duration::from_secs(60));

/// How it publishes.
#[derive(Clone, Copy, Debug)]
pub struct RelaySettings {
    /// Rows that are published at a time.
    pub batch: usize,
    /// Rows of a topic that may wait here; more are left in the outbox until there is room.
    pub waiting: usize,
    /// Rows that are taken from the outbox are this process's for so long.
    pub lease: Duration,
    /// How long a stop waits for what is under way.
    pub drain_limit: Duration,
}

/// Where rows of a topic go.
#[derive(Clone)]
pub struct OutboxTarget {
    /// The topic.
    pub topic: Arc<dyn Topic>,
    /// Where goes what the topic refuses for good.
    pub dead_letters: Arc<dyn Topic>,
}

/// The actor that publishes.
pub struct OutboxRelay {
    store: Arc<dyn MoneyStore>,
    lanes: [TopicQueue; 2],
    settings: RelaySettings,
    /// Rows that wait, are being published, or are published and not marked so: given again, they
    /// are passed over.
    known: HashSet<i64>,
    /// Rows that were marked while a look into the outbox was under way, which may still give them.
    marked_meanwhile: Vec<i64>,
    /// Rows that are on the bus and not marked so.
    unmarked: Vec<i64>,
    is_marking: bool,
    is_taking: bool,
    is_draining: bool,
    idle: watch::Sender<bool>,
    trouble: Arc<HealthCell>,
    clock: Clock,
    metrics: OutboxMetrics,
}

struct TopicQueue {
    of: OutboxTopic,
    target: OutboxTarget,
    waiting: VecDeque<OutboxRow>,
    is_publishing: bool,
}

/// What became of a batch.
#[derive(Default)]
struct Published {
    done: Vec<i64>,
    /// Left in the outbox.
    left: Vec<i64>,
}

impl OutboxRelay {
    /// Publishes what `store` has in its outbox.
    pub fn new(
        store: Arc<dyn MoneyStore>,
        bet_placed: OutboxTarget,
        bet_confirmed: OutboxTarget,
        settings: RelaySettings,
        clock: Clock,
        metrics: OutboxMetrics,
    ) -> OutboxRelay {
        let lane = |of, target| TopicQueue {
            of,
            target,
            waiting: VecDeque::new(),
            is_publishing: false,
        };
        OutboxRelay {
            store,
            lanes: [
                lane(OutboxTopic::BetPlaced, bet_placed),
                lane(OutboxTopic::BetConfirmed, bet_confirmed),
            ],
            settings,
            known: HashSet::new(),
            marked_meanwhile: Vec::new(),
            unmarked: Vec::new(),
            is_marking: false,
            is_taking: false,
            is_draining: false,
            idle: watch::Sender::new(true),
            trouble: Arc::new(HealthCell::new("the outbox cannot be read or written")),
            clock,
            metrics,
        }
    }

    /// What keeps it from its work, for a check of readiness. Whether the bus answers is not its to
    /// say.
    pub fn trouble(&self) -> Arc<HealthCell> {
        self.trouble.clone()
    }

    fn enqueue(&mut self, rows: Vec<OutboxRow>, context: &mut Context<Self>) {
        for row in rows {
            let Some(lane) = self.lanes.iter_mut().find(|lane| lane.of == row.topic) else {
                continue;
            };
            if lane.waiting.len() < self.settings.waiting && self.known.insert(row.id) {
                lane.waiting.push_back(row);
            }
        }
        for index in 0..self.lanes.len() {
            self.publish(index, context);
        }
        self.tell_idle();
    }

    /// Publishes what waits for a topic, unless that is under way. Topics do not wait for each
    /// other.
    fn publish(&mut self, index: usize, context: &mut Context<Self>) {
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        if lane.is_publishing || lane.waiting.is_empty() {
            return;
        }
        lane.is_publishing = true;
        let rows: Vec<_> = lane
            .waiting
            .drain(..lane.waiting.len().min(self.settings.batch.max(1)))
            .collect();
        let publishing = publish_rows(lane.target.clone(), rows, self.metrics.clone());
        let name = lane.of.as_str();
        context.spawn(
            publishing
                .into_actor(self)
                .map(move |published, relay, context| {
                    relay.lanes[index].is_publishing = false;
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
                    relay.tell_idle();
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
                    relay.marked_meanwhile.extend(rows);
                    if !relay.is_taking {
                        relay.forget_marked();
                    }
                    relay.trouble.over();
                    relay.mark(context);
                }
                // Known, so that this process does not publish them again; the timer tries to mark
                // them again.
                Ok((Err(error), rows)) => {
                    relay.failed("mark", &error);
                    relay.unmarked.extend(rows);
                }
                // Their thread failed, and they with it: published again when their lease ends.
                Err(error) => relay.failed("mark", &error),
            }
            relay.tell_idle();
        }));
    }

    /// Takes what nobody publishes, as much as there is room for.
    fn take(&mut self, context: &mut Context<Self>) {
        let waiting: usize = self
            .lanes
            .iter()
            .map(|lane| lane.waiting.len())
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
                    relay.trouble.over();
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
        for id in self.marked_meanwhile.drain(..) {
            self.known.remove(&id);
        }
    }

    fn tell_depth(&mut self, context: &mut Context<Self>) {
        let store = self.store.clone();
        let depth = blocking(move || store.outbox_depth());
        context.spawn(depth.into_actor(self).map(|depth, relay, _| {
            // A failure is told by whoever takes.
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
        self.trouble.met(error);
    }

    fn tell_idle(&self) {
        let is_busy = self
            .lanes
            .iter()
            .any(|lane| lane.is_publishing || !lane.waiting.is_empty());
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
            relay.tell_depth(context);
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
                warn!("stops before the bus took everything: the rest stays in the outbox");
            }
        })
    }
}

/// Publishes rows of one topic, however long the bus is away.
async fn publish_rows(
    target: OutboxTarget,
    rows: Vec<OutboxRow>,
    metrics: OutboxMetrics,
) -> Published {
    let mut published = Published::default();
    match publish(&target, &rows, &metrics).await {
        Ok(()) => published.done.extend(rows.iter().map(|row| row.id)),
        Err(BusError::Closed) => published.left.extend(rows.iter().map(|row| row.id)),
        // One by one: which of several was refused is not told.
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

/// Publishes until the bus takes or refuses it for good.
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
                PUBLISHING.met(&error);
                tokio::time::sleep(backoff.next_delay()).await;
            }
            answer => {
                PUBLISHING.over();
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

/// Keeps as a dead letter what its topic refuses; says whether that was done.
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
                    warn!(row = row.id, repeated; "a record is a dead letter: {refusal}");
                }
                return true;
            }
            Err(BusError::Unavailable(_) | BusError::Unreachable(_)) => {
                tokio::time::sleep(backoff.next_delay()).await
            }
            Err(error) => {
                if let Some(repeated) = DEAD_LETTERS.check("not kept") {
                    warn!(row = row.id, repeated; "a record can neither be published nor kept as a dead letter: {error}");
                }
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests;
