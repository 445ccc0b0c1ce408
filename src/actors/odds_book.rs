//! One actor an event: applies updates to its book and tells everyone who listens.

mod doubts;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{debug, warn};
use prometheus::IntGauge;
use tokio::sync::Semaphore;

use self::doubts::Doubts;
use super::messages::{ApplyBroadcasts, ApplyError, ApplyUpdates, BookChanged, GetSnapshot, ReloadBook};
use super::store_writer::blocking;
use crate::cache::{Broadcast, Change, OddsCache};
use crate::domain::book::{Book, MarketState, Rejection, Snapshot};
use crate::domain::ids::EventId;
use crate::domain::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::domain::update::PositionedUpdate;
use crate::domain::validity::Generation;
use crate::metrics::BookMetrics;
use crate::store::Store;

/// How many books are read from the store at a time, however many start at once.
const READS_AT_ONCE: usize = 4;
/// After an answer that failed, the store is asked again only when this is over.
const STORE_PAUSE: Duration = Duration::from_millis(900);
/// A book whose store could not be read tries again after this.
const RELOAD_DELAY: Duration = Duration::from_secs(1);

/// Every book asks what is away: it is logged this often for all of them.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Where a book that starts takes its state from: the later of the hot copy and the store, market by market.
pub struct BookSource {
    cache: Arc<dyn OddsCache>,
    store: Arc<dyn Store>,
    reads: Semaphore,
    outage: Outage,
    passed_over: Mutex<PassedOver>,
    limits: Plausibility,
    metrics: BookMetrics,
}

/// What could not be read, and was not logged yet.
#[derive(Default)]
struct PassedOver {
    logged: Option<Instant>,
    since: u64,
}

/// A store that did not answer is left in peace for a moment: every book that starts meanwhile starts without it at
/// once, so that the live path does not wait once a book for a store that is away.
#[derive(Default)]
struct Outage {
    /// Why it did not answer, and since when.
    last: Mutex<Option<(String, Instant)>>,
}

impl Outage {
    fn last(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong, where it is too early to ask again.
    fn too_early(&self) -> Option<String> {
        let last = self.last();
        last.as_ref().filter(|(_, since)| since.elapsed() < STORE_PAUSE).map(|(why, _)| why.clone())
    }

    /// Remembers an answer.
    fn remember(&self, answer: Result<(), String>) {
        *self.last() = answer.err().map(|why| (why, Instant::now()));
    }
}

/// What a book that is started for an update or a broadcast leaves to those that follow, so that every change is told,
/// and told once: the store may have read the bus further than the books.
#[derive(Clone, Copy)]
struct LeftToCome {
    /// Numbers beyond this one are still to come.
    beyond: u64,
    /// Whether that holds whatever the cache knows. A bus that lasts may be read anew from its beginning: there only what
    /// the cache shows to be behind is still to come, and what it does not know must keep what is old from being told as
    /// new.
    always: bool,
}

impl LeftToCome {
    fn leaves(self, stored: &MarketState, hot: &[Arc<MarketState>]) -> bool {
        let is_hot = || hot.iter().any(|state| state.update.market == stored.update.market);
        stored.seq > self.beyond && (self.always || is_hot())
    }
}

/// What is known of an event.
struct Known {
    states: Vec<Arc<MarketState>>,
    /// Whether the cache could say.
    is_cache_read: bool,
    /// Whether the store could say, or was not asked.
    is_store_read: bool,
}

impl BookSource {
    /// Reads from `cache` and `store`.
    pub fn new(cache: Arc<dyn OddsCache>, store: Arc<dyn Store>, metrics: BookMetrics) -> BookSource {
        BookSource {
            cache,
            store,
            reads: Semaphore::new(READS_AT_ONCE),
            outage: Outage::default(),
            passed_over: Mutex::default(),
            limits: Plausibility::any_time(),
            metrics,
        }
    }

    /// Takes no state beyond `limits`: one that an earlier version kept must not shut out every true update.
    pub fn within(self, limits: Plausibility) -> BookSource {
        BookSource { limits, ..self }
    }

