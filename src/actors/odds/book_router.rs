//! Finds the book of each event, starts it on first use, and drops it when it is idle.
//!
//! A book starts with its state already loaded, so it never waits while it handles messages. The
//! router loads the state: for an update at once, under a separate limit; for a client in the
//! bounded queue of client reads. An update never waits for a read that a client caused: if there
//! is no book yet, the router loads the state for the update itself.

mod reload;
mod restate;
mod running;
mod snapshots;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use self::running::{RunningBook, RunningBooks};
use self::snapshots::WaitingClient;
use super::book_source::{LoadedState, ReplayBoundary};
use super::messages::{
    Apply, ApplyBroadcasts, ApplyError, ApplyUpdates, GetSnapshot, InOrder, PartitionsRevoked,
};
use super::odds_book::{
    BookEdges, BookFeed, BusFeed, MirrorFeed, MirrorInput, OddsBook, conflated,
};
use crate::domain::ids::EventId;
use crate::domain::odds::book::{LOST_NUMBERS, MarketState};
use crate::runtime::actor;

/// Interval between checks for idle books.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Routes messages to the books.
pub(crate) struct BookRouter<F: BookFeed> {
    edges: Arc<BookEdges<F>>,
    books: RunningBooks<F>,
    /// Books whose state is being loaded for an update, with the messages that wait for them in
    /// order.
    starting: HashMap<EventId, Vec<WaitingMessage<F>>>,
    /// Events whose state is being loaded for clients, with the waiting clients.
    client_loads: HashMap<EventId, Vec<WaitingClient>>,
    /// Number of reloads that concerned events in `client_loads`. A client read that started before
    /// a reload may lack changes.
    reloads: u64,
}

/// Sends a message to a book that has started; dropped unsent if no book starts.
type WaitingMessage<F> = Box<dyn FnOnce(&mut RunningBook<F>) + Send>;

/// The reply of a book for an event, or an error if the book is gone.
type BookReply = (Result<Result<(), ApplyError>, MailboxError>, EventId);

/// The request of a message to a book: sent, or to be sent once the book has started.
enum Sending<R> {
    Sent(R),
    Later(oneshot::Receiver<R>),
}

impl<F: BookFeed> BookRouter<F> {
    /// Creates a router for books with these edges. A book is dropped after `idle_limit` without an
    /// update or a request.
    pub(crate) fn new(edges: Arc<BookEdges<F>>, idle_limit: Duration) -> BookRouter<F> {
        BookRouter {
            edges,
            books: RunningBooks::new(idle_limit),
            starting: HashMap::new(),
            client_loads: HashMap::new(),
            reloads: 0,
        }
    }

    /// Whether the event has a book, or one that is starting for an update.
    fn has_book(&self, event_id: &EventId) -> bool {
        self.books.contains(event_id) || self.starting.contains_key(event_id)
    }

    /// Starts a book with the loaded state.
    fn start(
        &mut self,
        event_id: &EventId,
        boundary: ReplayBoundary,
        mut loaded: LoadedState,
    ) -> &mut RunningBook<F> {
        // The loaded state may be older: after a bus that restarted, a cache that was emptied and a
        // store that lags, sequence numbers would otherwise go backwards.
        loaded.states.extend(self.books.take_revoked(event_id));
        let book = OddsBook::new(event_id.clone(), self.edges.clone(), boundary, loaded);
        // Unbounded, so that updates stay in order: the live path bounds them, and clients wait for
        // their replies.
        let is_ahead = book.is_ahead();
        self.books
            .insert(event_id, actor::start_here(0, book), is_ahead)
    }

    /// Loads the state of an event and starts its book. Messages wait until then.
    fn start_for_update(
        &mut self,
        event_id: &EventId,
        boundary: ReplayBoundary,
        context: &mut Context<Self>,
    ) {
        self.starting.insert(event_id.clone(), Vec::new());
        self.edges.source.clients().forget_unknown(event_id);
        let edges = self.edges.clone();
        let event_id = event_id.clone();
        let loading = async move {
            let loaded = edges.source.load_for_start(&event_id, boundary).await;
            (event_id, loaded)
        };
        let loading = loading.into_actor(self);
        context.spawn(loading.map(move |(event_id, loaded), router, context| {
            let waiting = router.starting.remove(&event_id).unwrap_or_default();
            let book = router.start(&event_id, boundary, loaded);
            for send in waiting {
                send(book);
            }
            // Clients are served by the new book and do not wait for their own read.
            if let Some(clients) = router.client_loads.remove(&event_id) {
                router.reply_from_book(event_id, clients, context);
            }
        }));
    }

