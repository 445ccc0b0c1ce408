//! One actor per event: feeds the book of the event and publishes its changes.

mod bus_book;
mod doubts;
mod feed;
mod lead;
mod mirror_book;
mod mirror_feed;
mod restate;
mod state;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::debug;
use prometheus::IntGauge;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub(crate) use self::feed::{BookFeed, BusFeed};
pub(crate) use self::lead::IsAhead;
pub(crate) use self::mirror_book::MirrorInput;
pub(crate) use self::mirror_feed::MirrorFeed;
pub(crate) use self::state::conflated;
use self::state::{Applied, BookState, RELOAD_DELAY, Restored};
use super::book_source::{BookSource, LoadedState, ReplayBoundary};
use super::messages::{Apply, ApplyError, BookChanged, GetSnapshot, TracedState};
use crate::cache::Change;
use crate::domain::ids::EventId;
use crate::domain::odds::book::Snapshot;
use crate::runtime::actor;
use crate::telemetry::metrics::BookMetrics;

/// How long a snapshot waits for the first read of the store.
const FIRST_READ_LIMIT: Duration = Duration::from_secs(1);

/// A receiver of changes.
pub(crate) struct ChangeSubscriber {
    to: Recipient<BookChanged>,
    depth: IntGauge,
}

impl ChangeSubscriber {
    /// Sends changes to `to`; `depth` counts the messages in flight, and the receiver decrements
    /// it.
    pub(crate) fn new(to: Recipient<BookChanged>, depth: IntGauge) -> ChangeSubscriber {
        ChangeSubscriber { to, depth }
    }
}

/// Dependencies shared by all books.
pub(crate) struct BookEdges<F> {
    /// How the books are fed.
    pub feed: F,
    /// Loads the state of the books.
    pub source: BookSource,
    /// Receivers of changes.
    pub subscribers: Vec<ChangeSubscriber>,
    /// The metrics.
    pub metrics: BookMetrics,
}

impl<F> BookEdges<F> {
    /// Sends changes to every receiver and waits until each has room: nothing is dropped, and a
    /// full mailbox slows down the bus consumer.
    pub(crate) async fn publish(&self, changes: Vec<Change>) {
        for run in changes.chunk_by(|one, next| one.conflated == next.conflated) {
            self.send(BookChanged {
                states: run.iter().map(|change| change.state.clone()).collect(),
                conflated: run[0].conflated,
                restated: None,
                traced: traced(run),
            })
            .await;
        }
    }

    async fn send(&self, changed: BookChanged) {
        for subscriber in &self.subscribers {
            subscriber.depth.inc();
            if subscriber.to.send(changed.clone()).await.is_err() {
                // The receiver is gone; the platform monitors its actors and stops the process.
                subscriber.depth.dec();
            }
        }
    }
}

/// The changes that are traced. Most runs have none.
fn traced(run: &[Change]) -> Option<Arc<[TracedState]>> {
    if run.iter().all(|change| change.trace.is_none()) {
        return None;
    }
    let changes = run.iter().enumerate();
    let traced = changes.filter_map(|(state, change)| {
        let parent = change.trace?;
        Some(TracedState { state, parent })
    });
    Some(traced.collect())
}

/// The book of one event.
pub(crate) struct OddsBook<F: BookFeed> {
    state: F::State,
    event_id: EventId,
    edges: Arc<BookEdges<F>>,
    /// The initial state; taken when the actor starts.
    loaded: Option<LoadedState>,
    scheduled_reload: Option<SpawnHandle>,
    /// The requests that wait for the first read of the store, while a book that was started from
    /// the cache alone reads it. Only from a complete book can a client resume.
    first_read: Option<Vec<oneshot::Sender<()>>>,
}

impl<F: BookFeed> OddsBook<F> {
    /// Creates a book that starts with `loaded`, which was read up to `boundary`.
    pub(crate) fn new(
        event_id: EventId,
        edges: Arc<BookEdges<F>>,
        boundary: ReplayBoundary,
        loaded: LoadedState,
    ) -> OddsBook<F> {
        OddsBook {
            state: edges.feed.new_state(event_id.clone(), boundary),
            event_id,
            edges,
            loaded: Some(loaded),
            scheduled_reload: None,
            first_read: None,
        }
    }

    fn snapshot(&self) -> Result<Snapshot, ApplyError> {
        self.state
            .snapshot()
            .ok_or_else(|| ApplyError::NotLoaded(self.event_id.clone()))
    }

    /// Shows whether the cache lacks state of this book.
    pub(crate) fn is_ahead(&self) -> IsAhead {
        self.state.is_ahead()
    }