    /// Leaves out the states that are not believed.
    fn believed(&self, event_id: &EventId, mut states: Vec<Arc<MarketState>>) -> Vec<Arc<MarketState>> {
        let now = Timestamp::now();
        states.retain(|state| match self.limits.check_state(state, now) {
            Ok(()) => true,
            Err(why) => {
                self.metrics.implausible.with_label_values(&[why.reason()]).inc();
                let market = &state.update.market;
                self.log_passed_over(event_id, &format!("market {market}: {why}"));
                false
            }
        });
        states
    }

    /// Every state that is known of an event, but what is left to the bus. What cannot be read is passed over: the live
    /// path does not wait for a cache or a store that is down.
    async fn load(&self, event_id: &EventId, left: LeftToCome) -> Known {
        let mut known = self.load_hot(event_id).await;
        let (mut stored, is_store_read) = self.load_stored(event_id).await;
        stored.retain(|state| !left.leaves(state, &known.states));
        known.states.extend(stored);
        Known { is_store_read, ..known }
    }

    /// Whether another look may find what the last one did not. While the store is away and the cache was read there is
    /// nothing to find, and all books would read it, and tell what they know, again and again.
    async fn may_know_more(&self, event_id: &EventId, is_cache_read: bool) -> bool {
        let is_store_away = self.outage.last().is_some();
        !is_cache_read || !is_store_away || self.load_stored(event_id).await.1
    }

    /// What the cache holds.
    async fn load_hot(&self, event_id: &EventId) -> Known {
        let read = self.cache.read_book(event_id).await;
        let is_cache_read = read.is_ok();
        let states = read.unwrap_or_else(|error| self.passed_over(event_id, &error));
        Known { states: self.believed(event_id, states), is_cache_read, is_store_read: true }
    }

    async fn load_stored(&self, event_id: &EventId) -> (Vec<Arc<MarketState>>, bool) {
        if let Some(why) = self.outage.too_early() {
            return (self.passed_over(event_id, &why), false);
        }
        let _turn = self.reads.acquire().await;
        // Whoever had the turn before may have found out meanwhile.
        if let Some(why) = self.outage.too_early() {
            return (self.passed_over(event_id, &why), false);
        }
        let (store, event) = (self.store.clone(), event_id.clone());
        let read = blocking(move || store.load_event(&event)).await;
        self.outage.remember(read.as_ref().map(drop).map_err(ToString::to_string));
        match read {
            Ok(stored) => (self.believed(event_id, stored), true),
            Err(error) => (self.passed_over(event_id, &error), false),
        }
    }

    fn passed_over(&self, event_id: &EventId, error: &dyn std::fmt::Display) -> Vec<Arc<MarketState>> {
        self.metrics.hydrate_errors.inc();
        self.log_passed_over(event_id, error);
        Vec::new()
    }

    fn log_passed_over(&self, event_id: &EventId, error: &dyn std::fmt::Display) {
        debug!(event = event_id.as_str(); "book goes on without what it could not read: {error}");
        let mut passed_over = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        passed_over.since += 1;
        if passed_over.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            let since = std::mem::take(&mut passed_over.since);
            passed_over.logged = Some(Instant::now());
            warn!(event = event_id.as_str(), since; "books go on without what they could not read: {error}");
        }
    }
}

/// Someone who is told of changes.
pub struct Listener {
    to: Recipient<BookChanged>,
    depth: IntGauge,
}

impl Listener {
    /// Tells `to`; `depth` counts the messages on their way, and the receiver counts them down.
    pub fn new(to: Recipient<BookChanged>, depth: IntGauge) -> Listener {
        Listener { to, depth }
    }
}

/// What every book needs; one for all of them.
pub struct BookEdges {
    /// Where the bus of this process begins, where it begins with the process. Whatever was told before it began has a
    /// smaller number. None for a bus that lasts: it may be read anew from its beginning.
    pub first_position: Option<u64>,
    /// Where the state comes from.
    pub source: BookSource,
    /// Who is told of changes.
    pub listeners: Vec<Listener>,
    /// Whether the books mirror those of other processes: broadcasts feed them, and no bus.
    pub is_mirror: bool,
    /// The metrics.
    pub metrics: BookMetrics,
}

