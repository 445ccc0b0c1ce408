//! Reads `bet_placed` and has every bet decided: asks the supplier until it answers or the bet's
//! time is over, many bets at once. A record is done when its bet is decided in the database, or
//! when it is a dead letter.

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

/// An idle consumer looks up this often, to tell its lag and to see whether it should end.
const IDLE_LOOK: Duration = Duration::from_millis(100);

/// How it reads.
#[derive(Clone, Copy, Debug)]
pub struct ConfirmerSettings {
    /// Bets that are in work at once.
    pub at_once: usize,
    /// So far, in records, it reads on beyond one that is not done.
    pub ahead: u64,
    /// How long a stop waits for the bets in work.
    pub drain_limit: Duration,
}

/// The actor that reads for the group.
pub struct Confirmer {
    reader: Option<Reader>,
    life: Arc<LivenessProbe>,
    trouble: Arc<HealthCell>,
    stopping: watch::Sender<bool>,
    finished: watch::Receiver<bool>,
}

impl Confirmer {
    /// Reads `subscription` and has `desk` work on each record.
    pub fn new(
        settings: ConfirmerSettings,
        subscription: Box<dyn Subscription>,
        desk: BetConfirmation,
        metrics: ConfirmationMetrics,
    ) -> Confirmer {
        let (stopping, stop) = watch::channel(false);
        let (finish, finished) = watch::channel(false);
        let (life, trouble) = (Arc::new(LivenessProbe::new()), desk.trouble());
        let reader = Reader {
            settings,
            subscription,
            desk: Arc::new(desk),
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
            trouble,
            stopping,
            finished,
        }
    }

    /// A sign of life whenever it looks at the bus, which is often.
    pub fn life(&self) -> Arc<LivenessProbe> {
        self.life.clone()
    }

    /// What keeps it from its work, for a check of readiness.
    pub fn trouble(&self) -> Arc<HealthCell> {
        self.trouble.clone()
    }
}

impl Actor for Confirmer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        context.spawn(
            reader
                .read_until_the_end()
                .into_actor(self)
                .map(|end, _, context| {
                    // One that has drained stays, and does nothing any more: it did not end by a
                    // fault.
                    if let Err(end) = end {
                        warn!("the confirmer ends: {end}");
                        context.stop();
                    }
                }),
        );
    }
}

impl Handler<Drain> for Confirmer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        self.stopping.send_replace(true);
        let mut finished = self.finished.clone();
        Box::pin(async move {
            // An error means that the reader is gone, so there is nothing left to wait for.
            let _ = finished.wait_for(|finished| *finished).await;
        })
    }
}

struct Reader {
    settings: ConfirmerSettings,
    subscription: Box<dyn Subscription>,
    desk: Arc<BetConfirmation>,
    progress: CommitTracker,
    committed: Position,
    working: FuturesUnordered<Abortable<BoxFuture<'static, InFlight>>>,
    /// To let go of what is in work.
    handles: BTreeMap<InFlight, AbortHandle>,
    life: Arc<LivenessProbe>,
    stop: watch::Receiver<bool>,
    finish: watch::Sender<bool>,
    metrics: ConfirmationMetrics,
}

/// What happened.
enum Event {
    Worked(Result<InFlight, Aborted>),
    ConsumerEvent(Result<ConsumerEvent, BusError>),
    Nothing,
}

impl Reader {
    async fn read_until_the_end(mut self) -> Result<(), BusError> {
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            let stopped = async {
                // An error means that nobody can stop it any more.
                if stop.wait_for(|stop| *stop).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            // What a step gives up here it has not begun.
            tokio::select! {
                () = stopped => {}
                stepped = self.step(true) => stepped?,
            }
        }
        self.finish_what_is_under_way().await?;
        self.commit();
        self.subscription.close().await;
        self.tell();
        self.finish.send_replace(true);
        Ok(())
    }

    /// What the bus keeps is left to the next process; what it does not keep is read to its end.
    async fn finish_what_is_under_way(&mut self) -> Result<(), BusError> {
        let reads_on = !self.subscription.is_durable();
        let limit = Instant::now() + self.settings.drain_limit;
        while !self.working.is_empty() || (reads_on && self.subscription.lag() > 0) {
            match tokio::time::timeout_at(limit, self.step(reads_on)).await {
                Ok(stepped) => stepped?,
                Err(_) => {
                    info!(bets = self.working.len(); "stops before all bets are decided: they are taken up again");
                    break;
                }
            }
        }
        Ok(())
    }

    /// Waits for the next thing to happen. A caller may give up waiting and loses nothing.
    async fn step(&mut self, reads: bool) -> Result<(), BusError> {
        self.life.touch();
        self.tell();
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
            given = reading => Event::ConsumerEvent(given),
            () = tokio::time::sleep(IDLE_LOOK) => Event::Nothing,
        };
        match event {
            Event::Worked(Ok(ticket)) => {
                self.handles.remove(&ticket);
                self.progress.done(ticket);
            }
            Event::Worked(Err(Aborted)) | Event::Nothing => {}
            Event::ConsumerEvent(given) => match given? {
                ConsumerEvent::Records(records) => {
                    records.into_iter().for_each(|record| self.begin(record))
                }
                ConsumerEvent::Revoked(partitions) => self.let_go(&partitions),
            },
        }
        self.commit();
        Ok(())
    }

    fn begin(&mut self, record: Record) {
        let ticket = self.progress.begin(record.partition, record.offset);
        let (desk, (handle, registration)) = (self.desk.clone(), AbortHandle::new_pair());
        let work = async move {
            desk.finish(&record).await;
            ticket
        };
        self.handles.insert(ticket, handle);
        self.working
            .push(Abortable::new(work.boxed(), registration));
    }

    /// Others read these partitions now. What is cut off is safe to be done again, and by two at
    /// once.
    fn let_go(&mut self, partitions: &[u32]) {
        info!("partitions {partitions:?} of placed bets are read elsewhere now");
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

    fn tell(&self) {
        self.metrics.bus_lag.set(self.subscription.lag() as i64);
        self.metrics.in_flight.set(self.working.len() as i64);
    }
}

#[cfg(test)]
mod tests;
