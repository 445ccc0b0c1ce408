//! One actor per event: applies updates to its book and publishes the changes.

mod doubts;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::debug;
use prometheus::IntGauge;

use self::doubts::Doubts;
use super::book_source::{BookSource, LoadedState, ReadPriority, ReplayBoundary};
use super::messages::{
    ApplyBroadcasts, ApplyError, ApplyUpdates, BookChanged, GetSnapshot, ReloadBook,
};
use crate::cache::{Broadcast, Change};
use crate::domain::ids::EventId;
use crate::domain::odds::book::{Book, MarketState, Rejection, Snapshot};
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::odds::version_stamp::VersionCounter;
use crate::telemetry::metrics::BookMetrics;

/// Delay before a book that could not read the store tries again.
const RELOAD_DELAY: Duration = Duration::from_secs(1);

/// A receiver of changes.
pub struct ChangeSubscriber {
    to: Recipient<BookChanged>,
    depth: IntGauge,
}

impl ChangeSubscriber {
    /// Sends changes to `to`; `depth` counts the messages in flight, and the receiver decrements
    /// it.
    pub fn new(to: Recipient<BookChanged>, depth: IntGauge) -> ChangeSubscriber {
        ChangeSubscriber { to, depth }
    }
}

/// Dependencies shared by all books.
pub struct BookEdges {
    /// The first position of a bus that starts with the process. Every change published earlier has
    /// a lower sequence number. `None` for a durable bus: it may be replayed from its beginning.
    pub first_position: Option<u64>,
    /// Loads the state of the books.
    pub source: BookSource,
    /// Receivers of changes.
    pub listeners: Vec<ChangeSubscriber>,
    /// Whether the books mirror those of other processes: they are fed by broadcasts, not by a bus.
    pub is_mirror: bool,
    /// The metrics.
    pub metrics: BookMetrics,
}

impl BookEdges {
    /// Sends changes to every receiver and waits until each has room: nothing is dropped, and a
    /// full mailbox slows down the bus consumer.
    async fn publish(&self, changes: Vec<Change>) {
        for alike in changes.chunk_by(|one, next| one.conflated == next.conflated) {
            let states = alike.iter().map(|change| change.state.clone()).collect();
            let changed = BookChanged {
                states,
                conflated: alike[0].conflated,
            };
            for listener in &self.listeners {
                listener.depth.inc();
                if listener.to.send(changed.clone()).await.is_err() {
                    // The receiver is gone; the platform monitors its actors and stops the process.
                    listener.depth.dec();
                }
            }
        }
    }
}

/// The book of one event.
pub struct OddsBook {
    book: Book,
    event_id: EventId,
    edges: Arc<BookEdges>,
    left: ReplayBoundary,
    /// The initial state; taken when the actor starts.
    loaded: Option<LoadedState>,
    /// Whether the stored state of the event has been read.
    is_loaded: bool,
    /// Whether the last load could read the cache. A mirrored book shows the cached state; the
    /// store lags behind it.
    is_cache_read: bool,
    /// The scheduled reload.
    next_look: Option<SpawnHandle>,
    /// The markets that a mirrored book has to compare with the cache.
    doubts: Doubts,
    /// Advances when the reply to [`GetSnapshot`] changes.
    generation: VersionCounter,
}

impl OddsBook {
    /// Creates a book that starts with `loaded`, which was read up to `left`.
    pub fn new(
        event_id: EventId,
        edges: Arc<BookEdges>,
        left: ReplayBoundary,
        loaded: LoadedState,
    ) -> OddsBook {
        OddsBook {
            book: Book::new(event_id.clone()),
            event_id,
            edges,
            left,
            loaded: Some(loaded),
            is_loaded: false,
            is_cache_read: false,
            next_look: None,
            doubts: Doubts::default(),
            generation: VersionCounter::default(),
        }
    }
}

