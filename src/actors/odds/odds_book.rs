//! One actor an event: applies updates to its book and tells everyone who listens.

mod doubts;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::debug;
use prometheus::IntGauge;

use self::doubts::Doubts;
use super::book_source::{BookSource, LoadedState, ReadPriority, ReplayBoundary};
use crate::actors::odds::messages::{
    ApplyBroadcasts, ApplyError, ApplyUpdates, BookChanged, GetSnapshot, ReloadBook,
};
use crate::cache::{Broadcast, Change};
use crate::domain::ids::EventId;
use crate::domain::odds::book::{Book, MarketState, Rejection, Snapshot};
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::odds::version_stamp::VersionCounter;
use crate::telemetry::metrics::BookMetrics;

/// A book whose store could not be read tries again after this.
const RELOAD_DELAY: Duration = Duration::from_secs(1);

/// Someone who is told of changes.
pub struct ChangeSubscriber {
    to: Recipient<BookChanged>,
    depth: IntGauge,
}

impl ChangeSubscriber {
    /// Tells `to`; `depth` counts the messages on their way, and the receiver counts them down.
    pub fn new(to: Recipient<BookChanged>, depth: IntGauge) -> ChangeSubscriber {
        ChangeSubscriber { to, depth }
    }
}

/// What every book needs; one for all of them.
pub struct BookEdges {
    /// Where the bus of this process begins, where it begins with the process. Whatever was told
    /// before it began has a smaller number. None for a bus that lasts: it may be read anew from
    /// its beginning.
    pub first_position: Option<u64>,
    /// Where the state comes from.
    pub source: BookSource,
    /// Who is told of changes.
    pub listeners: Vec<ChangeSubscriber>,
    /// Whether the books mirror those of other processes: broadcasts feed them, and no bus.
    pub is_mirror: bool,
    /// The metrics.
    pub metrics: BookMetrics,
}

impl BookEdges {
    /// Tells every listener, and waits until each has room: nothing is left out, and a full mailbox
    /// holds the bus back.
    async fn tell(&self, changes: Vec<Change>) {
        for alike in changes.chunk_by(|one, next| one.conflated == next.conflated) {
            let states = alike.iter().map(|change| change.state.clone()).collect();
            let changed = BookChanged {
                states,
                conflated: alike[0].conflated,
            };
            for listener in &self.listeners {
                listener.depth.inc();
                if listener.to.send(changed.clone()).await.is_err() {
                    // The listener is gone; the platform's watch over its actors ends the process.
                    listener.depth.dec();
                }
            }
        }
    }
}

/// The actor of one event's book.
pub struct OddsBook {
    book: Book,
    event_id: EventId,
    edges: Arc<BookEdges>,
    left: ReplayBoundary,
    /// The state it starts with; taken when it starts.
    loaded: Option<LoadedState>,
    /// Whether the store said what it holds of the event.
    is_loaded: bool,
    /// Whether the cache could be read at the last look. It is what a mirrored book shows; the
    /// store lags behind.
    is_cache_read: bool,
    /// The next look of a mirrored book at what is known elsewhere.
    next_look: Option<SpawnHandle>,
    /// What a mirrored book is to compare with the hot copy.
    doubts: Doubts,
    /// Counts what changes the answer to [`GetSnapshot`].
    generation: VersionCounter,
}

impl OddsBook {
    /// A book that starts with `loaded`, which was read up to `left`.
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
    /// Takes over loaded state, and publishes the whole book: the store may hold a change that no
    /// client has seen. Clients that know it drop it by its number. Loads again later if something
    /// could not be read.
    fn take(
        &mut self,
        known: LoadedState,
        context: &mut Context<Self>,
    ) -> impl ActorFuture<Self, Output = ()> + use<> {
        self.doubts.looked(known.read_seq);
        self.is_loaded = known.is_complete;
        self.is_cache_read = known.is_cache_read;
        if let Some(delay) = known.next_look(RELOAD_DELAY) {
            self.look_again(delay, context);
        }
        self.book.restore(known.states);
        self.book
            .continue_from(self.edges.first_position.unwrap_or(0));
        self.generation.changed();
        let mut states = self.book.snapshot().markets;
        states.sort_by_key(|state| state.seq);
        // In a mirror every loaded state may follow changes that were missed. Elsewhere nothing is
        // missing before the very update that the book starts for, if the store has it.
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
        async move { edges.tell(changes).await }.into_actor(self)
    }

    /// Loads the state again, if it could not be read when the book started.
    fn load(&self) -> impl ActorFuture<Self, Output = ()> + 'static {
        let (edges, event_id, left) = (self.edges.clone(), self.event_id.clone(), self.left);
        async move {
            edges
                .source
                .load(&event_id, left, ReadPriority::Background)
                .await
        }
        .into_actor(self)
        .then(|known, book, context| book.take(known, context))
    }
}

