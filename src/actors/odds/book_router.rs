//! Finds each event's book, starts it when it is first needed, and drops it when it has been idle.
//!
//! A book starts with its state loaded, so it never waits while it handles messages. Loading is
//! done here: for an update at once, in a lane of its own; for a client in the bounded queue of
//! clients' reads. An update never waits for a read that a client caused: if there is no book yet,
//! it loads the state itself.

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
use super::odds_book::{BookEdges, OddsBook};
use crate::actors::odds::messages::{
    ApplyBroadcasts, ApplyError, ApplyUpdates, GetSnapshot, InOrder, PartitionsRevoked, ReloadBook,
    ReloadBooks,
};
use crate::domain::ids::EventId;
use crate::domain::odds::book::{Book, MarketState, Snapshot};

/// How often idle books are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How many books read the cache again at a time: all of them use one connection, which answers
/// within a second or is given up.
const RELOADS_AT_ONCE: usize = 64;

/// The actor in front of the books.
pub struct BookRouter {
    edges: Arc<BookEdges>,
    idle_limit: Duration,
    books: HashMap<EventId, Entry>,
    /// Books whose state is loaded for an update, with the messages that wait for them in order.
    starting: HashMap<EventId, Vec<Deliver>>,
    /// Events whose state is loaded for clients, with those who wait for it.
    asked: HashMap<EventId, Vec<Waiting>>,
    /// What the books knew that were dropped with their partitions, and since when. It is forgotten
    /// as an idle book is.
    let_go: HashMap<EventId, (Vec<Arc<MarketState>>, Instant)>,
    /// How many reloads there were that concern events of `asked`. A client's read that began
    /// before one may lack changes.
    reloads: u64,
}

struct Entry {
    book: Addr<OddsBook>,
    /// The event's partition of the bus; none before an update said so.
    partition: Option<u32>,
    in_flight: usize,
    last_used: Instant,
}

/// Sends a message to a book that has started; without a book, drops it.
type Deliver = Box<dyn FnOnce(&mut Entry) + Send>;

/// A client that waits for a snapshot.
type Waiting = oneshot::Sender<Result<Snapshot, ApplyError>>;

/// The answer of a book, if there is one.
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
    /// Books with these edges; one is dropped after `idle_limit` without an update or a question.
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

    /// Starts a book with its state.
    fn start(
        &mut self,
        event_id: &EventId,
        left: ReplayBoundary,
        mut loaded: LoadedState,
    ) -> &mut Entry {
        if let Some((known, _)) = self.let_go.remove(event_id) {
            // Others may know less: a bus that starts again, a cache that was emptied and a store
            // that is behind would together take the numbers back.
            loaded.states.extend(known);
        }
        let book = OddsBook::new(event_id.clone(), self.edges.clone(), left, loaded);
        let book = OddsBook::create(|context| {
            // Without a bound, so that updates stay in order: the live path bounds them, and
            // clients wait for answers.
            context.set_mailbox_capacity(0);
            book
        });
        let entry = Entry {
            book,
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
        // Nobody waits for an answer that the router was not asked for.
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
            let known = if edges.is_mirror {
                edges
                    .source
                    .load_mirrored(&event_id, left, ReadPriority::Live, false)
                    .await
            } else {
                edges.source.load(&event_id, left, ReadPriority::Live).await
            };
            (event_id, known)
        };
        context.spawn(
            loading
                .into_actor(self)
                .map(move |(event_id, known), router, context| {
                    let waiting = router.starting.remove(&event_id).unwrap_or_default();
                    let entry = router.start(&event_id, left, known);
                    waiting.into_iter().for_each(|deliver| deliver(entry));
                    // Clients need not wait for the read that they caused.
                    if let Some(clients) = router.asked.remove(&event_id) {
                        router.answer_from_book(event_id, clients, context);
                    }
                }),
        );
    }

    /// A message was answered; `ended` if the book was gone. Then it is forgotten, and starts again
    /// when needed.
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
            warn!(event = event_id.as_str(); "book ended unexpectedly; it starts again when it is needed");
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

    fn let_idle_go(&mut self) {
        let (now, limit) = (Instant::now(), self.idle_limit);
        // A book without an address stops by itself.
        self.books
            .retain(|_, entry| entry.in_flight > 0 || now.duration_since(entry.last_used) < limit);
        self.let_go
            .retain(|_, (_, since)| now.duration_since(*since) < limit);
    }

    fn let_go_unused(&mut self, event_id: &EventId) {
        if self
            .books
            .get(event_id)
            .is_some_and(|entry| entry.in_flight == 0)
        {
            self.books.remove(event_id);
        }
    }

    /// Asks a book, or what is loaded for an update, or loads the state for those who ask.
    fn ask(
        &mut self,
        event_id: EventId,
        context: &mut Context<Self>,
    ) -> ResponseActFuture<Self, Result<Snapshot, ApplyError>> {
        if self.books.contains_key(&event_id) || self.starting.contains_key(&event_id) {
            let asking = self.deliver(
                &event_id,
                (None, None),
                GetSnapshot(event_id.clone()),
                context,
            );
            return Box::pin(
                answer_of(asking)
                    .into_actor(self)
                    .map(move |answer, router, _| {
                        router.answered(&event_id, answer.is_err());
                        let snapshot =
                            answer.unwrap_or_else(|_| Err(ApplyError::BookEnded(event_id.clone())));
                        // One that has nothing to show starts again with the next question, and
                        // loads again.
                        if snapshot
                            .as_ref()
                            .map_or(true, |snapshot| snapshot.markets.is_empty())
                        {
                            router.let_go_unused(&event_id);
                        }
                        snapshot
                    }),
            );
        }
        if self.edges.source.clients().is_unknown(&event_id) {
            return Box::pin(fut::ready(Ok(Book::new(event_id).snapshot())));
        }
        let (tell, told) = oneshot::channel();
        match self.asked.get_mut(&event_id) {
            Some(waiting) => waiting.push(tell),
            None => match self.edges.source.clients().enter() {
                Ok(place) => {
                    self.asked.insert(event_id.clone(), vec![tell]);
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
                    context.spawn(loading.map(move |(mut known, event_id), router, context| {
                        if router.reloads != reloads
                            && let Ok(known) = &mut known
                        {
                            known.read_again();
                        }
                        router.loaded_for_clients(event_id, known, context);
                    }));
                }
                Err(_) => return Box::pin(fut::ready(Err(ApplyError::Busy(event_id)))),
            },
        }
        let answer = async move { told.await.unwrap_or(Err(ApplyError::BookEnded(event_id))) };
        Box::pin(answer.into_actor(self))
    }

    fn loaded_for_clients(
        &mut self,
        event_id: EventId,
        known: Result<LoadedState, ApplyError>,
        context: &mut Context<Self>,
    ) {
        let waiting = self.asked.remove(&event_id).unwrap_or_default();
        let has_book = self.books.contains_key(&event_id) || self.starting.contains_key(&event_id);
        let nothing = match known {
            // A book that started for an update meanwhile knows more than what was read.
            _ if has_book => None,
            Err(busy) => Some(Err(busy)),
            Ok(known) if known.states.is_empty() && !self.let_go.contains_key(&event_id) => {
                if known.is_complete {
                    self.edges.source.clients().remember_unknown(&event_id);
                    Some(Ok(Book::new(event_id.clone()).snapshot()))
                } else {
                    Some(Err(ApplyError::NotLoaded(event_id.clone())))
                }
            }
            Ok(known) => {
                self.start(&event_id, ReplayBoundary::NOTHING, known);
                None
            }
        };
        if let Some(answer) = nothing {
            // Whoever asked may be gone.
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
        let asking = self.ask(event_id, context);
        context.spawn(asking.map(|answer, _, _| {
            waiting
                .into_iter()
                .for_each(|waiting| _ = waiting.send(answer.clone()));
        }));
    }
}

