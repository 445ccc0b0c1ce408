//! Finds the book of each event, starts it on first use, and drops it when it is idle.
//!
//! A book starts with its state already loaded, so it never waits while it handles messages. The
//! router loads the state: for an update at once, under a separate limit; for a client in the
//! bounded queue of client reads. An update never waits for a read that a client caused: if there
//! is no book yet, the router loads the state for the update itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::{FutureExt, StreamExt, stream};
use log::warn;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::book_source::{LoadedState, ReadPriority, ReplayBoundary};
use super::messages::{
    ApplyBroadcasts, ApplyError, ApplyUpdates, GetSnapshot, InOrder, PartitionsRevoked, ReloadBook,
    ReloadBooks,
};
use super::odds_book::{BookEdges, OddsBook};
use crate::domain::ids::EventId;
use crate::domain::odds::book::{Book, MarketState, Snapshot};
use crate::runtime::actor;

/// Interval between checks for idle books.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How many books reload from the cache concurrently. All of them share one connection, which is
/// abandoned if it does not answer within a second.
const RELOADS_AT_ONCE: usize = 64;

/// Routes messages to the books.
pub struct BookRouter {
    edges: Arc<BookEdges>,
    idle_limit: Duration,
    books: HashMap<EventId, Entry>,
    /// Books whose state is being loaded for an update, with the messages that wait for them in
    /// order.
    starting: HashMap<EventId, Vec<Deliver>>,
    /// Events whose state is being loaded for clients, with the waiting clients.
    asked: HashMap<EventId, Vec<Waiting>>,
    /// The last state of books that were dropped with their partitions, and when they were dropped.
    /// Discarded after the idle limit, like an idle book.
    let_go: HashMap<EventId, (Vec<Arc<MarketState>>, Instant)>,
    /// Number of reloads that concerned events in `asked`. A client read that started before a
    /// reload may lack changes.
    reloads: u64,
}

struct Entry {
    book: Addr<OddsBook>,
    /// The event's bus partition; `None` until the first update.
    partition: Option<u32>,
    in_flight: usize,
    last_used: Instant,
}

/// Sends a message to a book that has started; dropped unsent if no book starts.
type Deliver = Box<dyn FnOnce(&mut Entry) + Send>;

/// A client waiting for a snapshot.
type Waiting = oneshot::Sender<Result<Snapshot, ApplyError>>;

/// The reply of a book for an event, or an error if the book is gone.
type Answered = (Result<Result<(), ApplyError>, MailboxError>, EventId);

/// A message to a book: sent, or to be sent once the book has started.
enum Sending<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
    OddsBook: Handler<M>,
{
    Sent(Request<OddsBook, M>),
    Later(oneshot::Receiver<Request<OddsBook, M>>),
}

impl Entry {
    fn send<M>(&mut self, partition: Option<u32>, message: M) -> Request<OddsBook, M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        OddsBook: Handler<M>,
    {
        self.partition = partition.or(self.partition);
        self.in_flight += 1;
        self.last_used = Instant::now();
        self.book.send(message)
    }
}

impl BookRouter {
    /// Creates a router for books with these edges. A book is dropped after `idle_limit` without an
    /// update or a request.
    pub fn new(edges: Arc<BookEdges>, idle_limit: Duration) -> BookRouter {
        BookRouter {
            edges,
            idle_limit,
            books: HashMap::new(),
            starting: HashMap::new(),
            asked: HashMap::new(),
            let_go: HashMap::new(),
            reloads: 0,
        }
    }

    /// Starts a book with the loaded state.
    fn start(
        &mut self,
        event_id: &EventId,
        left: ReplayBoundary,
        mut loaded: LoadedState,
    ) -> &mut Entry {
        if let Some((last_states, _)) = self.let_go.remove(event_id) {
            // The loaded state may be older: after a bus that restarted, a cache that was emptied
            // and a store that lags, sequence numbers would otherwise go backwards.
            loaded.states.extend(last_states);
        }
        let book = OddsBook::new(event_id.clone(), self.edges.clone(), left, loaded);
        let entry = Entry {
            // Unbounded, so that updates stay in order: the live path bounds them, and clients wait
            // for their replies.
            book: actor::start_here(0, book),
            partition: None,
            in_flight: 0,
            last_used: Instant::now(),
        };
        self.books
            .entry(event_id.clone())
            .insert_entry(entry)
            .into_mut()
    }

