//! Writes changes to the cache, one pipeline in flight. While the cache keeps up, every change is
//! written and published in order. While it is down or far behind, only the latest state of each
//! market is kept for it, so memory is bounded by the number of markets and the live path never
//! waits. [`WriteRounds`] decides what is written; the actor carries it out.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use log::{debug, info, warn};
use tokio::sync::oneshot;

use super::messages::{BookChanged, FlushCache};
use super::write_rounds::{Call, EventStates, Limits, Outcome, Step, WriteRounds};
use crate::cache::{CacheError, Change, OddsCache};
use crate::domain::ids::EventId;
use crate::runtime::health::HealthCell;
use crate::store::Store;
use crate::store::blocking::blocking;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::telemetry::trace::{Span, SpanKind};

/// Bounds of a pipeline and of the pending changes.
const LIMITS: Limits = Limits {
    call: 1_000,
    pending: 20_000,
};
/// Interval between checks of the cache while nothing changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between removals of states that no book holds any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Writes the changes of the books to the cache.
pub(crate) struct CacheWriter {
    cache: Arc<dyn OddsCache>,
    /// The source of states that no book holds.
    store: Option<Arc<dyn Store>>,
    rounds: WriteRounds<oneshot::Sender<()>>,
    log: FaultLog,
    health: Arc<HealthCell>,
    metrics: ProcessorMetrics,
}

impl CacheWriter {
    /// Creates a writer to `cache`.
    pub(crate) fn new(cache: Arc<dyn OddsCache>, metrics: ProcessorMetrics) -> CacheWriter {
        CacheWriter {
            cache,
            store: None,
            rounds: WriteRounds::new(LIMITS),
            log: FaultLog::new(),
            health: Arc::default(),
            metrics,
        }
    }

    /// Repairs damaged entries from `store` if no processor holds a book of their event.
    pub(crate) fn repairing_from(self, store: Arc<dyn Store>) -> CacheWriter {
        CacheWriter {
            store: Some(store),
            ..self
        }
    }

    /// The result of the last write: a cache may answer pings and still reject writes.
    pub(crate) fn health(&self) -> Arc<HealthCell> {
        self.health.clone()
    }

    fn run(&mut self, step: Step<oneshot::Sender<()>>, context: &mut Context<Self>) {
        for waiter in step.answered {
            // The caller may be gone.
            let _ = waiter.send(());
        }
        if let Some(call) = step.call {
            let calling = self.call(call).into_actor(self);
            context.spawn(calling.map(|result, writer, context| match result {
                Ok(outcome) => writer.completed(outcome, context),
                Err(error) => writer.failed(&error, context),
            }));
        }
        self.metrics.cache_pending.set(self.rounds.backlog() as i64);
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Outcome, CacheError>> {
        match call {
            Call::Write(mut changes) => {
                let count = changes.len() as u64;
                let written = self.metrics.cache_sets.clone();
                let spans = begin_writes(&mut changes);
                let writing = self.cache.write_changes(changes);
                writing
                    .inspect(|result| end_writes(spans, result.is_ok()))
                    .inspect_ok(move |_| written.inc_by(count))
                    .map_ok(Outcome::Written)
                    .boxed()
            }
            Call::Check => self.cache.damaged().map_ok(Outcome::Checked).boxed(),
            Call::Load(events) => {
                let loading = load(self.store.clone(), events);
                loading.map(|loaded| Ok(Outcome::Loaded(loaded))).boxed()
            }
            Call::Remove(events) => {
                let removing = self.cache.remove_damaged(events);
                removing.map_ok(Outcome::Removed).boxed()
            }
            Call::Wait(delay) => {
                let waiting = tokio::time::sleep(delay);
                waiting.map(|()| Ok(Outcome::Waited)).boxed()
            }
        }
    }

    fn completed(&mut self, outcome: Outcome, context: &mut Context<Self>) {
        let was_failing = self.rounds.is_failing();
        let step = self.rounds.completed(outcome, self.cache.connection());
        if was_failing && !self.rounds.is_failing() {
            if self.log.recovered() {
                info!("cache recovered");
            }
            self.health.record_success();
        }
        self.run(step, context);
    }

    fn failed(&mut self, error: &CacheError, context: &mut Context<Self>) {
        self.metrics.errors.with_label_values(&["cache"]).inc();
        self.health.record_failure(error);
        if !self.rounds.is_failing()
            && let Some(repeated) = self.log.failed(&error.to_string())
        {
            warn!(repeated; "cache failed, keeping only the latest state of each market until it recovers: {error}");
        }
        let step = self.rounds.failed();
        self.run(step, context);
    }
}

/// Begins the spans in which traced changes are written and published. Readers follow from these.
fn begin_writes(changes: &mut [Change]) -> Vec<Span> {
    let traced = changes.iter_mut().filter(|it| it.trace.is_some());
    let begin = |change: &mut Change| {
        let update = &change.state.update;
        let span = Span::child(change.trace, SpanKind::Producer, "write hot copy");
        let span = span.with_market(&update.event_id, &update.market);
        change.trace = span.context();
        span
    };
    traced.map(begin).collect()
}

fn end_writes(spans: Vec<Span>, is_written: bool) {
    for mut span in spans.into_iter().filter(|_| !is_written) {
        span.fail("unavailable");
    }
}

/// Loads the states of these events from the database, without the events that cannot be read now.
async fn load(store: Option<Arc<dyn Store>>, events: Vec<EventId>) -> Vec<EventStates> {
    let Some(store) = store.filter(|_| !events.is_empty()) else {
        return Vec::new();
    };
    let loading = blocking(move || {
        let load = |event_id: EventId| match store.load_event(&event_id) {
            Ok(states) => Some((event_id, states)),
            Err(error) => {
                debug!(event = event_id.as_str(); "repair of damaged cache entry postponed: {error}");
                None
            }
        };
        Ok(events.into_iter().filter_map(load).collect())
    });
    loading.await.unwrap_or_else(|error| {
        debug!("repair of damaged cache entries postponed: {error}");
        Vec::new()
    })
}

impl Actor for CacheWriter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(CHECK_INTERVAL, |writer, context| {
            let step = writer.rounds.check_due();
            writer.run(step, context);
        });
        context.run_interval(SWEEP_INTERVAL, |writer, _| writer.rounds.sweep());
    }
}

impl Handler<BookChanged> for CacheWriter {
    type Result = ();

    fn handle(&mut self, changed: BookChanged, context: &mut Context<Self>) {
        self.metrics
            .mailbox_depth
            .with_label_values(&["cache_writer"])
            .dec();
        // The stored state is the true one, whatever restricts it.
        if changed.restated.is_some() {
            return;
        }
        let changes = changed.states.iter().enumerate();
        let changes = changes.map(|(index, state)| Change {
            state: state.clone(),
            conflated: changed.conflated,
            trace: changed.trace_of(index),
        });
        let step = self.rounds.changed(changes);
        self.run(step, context);
    }
}

impl Handler<FlushCache> for CacheWriter {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FlushCache, context: &mut Context<Self>) -> Self::Result {
        let (done, waiting) = oneshot::channel();
        let step = self.rounds.flush_requested(done);
        self.run(step, context);
        Box::pin(async move {
            if waiting.await.is_err() {
                // The writer stops before it is done. It sends no reply, so the caller gets an
                // error from the mailbox.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
