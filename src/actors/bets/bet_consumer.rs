//! Reads `bet_placed` and gets each bet decided: requests confirmation from the supplier until it
//! answers or the bet's deadline passes, for many bets concurrently. A record is done when its bet
//! is decided in the database or the record is a dead letter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use log::{info, warn};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bus::progress::{CommitTracker, InFlight};
use crate::bus::{BusError, ConsumerEvent, Position, Record, Subscription};
use crate::runtime::drain::Drain;
use crate::runtime::health::HealthCell;
use crate::runtime::liveness::LivenessProbe;
use crate::telemetry::metrics::ConfirmationMetrics;

use super::confirmation::BetConfirmation;
pub use super::confirmation::{ConfirmationSettings, REASONS};

/// How often an idle consumer wakes up to report its lag and to check for shutdown.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// Limits on how the consumer reads.
#[derive(Clone, Copy, Debug)]
pub struct ConfirmerSettings {
    /// Maximum number of bets in flight.
    pub at_once: usize,
    /// How far the consumer may read past a record that is not done, in records.
    pub ahead: u64,
    /// How long shutdown waits for bets in flight.
    pub drain_limit: Duration,
}

/// The actor that consumes `bet_placed` for its consumer group.
pub struct Confirmer {
    reader: Option<Reader>,
    life: Arc<LivenessProbe>,
    health: Arc<HealthCell>,
    stopping: watch::Sender<bool>,
    finished: watch::Receiver<bool>,
}

impl Confirmer {
    /// Consumes `subscription` and passes each record to `confirmation`.
    pub fn new(
        settings: ConfirmerSettings,
        subscription: Box<dyn Subscription>,
        confirmation: BetConfirmation,
        metrics: ConfirmationMetrics,
    ) -> Confirmer {
        let (stopping, stop) = watch::channel(false);
        let (finish, finished) = watch::channel(false);
        let (life, health) = (Arc::new(LivenessProbe::new()), confirmation.health());
        let reader = Reader {
            settings,
            subscription,
            confirmation: Arc::new(confirmation),
            progress: CommitTracker::default(),
            committed: Position::default(),
            working: FuturesUnordered::new(),
            handles: BTreeMap::new(),
            life: life.clone(),
            stop,
            finish,
            metrics,
        };
        Confirmer {
            reader: Some(reader),
            life,
            health,
            stopping,
            finished,
        }
    }

    /// Touched on every poll of the bus.
    pub fn life(&self) -> Arc<LivenessProbe> {
        self.life.clone()
    }

    /// The consumer's health, for the readiness check.
    pub fn health(&self) -> Arc<HealthCell> {
        self.health.clone()
    }
}

impl Actor for Confirmer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        context.spawn(reader.run().into_actor(self).map(|end, _, context| {
            // After a drain the actor stays alive and idle: it did not end because of a
            // fault.
            if let Err(end) = end {
                warn!("bet consumer stopped: {end}");
                context.stop();
            }
        }));
    }
}

impl Handler<Drain> for Confirmer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.stopping.send_replace(true);
        let mut finished = self.finished.clone();
        Box::pin(async move {
            // An error means that the reader has stopped, so there is nothing to wait for.
            let _ = finished.wait_for(|finished| *finished).await;
        })
    }
}

struct Reader {
    settings: ConfirmerSettings,
    subscription: Box<dyn Subscription>,
    confirmation: Arc<BetConfirmation>,
    progress: CommitTracker,
    committed: Position,
    working: FuturesUnordered<Abortable<BoxFuture<'static, InFlight>>>,
    /// To abort work in flight when a partition is revoked.
    handles: BTreeMap<InFlight, AbortHandle>,
    life: Arc<LivenessProbe>,
    stop: watch::Receiver<bool>,
    finish: watch::Sender<bool>,
    metrics: ConfirmationMetrics,
}