impl BookEdges {
    /// Tells every listener, and waits until each has room: nothing is left out, and a full mailbox holds the bus back.
    async fn tell(&self, changes: Vec<Change>) {
        for alike in changes.chunk_by(|one, next| one.conflated == next.conflated) {
            let states = alike.iter().map(|change| change.state.clone()).collect();
            let changed = BookChanged { states, conflated: alike[0].conflated };
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
    left: LeftToCome,
    /// What this process knew of the event when it let an earlier book go.
    known: Vec<Arc<MarketState>>,
    /// Whether the store said what it holds of the event.
    is_loaded: bool,
    /// Whether the cache could be read at the last look. It is what a mirrored book shows; the store lags behind.
    is_cache_read: bool,
    /// The next look of a mirrored book at what is known elsewhere.
    next_look: Option<SpawnHandle>,
    /// What a mirrored book is to compare with the hot copy.
    doubts: Doubts,
    /// Counts what changes the answer to [`GetSnapshot`].
    generation: Generation,
}

impl OddsBook {
    /// A book that takes its state from the edges' source when it starts.
    ///
    /// `next_position`: where the update stands on the bus that the book is started for, where it is started for one.
    /// In a mirror: the number below the broadcast's.
    pub fn new(event_id: EventId, edges: Arc<BookEdges>, next_position: Option<u64>) -> OddsBook {
        let always = edges.is_mirror || edges.first_position.is_some();
        let left = LeftToCome { beyond: next_position.unwrap_or(u64::MAX), always };
        let (book, known) = (Book::new(event_id.clone()), Vec::new());
        OddsBook {
            book,
            event_id,
            edges,
            left,
            known,
            is_loaded: false,
            is_cache_read: false,
            next_look: None,
            doubts: Doubts::default(),
            generation: Generation::default(),
        }
    }

    /// A book that begins with what an earlier one of the event knew, where others know less: a bus that begins anew, a
    /// cache that was emptied and a store that is behind would together take the numbers back.
    pub fn knowing(self, known: Vec<Arc<MarketState>>) -> OddsBook {
        OddsBook { known, ..self }
    }
}

impl OddsBook {
    /// What is known of the event, taken over and told. Tried again later where the store cannot say.
    fn load(&self) -> impl ActorFuture<Self, Output = ()> + 'static {
        let (edges, event_id, left) = (self.edges.clone(), self.event_id.clone(), self.left);
        async move { edges.source.load(&event_id, left).await }.into_actor(self).then(
            |Known { states, is_cache_read, is_store_read }, book, context| {
                book.is_loaded = is_store_read;
                book.is_cache_read = is_cache_read;
                if !is_store_read {
                    book.look_again(RELOAD_DELAY, context);
                }
                book.book.restore(states.into_iter().chain(std::mem::take(&mut book.known)));
                book.book.continue_from(book.edges.first_position.unwrap_or(0));
                book.generation.changed();
                // The store may hold a change that no client was told of while there was no book: tell it now. Whoever
                // knows it drops it by its number.
                let mut known = book.book.snapshot().markets;
                known.sort_by_key(|state| state.seq);
                let edges = book.edges.clone();
                // Nothing is left out before the very update that the book is started for, where the store has it.
                let next = book.left.beyond.checked_add(1);
                let known = known.into_iter().map(|state| Change { conflated: Some(state.seq) != next, state });
                let known = known.collect();
                async move { edges.tell(known).await }.into_actor(book)
            },
        )
    }
}

/// Where a mirrored book looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// In the cache, which is enough where it knows the event; in the store as well where not.
    Hot,
    /// In both.
    Both,
}