    /// Counts applied and rejected updates and publishes the changes.
    fn publish_applied(&self, applied: Applied) -> impl ActorFuture<Self, Output = ()> + use<F> {
        let metrics = &self.edges.metrics;
        for rejection in &applied.rejected {
            let reason = rejection.reason();
            metrics.rejected.with_label_values(&[reason]).inc();
            debug!(event = self.event_id.as_str(); "update rejected: {rejection}");
        }
        metrics.applied.inc_by(applied.changes.len() as u64);
        self.publish(applied.changes)
    }

    fn publish(&self, changes: Vec<Change>) -> impl ActorFuture<Self, Output = ()> + use<F> {
        let edges = self.edges.clone();
        async move { edges.publish(changes).await }.into_actor(self)
    }

    /// Adds loaded state and publishes the changes.
    fn reload(
        &mut self,
        loaded: LoadedState,
        context: &mut Context<Self>,
    ) -> impl ActorFuture<Self, Output = ()> + use<F> {
        let restored = self.state.reload(loaded);
        if restored.reload_after != Some(Duration::ZERO) {
            self.first_read = None;
        }
        F::on_reload(self, context);
        self.publish_restored(restored, context)
    }

    /// Publishes restored state, and schedules a reload if something could not be read.
    fn publish_restored(
        &mut self,
        restored: Restored,
        context: &mut Context<Self>,
    ) -> impl ActorFuture<Self, Output = ()> + use<F> {
        if let Some(delay) = restored.reload_after {
            self.schedule_reload(delay, context);
        }
        self.publish(restored.changes)
    }

    /// Schedules a reload from cache and store. At most one is scheduled, however often it is
    /// requested.
    fn schedule_reload(&mut self, delay: Duration, context: &mut Context<Self>) {
        if let Some(earlier) = self.scheduled_reload.take() {
            context.cancel_future(earlier);
        }
        self.scheduled_reload = Some(context.run_later(delay, |book, context| {
            book.scheduled_reload = None;
            // A book that was dropped in the meantime does not reload.
            if context.connected() {
                context.spawn(book.reload_if_useful());
            }
        }));
    }

    // The reads run detached: while the book handles a message that waits for a read itself, nothing
    // else of it runs, and the permit of its own read would never be free.

    fn reload_if_useful(&self) -> impl ActorFuture<Self, Output = ()> + use<F> {
        let edges = self.edges.clone();
        let event_id = self.event_id.clone();
        let is_cache_read = self.state.is_cache_read();
        let deciding = actor::run_detached(async move {
            edges
                .source
                .is_reload_useful(&event_id, is_cache_read)
                .await
        });
        deciding.into_actor(self).map(|is_useful, book, context| {
            if is_useful == Some(true) {
                context.spawn(book.load_again());
            } else {
                book.first_read = None;
                book.schedule_reload(RELOAD_DELAY, context);
            }
        })
    }

    /// Loads the state again after it could not be read in full.
    fn load_again(&self) -> impl ActorFuture<Self, Output = ()> + use<F> {
        let edges = self.edges.clone();
        let event_id = self.event_id.clone();
        let boundary = self.state.boundary();
        let loading =
            actor::run_detached(async move { edges.source.reload(&event_id, boundary).await });
        loading.into_actor(self).map(|loaded, book, context| {
            let Some(loaded) = loaded else {
                book.schedule_reload(RELOAD_DELAY, context);
                return;
            };
            // Later messages wait, so that numbers are published in order.
            let publishing = book.reload(loaded, context);
            context.wait(publishing);
        })
    }
}

impl<F: BookFeed> Actor for OddsBook<F> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.edges.metrics.books.inc();
        if let Some(loaded) = self.loaded.take() {
            let restored = self.state.restore(loaded);
            let is_read_next = restored.reload_after == Some(Duration::ZERO);
            self.first_read = is_read_next.then(Vec::new);
            let publishing = self.publish_restored(restored, context);
            context.wait(publishing);
        }
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.edges.metrics.books.dec();
    }
}

impl<F: BookFeed> Handler<Apply<F::Item>> for OddsBook<F> {
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, batch: Apply<F::Item>, context: &mut Context<Self>) -> Self::Result {
        F::apply(self, batch.0, context)
    }
}

impl<F: BookFeed> Handler<GetSnapshot> for OddsBook<F> {
    type Result = ResponseActFuture<Self, Result<Snapshot, ApplyError>>;

    fn handle(&mut self, _: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        let Some(waiting) = &mut self.first_read else {
            return Box::pin(fut::ready(self.snapshot()));
        };
        let (done, read) = oneshot::channel();
        waiting.push(done);
        let waiting = timeout(FIRST_READ_LIMIT, read).into_actor(self);
        Box::pin(waiting.map(|_, book, _| {
            // If the store did not answer in time, later requests do not wait for it.
            book.first_read = None;
            book.snapshot()
        }))
    }
}

#[cfg(test)]
pub(super) mod tests;