    /// Sends an update or a broadcast to the book of an event, and starts the book if there is
    /// none. `next_position`: see [`ReplayBoundary::from`].
    fn deliver<M>(
        &mut self,
        event_id: &EventId,
        (partition, next_position): (Option<u32>, Option<u64>),
        message: M,
        context: &mut Context<Self>,
    ) -> Sending<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        OddsBook: Handler<M>,
    {
        if let Some(entry) = self.books.get_mut(event_id) {
            return Sending::Sent(entry.send(partition, message));
        }
        let (sent, sending) = oneshot::channel();
        // The receiver is gone if the caller no longer waits for the reply.
        let deliver: Deliver = Box::new(move |entry| _ = sent.send(entry.send(partition, message)));
        match self.starting.get_mut(event_id) {
            Some(waiting) => waiting.push(deliver),
            None => {
                self.starting.insert(event_id.clone(), vec![deliver]);
                self.edges.source.clients().forget_unknown(event_id);
                self.load(event_id.clone(), next_position, context);
            }
        }
        Sending::Later(sending)
    }

    fn load(&mut self, event_id: EventId, next_position: Option<u64>, context: &mut Context<Self>) {
        let edges = self.edges.clone();
        let left = ReplayBoundary::from(
            next_position,
            edges.is_mirror || edges.first_position.is_some(),
        );
        let loading = async move {
            let loaded = if edges.is_mirror {
                edges
                    .source
                    .load_mirrored(&event_id, left, ReadPriority::Live, false)
                    .await
            } else {
                edges.source.load(&event_id, left, ReadPriority::Live).await
            };
            (event_id, loaded)
        };
        context.spawn(
            loading
                .into_actor(self)
                .map(move |(event_id, loaded), router, context| {
                    let waiting = router.starting.remove(&event_id).unwrap_or_default();
                    let entry = router.start(&event_id, left, loaded);
                    waiting.into_iter().for_each(|deliver| deliver(entry));
                    // Clients are served by the new book and do not wait for their own read.
                    if let Some(clients) = router.asked.remove(&event_id) {
                        router.answer_from_book(event_id, clients, context);
                    }
                }),
        );
    }

    /// Records the reply of a book. If the book is gone (`ended`), it is removed, and restarts on
    /// the next message.
    fn answered(&mut self, event_id: &EventId, ended: bool) {
        if let Some(entry) = self.books.get_mut(event_id) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
        if ended
            && self
                .books
                .get(event_id)
                .is_some_and(|entry| !entry.book.connected())
        {
            warn!(event = event_id.as_str(); "book stopped unexpectedly, restarting on next use");
            self.books.remove(event_id);
        }
    }

    fn all_answered(&mut self, answers: Vec<Answered>) -> Result<(), ApplyError> {
        let mut result = Ok(());
        for (answer, event_id) in answers {
            self.answered(&event_id, answer.is_err());
            let answer = answer.unwrap_or(Err(ApplyError::BookEnded(event_id)));
            result = result.and(answer);
        }
        result
    }

    fn drop_idle(&mut self) {
        let (now, limit) = (Instant::now(), self.idle_limit);
        // A book stops when its last address is dropped.
        self.books
            .retain(|_, entry| entry.in_flight > 0 || now.duration_since(entry.last_used) < limit);
        self.let_go
            .retain(|_, (_, since)| now.duration_since(*since) < limit);
    }

    fn drop_unused(&mut self, event_id: &EventId) {
        if self
            .books
            .get(event_id)
            .is_some_and(|entry| entry.in_flight == 0)
        {
            self.books.remove(event_id);
        }
    }

