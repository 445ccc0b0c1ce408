//! Feeds the books of an `odds` process with the changes that other processes publish, and reports
//! when they may be incomplete. [`FeedTracker`] decides; the actor carries it out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{error, info, warn};
use tokio::time::{Instant, timeout, timeout_at};

use super::feed_tracker::{Batch, Effect, FeedTracker, Reload};
use super::messages::{ApplyBroadcasts, ApplyError, InOrder, ReloadBooks, SourcesReported};
use super::source_views::SourceViews;
use super::view_order::ViewOrder;
use crate::actors::streaming::messages::FeedChanged;
use crate::cache::{Broadcast, BroadcastEvent, BroadcastStream};
use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceStatus;
use crate::domain::streaming::protocol::FeedStatus;
use crate::runtime::backlog::Backlog;
use crate::runtime::feed_health::FeedState;
use crate::telemetry::log_limit::{FaultLog, LogLimit};
use crate::telemetry::metrics::OddsMetrics;
use crate::telemetry::trace::{Span, SpanKind};

/// Delay before books that could not be reloaded are reloaded again.
const RELOAD_DELAY: Duration = Duration::from_millis(200);
/// Delay before the books of rejected broadcasts are reloaded together.
const SUSPECT_PAUSE: Duration = Duration::from_secs(1);
/// Attempts per batch. If a book stops before it replies, the batch is sent again: the book
/// restarts and applies each change once.
const MAX_ATTEMPTS: usize = 3;
/// Limits the log lines about changes that are not applied.
static NOT_APPLIED: LogLimit = LogLimit::every(Duration::from_secs(10));

/// The actors that the listener sends to.
pub(crate) struct ListenerEdges {
    /// The router, for broadcasts.
    pub apply: Recipient<InOrder<ApplyBroadcasts>>,
    /// The router, for reloads.
    pub reload: Recipient<ReloadBooks>,
    /// The registry.
    pub feed: Recipient<FeedChanged>,
    /// The keeper of the restrictions.
    pub sources: Recipient<SourcesReported>,
}

/// How long something may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SilenceLimits {
    /// If no processor is heard for this long, prices may be stale. Also the time limit of a batch.
    pub feed: Duration,
    /// What a processor says about sources counts for this long.
    pub sources: Duration,
}

/// Receives broadcasts and passes them to the books.
pub(crate) struct BroadcastListener {
    /// `None` while a receive is in flight.
    broadcasts: Option<Box<dyn BroadcastStream>>,
    edges: Arc<ListenerEdges>,
    state: Arc<FeedState>,
    /// If no processor is heard for this long, prices may be stale. Also the time limit of a batch.
    stale_after: Duration,
    tracker: FeedTracker,
    in_flight: BatchTimes,
    views: SourceViews,
    order: ViewOrder,
    /// Whether the feed has never been live.
    is_new: bool,
    log: FaultLog,
    metrics: OddsMetrics,
}

/// When the batches that the books have not applied were received.
#[derive(Default)]
struct BatchTimes {
    since: BTreeMap<u64, Instant>,
    next: u64,
    /// The first of them.
    backlog: Arc<Backlog>,
}

impl BatchTimes {
    /// A batch was received. Returns its number.
    fn begin(&mut self, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.since.insert(number, now);
        self.report();
        number
    }

    /// The books have applied a batch, or will not.
    fn end(&mut self, number: u64) {
        self.since.remove(&number);
        self.report();
    }

    /// The number of the first batch in flight.
    fn first(&self) -> Option<u64> {
        self.since.first_key_value().map(|(number, _)| *number)
    }

    fn report(&self) {
        let oldest = self.since.first_key_value();
        self.backlog.set(oldest.map(|(_, since)| since.into_std()));
    }
}