impl OddsBook {
    /// Loads the state of a mirrored book again, and publishes what is newer. Gives whether the
    /// cache answers.
    fn mirror(&self, is_store_wanted: bool) -> impl ActorFuture<Self, Output = bool> + 'static {
        let (edges, event_id, left) = (self.edges.clone(), self.event_id.clone(), self.left);
        let reading = async move {
            edges
                .source
                .load_mirrored(&event_id, left, ReadPriority::Background, is_store_wanted)
                .await
        };
        reading.into_actor(self).then(|known, book, context| {
            book.doubts.looked(known.read_seq);
            book.is_loaded |= known.is_complete;
            book.is_cache_read = known.is_cache_read;
            if let Some(delay) = known.next_look(RELOAD_DELAY) {
                book.look_again(delay, context);
            }
            let news = if book.book.is_empty() {
                book.book.restore(known.states);
                let mut markets = book.book.snapshot().markets;
                markets.sort_by_key(|state| state.seq);
                markets
            } else {
                book.book.catch_up(known.states)
            };
            book.generation.changed();
            let edges = book.edges.clone();
            // Of a damaged entry this event alone suffers.
            let is_cache_read = known.is_cache_read || known.is_damaged;
            let news = news
                .into_iter()
                .map(|state| Change {
                    state,
                    conflated: true,
                })
                .collect();
            async move {
                edges.tell(news).await;
                is_cache_read
            }
            .into_actor(book)
        })
    }

    /// Looks in cache and store after a while; one look at a time, however often it is asked for.
    fn look_again(&mut self, delay: Duration, context: &mut Context<Self>) {
        if let Some(earlier) = self.next_look.take() {
            context.cancel_future(earlier);
        }
        self.next_look = Some(context.run_later(delay, |book, context| {
            book.next_look = None;
            // One that was let go meanwhile ends here.
            if context.connected() {
                context.spawn(book.look());
            }
        }));
    }

    fn look(&self) -> impl ActorFuture<Self, Output = ()> + 'static {
        let (edges, event_id, is_cache_read) = (
            self.edges.clone(),
            self.event_id.clone(),
            self.is_cache_read,
        );
        let asking = async move { edges.source.may_know_more(&event_id, is_cache_read).await };
        asking.into_actor(self).map(|may_know_more, book, context| {
            if !may_know_more {
                book.look_again(RELOAD_DELAY, context);
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
        let take = |told: Broadcast| {
            let Broadcast {
                update,
                seq,
                conflated,
            } = told;
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
        let telling = self.tell_taken(taken);
        if verifies {
            // Before the next message: what is told afterwards is applied to what was put right.
            return AtomicResponse::new(Box::pin(
                telling
                    .then(|told, book: &mut OddsBook, _| book.verify().map(move |(), _, _| told)),
            ));
        }
        AtomicResponse::new(Box::pin(telling))
    }
}

impl Handler<ReloadBook> for OddsBook {
    // Atomic: what is told afterwards is applied to what was read.
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, _: ReloadBook, _: &mut Context<Self>) -> Self::Result {
        // What followed may have been missed: nothing is left to it any more.
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
    // Atomic: the changes of one batch are told before the next one is applied.
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, message: ApplyUpdates, _: &mut Context<Self>) -> Self::Result {
        let apply = |positioned: PositionedUpdate| {
            (
                self.book.apply(positioned.update, positioned.position),
                false,
            )
        };
        let taken = message.0.into_iter().map(apply).collect();
        AtomicResponse::new(Box::pin(self.tell_taken(taken)))
    }
}

impl OddsBook {
    /// Counts what was taken and what was not, and tells of the changes: each with whether some may
    /// be missing before it.
    fn tell_taken(
        &self,
        taken: Vec<(Result<Arc<MarketState>, Rejection>, bool)>,
    ) -> impl ActorFuture<Self, Output = Result<(), ApplyError>> + use<> {
        // Before anyone is told: who is told must not be shown less.
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
                    debug!(event = self.event_id.as_str(); "update not taken: {rejection}");
                }
            }
        }
        self.edges.metrics.applied.inc_by(changes.len() as u64);
        let edges = self.edges.clone();
        let telling = async move {
            edges.tell(changes).await;
            Ok(())
        };
        telling.into_actor(self)
    }
}

impl Handler<GetSnapshot> for OddsBook {
    type Result = Result<Snapshot, ApplyError>;

    fn handle(&mut self, _: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        // Nothing to show is an answer only where it is known that there is nothing.
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

    /// Ends a book, as a fault would.
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