/// The answer of a book to a message that is sent once the book has started.
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
        context.run_interval(SWEEP_INTERVAL, |router, _| router.let_idle_go());
    }
}

impl Handler<ApplyUpdates> for BookRouter {
    // Not atomic: nobody waits for a slow batch. Within an event the messages stay in order.
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
        let sends: Vec<_> = by_event(message.0, |told| &told.update.event_id)
            .into_iter()
            .map(|(event_id, told)| {
                let below = told
                    .first()
                    .and_then(|first| first.seq)
                    .map(|seq| seq.saturating_sub(1));
                let sending =
                    self.deliver(&event_id, (None, below), ApplyBroadcasts(told), context);
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
        // Whoever sent it may be gone.
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
            // A book that starts may have read before the gap ended: it reads again after its
            // start.
            if self.starting.contains_key(&event_id) {
                let sending = self.deliver(&event_id, (None, None), ReloadBook, context);
                reloads.push(fut_of(async move { (answer_of(sending).await, event_id) }));
                continue;
            }
            // One that is gone reads when it starts again.
            let Some(entry) = self.books.get_mut(&event_id) else {
                continue;
            };
            // A reload is no use of the book: an idle one is dropped all the same.
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
            let mut behind = Vec::new();
            for (answer, event_id) in answers {
                router.answered(&event_id, answer.is_err());
                if !matches!(answer, Ok(Ok(()))) {
                    behind.push(event_id);
                }
            }
            behind
        }))
    }
}

impl BookRouter {
    /// Changes may have been missed, of all events or of these: what was read before, or is being
    /// read, may be old.
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
        // A book without an address finishes its mailbox and stops by itself.
        let asking: Vec<_> = self
            .books
            .extract_if(|_, entry| is_gone(entry))
            .map(|(event_id, entry)| async move {
                (
                    entry.book.send(GetSnapshot(event_id.clone())).await,
                    event_id,
                )
            })
            .collect();
        Box::pin(join_all(asking).into_actor(self).map(|answers, router, _| {
            let now = Instant::now();
            for (answer, event_id) in answers {
                // One that ended unexpectedly knows nothing any more.
                if let Ok(Ok(snapshot)) = answer {
                    router.let_go.insert(event_id, (snapshot.markets, now));
                }
            }
        }))
    }
}