    /// Sends a message to the book of an event, which is running or starting.
    fn send<R: Send + 'static>(
        &mut self,
        event_id: &EventId,
        partition: Option<u32>,
        send: impl FnOnce(&Addr<OddsBook<F>>) -> R + Send + 'static,
    ) -> Sending<R> {
        if let Some(book) = self.books.get_mut(event_id) {
            return Sending::Sent(book.send(partition, send));
        }
        let (sent, sending) = oneshot::channel();
        if let Some(waiting) = self.starting.get_mut(event_id) {
            // The receiver is gone if the caller no longer waits for the reply.
            waiting.push(Box::new(move |book| {
                let _ = sent.send(book.send(partition, send));
            }));
        }
        Sending::Later(sending)
    }

    /// Sends each book its part of a batch, and starts the missing books. Not atomic: a slow batch
    /// does not block others. Messages of one event stay in order.
    fn apply(
        &mut self,
        items: Vec<F::Item>,
        context: &mut Context<Self>,
    ) -> ResponseActFuture<Self, Result<(), ApplyError>> {
        let mut replies = Vec::new();
        for (event_id, items) in by_event::<F>(items) {
            let mut partition = None;
            if let Some(first) = items.first() {
                partition = F::partition(first);
                if !self.has_book(&event_id) {
                    let boundary = self.edges.feed.boundary(first);
                    self.start_for_update(&event_id, boundary, context);
                }
            }
            let sending = self.send(&event_id, partition, |book| book.send(Apply(items)));
            replies.push(async move { (reply_of(sending).await, event_id) });
        }
        let replying = join_all(replies).into_actor(self);
        Box::pin(replying.map(|replies, router, _| router.record_replies(replies)))
    }

    /// Applies a batch and sends the result to `done`; the sender of the batch may be gone.
    fn apply_in_order(
        &mut self,
        items: Vec<F::Item>,
        done: oneshot::Sender<Result<(), ApplyError>>,
        context: &mut Context<Self>,
    ) {
        let applying = self.apply(items, context);
        context.spawn(applying.map(|applied, _, _| {
            let _ = done.send(applied);
        }));
    }

    /// Records the replies of the books and returns the first error.
    fn record_replies(&mut self, replies: Vec<BookReply>) -> Result<(), ApplyError> {
        let mut result = Ok(());
        for (reply, event_id) in replies {
            self.books.record_reply(&event_id, reply.is_err());
            result = result.and(reply.unwrap_or(Err(ApplyError::BookEnded(event_id))));
        }
        result
    }
}

/// The reply of a book to a message, which is sent once the book has started.
async fn reply_of<R, T>(sending: Sending<R>) -> Result<T, MailboxError>
where
    R: Future<Output = Result<T, MailboxError>>,
{
    match sending {
        Sending::Sent(request) => request.await,
        Sending::Later(sending) => match sending.await {
            Ok(request) => request.await,
            Err(_) => Err(MailboxError::Closed),
        },
    }
}

impl<F: BookFeed> Actor for BookRouter<F> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(SWEEP_INTERVAL, |router, _| router.books.drop_idle());
    }
}

impl Handler<InOrder<ApplyUpdates>> for BookRouter<BusFeed> {
    type Result = ();

    fn handle(&mut self, batch: InOrder<ApplyUpdates>, context: &mut Context<Self>) {
        self.apply_in_order(batch.message.0, batch.done, context);
    }
}

impl Handler<InOrder<ApplyBroadcasts>> for BookRouter<MirrorFeed> {
    type Result = ();

    fn handle(&mut self, batch: InOrder<ApplyBroadcasts>, context: &mut Context<Self>) {
        let broadcasts = batch.message.0.into_iter().map(MirrorInput::Broadcast);
        self.apply_in_order(broadcasts.collect(), batch.done, context);
    }
}

impl Handler<InOrder<ApplyUpdates>> for BookRouter<MirrorFeed> {
    type Result = ();

    fn handle(&mut self, batch: InOrder<ApplyUpdates>, context: &mut Context<Self>) {
        let records = batch.message.0.into_iter().map(MirrorInput::Record);
        self.apply_in_order(records.collect(), batch.done, context);
    }
}

impl Handler<PartitionsRevoked> for BookRouter<BusFeed> {
    type Result = ResponseActFuture<Self, Vec<Arc<MarketState>>>;

    fn handle(&mut self, revoked: PartitionsRevoked, _: &mut Context<Self>) -> Self::Result {
        // A book whose last address is dropped handles its remaining messages and stops.
        let books = self.books.remove_partitions(&revoked.partitions);
        let replies = books.into_iter().map(|(event_id, book)| async move {
            let reply = book.send(GetSnapshot(event_id.clone())).await;
            (event_id, reply)
        });
        let dropping = join_all(replies).into_actor(self);
        Box::pin(dropping.then(move |replies, router, _| {
            let mut last = Vec::new();
            let mut renumbered = Vec::new();
            for (event_id, reply) in replies {
                // A book that stopped unexpectedly has no state left to keep.
                let Ok(Ok(mut snapshot)) = reply else {
                    continue;
                };
                if revoked.are_records_lost {
                    renumbered.extend(skip_lost_numbers(&mut snapshot.markets));
                }
                last.extend_from_slice(&snapshot.markets);
                router.books.keep_revoked(event_id, snapshot.markets);
            }
            let edges = router.edges.clone();
            async move {
                edges.publish(conflated(renumbered)).await;
                last
            }
            .into_actor(router)
        }))
    }
}

/// Gives the last state of an event a number that no lost record can have, and returns it.
fn skip_lost_numbers(markets: &mut [Arc<MarketState>]) -> Option<Arc<MarketState>> {
    let last = markets.iter_mut().max_by_key(|state| state.seq)?;
    *last = Arc::new(MarketState {
        update: last.update.clone(),
        seq: last.seq.saturating_add(LOST_NUMBERS),
    });
    Some(last.clone())
}

/// Groups a batch by event and keeps the order within each event.
fn by_event<F: BookFeed>(items: Vec<F::Item>) -> HashMap<EventId, Vec<F::Item>> {
    let mut events: HashMap<EventId, Vec<F::Item>> = HashMap::new();
    for item in items {
        match events.get_mut(F::event_id(&item)) {
            Some(items) => items.push(item),
            None => drop(events.insert(F::event_id(&item).clone(), vec![item])),
        }
    }
    events
}

#[cfg(test)]
mod tests;