/// What ends a step.
enum Event {
    Worked(Result<InFlight, Aborted>),
    Read(Result<ConsumerEvent, BusError>),
    Nothing,
}

impl Reader {
    async fn run(mut self) -> Result<(), BusError> {
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            let stopped = async {
                // An error means that no sender is left to request a stop.
                if stop.wait_for(|stop| *stop).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            // `step` is cancel safe: a cancelled step has not taken a record.
            tokio::select! {
                () = stopped => {}
                stepped = self.step(true) => stepped?,
            }
        }
        self.drain().await?;
        self.commit();
        self.subscription.close().await;
        self.report();
        self.finish.send_replace(true);
        Ok(())
    }

    /// Waits for the work in flight. A durable bus keeps unread records for the next process; with
    /// any other bus, the rest is read first.
    async fn drain(&mut self) -> Result<(), BusError> {
        let reads_on = !self.subscription.is_durable();
        let limit = Instant::now() + self.settings.drain_limit;
        while !self.working.is_empty() || (reads_on && self.subscription.lag() > 0) {
            match tokio::time::timeout_at(limit, self.step(reads_on)).await {
                Ok(stepped) => stepped?,
                Err(_) => {
                    info!(bets = self.working.len(); "shutting down with undecided bets: the next consumer processes them again");
                    break;
                }
            }
        }
        Ok(())
    }

    /// Waits for the next event. Cancel safe.
    async fn step(&mut self, reads: bool) -> Result<(), BusError> {
        self.life.touch();
        self.report();
        let is_ahead = self.progress.ahead() >= self.settings.ahead;
        let room = if reads && !is_ahead {
            self.settings.at_once.saturating_sub(self.working.len())
        } else {
            0
        };
        let (subscription, working) = (&mut self.subscription, &mut self.working);
        let reading = async {
            if room == 0 {
                std::future::pending().await
            } else {
                subscription.next_batch(room, Duration::ZERO).await
            }
        };
        let worked = async {
            match working.next().await {
                Some(worked) => worked,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            worked = worked => Event::Worked(worked),
            read = reading => Event::Read(read),
            () = tokio::time::sleep(IDLE_INTERVAL) => Event::Nothing,
        };
        match event {
            Event::Worked(Ok(ticket)) => {
                self.handles.remove(&ticket);
                self.progress.done(ticket);
            }
            Event::Worked(Err(Aborted)) | Event::Nothing => {}
            Event::Read(read) => match read? {
                ConsumerEvent::Records(records) => {
                    records.into_iter().for_each(|record| self.begin(record))
                }
                ConsumerEvent::Revoked(partitions) => self.revoke(&partitions),
            },
        }
        self.commit();
        Ok(())
    }

    fn begin(&mut self, record: Record) {
        let ticket = self.progress.begin(record.partition, record.offset);
        let (confirmation, (handle, registration)) =
            (self.confirmation.clone(), AbortHandle::new_pair());
        let work = async move {
            confirmation.finish(&record).await;
            ticket
        };
        self.handles.insert(ticket, handle);
        self.working
            .push(Abortable::new(work.boxed(), registration));
    }

    /// Drops revoked partitions, which other consumers now read. Aborted work is safe to repeat,
    /// even concurrently.
    fn revoke(&mut self, partitions: &[u32]) {
        info!(partitions:?; "bet_placed partitions revoked");
        self.progress.forget(partitions);
        self.committed.forget(partitions);
        self.handles.retain(|ticket, handle| {
            let stays = !partitions.contains(&ticket.partition);
            if !stays {
                handle.abort();
            }
            stays
        });
    }

    fn commit(&mut self) {
        let position = self.progress.position();
        if position != self.committed {
            self.subscription.commit(&position);
            self.committed = position;
        }
    }

    fn report(&self) {
        self.metrics.bus_lag.set(self.subscription.lag() as i64);
        self.metrics.in_flight.set(self.working.len() as i64);
    }
}

#[cfg(test)]
mod tests;