impl Handler<GetSnapshot> for BookRouter {
    type Result = ResponseActFuture<Self, Result<Snapshot, ApplyError>>;

    fn handle(
        &mut self,
        GetSnapshot(event_id): GetSnapshot,
        context: &mut Context<Self>,
    ) -> Self::Result {
        self.ask(event_id, context)
    }
}

/// Splits a batch by event; the order within an event stays.
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
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::actors::testing::{ProbeEdges, probe_edges, probe_edges_with};
    use crate::cache::embedded::EmbeddedCache;
    use crate::cache::{Broadcast, BroadcastStream, CacheError, OddsCache};
    use crate::domain::odds::book::MarketState;
    use crate::domain::odds::update::PositionedUpdate;
    use crate::domain::odds::update::testing::*;

    fn positioned(event: u32, time: i64, position: u64) -> PositionedUpdate {
        PositionedUpdate {
            update: update(event, time, 1),
            partition: event,
            position,
        }
    }

    fn id(event: u32) -> EventId {
        EventId::new(&format!("MATCH_{event:03}")).unwrap()
    }

    #[actix_web::test]
    async fn updates_reach_their_books_in_order_and_everyone_is_told_before_the_answer() {
        let probe = probe_edges();
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        let batch = vec![
            positioned(1, 1, 0),
            positioned(2, 1, 1),
            positioned(1, 2, 2),
            positioned(1, 1, 3),
        ];
        router.send(ApplyUpdates(batch)).await.unwrap().unwrap();
        let mut told = probe.told.lock().unwrap().clone();
        told.sort();
        assert_eq!(
            told,
            [
                ("1x2".to_owned(), 1),
                ("1x2".to_owned(), 2),
                ("1x2".to_owned(), 3)
            ]
        );
        let snapshot = router.send(GetSnapshot(id(1))).await.unwrap().unwrap();
        assert_eq!((snapshot.seq, snapshot.markets.len()), (3, 1));
        assert_eq!(probe.metrics.applied.get(), 3);
        assert_eq!(
            probe.metrics.rejected.with_label_values(&["older"]).get(),
            1
        );
        assert_eq!(
            probe
                .metrics
                .mailbox_depth
                .with_label_values(&["probe"])
                .get(),
            2,
            "one message a book and batch"
        );
    }

    #[actix_web::test]
    async fn a_book_starts_where_the_store_ends_but_leaves_to_the_bus_what_is_still_to_come_on_it()
    {
        let probe = probe_edges();
        let told = || std::mem::take(&mut *probe.told.lock().unwrap());
        probe.store.keep(MarketState {
            update: market_update("MATCH_001", "btts", None, 4, 1),
            seq: 700,
        });
        // The store path was faster: the very updates that start the book are in the store already.
        probe.store.keep(MarketState {
            update: update(1, 7, 1),
            seq: 703,
        });
        let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
        let batch = vec![positioned(1, 5, 700), positioned(1, 6, 701)];
        router.send(ApplyUpdates(batch)).await.unwrap().unwrap();
        router
            .send(ApplyUpdates(vec![positioned(1, 7, 702)]))
            .await
            .unwrap()
            .unwrap();
        let expected = [("btts", 700), ("1x2", 701), ("1x2", 702), ("1x2", 703)];
        assert_eq!(
            told(),
            expected.map(|(market, seq)| (market.to_owned(), seq))
        );
    }

    #[actix_web::test]
    async fn what_a_store_that_was_faster_holds_is_told_as_whole_where_it_is_the_first_change_only()
    {
        let mut probe = probe_edges();
        Arc::get_mut(&mut probe.edges).unwrap().first_position = None;
        // Of one event the very update that starts the book is in the store already, of the other
        // the next one as well.
        probe.store.keep(MarketState {
            update: update(1, 5, 1),
            seq: 701,
        });
        probe.store.keep(MarketState {
            update: update(2, 6, 1),
            seq: 703,
        });
        let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
        for batch in [
            vec![positioned(1, 5, 700)],
            vec![positioned(2, 5, 701), positioned(2, 6, 702)],
        ] {
            router.send(ApplyUpdates(batch)).await.unwrap().unwrap();
        }
        assert_eq!(
            *probe.told.lock().unwrap(),
            [("1x2".to_owned(), 701), ("1x2".to_owned(), 703)]
        );
        assert_eq!(*probe.conflated.lock().unwrap(), [703]);
    }

    #[actix_web::test]
    async fn a_book_that_is_asked_for_takes_all_that_the_store_holds() {
        let probe = probe_edges();
        probe.store.keep(MarketState {
            update: update(1, 5, 1),
            seq: 700,
        });
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        assert_eq!(
            router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
            700
        );
        router
            .send(ApplyUpdates(vec![positioned(1, 5, 699)]))
            .await
            .unwrap()
            .unwrap();
        router
            .send(ApplyUpdates(vec![positioned(1, 6, 700)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            *probe.told.lock().unwrap(),
            [("1x2".to_owned(), 700), ("1x2".to_owned(), 701)]
        );
    }

    #[actix_web::test]
    async fn a_store_that_is_down_does_not_hold_the_live_path_up() {
        let probe = probe_edges();
        probe
            .store
            .down
            .store(true, std::sync::atomic::Ordering::SeqCst);
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        let unknown = router.send(GetSnapshot(id(1))).await.unwrap();
        assert_eq!(
            unknown,
            Err(ApplyError::NotLoaded(id(1))),
            "not the same as an event that does not exist"
        );
        router
            .send(ApplyUpdates(vec![positioned(1, 5, 9)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(*probe.told.lock().unwrap(), [("1x2".to_owned(), 10)]);
        assert_eq!(
            probe.metrics.errors.with_label_values(&["hydrate"]).get(),
            2
        );
        assert_eq!(
            router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
            10
        );
        probe
            .store
            .down
            .store(false, std::sync::atomic::Ordering::SeqCst);
        // A store that failed is left in peace for a moment.
        for _ in 0..500 {
            if let Ok(snapshot) = router.send(GetSnapshot(id(2))).await.unwrap() {
                assert_eq!(snapshot.seq, 0);
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within 10 s");
    }

    #[actix_web::test]
    async fn a_book_that_started_without_the_store_takes_over_what_it_holds_once_it_can() {
        let probe = probe_edges();
        probe
            .store
            .down
            .store(true, std::sync::atomic::Ordering::SeqCst);
        probe.store.keep(MarketState {
            update: market_update("MATCH_001", "btts", None, 3, 1),
            seq: 4,
        });
        probe.store.keep(MarketState {
            update: update(1, 3, 1),
            seq: 5,
        });
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        router
            .send(ApplyUpdates(vec![positioned(1, 5, 9)]))
            .await
            .unwrap()
            .unwrap();
        probe
            .store
            .down
            .store(false, std::sync::atomic::Ordering::SeqCst);
        let markets = |snapshot: Snapshot| {
            let market = |state: &Arc<MarketState>| (state.update.market.to_string(), state.seq);
            snapshot.markets.iter().map(market).collect::<Vec<_>>()
        };
        let whole = [("1x2".to_owned(), 10), ("btts".to_owned(), 4)];
        for _ in 0..500 {
            if markets(router.send(GetSnapshot(id(1))).await.unwrap().unwrap()) == whole {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within 10 s");
    }

    #[actix_web::test]
    async fn idle_books_are_let_go_and_an_event_that_is_not_known_leaves_none() {
        let probe = probe_edges();
        let books = || probe.metrics.books.get();
        let router = BookRouter::new(probe.edges, Duration::from_millis(1)).start();
        let snapshot = router.send(GetSnapshot(id(9))).await.unwrap().unwrap();
        assert_eq!((snapshot.seq, snapshot.markets.len()), (0, 0));
        router
            .send(ApplyUpdates(vec![positioned(1, 1, 0)]))
            .await
            .unwrap()
            .unwrap();
        probe.store.keep(MarketState {
            update: update(1, 1, 1),
            seq: 1,
        });
        tokio::time::pause();
        for _ in 0..1_000 {
            if books() == 0 {
                break;
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
        assert_eq!(books(), 0);
        tokio::time::resume();
        let snapshot = router.send(GetSnapshot(id(1))).await.unwrap().unwrap();
        assert_eq!(snapshot.seq, 1, "it starts anew from the store");
    }

    #[actix_web::test]
    async fn books_of_revoked_partitions_are_let_go_and_start_anew_when_the_partition_comes_back() {
        let probe = probe_edges();
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        router
            .send(ApplyUpdates(vec![positioned(1, 1, 0), positioned(2, 1, 0)]))
            .await
            .unwrap()
            .unwrap();
        router.send(PartitionsRevoked(vec![1, 7])).await.unwrap();
        for _ in 0..500 {
            if probe.metrics.books.get() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(probe.metrics.books.get(), 1);
        // Meanwhile another process took the market further.
        probe.store.keep(MarketState {
            update: update(1, 5, 1),
            seq: 1,
        });
        router
            .send(ApplyUpdates(vec![positioned(1, 4, 1), positioned(2, 4, 1)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            probe.metrics.rejected.with_label_values(&["older"]).get(),
            1,
            "it took over what was stored"
        );
    }

    #[actix_web::test]
    async fn a_partition_that_comes_back_without_anyone_who_knows_it_does_not_take_numbers_or_prices_back()
     {
        let probe = probe_edges();
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        router
            .send(ApplyUpdates(vec![positioned(1, 5, 700)]))
            .await
            .unwrap()
            .unwrap();
        // The topic was made again, the cache was emptied, and the store has not come so far.
        router.send(PartitionsRevoked(vec![1])).await.unwrap();
        router
            .send(ApplyUpdates(vec![positioned(1, 4, 0), positioned(1, 6, 1)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            probe.metrics.rejected.with_label_values(&["older"]).get(),
            1
        );
        let told: Vec<u64> = probe
            .told
            .lock()
            .unwrap()
            .iter()
            .map(|(_, seq)| *seq)
            .collect();
        assert_eq!(
            told,
            [701, 701, 702],
            "what is known is told again, and then what is new"
        );
    }

    fn mirror() -> (ProbeEdges, Addr<BookRouter>, Arc<EmbeddedCache>) {
        let cache = Arc::new(EmbeddedCache::new(Duration::from_secs(60)));
        let probe = probe_edges_with(cache.clone(), true);
        let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
        (probe, router, cache)
    }

    fn told(event: u32, time: i64, seq: u64) -> Broadcast {
        Broadcast {
            update: update(event, time, 1),
            seq: Some(seq),
            conflated: false,
        }
    }

    fn kept(event: u32, market: &str, time: i64, seq: u64) -> Vec<Arc<MarketState>> {
        let update = market_update(&format!("MATCH_{event:03}"), market, None, time, 1);
        vec![Arc::new(MarketState { update, seq })]
    }

    #[actix_web::test]
    async fn a_mirrored_book_tells_each_change_once_with_the_number_it_was_told_with() {
        let (probe, router, _) = mirror();
        let batch = vec![
            told(1, 1, 10),
            told(2, 1, 12),
            told(1, 2, 11),
            told(1, 1, 10),
        ];
        router.send(ApplyBroadcasts(batch)).await.unwrap().unwrap();
        router
            .send(ApplyBroadcasts(vec![told(1, 3, 4)]))
            .await
            .unwrap()
            .unwrap();
        let mut all = probe.told.lock().unwrap().clone();
        all.sort();
        assert_eq!(
            all,
            [10, 11, 12, 12].map(|seq| ("1x2".to_owned(), seq)),
            "a number never goes back"
        );
        assert_eq!(
            probe.metrics.rejected.with_label_values(&["older"]).get(),
            1
        );
    }

    #[actix_web::test]
    async fn a_mirrored_book_tells_of_each_change_by_itself_whether_some_may_be_missing_before_it()
    {
        let (probe, router, _) = mirror();
        let told = vec![
            Broadcast {
                conflated: true,
                ..told(1, 5, 701)
            },
            told(1, 6, 702),
            told(1, 7, 703),
        ];
        router.send(ApplyBroadcasts(told)).await.unwrap().unwrap();
        assert_eq!(
            probe
                .told
                .lock()
                .unwrap()
                .iter()
                .map(|(_, seq)| *seq)
                .collect::<Vec<_>>(),
            [701, 702, 703]
        );
        assert_eq!(*probe.conflated.lock().unwrap(), [701]);
    }

    #[actix_web::test]
    async fn a_mirrored_book_starts_from_what_is_known_and_loses_nothing_that_is_told_meanwhile() {
        let (probe, router, cache) = mirror();
        cache.write(kept(1, "1x2", 5, 20)).await.unwrap();
        probe.store.keep(MarketState {
            update: market_update("MATCH_001", "btts", None, 1, 1),
            seq: 3,
        });
        // Both wait in the mailbox of the book while it reads.
        let first = router.send(ApplyBroadcasts(vec![told(1, 5, 20)]));
        let second = router.send(ApplyBroadcasts(vec![told(1, 6, 21)]));
        let (first, second) = futures_util::future::join(first, second).await;
        first.unwrap().unwrap();
        second.unwrap().unwrap();
        assert_eq!(
            probe.told.lock().unwrap()[..2],
            [20, 21].map(|seq| ("1x2".to_owned(), seq))
        );
        until("the store's market is shown", async || {
            router
                .send(GetSnapshot(id(1)))
                .await
                .unwrap()
                .unwrap()
                .markets
                .len()
                == 2
        })
        .await;
        assert_eq!(probe.told.lock().unwrap()[2..], [("btts".to_owned(), 22)]);
    }

    #[actix_web::test]
    async fn a_reload_tells_what_was_missed_once_and_nothing_older() {
        let (probe, router, cache) = mirror();
        let batch = vec![told(1, 5, 20), told(2, 5, 30)];
        router.send(ApplyBroadcasts(batch)).await.unwrap().unwrap();
        probe.told.lock().unwrap().clear();
        cache.write(kept(1, "1x2", 9, 25)).await.unwrap();
        cache.write(kept(2, "1x2", 4, 29)).await.unwrap();
        cache.write(kept(2, "btts", 6, 31)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), []);
        }
        let mut all = probe.told.lock().unwrap().clone();
        all.sort();
        assert_eq!(all, [("1x2".to_owned(), 25), ("btts".to_owned(), 31)]);
        assert_eq!(
            router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
            25
        );
    }

    #[actix_web::test]
    async fn reload_reaches_read_under_way() {
        let (probe, router, cache) = mirror();
        probe.store.held.lock().unwrap().push("MATCH_00");
        probe.store.keep(MarketState {
            update: update(1, 4, 1),
            seq: 3,
        });
        let asked = [1, 2].map(|event| router.send(GetSnapshot(id(event))));
        let asked = actix::spawn(join_all(asked));
        until("both are read", async || {
            probe.store.reads.load(Ordering::SeqCst) == 2
        })
        .await;
        // Both changes are missed, and the gap ends.
        cache.write(kept(1, "1x2", 5, 20)).await.unwrap();
        cache.write(kept(2, "1x2", 5, 30)).await.unwrap();
        assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), []);
        probe.store.held.lock().unwrap().clear();
        let answers: Vec<_> = asked
            .await
            .unwrap()
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let first = answers[0].as_ref().unwrap();
        assert!(first.is_stale || first.seq == 20, "{first:?}");
        assert_eq!(
            answers[1],
            Err(ApplyError::NotLoaded(id(2))),
            "not an event that does not exist"
        );
        until("the change is shown", async || {
            let snapshot = router.send(GetSnapshot(id(1))).await.unwrap().unwrap();
            snapshot.seq == 20 && !snapshot.is_stale
        })
        .await;
        assert_eq!(
            router.send(GetSnapshot(id(2))).await.unwrap().unwrap().seq,
            30
        );
    }

    #[actix_web::test]
    async fn reload_of_some_forgets_those_alone() {
        let (probe, router, _) = mirror();
        for event in [1, 2, 1, 2] {
            assert_eq!(
                router
                    .send(GetSnapshot(id(event)))
                    .await
                    .unwrap()
                    .unwrap()
                    .seq,
                0
            );
        }
        assert_eq!(probe.store.reads.load(Ordering::SeqCst), 2);
        assert_eq!(
            router.send(ReloadBooks(Some(vec![id(2)]))).await.unwrap(),
            []
        );
        for event in [1, 2, 1, 2] {
            assert_eq!(
                router
                    .send(GetSnapshot(id(event)))
                    .await
                    .unwrap()
                    .unwrap()
                    .seq,
                0
            );
        }
        assert_eq!(
            probe.store.reads.load(Ordering::SeqCst),
            3,
            "the other is still known not to exist"
        );
    }

    /// A cache that takes a moment to read, and cannot read the events that are marked.
    #[derive(Default)]
    struct SlowCache {
        reads: AtomicUsize,
        under_way: AtomicUsize,
        most: AtomicUsize,
        unreadable: Mutex<Vec<EventId>>,
    }

    struct Slow(Arc<SlowCache>);

    impl OddsCache for Slow {
        fn write(&self, _: Vec<Arc<MarketState>>) -> BoxFuture<'static, Result<(), CacheError>> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn read_book(
            &self,
            event_id: &EventId,
        ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
            let (cache, event_id) = (self.0.clone(), event_id.clone());
            Box::pin(async move {
                cache.reads.fetch_add(1, Ordering::SeqCst);
                cache.most.fetch_max(
                    cache.under_way.fetch_add(1, Ordering::SeqCst) + 1,
                    Ordering::SeqCst,
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
                cache.under_way.fetch_sub(1, Ordering::SeqCst);
                if cache.unreadable.lock().unwrap().contains(&event_id) {
                    return Err(CacheError::Unavailable("test".to_owned()));
                }
                Ok(vec![Arc::new(MarketState {
                    update: market_update(event_id.as_str(), "1x2", None, 1, 1),
                    seq: 1,
                })])
            })
        }

        fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
            None
        }
    }

    #[actix_web::test]
    async fn some_books_at_a_time_are_read_anew_and_only_those_that_failed_are_again() {
        let cache = Arc::new(SlowCache::default());
        let probe = probe_edges_with(Arc::new(Slow(cache.clone())), true);
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        let count = 8 * RELOADS_AT_ONCE;
        let batch = (0..count as u32).map(|event| told(event, 1, 1)).collect();
        router.send(ApplyBroadcasts(batch)).await.unwrap().unwrap();
        // Each book looks once more soon after its start.
        until("all books have looked", async || {
            cache.reads.load(Ordering::SeqCst) == 2 * count
        })
        .await;
        until("and are done", async || {
            cache.under_way.load(Ordering::SeqCst) == 0
        })
        .await;
        cache.most.store(0, Ordering::SeqCst);
        *cache.unreadable.lock().unwrap() = vec![id(7)];
        assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), [id(7)]);
        // Those that have read look once more, beside the next ones.
        assert!(cache.most.load(Ordering::SeqCst) <= 4 * RELOADS_AT_ONCE);
        cache.unreadable.lock().unwrap().clear();
        until("they have looked", async || {
            cache.reads.load(Ordering::SeqCst) >= 4 * count - 1
        })
        .await;
        assert_eq!(
            router
                .send(ReloadBooks(Some(vec![id(7), id(9_999)])))
                .await
                .unwrap(),
            []
        );
        assert!(
            cache.reads.load(Ordering::SeqCst) < 4 * count + 10,
            "not all of them again"
        );
    }

    #[actix_web::test]
    async fn a_mirrored_book_that_could_not_read_the_cache_says_that_it_may_be_old_until_it_could()
    {
        let cache = Arc::new(SlowCache::default());
        *cache.unreadable.lock().unwrap() = vec![id(1)];
        let probe = probe_edges_with(Arc::new(Slow(cache.clone())), true);
        probe.store.keep(MarketState {
            update: update(1, 1, 1),
            seq: 1,
        });
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        assert!(
            router
                .send(GetSnapshot(id(1)))
                .await
                .unwrap()
                .unwrap()
                .is_stale
        );
        cache.unreadable.lock().unwrap().clear();
        until("it could", async || {
            !router
                .send(GetSnapshot(id(1)))
                .await
                .unwrap()
                .unwrap()
                .is_stale
        })
        .await;
    }

    #[actix_web::test]
    async fn mirrored_books_do_not_wait_for_a_store_that_is_down() {
        let (probe, router, cache) = mirror();
        probe
            .store
            .down
            .store(true, std::sync::atomic::Ordering::SeqCst);
        cache.write(kept(1, "1x2", 5, 20)).await.unwrap();
        assert_eq!(
            router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
            20
        );
        assert_eq!(
            router.send(GetSnapshot(id(2))).await.unwrap(),
            Err(ApplyError::NotLoaded(id(2)))
        );
        assert_eq!(router.send(ReloadBooks(None)).await.unwrap(), []);
        router
            .send(ApplyBroadcasts(vec![told(1, 6, 21)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
            21
        );
    }

    #[rstest::rstest]
    #[case::of_a_processor(false)]
    #[case::mirrored(true)]
    #[actix_web::test]
    async fn books_that_know_the_cache_ask_it_no_more_for_as_long_as_the_store_is_down(
        #[case] is_mirror: bool,
    ) {
        let cache = Arc::new(SlowCache::default());
        let probe = probe_edges_with(Arc::new(Slow(cache.clone())), is_mirror);
        probe.store.down.store(true, Ordering::SeqCst);
        let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
        assert_eq!(
            router.send(GetSnapshot(id(1))).await.unwrap().unwrap().seq,
            1
        );
        let failed = || probe.metrics.errors.with_label_values(&["hydrate"]).get();
        until("it has asked the store often", async || failed() >= 4).await;
        // Once when it started, and a mirrored book once more when it looked for what lies behind
        // the cache.
        let (reads, told) = (
            cache.reads.load(Ordering::SeqCst),
            probe.told.lock().unwrap().len(),
        );
        assert!(
            reads <= 1 + usize::from(is_mirror) && told == 1,
            "{reads} reads, told {told} times"
        );
        probe.store.keep(MarketState {
            update: market_update("MATCH_001", "btts", None, 1, 1),
            seq: 3,
        });
        probe.store.down.store(false, Ordering::SeqCst);
        until("it has looked", async || {
            router
                .send(GetSnapshot(id(1)))
                .await
                .unwrap()
                .unwrap()
                .markets
                .len()
                == 2
        })
        .await;
    }

    async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
        for _ in 0..500 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within 10 s: {what}");
    }

    #[actix_web::test]
    async fn a_book_that_ended_in_the_middle_is_an_error_and_starts_anew() {
        let probe = probe_edges();
        let mut router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60));
        let gone = id(1);
        let known = probe
            .edges
            .source
            .load(&gone, ReplayBoundary::NOTHING, ReadPriority::Live)
            .await;
        let address = OddsBook::new(id(1), probe.edges, ReplayBoundary::NOTHING, known).start();
        router.books.insert(
            gone.clone(),
            Entry {
                book: address.clone(),
                partition: None,
                in_flight: 0,
                last_used: Instant::now(),
            },
        );
        address
            .send(crate::actors::odds::odds_book::tests::End)
            .await
            .unwrap();
        let router = router.start();
        let answer = router
            .send(ApplyUpdates(vec![positioned(1, 1, 0)]))
            .await
            .unwrap();
        assert_eq!(answer, Err(ApplyError::BookEnded(gone)));
        router
            .send(ApplyUpdates(vec![positioned(1, 1, 0)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(*probe.told.lock().unwrap(), [("1x2".to_owned(), 1)]);
    }

    /// Ids that no event has, each once.
    fn unknown_ids(count: usize) -> impl Iterator<Item = EventId> {
        (0..count).map(|n| EventId::new(&format!("UNKNOWN_{n}")).unwrap())
    }

    #[rstest::rstest]
    #[case::of_a_processor(false)]
    #[case::mirrored(true)]
    #[actix_web::test]
    async fn unknown_flood_does_not_delay_updates(#[case] is_mirror: bool) {
        let cache = Arc::new(EmbeddedCache::new(Duration::from_secs(60)));
        let probe = probe_edges_with(cache, is_mirror);
        probe.store.held.lock().unwrap().push("UNKNOWN");
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        let flood: Vec<_> = unknown_ids(200)
            .map(|id| router.send(GetSnapshot(id)))
            .collect();
        let flood = actix::spawn(join_all(flood));
        until("the flood fills its queue", async || {
            probe.refused.get() >= 190
        })
        .await;
        // None of the reads of the flood ends before the update is applied.
        if is_mirror {
            router
                .send(ApplyBroadcasts(vec![told(1, 1, 1)]))
                .await
                .unwrap()
                .unwrap();
        } else {
            router
                .send(ApplyUpdates(vec![positioned(1, 1, 0)]))
                .await
                .unwrap()
                .unwrap();
        }
        assert_eq!(
            router
                .send(GetSnapshot(id(1)))
                .await
                .unwrap()
                .unwrap()
                .markets
                .len(),
            1
        );
        // Neither does a known event that a client asked for first.
        probe.store.held.lock().unwrap().push("MATCH_002");
        let asked = router.send(GetSnapshot(id(2)));
        probe
            .store
            .held
            .lock()
            .unwrap()
            .retain(|held| *held != "MATCH_002");
        router
            .send(ApplyUpdates(vec![positioned(2, 1, 0)]))
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(
            asked.await.unwrap(),
            Ok(_) | Err(ApplyError::Busy(_))
        ));
        probe.store.held.lock().unwrap().clear();
        let answers = flood.await.unwrap();
        let busy = answers
            .iter()
            .filter(|answer| matches!(answer, Ok(Err(ApplyError::Busy(_)))))
            .count();
        assert!(busy >= 190, "{busy} were refused, and the others answered");
        assert!(
            probe.store.reads.load(Ordering::SeqCst) <= 16,
            "the queue bounds the reads"
        );
    }

    #[actix_web::test]
    async fn update_overtakes_read_of_client() {
        let probe = probe_edges();
        probe.store.held.lock().unwrap().push("UNKNOWN");
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        // Both turns of the clients are taken, and a third client waits for one.
        let flood: Vec<_> = unknown_ids(2)
            .map(|id| router.send(GetSnapshot(id)))
            .collect();
        until("both are read", async || {
            probe.store.reads.load(Ordering::SeqCst) == 2
        })
        .await;
        let asked = router.send(GetSnapshot(id(1)));
        router
            .send(ApplyUpdates(vec![positioned(1, 1, 0)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            asked.await.unwrap().unwrap().markets.len(),
            1,
            "answered by the book that started"
        );
        probe.store.held.lock().unwrap().clear();
        join_all(flood).await;
    }

    #[actix_web::test]
    async fn unknown_event_costs_one_read() {
        let probe = probe_edges();
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        for _ in 0..10 {
            assert_eq!(
                router
                    .send(GetSnapshot(id(1)))
                    .await
                    .unwrap()
                    .unwrap()
                    .markets
                    .len(),
                0
            );
        }
        assert_eq!(probe.store.reads.load(Ordering::SeqCst), 1);
        assert_eq!(probe.metrics.books.get(), 0);
        router
            .send(ApplyUpdates(vec![positioned(1, 1, 0)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            router
                .send(GetSnapshot(id(1)))
                .await
                .unwrap()
                .unwrap()
                .markets
                .len(),
            1,
            "known at once"
        );
    }

    #[actix_web::test]
    async fn many_askers_share_one_read() {
        let probe = probe_edges();
        probe.store.keep(MarketState {
            update: update(1, 5, 1),
            seq: 7,
        });
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        let asking: Vec<_> = (0..500).map(|_| router.send(GetSnapshot(id(1)))).collect();
        for answer in join_all(asking).await {
            assert_eq!(answer.unwrap().unwrap().seq, 7);
        }
        assert_eq!(
            (
                probe.store.reads.load(Ordering::SeqCst),
                probe.refused.get()
            ),
            (1, 0)
        );
    }

    #[actix_web::test]
    async fn hanging_read_holds_up_one_event() {
        let probe = probe_edges();
        probe.store.held.lock().unwrap().push("MATCH_001");
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        let first = router.send(ApplyUpdates(vec![positioned(1, 1, 0), positioned(2, 1, 1)]));
        let second = router.send(ApplyUpdates(vec![positioned(1, 2, 2), positioned(2, 2, 3)]));
        until("the other event is applied", async || {
            probe.told.lock().unwrap().len() == 2
        })
        .await;
        assert_eq!(probe.metrics.applied.get(), 2);
        probe.store.held.lock().unwrap().clear();
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        let told = probe.told.lock().unwrap().clone();
        assert_eq!(
            told[2..],
            [("1x2".to_owned(), 1), ("1x2".to_owned(), 3)],
            "in order"
        );
    }

    #[actix_web::test]
    async fn made_up_events_delay_no_suspension() {
        let (probe, router, _) = mirror();
        probe.store.held.lock().unwrap().push("MATCH_0");
        let made_up = (1..=50).map(|event| told(event, 1, 1)).collect();
        let flood = router.send(ApplyBroadcasts(made_up));
        // No store read ends before.
        router
            .send(ApplyBroadcasts(vec![told(60, 1, 1)]))
            .await
            .unwrap()
            .unwrap();
        flood.await.unwrap().unwrap();
        let reads = probe.store.reads.load(Ordering::SeqCst);
        probe.store.held.lock().unwrap().clear();
        assert!(
            reads <= 2,
            "{reads} reads, and only books that look for the rest do"
        );
    }

    #[actix_web::test]
    async fn live_read_that_hangs_is_given_up() {
        let probe = probe_edges();
        probe.store.held.lock().unwrap().push("MATCH_001");
        let router = BookRouter::new(probe.edges, Duration::from_secs(60)).start();
        router
            .send(ApplyUpdates(vec![positioned(1, 1, 9)]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(*probe.told.lock().unwrap(), [("1x2".to_owned(), 10)]);
        probe.store.held.lock().unwrap().clear();
    }
}