impl OddsBook {
    /// What is known of the event elsewhere, taken over where it is newer, and told. Gives whether the cache could be
    /// read. The store is asked later, beside the mailbox, where the cache is enough for the moment, and again where
    /// something could not be read.
    fn mirror(&self, asked: Asked) -> impl ActorFuture<Self, Output = bool> + 'static {
        let (edges, event_id, left) = (self.edges.clone(), self.event_id.clone(), self.left);
        let reading = async move {
            let mut hot = edges.source.load_hot(&event_id).await;
            let read_seq = doubts::largest_seq(&hot.states);
            let hot_markets: Vec<_> = hot.states.iter().map(|state| state.update.market.clone()).collect();
            // Whatever is newer than the broadcast is told behind it.
            hot.states.retain(|state| !left.leaves(state, &[]));
            if asked == Asked::Hot && !hot_markets.is_empty() {
                return (hot, false, read_seq);
            }
            let (mut stored, is_store_read) = edges.source.load_stored(&event_id).await;
            // The store may be ahead of what is told. What the cache knows comes by broadcast, change by change.
            stored.retain(|state| !hot_markets.contains(&state.update.market) && !left.leaves(state, &[]));
            let states = hot.states.into_iter().chain(stored).collect();
            (Known { states, is_store_read, ..hot }, true, read_seq)
        };
        reading.into_actor(self).then(|(known, is_store_asked, read_seq), book, context| {
            book.doubts.looked(read_seq);
            let is_complete = is_store_asked && known.is_cache_read && known.is_store_read;
            book.is_loaded |= is_complete;
            book.is_cache_read = known.is_cache_read;
            if !is_complete {
                let delay = if is_store_asked { RELOAD_DELAY } else { Duration::ZERO };
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
            let is_cache_read = known.is_cache_read;
            let news = news.into_iter().map(|state| Change { state, conflated: true }).collect();
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
        let (edges, event_id, is_cache_read) = (self.edges.clone(), self.event_id.clone(), self.is_cache_read);
        let asking = async move { edges.source.may_know_more(&event_id, is_cache_read).await };
        asking.into_actor(self).map(|may_know_more, book, context| {
            if !may_know_more {
                book.look_again(RELOAD_DELAY, context);
            } else if book.edges.is_mirror {
                context.spawn(book.mirror(Asked::Both).map(|_, _, _| ()));
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
        // The mailbox waits for the first try only: the live path goes on without a store. What is told meanwhile waits in
        // the mailbox.
        if self.edges.is_mirror {
            context.wait(self.mirror(Asked::Hot).map(|_, _, _| ()));
        } else {
            context.wait(self.load());
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
            let Broadcast { update, seq, conflated } = told;
            let (market, revision) = (update.market.clone(), update.revision);
            let taken = self.book.mirror(update, seq);
            let held = self.book.revision_of(&market).unwrap_or(revision);
            self.doubts.consider(market, held, &taken, seq, latest);
            (taken, conflated)
        };
        let taken = message.0.into_iter().map(take).collect();
        let verifies = self.verify_when_due(context);
        let telling = self.tell_taken(taken);
        if verifies {
            // Before the next message: what is told afterwards is applied to what was put right.
            return AtomicResponse::new(Box::pin(
                telling.then(|told, book: &mut OddsBook, _| book.verify().map(move |(), _, _| told)),
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
        self.left.beyond = u64::MAX;
        AtomicResponse::new(Box::pin(self.mirror(Asked::Hot).map(|is_cache_read, book, _| {
            if is_cache_read { Ok(()) } else { Err(ApplyError::NotLoaded(book.event_id.clone())) }
        })))
    }
}

impl Handler<ApplyUpdates> for OddsBook {
    // Atomic: the changes of one batch are told before the next one is applied.
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, message: ApplyUpdates, _: &mut Context<Self>) -> Self::Result {
        let apply = |positioned: PositionedUpdate| (self.book.apply(positioned.update, positioned.position), false);
        let taken = message.0.into_iter().map(apply).collect();
        AtomicResponse::new(Box::pin(self.tell_taken(taken)))
    }
}

impl OddsBook {
    /// Counts what was taken and what was not, and tells of the changes: each with whether some may be missing before it.
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
                    self.edges.metrics.rejected.with_label_values(&[rejection.reason()]).inc();
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
        Ok(Snapshot { is_stale, validity: self.generation.validity(), ..self.book.snapshot() })
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