impl OddsBook {
    /// Restores loaded state and publishes the whole book: the store may hold a change that no
    /// client has seen. Clients that have a change already drop it by its sequence number.
    /// Schedules a reload if something could not be read.
    fn take(
        &mut self,
        loaded: LoadedState,
        context: &mut Context<Self>,
    ) -> impl ActorFuture<Self, Output = ()> + use<> {
        self.doubts.record_read(loaded.read_seq);
        self.is_loaded = loaded.is_complete;
        self.is_cache_read = loaded.is_cache_read;
        if let Some(delay) = loaded.next_look(RELOAD_DELAY) {
            self.schedule_reload(delay, context);
        }
        self.book.restore(loaded.states);
        self.book
            .continue_from(self.edges.first_position.unwrap_or(0));
        self.generation.changed();
        let mut states = self.book.snapshot().markets;
        states.sort_by_key(|state| state.seq);
        // In a mirror, changes may be missing before every loaded state. Otherwise none is missing
        // before a loaded state that is exactly the update the book starts for.
        let next = if self.edges.is_mirror {
            None
        } else {
            self.left.next()
        };
        let change = |state: Arc<MarketState>| Change {
            conflated: Some(state.seq) != next,
            state,
        };
        let changes = states.into_iter().map(change).collect();
        let edges = self.edges.clone();
        async move { edges.publish(changes).await }.into_actor(self)
    }

    /// Loads the state again after it could not be read in full.
    fn load(&self) -> impl ActorFuture<Self, Output = ()> + 'static {
        let (edges, event_id, left) = (self.edges.clone(), self.event_id.clone(), self.left);
        async move {
            edges
                .source
                .load(&event_id, left, ReadPriority::Background)
                .await
        }
        .into_actor(self)
        .then(|loaded, book, context| book.take(loaded, context))
    }
}

impl OddsBook {
    /// Reloads the state of a mirrored book and publishes newer states. Returns whether the cache
    /// answers.
    fn mirror(&self, is_store_wanted: bool) -> impl ActorFuture<Self, Output = bool> + 'static {
        let (edges, event_id, left) = (self.edges.clone(), self.event_id.clone(), self.left);
        let reading = async move {
            edges
                .source
                .load_mirrored(&event_id, left, ReadPriority::Background, is_store_wanted)
                .await
        };
        reading.into_actor(self).then(|loaded, book, context| {
            book.doubts.record_read(loaded.read_seq);
            book.is_loaded |= loaded.is_complete;
            book.is_cache_read = loaded.is_cache_read;
            if let Some(delay) = loaded.next_look(RELOAD_DELAY) {
                book.schedule_reload(delay, context);
            }
            let news = if book.book.is_empty() {
                book.book.restore(loaded.states);
                let mut markets = book.book.snapshot().markets;
                markets.sort_by_key(|state| state.seq);
                markets
            } else {
                book.book.catch_up(loaded.states)
            };
            book.generation.changed();
            let edges = book.edges.clone();
            // A damaged entry affects only this event and does not count as a cache failure.
            let is_cache_read = loaded.is_cache_read || loaded.is_damaged;
            let news = news
                .into_iter()
                .map(|state| Change {
                    state,
                    conflated: true,
                })
                .collect();
            async move {
                edges.publish(news).await;
                is_cache_read
            }
            .into_actor(book)
        })
    }

    /// Schedules a reload from cache and store. At most one is scheduled, however often it is
    /// requested.
    fn schedule_reload(&mut self, delay: Duration, context: &mut Context<Self>) {
        if let Some(earlier) = self.next_look.take() {
            context.cancel_future(earlier);
        }
        self.next_look = Some(context.run_later(delay, |book, context| {
            book.next_look = None;
            // A book that was dropped in the meantime does not reload.
            if context.connected() {
                context.spawn(book.reload_if_useful());
            }
        }));
    }

    fn reload_if_useful(&self) -> impl ActorFuture<Self, Output = ()> + 'static {
        let (edges, event_id, is_cache_read) = (
            self.edges.clone(),
            self.event_id.clone(),
            self.is_cache_read,
        );
        let checking = async move { edges.source.may_know_more(&event_id, is_cache_read).await };
        checking
            .into_actor(self)
            .map(|may_know_more, book, context| {
                if !may_know_more {
                    book.schedule_reload(RELOAD_DELAY, context);
                } else if book.edges.is_mirror {
                    context.spawn(book.mirror(true).map(|_, _, _| ()));
                } else {
                    context.spawn(book.load());
                }
            })
    }
}

impl Actor for OddsBook {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.edges.metrics.books.inc();
        if let Some(loaded) = self.loaded.take() {
            let taking = self.take(loaded, context);
            context.wait(taking);
        }
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.edges.metrics.books.dec();
    }
}