    /// Requests a snapshot from the book, from the book that is starting for an update, or from
    /// state that is loaded for clients.
    fn request_snapshot(
        &mut self,
        event_id: EventId,
        context: &mut Context<Self>,
    ) -> ResponseActFuture<Self, Result<Snapshot, ApplyError>> {
        if self.books.contains_key(&event_id) || self.starting.contains_key(&event_id) {
            let sending = self.deliver(
                &event_id,
                (None, None),
                GetSnapshot(event_id.clone()),
                context,
            );
            return Box::pin(
                answer_of(sending)
                    .into_actor(self)
                    .map(move |answer, router, _| {
                        router.answered(&event_id, answer.is_err());
                        let snapshot =
                            answer.unwrap_or_else(|_| Err(ApplyError::BookEnded(event_id.clone())));
                        // A book without state is dropped, so that the next request loads it again.
                        if snapshot
                            .as_ref()
                            .map_or(true, |snapshot| snapshot.markets.is_empty())
                        {
                            router.drop_unused(&event_id);
                        }
                        snapshot
                    }),
            );
        }
        if self.edges.source.clients().is_unknown(&event_id) {
            return Box::pin(fut::ready(Ok(Book::new(event_id).snapshot())));
        }
        let (reply_to, reply) = oneshot::channel();
        match self.asked.get_mut(&event_id) {
            Some(waiting) => waiting.push(reply_to),
            None => match self.edges.source.clients().enter() {
                Ok(place) => {
                    self.asked.insert(event_id.clone(), vec![reply_to]);
                    let (edges, event, reloads) =
                        (self.edges.clone(), event_id.clone(), self.reloads);
                    let loading = async move {
                        (
                            edges
                                .source
                                .load_for_client(&event, place, edges.is_mirror)
                                .await,
                            event,
                        )
                    };
                    let loading = loading.into_actor(self);
                    context.spawn(loading.map(move |(mut loaded, event_id), router, context| {
                        if router.reloads != reloads
                            && let Ok(loaded) = &mut loaded
                        {
                            loaded.read_again();
                        }
                        router.loaded_for_clients(event_id, loaded, context);
                    }));
                }
                Err(_) => return Box::pin(fut::ready(Err(ApplyError::Busy(event_id)))),
            },
        }
        let answer = async move { reply.await.unwrap_or(Err(ApplyError::BookEnded(event_id))) };
        Box::pin(answer.into_actor(self))
    }

    fn loaded_for_clients(
        &mut self,
        event_id: EventId,
        loaded: Result<LoadedState, ApplyError>,
        context: &mut Context<Self>,
    ) {
        let waiting = self.asked.remove(&event_id).unwrap_or_default();
        let has_book = self.books.contains_key(&event_id) || self.starting.contains_key(&event_id);
        let nothing = match loaded {
            // A book that was started for an update in the meantime has newer state.
            _ if has_book => None,
            Err(busy) => Some(Err(busy)),
            Ok(loaded) if loaded.states.is_empty() && !self.let_go.contains_key(&event_id) => {
                if loaded.is_complete {
                    self.edges.source.clients().remember_unknown(&event_id);
                    Some(Ok(Book::new(event_id.clone()).snapshot()))
                } else {
                    Some(Err(ApplyError::NotLoaded(event_id.clone())))
                }
            }
            Ok(loaded) => {
                self.start(&event_id, ReplayBoundary::NOTHING, loaded);
                None
            }
        };
        if let Some(answer) = nothing {
            // The client may be gone.
            waiting
                .into_iter()
                .for_each(|waiting| _ = waiting.send(answer.clone()));
            return;
        }
        self.answer_from_book(event_id, waiting, context);
    }

