//! Feeds the books of an `odds` process with the changes that other processes publish, and reports
//! when they may be incomplete.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{error, info, warn};
use tokio::time::{Instant, timeout, timeout_at};

use super::messages::{ApplyBroadcasts, ApplyError, InOrder, ReloadBooks};
use crate::actors::streaming::messages::FeedChanged;
use crate::cache::{Broadcast, BroadcastEvent, BroadcastStream};
use crate::domain::ids::EventId;
use crate::domain::streaming::protocol::FeedStatus;
use crate::runtime::feed_health::FeedState;
use crate::telemetry::log_limit::{FaultLog, LogLimit};
use crate::telemetry::metrics::OddsMetrics;

/// Delay before books that could not be reloaded are reloaded again.
const RELOAD_DELAY: Duration = Duration::from_millis(200);
/// Batches that may be in flight before the next one is received: a slow batch of one event does
/// not block others.
const BATCHES_AT_ONCE: usize = 16;
/// Attempts per batch. If a book stops before it replies, the batch is sent again: the book
/// restarts and applies each change once.
const MAX_ATTEMPTS: usize = 3;
/// Limits the log lines about changes that are not applied.
static NOT_APPLIED: LogLimit = LogLimit::every(Duration::from_secs(10));

/// Delay before the books of rejected broadcasts are reloaded together.
const SUSPECT_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of events that wait for this reload. Rejected broadcasts of further events have
/// no effect.
const MAX_SUSPECTS: usize = 64;

/// The actors that the listener sends to.
pub struct ListenerEdges {
    /// The router, for broadcasts.
    pub apply: Recipient<InOrder<ApplyBroadcasts>>,
    /// The router, for reloads.
    pub reload: Recipient<ReloadBooks>,
    /// The registry.
    pub feed: Recipient<FeedChanged>,
}

/// Receives broadcasts and passes them to the books.
pub struct BroadcastListener {
    /// `None` while a receive is in flight.
    broadcasts: Option<Box<dyn BroadcastStream>>,
    edges: Arc<ListenerEdges>,
    state: Arc<FeedState>,
    /// If no processor is heard for this long, prices may be stale.
    stale_after: Duration,
    /// Number of losses and recoveries. The result of work that started in an earlier turn says
    /// nothing about the present.
    turn: u64,
    /// Whether the channel is subscribed.
    is_listening: bool,
    /// When a processor was last heard; `None` if none was since the last loss.
    heard: Option<Instant>,
    hydration: Hydration,
    /// Events of rejected broadcasts, whose books are to be reloaded.
    suspects: BTreeSet<EventId>,
    /// Whether the feed has never been live.
    is_new: bool,
    /// Whether a heartbeat of our own deployment was ever received. From then on only those count
    /// as signs of life: a message that names no deployment may come from another one.
    has_own: bool,
    /// Batches in flight.
    in_work: usize,
    log: FaultLog,
    metrics: OddsMetrics,
}

/// Whether the books are up to date with the broadcasts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hydration {
    /// They may have missed changes.
    Stale,
    /// They are reloading the state that they may have missed.
    Loading,
    /// They have reloaded and receive every later change.
    Current,
}

impl BroadcastListener {
    /// Feeds the books behind `edges` and updates `state`: the feed is live while some processor is
    /// heard at least every `stale_after`.
    pub fn new(
        broadcasts: Box<dyn BroadcastStream>,
        edges: ListenerEdges,
        state: Arc<FeedState>,
        stale_after: Duration,
        metrics: OddsMetrics,
    ) -> BroadcastListener {
        BroadcastListener {
            broadcasts: Some(broadcasts),
            edges: Arc::new(edges),
            state,
            stale_after,
            turn: 0,
            is_listening: false,
            heard: None,
            hydration: Hydration::Stale,
            suspects: BTreeSet::new(),
            is_new: true,
            has_own: false,
            in_work: 0,
            log: FaultLog::new(),
            metrics,
        }
    }

    fn listen(&mut self, context: &mut Context<Self>) {
        let Some(mut broadcasts) = self.broadcasts.take() else {
            return;
        };
        let deadline = self.heard.map(|at| at + self.stale_after);
        let receiving = async move {
            let next = broadcasts.next();
            let heard = match deadline {
                Some(deadline) => timeout_at(deadline, next).await.ok(),
                None => Some(next.await),
            };
            (heard, broadcasts)
        };
        context.spawn(
            receiving
                .into_actor(self)
                .map(|(heard, broadcasts), listener, context| {
                    listener.broadcasts = Some(broadcasts);
                    match heard {
                        Some(heard) => listener.on_heard(heard, context),
                        // A processor was heard, or the feed was lost, in the meantime.
                        None if listener
                            .heard
                            .is_none_or(|at| at.elapsed() < listener.stale_after) =>
                        {
                            listener.listen(context);
                        }
                        None => {
                            let limit = humantime::format_duration(listener.stale_after);
                            listener
                                .lose(&format!("no processor has been heard for {limit}"), context);
                        }
                    }
                }),
        );
    }

