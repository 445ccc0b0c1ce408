//! Publishes outbox rows: our own immediately after commit, rows left by other processes within a
//! second of their lease expiring. Delivery is at least once: a row leaves the outbox only after
//! the bus has acknowledged its record.

mod records;
mod state;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::warn;
use tokio::sync::watch;

use self::state::{Effect, RelayState};
use super::messages::PublishOutbox;
use crate::bus::dead_letter;
use crate::bus::trace_header::end_sends;
use crate::bus::{BusError, Topic};
use crate::domain::timestamp::Timestamp;
use crate::runtime::clock::Clock;
use crate::runtime::drain::Drain;
use crate::runtime::health::HealthCell;
use crate::store::blocking::blocking;
use crate::store::money::{OutboxRow, OutboxStore, OutboxTopic};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::{OutboxMetrics, OutboxStage};

/// How often the relay queries the outbox.
const INTERVAL: Duration = Duration::from_secs(1);

/// Limits the log of records that cannot be published, by reason.
static DEAD_LETTERS: LogLimit = LogLimit::every(Duration::from_secs(60));

/// Batch sizes, queue limits and lease of the relay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelaySettings {
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
pub(crate) struct OutboxTarget {
    /// The topic.
    pub topic: Arc<dyn Topic>,
    /// Receives the records that the topic rejects permanently.
    pub dead_letters: Arc<dyn Topic>,
}

/// The destinations of all rows.
#[derive(Clone)]
pub(crate) struct OutboxTargets {
    /// Bets that were placed.
    pub bet_placed: OutboxTarget,
    /// Bets that were decided.
    pub bet_confirmed: OutboxTarget,
    /// Bets that were settled.
    pub bet_settled: OutboxTarget,
}

/// The actor that publishes the outbox. [`RelayState`] decides; the actor calls bus and database.
pub(crate) struct OutboxRelay {
    state: RelayState,
    store: Arc<dyn OutboxStore>,
    targets: OutboxTargets,
    drain_limit: Duration,
    idle: watch::Sender<bool>,
    health: Arc<HealthCell>,
    /// Whether the bus accepts records.
    publishing: HealthCell,
    clock: Clock,
    metrics: OutboxMetrics,
}

impl OutboxRelay {
    /// Publishes the outbox of `store`.
    pub(crate) fn new(
        store: Arc<dyn OutboxStore>,
        targets: OutboxTargets,
        settings: RelaySettings,
        clock: Clock,
        metrics: OutboxMetrics,
    ) -> OutboxRelay {
        OutboxRelay {
            state: RelayState::new(settings),
            store,
            targets,
            drain_limit: settings.drain_limit,
            idle: watch::Sender::new(true),
            health: Arc::new(HealthCell::new("the outbox cannot be read or written")),
            publishing: HealthCell::new("the outbox cannot be published"),
            clock,
            metrics,
        }
    }

    /// The relay's health, for the readiness check. It covers the database only, not the bus.
    pub(crate) fn health(&self) -> Arc<HealthCell> {
        self.health.clone()
    }

    fn target(&self, topic: OutboxTopic) -> &OutboxTarget {
        match topic {
            OutboxTopic::Placed => &self.targets.bet_placed,
            OutboxTopic::Confirmed => &self.targets.bet_confirmed,
            OutboxTopic::Settled => &self.targets.bet_settled,
        }
    }