    fn answer_from_book(
        &mut self,
        event_id: EventId,
        waiting: Vec<Waiting>,
        context: &mut Context<Self>,
    ) {
        if waiting.is_empty() {
            return;
        }
        let snapshot = self.request_snapshot(event_id, context);
        context.spawn(snapshot.map(|answer, _, _| {
            waiting
                .into_iter()
                .for_each(|waiting| _ = waiting.send(answer.clone()));
        }));
    }
}

/// The reply of a book to a message, which is sent once the book has started.
async fn answer_of<M>(sending: Sending<M>) -> Result<M::Result, MailboxError>
where
    M: Message + Send + 'static,
    M::Result: Send,
    OddsBook: Handler<M>,
{
    match sending {
        Sending::Sent(request) => request.await,
        Sending::Later(sending) => match sending.await {
            Ok(request) => request.await,
            Err(_) => Err(MailboxError::Closed),
        },
    }
}

impl Actor for BookRouter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(SWEEP_INTERVAL, |router, _| router.drop_idle());
    }
}

impl Handler<ApplyUpdates> for BookRouter {
    // Not atomic: a slow batch does not block others. Messages of one event stay in order.
    type Result = ResponseActFuture<Self, Result<(), ApplyError>>;

    fn handle(&mut self, message: ApplyUpdates, context: &mut Context<Self>) -> Self::Result {
        let sends: Vec<_> = by_event(message.0, |positioned| &positioned.update.event_id)
            .into_iter()
            .map(|(event_id, updates)| {
                let place = updates
                    .first()
                    .map(|first| (first.partition, first.position))
                    .unzip();
                let sending = self.deliver(&event_id, place, ApplyUpdates(updates), context);
                async move { (answer_of(sending).await, event_id) }
            })
            .collect();
        Box::pin(
            join_all(sends)
                .into_actor(self)
                .map(|answers, router, _| router.all_answered(answers)),
        )
    }
}

impl Handler<ApplyBroadcasts> for BookRouter {
    type Result = ResponseActFuture<Self, Result<(), ApplyError>>;

    fn handle(&mut self, message: ApplyBroadcasts, context: &mut Context<Self>) -> Self::Result {
        let sends: Vec<_> = by_event(message.0, |broadcast| &broadcast.update.event_id)
            .into_iter()
            .map(|(event_id, broadcasts)| {
                let below = broadcasts
                    .first()
                    .and_then(|first| first.seq)
                    .map(|seq| seq.saturating_sub(1));
                let sending = self.deliver(
                    &event_id,
                    (None, below),
                    ApplyBroadcasts(broadcasts),
                    context,
                );
                async move { (answer_of(sending).await, event_id) }
            })
            .collect();
        Box::pin(
            join_all(sends)
                .into_actor(self)
                .map(|answers, router, _| router.all_answered(answers)),
        )
    }
}

impl Handler<InOrder<ApplyUpdates>> for BookRouter {
    type Result = ();

    fn handle(
        &mut self,
        InOrder { message, done }: InOrder<ApplyUpdates>,
        context: &mut Context<Self>,
    ) {
        let applying = Handler::<ApplyUpdates>::handle(self, message, context);
        // The sender may be gone.
        context.spawn(applying.map(|applied, _, _| _ = done.send(applied)));
    }
}

impl Handler<InOrder<ApplyBroadcasts>> for BookRouter {
    type Result = ();

    fn handle(
        &mut self,
        InOrder { message, done }: InOrder<ApplyBroadcasts>,
        context: &mut Context<Self>,
    ) {
        let applying = Handler::<ApplyBroadcasts>::handle(self, message, context);
        context.spawn(applying.map(|applied, _, _| _ = done.send(applied)));
    }
}

impl Handler<ReloadBooks> for BookRouter {
    type Result = ResponseActFuture<Self, Vec<EventId>>;