    fn on_heard(&mut self, heard: BroadcastEvent, context: &mut Context<Self>) {
        match heard {
            BroadcastEvent::Changes(changes) => {
                self.metrics.broadcasts.inc_by(changes.len() as u64);
                // Our own processors send heartbeats while they keep up with the bus, and none if
                // they lag. A change of one event says nothing about the others. The original
                // program sends only changes.
                if !self.has_own && changes.iter().any(|change| change.seq.is_none()) {
                    self.sign_of_life(context);
                }
                self.apply(changes, context);
                // At the limit, the next event is received after a batch is done.
                if self.in_work < BATCHES_AT_ONCE {
                    self.listen(context);
                }
            }
            BroadcastEvent::Alive { is_own } => {
                self.has_own |= is_own;
                if is_own || !self.has_own {
                    self.sign_of_life(context);
                }
                self.listen(context);
            }
            BroadcastEvent::Unreadable(count) => {
                self.metrics.broadcasts_unreadable.inc_by(count);
                self.listen(context);
            }
            BroadcastEvent::Refused(refused) => {
                for (reason, count) in refused.counts {
                    self.metrics
                        .broadcasts_refused
                        .with_label_values(&[reason])
                        .inc_by(count);
                }
                self.suspect(refused.events, context);
                self.listen(context);
            }
            BroadcastEvent::Lost(why) => {
                self.is_listening = false;
                self.lose(&why, context);
            }
            BroadcastEvent::Ended(why) => {
                error!("broadcast subscription ended: {why}");
                self.state.set_lost(&why);
                // Happens at most once; the platform monitors its actors and stops the process.
                self.edges.feed.do_send(FeedChanged(FeedStatus::Stale));
                context.stop();
            }
            BroadcastEvent::Listening => {
                self.turn += 1;
                self.is_listening = true;
                self.reload(None, context);
                // Changes received in the meantime reach each book after the reload request.
                self.listen(context);
            }
        }
    }

    fn apply(&mut self, changes: Vec<Broadcast>, context: &mut Context<Self>) {
        self.in_work += 1;
        let turn = self.turn;
        // Sent immediately, so that batches reach the books in order.
        let first = InOrder::send(&self.edges.apply, ApplyBroadcasts(changes.clone()));
        let applying = apply(self.edges.clone(), first, changes, self.stale_after).into_actor(self);
        context.spawn(applying.map(move |applied, listener, context| {
            listener.in_work -= 1;
            match applied {
                // The next sign of life reloads the books.
                Err(why) if listener.turn == turn => listener.lose(&why, context),
                // After a later loss, the reload covers this batch too.
                Ok(()) | Err(_) => listener.listen(context),
            }
        }));
    }

    /// A processor keeps up with the bus. The first sign of life after a loss reloads the books,
    /// unless they are reloaded or reloading already.
    fn sign_of_life(&mut self, context: &mut Context<Self>) {
        if !self.is_listening {
            return;
        }
        let was_silent = self.heard.replace(Instant::now()).is_none();
        match self.hydration {
            Hydration::Stale => self.reload(None, context),
            Hydration::Current if was_silent => self.live(context),
            Hydration::Current | Hydration::Loading => {}
        }
    }

    /// Reloads the books of these events from the cache, all together and at most once per pause: a
    /// flood of rejected messages must not become a flood of reads.
    fn suspect(&mut self, events: BTreeSet<EventId>, context: &mut Context<Self>) {
        let is_due = self.suspects.is_empty();
        for event in events {
            if self.suspects.len() < MAX_SUSPECTS {
                self.suspects.insert(event);
            }
        }
        if is_due && !self.suspects.is_empty() {
            context.run_later(SUSPECT_PAUSE, |listener, context| {
                let suspects = std::mem::take(&mut listener.suspects).into_iter().collect();
                let reloading = listener.edges.reload.send(ReloadBooks(Some(suspects)));
                // A book that cannot be reloaded now is reloaded when the connection is back.
                context.spawn(reloading.into_actor(listener).map(|_, _, _| ()));
            });
        }
    }