    fn run(&mut self, effects: Vec<Effect>, context: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Publish {
                    topic,
                    rows,
                    retry_after,
                } => self.publish(topic, &rows, retry_after, context),
                Effect::DeadLetter {
                    row,
                    rejection,
                    retry_after,
                } => self.send_to_dead_letters(row, rejection, retry_after, context),
                Effect::Mark(rows) => self.mark(rows, context),
                Effect::Take {
                    at,
                    leased_until,
                    limit,
                } => self.take(at, leased_until, limit, context),
            }
        }
        let is_idle = self.state.is_idle();
        self.idle
            .send_if_modified(|idle| std::mem::replace(idle, is_idle) != is_idle);
    }

    fn publish(
        &self,
        topic: OutboxTopic,
        rows: &[Arc<OutboxRow>],
        retry_after: Option<Duration>,
        context: &mut Context<Self>,
    ) {
        let target = self.target(topic).topic.clone();
        let count = rows.len();
        let mut records: Vec<_> = rows.iter().map(|row| records::record(row)).collect();
        let spans = records::begin_sends(rows, &mut records, target.name());
        let publishing = async move {
            wait(retry_after).await;
            target.publish(records).await
        };
        context.spawn(
            publishing
                .into_actor(self)
                .map(move |answer, relay, context| {
                    end_sends(spans, &answer);
                    relay.count_attempt(topic, count, &answer);
                    let effects = relay.state.answered(topic, answer);
                    relay.run(effects, context);
                }),
        );
    }

    fn count_attempt(&self, topic: OutboxTopic, rows: usize, answer: &Result<(), BusError>) {
        match answer {
            Err(error @ (BusError::Unavailable(_) | BusError::Unreachable(_))) => {
                self.metrics.count_failure(OutboxStage::Publish);
                self.publishing.record_failure(error);
            }
            Err(_) => _ = self.publishing.record_success(),
            Ok(()) => {
                self.publishing.record_success();
                self.count_published(topic, rows);
            }
        }
    }

    fn count_published(&self, topic: OutboxTopic, rows: usize) {
        self.metrics
            .published
            .with_label_values(&[topic.as_str()])
            .inc_by(rows as u64);
    }

    fn send_to_dead_letters(
        &self,
        row: Arc<OutboxRow>,
        rejection: BusError,
        retry_after: Option<Duration>,
        context: &mut Context<Self>,
    ) {
        if retry_after.is_none() {
            self.metrics.count_failure(OutboxStage::Refused);
        }
        let target = self.target(row.topic);
        let topic_name = target.topic.name();
        let record = records::dead_letter(&row, &rejection, topic_name, self.clock.now());
        let dead_letters = target.dead_letters.clone();
        let publishing = async move {
            wait(retry_after).await;
            dead_letter::publish(&*dead_letters, vec![record]).await
        };
        context.spawn(
            publishing
                .into_actor(self)
                .map(move |answer, relay, context| {
                    log_dead_letter(row.id, &rejection, &answer);
                    if answer.is_ok() {
                        relay.count_published(row.topic, 1);
                    }
                    let effects = relay.state.answered(row.topic, answer);
                    relay.run(effects, context);
                }),
        );
    }

    fn mark(&self, rows: Vec<i64>, context: &mut Context<Self>) {
        let store = self.store.clone();
        let marking = blocking(move || store.published(&rows));
        context.spawn(marking.into_actor(self).map(|marked, relay, context| {
            match &marked {
                Ok(()) => _ = relay.health.record_success(),
                Err(error) => relay.record_failure(OutboxStage::Mark, error),
            }
            let effects = relay.state.marked(marked.is_ok());
            relay.run(effects, context);
        }));
    }

    fn take(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
        limit: usize,
        context: &mut Context<Self>,
    ) {
        let store = self.store.clone();
        let taking = blocking(move || store.take_outbox(at, leased_until, limit));
        context.spawn(taking.into_actor(self).map(|taken, relay, context| {
            match &taken {
                Ok(_) => _ = relay.health.record_success(),
                Err(error) => relay.record_failure(OutboxStage::Take, error),
            }
            let effects = relay.state.taken(relay.clock.now(), taken.ok());
            relay.run(effects, context);
        }));
    }

    fn report_depth(&self, context: &mut Context<Self>) {
        let store = self.store.clone();
        let depth = blocking(move || store.outbox_depth());
        context.spawn(depth.into_actor(self).map(|depth, relay, _| {
            // Taking rows reports failures of the store.
            if let Ok(depth) = depth {
                relay.metrics.rows.set(depth.rows as i64);
                let age = depth.oldest.map_or(0.0, |oldest| {
                    relay.clock.now().seconds_since(oldest).max(0.0)
                });
                relay.metrics.oldest.set(age);
            }
        }));
    }

    fn record_failure(&self, stage: OutboxStage, error: &dyn std::fmt::Display) {
        self.metrics.count_failure(stage);
        self.health.record_failure(error);
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        let effects = self.state.tick(self.clock.now());
        self.run(effects, context);
    }
}

impl Actor for OutboxRelay {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.tick(context);
        context.run_interval(INTERVAL, |relay, context| {
            relay.tick(context);
            relay.report_depth(context);
        });
    }
}

impl Handler<PublishOutbox> for OutboxRelay {
    type Result = ();

    fn handle(&mut self, rows: PublishOutbox, context: &mut Context<Self>) {
        let effects = self.state.submit(rows.0);
        self.run(effects, context);
    }
}

impl Handler<Drain> for OutboxRelay {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.state.drain();
        let mut idle = self.idle.subscribe();
        let limit = self.drain_limit;
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

async fn wait(delay: Option<Duration>) {
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
}

fn log_dead_letter(row: i64, rejection: &BusError, answer: &Result<(), BusError>) {
    match answer {
        Ok(()) => {
            if let Some(repeated) = DEAD_LETTERS.check(records::reason(rejection)) {
                warn!(row, repeated; "outbox row sent to dead letters: {rejection}");
            }
        }
        Err(BusError::Unavailable(_) | BusError::Unreachable(_)) => {}
        Err(error) => {
            if let Some(repeated) = DEAD_LETTERS.check("undeliverable") {
                warn!(row, repeated; "outbox row could not be published or sent to dead letters: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