    fn handle(
        &mut self,
        ReloadBooks(which): ReloadBooks,
        context: &mut Context<Self>,
    ) -> Self::Result {
        self.note_reload(which.as_deref());
        let all = || {
            self.books
                .keys()
                .chain(self.starting.keys())
                .cloned()
                .collect()
        };
        let which = which.unwrap_or_else(all);
        let mut reloads = Vec::with_capacity(which.len());
        for event_id in which {
            // A starting book may have read its state before the gap ended, so it reloads after its
            // start.
            if self.starting.contains_key(&event_id) {
                let sending = self.deliver(&event_id, (None, None), ReloadBook, context);
                reloads.push(fut_of(async move { (answer_of(sending).await, event_id) }));
                continue;
            }
            // A book that was dropped loads its state when it restarts.
            let Some(entry) = self.books.get_mut(&event_id) else {
                continue;
            };
            // A reload does not count as use: an idle book is dropped all the same.
            entry.in_flight += 1;
            let book = entry.book.clone();
            reloads.push(fut_of(
                async move { (book.send(ReloadBook).await, event_id) },
            ));
        }
        let reloading = stream::iter(reloads)
            .buffer_unordered(RELOADS_AT_ONCE)
            .collect::<Vec<Answered>>();
        Box::pin(reloading.into_actor(self).map(|answers, router, _| {
            let mut failed = Vec::new();
            for (answer, event_id) in answers {
                router.answered(&event_id, answer.is_err());
                if !matches!(answer, Ok(Ok(()))) {
                    failed.push(event_id);
                }
            }
            failed
        }))
    }
}

impl BookRouter {
    /// Records that changes may have been missed, of all events or of these: earlier reads and
    /// reads in flight may be outdated.
    fn note_reload(&mut self, which: Option<&[EventId]>) {
        let clients = self.edges.source.clients();
        match which {
            None => clients.forget_all_unknown(),
            Some(events) => events
                .iter()
                .for_each(|event_id| clients.forget_unknown(event_id)),
        }
        if which.is_none_or(|events| {
            events
                .iter()
                .any(|event_id| self.asked.contains_key(event_id))
        }) {
            self.reloads += 1;
        }
    }
}

fn fut_of(reload: impl Future<Output = Answered> + 'static) -> LocalBoxFuture<'static, Answered> {
    reload.boxed_local()
}

impl Handler<PartitionsRevoked> for BookRouter {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(
        &mut self,
        PartitionsRevoked(partitions): PartitionsRevoked,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let is_gone = |entry: &Entry| {
            entry
                .partition
                .is_some_and(|partition| partitions.contains(&partition))
        };
        // A book whose last address is dropped handles its remaining messages and stops.
        let snapshots: Vec<_> = self
            .books
            .extract_if(|_, entry| is_gone(entry))
            .map(|(event_id, entry)| async move {
                (
                    entry.book.send(GetSnapshot(event_id.clone())).await,
                    event_id,
                )
            })
            .collect();
        Box::pin(
            join_all(snapshots)
                .into_actor(self)
                .map(|answers, router, _| {
                    let now = Instant::now();
                    for (answer, event_id) in answers {
                        // A book that stopped unexpectedly has no state left to keep.
                        if let Ok(Ok(snapshot)) = answer {
                            router.let_go.insert(event_id, (snapshot.markets, now));
                        }
                    }
                }),
        )
    }
}

impl Handler<GetSnapshot> for BookRouter {
    type Result = ResponseActFuture<Self, Result<Snapshot, ApplyError>>;

    fn handle(
        &mut self,
        GetSnapshot(event_id): GetSnapshot,
        context: &mut Context<Self>,
    ) -> Self::Result {
        self.request_snapshot(event_id, context)
    }
}

/// Groups a batch by event and keeps the order within each event.
fn by_event<T>(updates: Vec<T>, event_of: impl Fn(&T) -> &EventId) -> HashMap<EventId, Vec<T>> {
    let mut events: HashMap<EventId, Vec<T>> = HashMap::new();
    for update in updates {
        match events.get_mut(event_of(&update)) {
            Some(updates) => updates.push(update),
            None => drop(events.insert(event_of(&update).clone(), vec![update])),
        }
    }
    events
}

#[cfg(test)]
mod tests;