impl Handler<ApplyBroadcasts> for OddsBook {
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, message: ApplyBroadcasts, context: &mut Context<Self>) -> Self::Result {
        let latest = Doubts::latest();
        let take = |broadcast: Broadcast| {
            let Broadcast {
                update,
                seq,
                conflated,
            } = broadcast;
            let (market, revision) = (update.market.clone(), update.revision);
            let differs = self.book.contradicts(&update);
            let taken = self.book.mirror(update, seq);
            let held = self.book.revision_of(&market).unwrap_or(revision);
            let contradicts = differs || self.doubts.is_unexplained(&taken, seq);
            self.doubts.consider(market, held, contradicts, latest);
            (taken, conflated)
        };
        let taken = message.0.into_iter().map(take).collect();
        let verifies = self.verify_when_due(context);
        let publishing = self.publish_taken(taken);
        if verifies {
            // Verify before the next message, so that later broadcasts apply to the corrected
            // state.
            return AtomicResponse::new(Box::pin(publishing.then(
                |result, book: &mut OddsBook, _| book.verify().map(move |(), _, _| result),
            )));
        }
        AtomicResponse::new(Box::pin(publishing))
    }
}

impl Handler<ReloadBook> for OddsBook {
    // Atomic: later messages apply to the reloaded state.
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, _: ReloadBook, _: &mut Context<Self>) -> Self::Result {
        // Later changes may have been missed, so none is left to the broadcasts any more.
        self.left = ReplayBoundary::NOTHING;
        AtomicResponse::new(Box::pin(self.mirror(false).map(
            |is_cache_read, book, _| {
                if is_cache_read {
                    Ok(())
                } else {
                    Err(ApplyError::NotLoaded(book.event_id.clone()))
                }
            },
        )))
    }
}

impl Handler<ApplyUpdates> for OddsBook {
    // Atomic: the changes of one batch are published before the next one is applied.
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, message: ApplyUpdates, _: &mut Context<Self>) -> Self::Result {
        let apply = |positioned: PositionedUpdate| {
            (
                self.book.apply(positioned.update, positioned.position),
                false,
            )
        };
        let taken = message.0.into_iter().map(apply).collect();
        AtomicResponse::new(Box::pin(self.publish_taken(taken)))
    }
}

impl OddsBook {
    /// Counts applied and rejected updates and publishes the changes, each with whether earlier
    /// changes may be missing.
    fn publish_taken(
        &self,
        taken: Vec<(Result<Arc<MarketState>, Rejection>, bool)>,
    ) -> impl ActorFuture<Self, Output = Result<(), ApplyError>> + use<> {
        // Before publishing: a client that has received a change must not get an older snapshot.
        self.generation.changed();
        let mut changes = Vec::with_capacity(taken.len());
        for (taken, conflated) in taken {
            match taken {
                Ok(state) => changes.push(Change { state, conflated }),
                Err(rejection) => {
                    self.edges
                        .metrics
                        .rejected
                        .with_label_values(&[rejection.reason()])
                        .inc();
                    debug!(event = self.event_id.as_str(); "update rejected: {rejection}");
                }
            }
        }
        self.edges.metrics.applied.inc_by(changes.len() as u64);
        let edges = self.edges.clone();
        let publishing = async move {
            edges.publish(changes).await;
            Ok(())
        };
        publishing.into_actor(self)
    }
}

impl Handler<GetSnapshot> for OddsBook {
    type Result = Result<Snapshot, ApplyError>;

    fn handle(&mut self, _: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        // An empty book is a valid reply only if the event is known to have no markets.
        if self.book.is_empty() && !self.is_loaded {
            return Err(ApplyError::NotLoaded(self.event_id.clone()));
        }
        let is_stale = self.edges.is_mirror && !self.is_cache_read;
        Ok(Snapshot {
            is_stale,
            validity: self.generation.stamp(),
            ..self.book.snapshot()
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Stops a book, as a fault would.
    #[derive(Message)]
    #[rtype(result = "()")]
    pub struct End;

    impl Handler<End> for OddsBook {
        type Result = ();

        fn handle(&mut self, _: End, context: &mut Context<Self>) {
            context.stop();
        }
    }
}
