//! Follows the odds topic beside the processors, so that a change reaches clients without the way
//! through a processor and Redis.
//!
//! It only makes changes arrive earlier. The broadcasts bring the same changes again, and those that
//! it misses; they alone decide whether the feed is live. While the topic cannot be read, changes
//! arrive by the broadcasts.

mod after_catch_up;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};
use tokio::sync::watch;

pub(crate) use self::after_catch_up::AfterCatchUp;
use super::update_reader::{UpdateReader, begin_process};
use crate::actors::odds::messages::{ApplyUpdates, InOrder};
use crate::bus::{BusError, ReadEvent, Record, Topic, TopicReader};
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::telemetry::log_limit::{FaultLog, LogLimit};
use crate::telemetry::metrics::OddsMetrics;

/// Delay before the topic is followed again after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Batches that the books may be working on before the next one is read.
const MAX_BATCHES: usize = 16;
/// Limits the log lines about records that the books did not apply.
static NOT_APPLIED: LogLimit = LogLimit::every(Duration::from_secs(10));

/// Follows the topic.
pub(crate) struct TopicFollower {
    topic: Arc<dyn Topic>,
    /// The group of the processors.
    group: String,
    books: Recipient<InOrder<ApplyUpdates>>,
    updates: UpdateReader,
    /// `None` while a read is in flight, or the topic cannot be followed.
    reader: Option<Box<dyn TopicReader>>,
    batches_in_flight: usize,
    caught_up: watch::Sender<bool>,
    log: FaultLog,
    metrics: OddsMetrics,
}

impl TopicFollower {
    /// Follows `topic` beside `group`, and sends the updates within `limits` to `books`.
    pub(crate) fn new(
        topic: Arc<dyn Topic>,
        group: String,
        books: Recipient<InOrder<ApplyUpdates>>,
        limits: Plausibility,
        metrics: OddsMetrics,
    ) -> TopicFollower {
        let refused = metrics.followed_refused.clone();
        TopicFollower {
            topic,
            group,
            books,
            updates: UpdateReader::new(limits, "follower", refused),
            reader: None,
            batches_in_flight: 0,
            caught_up: watch::Sender::new(false),
            log: FaultLog::new(),
            metrics,
        }
    }

    /// Becomes true once what the processors had not committed at the start was sent to the books:
    /// what other processes may have shown already. The books may still be working on the last of
    /// these batches. That is safe: `ReloadBooks`, with which the feed becomes live, comes after
    /// them in the router's mailbox.
    pub(crate) fn caught_up(&self) -> watch::Receiver<bool> {
        self.caught_up.subscribe()
    }

    fn follow(&mut self, context: &mut Context<Self>) {
        match self.topic.follow(&self.group) {
            Ok(reader) => {
                self.reader = Some(reader);
                self.receive(context);
            }
            Err(error) => self.retry(&error, context),
        }
    }

    fn retry(&self, error: &BusError, context: &mut Context<Self>) {
        if let Some(repeated) = self.log.failed(&error.to_string()) {
            warn!(repeated; "the odds topic cannot be followed, retrying; changes arrive by redis: {error}");
        }
        context.run_later(RETRY, Self::follow);
    }

    /// Waits for the next records, unless the books are working on too many.
    fn receive(&mut self, context: &mut Context<Self>) {
        if self.batches_in_flight >= MAX_BATCHES {
            return;
        }
        let Some(mut reader) = self.reader.take() else {
            return;
        };
        let receiving = async move {
            let event = reader.next().await;
            (event, reader)
        };
        let receiving = receiving.into_actor(self);
        context.spawn(
            receiving.map(|(event, reader), follower, context| match event {
                Ok(event) => {
                    follower.reader = Some(reader);
                    follower.received(event, context);
                    follower.receive(context);
                }
                Err(error) => follower.retry(&error, context),
            }),
        );
    }

    fn received(&mut self, event: ReadEvent, context: &mut Context<Self>) {
        match event {
            ReadEvent::Held(records) | ReadEvent::Published(records) => {
                self.apply(&records, context);
            }
            ReadEvent::CaughtUp => {
                self.caught_up.send_replace(true);
                if self.log.recovered() {
                    info!("the odds topic is followed again");
                }
            }
        }
    }

    /// Sends the updates to the books at once, so that they arrive in order.
    fn apply(&mut self, records: &[Record], context: &mut Context<Self>) {
        let mut read = self.updates.read(records, Timestamp::now());
        let spans = begin_process(&mut read.updates, self.topic.name());
        self.updates.count(&read.bad);
        self.metrics.followed.inc_by(records.len() as u64);
        self.batches_in_flight += 1;
        let applying = InOrder::send(&self.books, ApplyUpdates(read.updates)).into_actor(self);
        context.spawn(applying.map(|applied, follower, context| {
            drop(spans);
            follower.batches_in_flight -= 1;
            if let Err(error) = applied
                && let Some(repeated) = NOT_APPLIED.check(error.cause())
            {
                // Its broadcast brings the change again.
                warn!(repeated; "records of the odds topic not applied: {error}");
            }
            follower.receive(context);
        }));
    }
}

impl Actor for TopicFollower {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.follow(context);
    }
}

#[cfg(test)]
mod tests;