    /// From now on prices may be stale.
    fn lose(&mut self, why: &str, context: &mut Context<Self>) {
        self.turn += 1;
        self.heard = None;
        self.hydration = Hydration::Stale;
        self.metrics.broadcast_losses.inc();
        if let Some(repeated) = self.log.failed(why) {
            warn!(repeated; "broadcasts lost, prices may be stale: {why}");
        }
        self.state.set_lost(why);
        self.notify_then_listen(FeedStatus::Stale, context);
    }

    /// Prices are up to date.
    fn live(&mut self, context: &mut Context<Self>) {
        if self.log.recovered() || std::mem::take(&mut self.is_new) {
            info!("broadcasts received, all books are up to date");
        }
        self.state.set_live();
        let edges = self.edges.clone();
        let notifying = async move { edges.feed.send(FeedChanged(FeedStatus::Live)).await };
        context.spawn(notifying.into_actor(self).map(|_, _, _| ()));
    }

    /// Notifies the registry of the feed status and only then receives the next event, so that
    /// every loss is published before the recovery.
    fn notify_then_listen(&self, status: FeedStatus, context: &mut Context<Self>) {
        let edges = self.edges.clone();
        let notifying = async move {
            // Without the registry nobody can be notified; the platform monitors its actors and
            // stops the process.
            let _ = edges.feed.send(FeedChanged(status)).await;
        };
        context.spawn(
            notifying
                .into_actor(self)
                .map(|(), listener, context| listener.listen(context)),
        );
    }

    /// Reloads these books, or all. When all have published the changes they missed and a processor
    /// is heard, the feed is live.
    fn reload(&mut self, which: Option<Vec<EventId>>, context: &mut Context<Self>) {
        self.hydration = Hydration::Loading;
        let turn = self.turn;
        let reloading = self.edges.reload.send(ReloadBooks(which.clone()));
        context.spawn(
            reloading
                .into_actor(self)
                .map(move |reloaded, listener, context| {
                    if listener.turn != turn {
                        return;
                    }
                    let (failed, why) = match reloaded {
                        Ok(failed) => {
                            let first = failed.first().cloned();
                            (
                                Some(failed),
                                first.map(|first| ApplyError::NotLoaded(first).to_string()),
                            )
                        }
                        // The failed books are unknown, so the same ones are reloaded again.
                        Err(error) => (
                            which,
                            Some(ApplyError::RouterEnded(error.to_string()).to_string()),
                        ),
                    };
                    match why {
                        None => {
                            listener.hydration = Hydration::Current;
                            match listener.heard {
                                Some(_) => listener.live(context),
                                None => listener.state.set_lost("no processor has been heard yet"),
                            }
                        }
                        Some(why) => {
                            listener.state.set_lost(&why);
                            context.run_later(RELOAD_DELAY, move |listener, context| {
                                if listener.turn == turn {
                                    listener.reload(failed, context);
                                }
                            });
                        }
                    }
                }),
        );
    }
}

/// Applies changes. `first` is the reply to the first attempt, which is sent already. Returns when
/// the books have published the changes, or the reason why they have not.
async fn apply(
    edges: Arc<ListenerEdges>,
    first: impl Future<Output = Result<(), ApplyError>>,
    changes: Vec<Broadcast>,
    limit: Duration,
) -> Result<(), String> {
    // The books have received the changes and may still apply them, so they are not sent again.
    let late = || {
        format!(
            "the books applied no change within {}",
            humantime::format_duration(limit)
        )
    };
    let mut applied = timeout(limit, first).await.map_err(|_| late())?;
    for _ in 1..MAX_ATTEMPTS {
        match &applied {
            Ok(()) => return Ok(()),
            Err(error @ ApplyError::RouterEnded(_)) => return Err(error.to_string()),
            Err(error) => {
                if let Some(repeated) = NOT_APPLIED.check("") {
                    warn!(repeated; "broadcasts not applied, retrying: {error}");
                }
            }
        }
        let again = InOrder::send(&edges.apply, ApplyBroadcasts(changes.clone()));
        applied = timeout(limit, again).await.map_err(|_| late())?;
    }
    applied.map_err(|error| error.to_string())
}

impl Actor for BroadcastListener {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if self.state.is_live() {
            self.listen(context);
        } else {
            self.notify_then_listen(FeedStatus::Stale, context);
        }
    }
}

#[cfg(test)]
mod tests;