impl BroadcastListener {
    /// Feeds the books behind `edges` and updates `state`: the feed is live while some processor is
    /// heard within the limit.
    pub(crate) fn new(
        broadcasts: Box<dyn BroadcastStream>,
        edges: ListenerEdges,
        state: Arc<FeedState>,
        limits: SilenceLimits,
        metrics: OddsMetrics,
    ) -> BroadcastListener {
        let in_flight = BatchTimes::default();
        state.follow(in_flight.backlog.clone(), limits.feed);
        BroadcastListener {
            broadcasts: Some(broadcasts),
            edges: Arc::new(edges),
            state,
            stale_after: limits.feed,
            tracker: FeedTracker::new(limits.feed),
            in_flight,
            views: SourceViews::new(limits.sources),
            order: ViewOrder::default(),
            is_new: true,
            log: FaultLog::new(),
            metrics,
        }
    }

    fn run(&mut self, effects: Vec<Effect>, context: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Receive(deadline) => self.receive(deadline, context),
                Effect::Apply(batch) => self.apply(batch, context),
                Effect::Reload(reload) => self.reload(reload, context),
                Effect::ScheduleReload(reload) => {
                    context.run_later(RELOAD_DELAY, |listener, context| {
                        let effects = listener.tracker.reload_due(reload);
                        listener.run(effects, context);
                    });
                }
                Effect::ReloadSuspects(events) => {
                    let reloading = self.edges.reload.send(ReloadBooks(Some(events)));
                    // A book that cannot be reloaded now is reloaded when the connection is back.
                    context.spawn(reloading.into_actor(self).map(|_, _, _| ()));
                }
                Effect::ScheduleSuspects => {
                    context.run_later(SUSPECT_PAUSE, |listener, context| {
                        let effects = listener.tracker.suspects_due();
                        listener.run(effects, context);
                    });
                }
                Effect::Lose(why) => self.lose(&why, context),
                Effect::SetProblem(why) => self.state.set_lost(&why),
                Effect::GoLive => self.go_live(context),
                Effect::Stop(why) => self.stop(&why, context),
            }
        }
    }

    /// Runs a future, and then what the tracker decides on its result.
    fn spawn<T: 'static>(
        &self,
        future: impl Future<Output = T> + 'static,
        decide: impl FnOnce(&mut FeedTracker, T) -> Vec<Effect> + 'static,
        context: &mut Context<Self>,
    ) {
        context.spawn(future.into_actor(self).map(|output, listener, context| {
            let effects = decide(&mut listener.tracker, output);
            listener.run(effects, context);
        }));
    }

    fn receive(&mut self, deadline: Option<Instant>, context: &mut Context<Self>) {
        let Some(mut broadcasts) = self.broadcasts.take() else {
            return;
        };
        let receiving = async move {
            let next = broadcasts.next();
            let event = match deadline {
                Some(deadline) => timeout_at(deadline, next).await.ok(),
                None => Some(next.await),
            };
            (event, broadcasts)
        };
        context.spawn(
            receiving
                .into_actor(self)
                .map(|(event, broadcasts), listener, context| {
                    listener.broadcasts = Some(broadcasts);
                    let now = Instant::now();
                    let effects = match event {
                        Some(event) => {
                            listener.count(&event);
                            listener.record_views(&event);
                            listener.tracker.received(event, now)
                        }
                        None => listener.tracker.receive_timed_out(now),
                    };
                    listener.run(effects, context);
                }),
        );
    }

    fn count(&self, event: &BroadcastEvent) {
        match event {
            BroadcastEvent::Changes(changes) => {
                self.metrics.broadcasts.inc_by(changes.len() as u64);
            }
            BroadcastEvent::Unreadable(count) => self.metrics.broadcasts_unreadable.inc_by(*count),
            BroadcastEvent::Refused(refused) => {
                for (reason, count) in &refused.counts {
                    self.metrics
                        .broadcasts_refused
                        .with_label_values(&[*reason])
                        .inc_by(*count);
                }
            }
            BroadcastEvent::Alive { .. }
            | BroadcastEvent::Lost(_)
            | BroadcastEvent::Ended(_)
            | BroadcastEvent::Listening => {}
        }
    }

    /// Passes on what the processors know about the sources.
    fn record_views(&mut self, event: &BroadcastEvent) {
        let BroadcastEvent::Alive { views, .. } = event else {
            return;
        };
        let now = Instant::now().into_std();
        let heard = views.iter().map(|view| self.views.heard(view.clone(), now));
        if let Some(sources) = heard.last() {
            let (next, first) = (self.in_flight.next, self.in_flight.first());
            let sources = self.order.heard(sources, next, first);
            self.pass_on(sources);
        }
    }

    fn pass_on(&self, sources: BTreeMap<Source, SourceStatus>) {
        // If the mailbox is full, the next heartbeat says the same.
        let _ = self.edges.sources.try_send(SourcesReported(sources));
    }

    fn apply(&mut self, Batch { epoch, mut changes }: Batch, context: &mut Context<Self>) {
        let number = self.in_flight.begin(Instant::now());
        let spans = begin_spans(&mut changes);
        // Sent immediately, so that batches reach the books in order.
        let first = InOrder::send(&self.edges.apply, ApplyBroadcasts(changes.clone()));
        let applying = apply(self.edges.clone(), first, changes, self.stale_after);
        context.spawn(applying.into_actor(self).map(move |result, it, context| {
            drop(spans);
            it.in_flight.end(number);
            let effects = it.tracker.applied(epoch, result);
            it.run(effects, context);
            if let Some(sources) = it.order.advanced(it.in_flight.first()) {
                it.pass_on(sources);
            }
        }));
    }

    fn reload(&self, reload: Reload, context: &mut Context<Self>) {
        let reloading = self.edges.reload.send(ReloadBooks(reload.events.clone()));
        let decide = move |tracker: &mut FeedTracker, result: Result<_, MailboxError>| {
            let result = result.map_err(|error| ApplyError::RouterEnded(error.to_string()));
            tracker.reloaded(reload, result, Instant::now())
        };
        self.spawn(reloading, decide, context);
    }

    fn lose(&self, why: &str, context: &mut Context<Self>) {
        self.metrics.broadcast_losses.inc();
        if let Some(repeated) = self.log.failed(why) {
            warn!(repeated; "broadcasts lost, prices may be stale: {why}");
        }
        self.state.set_lost(why);
        self.notify_stale(context);
    }

    fn go_live(&mut self, context: &mut Context<Self>) {
        if self.log.recovered() || std::mem::take(&mut self.is_new) {
            info!("broadcasts received, all books are up to date");
        }
        self.state.set_live();
        let edges = self.edges.clone();
        let notifying = async move { edges.feed.send(FeedChanged(FeedStatus::Live)).await };
        context.spawn(notifying.into_actor(self).map(|_, _, _| ()));
    }

    fn notify_stale(&self, context: &mut Context<Self>) {
        let edges = self.edges.clone();
        let notifying = async move {
            // Without the registry nobody can be notified; the platform monitors its actors and
            // stops the process.
            let _ = edges.feed.send(FeedChanged(FeedStatus::Stale)).await;
        };
        let decide = |tracker: &mut FeedTracker, ()| tracker.loss_notified(Instant::now());
        self.spawn(notifying, decide, context);
    }

    fn stop(&self, why: &str, context: &mut Context<Self>) {
        error!("broadcast subscription ended: {why}");
        self.state.set_lost(why);
        // Happens at most once; the platform monitors its actors and stops the process.
        self.edges.feed.do_send(FeedChanged(FeedStatus::Stale));
        context.stop();
    }
}

/// Begins the spans in which traced changes are applied to the books.
fn begin_spans(changes: &mut [Broadcast]) -> Vec<Span> {
    let traced = changes.iter_mut().filter(|it| it.trace.is_some());
    let begin = |change: &mut Broadcast| {
        let update = &change.update;
        let span = Span::child(change.trace, SpanKind::Consumer, "process broadcast");
        let span = span.with_market(&update.event_id, &update.market);
        change.trace = span.context();
        span
    };
    traced.map(begin).collect()
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
        let is_stale = !self.state.is_live();
        if is_stale {
            self.notify_stale(context);
        }
        let effects = self.tracker.started(is_stale);
        self.run(effects, context);
    }
}

#[cfg(test)]
mod tests;
