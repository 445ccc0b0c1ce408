//! Reads `bet_placed` and gets each bet decided: requests confirmation from the supplier until it
//! answers or the bet's deadline passes, for many bets concurrently. A record is done when its bet
//! is decided in the database or the record is a dead letter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use log::{info, warn};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::progress::{CommitTracker, InFlight};
use crate::bus::trace_header::begin_process;
use crate::bus::{BusError, ConsumerEvent, Position, Record, Subscription};
use crate::domain::bets::bet::BetId;
use crate::runtime::drain::{DrainableTask, TaskEnd};
use crate::runtime::health::HealthCell;
use crate::telemetry::metrics::ConfirmationMetrics;
use crate::telemetry::trace;

use super::confirmation::BetConfirmation;

/// How often an idle consumer wakes up to report its lag.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// Limits on how the consumer reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BetConsumerSettings {
    /// Maximum number of bets in flight.
    pub at_once: usize,
    /// How far the consumer may read past a record that is not done, in records.
    pub ahead: u64,
    /// How long shutdown waits for bets in flight.
    pub drain_limit: Duration,
}

/// Consumes `bet_placed` for its consumer group.
pub(crate) struct BetConsumer {
    settings: BetConsumerSettings,
    subscription: Box<dyn Subscription>,
    confirmation: Arc<BetConfirmation>,
    progress: CommitTracker,
    committed: Position,
    working: FuturesUnordered<Abortable<BoxFuture<'static, InFlight>>>,
    /// To abort work in flight when a partition is revoked.
    handles: BTreeMap<InFlight, AbortHandle>,
    stop: CancellationToken,
    metrics: ConfirmationMetrics,
}

/// What ends a step.
enum Event {
    Worked(Result<InFlight, Aborted>),
    Read(Result<ConsumerEvent, BusError>),
    Nothing,
}

impl BetConsumer {
    /// Consumes `subscription` and passes each record to `confirmation`.
    pub(crate) fn new(
        settings: BetConsumerSettings,
        subscription: Box<dyn Subscription>,
        confirmation: BetConfirmation,
        metrics: ConfirmationMetrics,
    ) -> BetConsumer {
        BetConsumer {
            settings,
            subscription,
            confirmation: Arc::new(confirmation),
            progress: CommitTracker::default(),
            committed: Position::default(),
            working: FuturesUnordered::new(),
            handles: BTreeMap::new(),
            stop: CancellationToken::new(),
            metrics,
        }
    }

    /// The consumer's health, for the readiness check.
    pub(crate) fn health(&self) -> Arc<HealthCell> {
        self.confirmation.health()
    }

    /// The actor that runs this consumer.
    pub(crate) fn into_task(self) -> DrainableTask {
        DrainableTask::new(self.stop.clone(), move || async move {
            match self.run().await {
                Ok(()) => TaskEnd::Drained,
                Err(end) => {
                    warn!("bet consumer stopped: {end}");
                    TaskEnd::Failed
                }
            }
        })
    }

    async fn run(mut self) -> Result<(), BusError> {
        let stop = self.stop.clone();
        // `step` is cancel safe: a cancelled step has not taken a record.
        while let Some(stepped) = stop.run_until_cancelled(self.step(true)).await {
            stepped?;
        }
        self.drain().await?;
        self.commit();
        self.subscription.close().await;
        self.report();
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
        self.report();
        let is_ahead = self.progress.ahead() >= self.settings.ahead;
        let room = if reads && !is_ahead {
            self.settings.at_once.saturating_sub(self.working.len())
        } else {
            0
        };
        let subscription = &mut self.subscription;
        let working = &mut self.working;
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
            Event::Worked(Ok(token)) => {
                self.handles.remove(&token);
                self.progress.done(token);
            }
            Event::Worked(Err(Aborted)) | Event::Nothing => {}
            Event::Read(read) => match read? {
                ConsumerEvent::Records(records) => {
                    records.into_iter().for_each(|record| self.begin(record))
                }
                ConsumerEvent::Revoked { partitions, .. } => self.revoke(&partitions),
                ConsumerEvent::Replayed(_) => {}
            },
        }
        self.commit();
        Ok(())
    }

    fn begin(&mut self, record: Record) {
        let token = self.progress.begin(record.partition, record.offset);
        let confirmation = self.confirmation.clone();
        let (handle, registration) = AbortHandle::new_pair();
        let work = async move {
            let span = begin_process(record.traceparent(), confirmation.topic());
            // Foreign records may have any key.
            let key = std::str::from_utf8(&record.record.key);
            let bet_id = key.ok().and_then(|key| key.parse::<BetId>().ok());
            let span = match bet_id {
                Some(bet_id) => span.with_bet(&bet_id),
                None => span,
            };
            trace::scope(span.context(), confirmation.finish(&record)).await;
            token
        };
        self.handles.insert(token, handle);
        self.working
            .push(Abortable::new(work.boxed(), registration));
    }

    /// Drops revoked partitions, which other consumers now read. Aborted work is safe to repeat,
    /// even concurrently.
    fn revoke(&mut self, partitions: &[u32]) {
        info!(partitions:?; "bet_placed partitions revoked");
        self.progress.forget(partitions);
        self.committed.forget(partitions);
        self.handles.retain(|token, handle| {
            let stays = !partitions.contains(&token.partition);
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
