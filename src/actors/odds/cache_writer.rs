//! Writes changes to the cache, one pipeline in flight. Every change is written and told in its
//! order, for as long as the cache keeps up. While it is away or far behind, only the latest state
//! of each market is kept for it, so memory is bounded by the markets and the live path never
//! waits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use actix::prelude::*;
use log::{debug, info, warn};
use tokio::sync::oneshot;

use crate::actors::odds::messages::{BookChanged, FlushCache};
use crate::cache::{Change, OddsCache};
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::MarketState;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::store::Store;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::ProcessorMetrics;

/// The most states in one pipeline.
const MAX_PIPELINE: usize = 1_000;
/// More changes than these do not wait one by one: only the latest of each market does.
const MAX_PENDING: usize = 20_000;
/// Delays between tries while the cache is away, before jitter, which at most doubles them: clients
/// are right again soon after its return.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(50),
    most: Duration::from_millis(400),
};
/// How often it looks whether the cache is there while nothing changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks after which a damaged entry that no other processor has repaired is written again from the
/// database, though no book of this process holds its event.
const LOOKS_BEFORE_STORE: u32 = 5;
/// How often states are forgotten that no book holds any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// What became of the last write: a cache may answer and yet take nothing.
#[derive(Default)]
pub struct CacheHealth(Mutex<Option<String>>);

impl CacheHealth {
    /// Why the last write failed; none where it did not.
    pub fn problem(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, problem: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// The actor in front of the cache.
pub struct CacheWriter {
    cache: Arc<dyn OddsCache>,
    /// What came since the round under way began. The next round takes all of it.
    pending: Vec<Change>,
    /// What is left to write of the round under way, the first last.
    round: Vec<Change>,
    /// How many rounds have begun.
    begun: u64,
    in_flight: bool,
    /// How many were pending after they were last reduced to the latest.
    conflated: usize,
    /// Who waits for which round.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    /// What was written, for as long as a book holds it: a cache that was away may come back empty.
    written: HashMap<(EventId, MarketKey), Weak<MarketState>>,
    /// The connection over which the last of it was written.
    connection: u64,
    /// Where the states are that no book holds.
    store: Option<Arc<dyn Store>>,
    /// Damaged events that no book of this process holds, with the number of looks that found them
    /// so.
    unheld: HashMap<EventId, u32>,
    backoff: Backoff,
    log: FaultLog,
    health: Arc<CacheHealth>,
    metrics: ProcessorMetrics,
}

impl CacheWriter {
    /// Writes to `cache`.
    pub fn new(cache: Arc<dyn OddsCache>, metrics: ProcessorMetrics) -> CacheWriter {
        CacheWriter {
            cache,
            pending: Vec::new(),
            round: Vec::new(),
            begun: 0,
            in_flight: false,
            conflated: 0,
            waiting: Vec::new(),
            written: HashMap::new(),
            connection: 0,
            store: None,
            unheld: HashMap::new(),
            backoff: Backoff::new(RETRY, 0),
            log: FaultLog::new(),
            health: Arc::default(),
            metrics,
        }
    }

    /// Repairs damaged entries whose event no processor's book holds from `store`.
    pub fn repairing_from(self, store: Arc<dyn Store>) -> CacheWriter {
        CacheWriter {
            store: Some(store),
            ..self
        }
    }

    /// What became of its last write.
    pub fn health(&self) -> Arc<CacheHealth> {
        self.health.clone()
    }

    /// Keeps only the latest of each market, in the order of their numbers.
    fn conflate(&mut self) {
        let mut latest: HashMap<(EventId, MarketKey), Change> = HashMap::new();
        for change in std::mem::take(&mut self.pending) {
            match latest.entry(key_of(&change.state)) {
                Entry::Vacant(place) => _ = place.insert(change),
                Entry::Occupied(mut held) => {
                    if held.get().state.seq < change.state.seq {
                        held.insert(change);
                    }
                    held.get_mut().conflated = true;
                }
            }
        }
        let mut latest: Vec<_> = latest.into_values().collect();
        latest.sort_unstable_by_key(|change| change.state.seq);
        self.conflated = latest.len();
        self.pending = latest;
    }

    fn tell_pending(&self) {
        self.metrics
            .cache_pending
            .set((self.pending.len() + self.round.len()) as i64);
    }

    /// Begins a round with everything that is pending.
    fn begin_round(&mut self) {
        self.begun += 1;
        self.round = std::mem::take(&mut self.pending);
        self.round.reverse();
        self.conflated = 0;
    }

    fn flush(&mut self, context: &mut Context<Self>) {
        if self.in_flight {
            return;
        }
        if self.round.is_empty() {
            if self.pending.is_empty() {
                // Nothing is left to be written, so nobody has to wait.
                self.answer(u64::MAX);
                if self.backoff.failures() > 0 {
                    self.look(context);
                }
                return;
            }
            let ended = self.begun;
            self.answer(ended);
            self.begin_round();
        }
        self.in_flight = true;
        let changes = self
            .round
            .split_off(self.round.len().saturating_sub(MAX_PIPELINE));
        let changes: Vec<_> = changes.into_iter().rev().collect();
        let writing = self.cache.write_changes(changes.clone()).into_actor(self);
        context.spawn(writing.map(move |written, writer, context| {
            writer.in_flight = false;
            match written {
                Ok(removed) => writer.took(changes, &removed, context),
                Err(error) => writer.failed(changes, &error, context),
            }
            writer.tell_pending();
        }));
    }

    /// Asks whether the cache is there, while there is nothing to write: one that was away and came
    /// back empty would be noticed only by the next change, and what does not change would be
    /// missing for as long.
    fn look(&mut self, context: &mut Context<Self>) {
        if self.in_flight {
            return;
        }
        self.in_flight = true;
        let asking = self.cache.damaged().into_actor(self);
        context.spawn(asking.map(|answer, writer, context| {
            writer.in_flight = false;
            match answer {
                Ok(damaged) => writer.repair(damaged, context),
                Err(error) => writer.failed(Vec::new(), &error, context),
            }
            writer.tell_pending();
        }));
    }

    /// Writes the entries of damaged events again: those that books of this process hold at once,
    /// the others from the database when no other processor has written them for some looks.
    fn repair(&mut self, damaged: Vec<EventId>, context: &mut Context<Self>) {
        let is_held = |event_id: &EventId| {
            self.written
                .iter()
                .any(|((held, _), state)| held == event_id && state.strong_count() > 0)
        };
        let (held, unheld): (Vec<_>, Vec<_>) = damaged.into_iter().partition(is_held);
        let looks = |event_id: EventId| {
            (
                self.unheld.get(&event_id).map_or(1, |looks| looks + 1),
                event_id,
            )
        };
        self.unheld = unheld
            .into_iter()
            .map(looks)
            .map(|(looks, event_id)| (event_id, looks))
            .collect();
        let due = self
            .unheld
            .iter()
            .filter(|(_, looks)| **looks > LOOKS_BEFORE_STORE);
        let due: Vec<_> = due.map(|(event_id, _)| event_id.clone()).collect();
        if held.is_empty() && due.is_empty() {
            return self.took(Vec::new(), &[], context);
        }
        self.in_flight = true;
        let (cache, store) = (self.cache.clone(), self.store.clone());
        let removing = async move {
            let stored = load(store, due).await;
            let removed: Vec<_> = held
                .into_iter()
                .chain(stored.iter().map(|(event_id, _)| event_id.clone()))
                .collect();
            cache
                .remove(removed.clone())
                .await
                .map(|()| (removed, stored))
        };
        context.spawn(removing.into_actor(self).map(|removed, writer, context| {
            writer.in_flight = false;
            match removed {
                Ok((removed, stored)) => {
                    let states = stored.into_iter().flat_map(|(_, states)| states);
                    writer.pending.extend(states.map(|state| Change {
                        state,
                        conflated: true,
                    }));
                    writer.took(Vec::new(), &removed, context);
                }
                Err(error) => writer.failed(Vec::new(), &error, context),
            }
            writer.tell_pending();
        }));
    }

    /// What was written of events whose entry was removed is written again.
    fn write_again(&mut self, removed: &[EventId]) {
        if removed.is_empty() {
            return;
        }
        let held = self
            .written
            .iter()
            .filter(|((event_id, _), _)| removed.contains(event_id));
        let held = held.filter_map(|(_, state)| {
            Some(Change {
                state: state.upgrade()?,
                conflated: true,
            })
        });
        self.pending.extend(held);
        self.conflate();
    }

    fn took(&mut self, changes: Vec<Change>, removed: &[EventId], context: &mut Context<Self>) {
        self.metrics.cache_sets.inc_by(changes.len() as u64);
        // Whoever else uses the cache may have met the loss, and made the new connection.
        let connection = self.cache.connection();
        let before = std::mem::replace(&mut self.connection, connection);
        // The first one is no return: nothing was written before, and what is pending is told
        // change by change.
        let is_anew = before != 0 && before != connection;
        if self.backoff.failures() > 0 || is_anew {
            if self.log.recovered() {
                info!("the cache is back");
            }
            self.health.set(None);
            self.backoff.reset();
            // It may have come back empty.
            let fresh: HashSet<_> = changes.iter().map(|change| key_of(&change.state)).collect();
            let held = self.written.iter().filter(|(key, _)| !fresh.contains(key));
            let held = held.filter_map(|(_, state)| {
                Some(Change {
                    state: state.upgrade()?,
                    conflated: true,
                })
            });
            self.pending.extend(held);
            self.conflate();
        }
        self.written.extend(
            changes
                .iter()
                .map(|change| (key_of(&change.state), Arc::downgrade(&change.state))),
        );
        self.write_again(removed);
        self.flush(context);
    }

    fn failed(
        &mut self,
        changes: Vec<Change>,
        error: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        self.metrics.errors.with_label_values(&["cache"]).inc();
        self.health.set(Some(error.to_string()));
        // The round ends unwritten. What is left of it joins what came since, and whoever waits for
        // it waits for that.
        let left = std::mem::take(&mut self.round);
        let since = std::mem::take(&mut self.pending);
        self.pending = changes
            .into_iter()
            .chain(left.into_iter().rev())
            .chain(since)
            .collect();
        self.conflate();
        self.waiting
            .iter_mut()
            .for_each(|(round, _)| *round = self.begun + 1);
        if self.backoff.failures() == 0
            && let Some(repeated) = self.log.failed(&error.to_string())
        {
            warn!(repeated; "the latest of each market is kept until the cache is back: {error}");
        }
        self.in_flight = true;
        context.run_later(self.backoff.next_delay(), |writer, context| {
            writer.in_flight = false;
            writer.conflate();
            writer.flush(context);
        });
    }

    /// Answers whoever waits for a round up to this one.
    fn answer(&mut self, ended: u64) {
        for (_, waiting) in self.waiting.extract_if(.., |(round, _)| *round <= ended) {
            // Whoever asked may be gone.
            let _ = waiting.send(());
        }
    }
}

/// The states of these events in the database, without the events that cannot be read now.
async fn load(
    store: Option<Arc<dyn Store>>,
    events: Vec<EventId>,
) -> Vec<(EventId, Vec<Arc<MarketState>>)> {
    let Some(store) = store.filter(|_| !events.is_empty()) else {
        return Vec::new();
    };
    let loading = tokio::task::spawn_blocking(move || {
        let load = |event_id: EventId| store.load_event(&event_id).map(|states| (event_id, states));
        events.into_iter().map(load).collect::<Result<Vec<_>, _>>()
    });
    match loading.await {
        Ok(Ok(states)) => states,
        Ok(Err(error)) => {
            debug!("damaged cache entries are not written again yet: {error}");
            Vec::new()
        }
        Err(error) => {
            debug!("damaged cache entries are not written again yet: {error}");
            Vec::new()
        }
    }
}

fn key_of(state: &Arc<MarketState>) -> (EventId, MarketKey) {
    (state.update.event_id.clone(), state.update.market.clone())
}

impl Actor for CacheWriter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(LOOK_INTERVAL, |writer, context| writer.look(context));
        context.run_interval(SWEEP_INTERVAL, |writer, _| {
            writer.written.retain(|_, state| state.strong_count() > 0);
        });
    }
}

impl Handler<BookChanged> for CacheWriter {
    type Result = ();

    fn handle(&mut self, changed: BookChanged, context: &mut Context<Self>) {
        self.metrics
            .mailbox_depth
            .with_label_values(&["cache_writer"])
            .dec();
        let conflated = changed.conflated;
        self.pending
            .extend(changed.states.iter().map(|state| Change {
                state: state.clone(),
                conflated,
            }));
        // Not each time while the cache is away: only when it has doubled since.
        if self.pending.len() > MAX_PENDING && self.pending.len() > 2 * self.conflated {
            self.conflate();
        }
        self.flush(context);
        self.tell_pending();
    }
}

impl Handler<FlushCache> for CacheWriter {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FlushCache, context: &mut Context<Self>) -> Self::Result {
        let (done, waiting) = oneshot::channel();
        // What is pending is written by the next round, else the one under way is the last that
        // matters.
        let round = self.begun + u64::from(!self.pending.is_empty());
        self.waiting.push((round, done));
        self.flush(context);
        Box::pin(async move {
            if waiting.await.is_err() {
                // The writer ends in the middle. No answer: whoever asks learns it from the
                // mailbox.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::cache::{BroadcastStream, CacheError};
    use crate::domain::odds::update::testing::*;

    #[derive(Default)]
    struct ProbeCache {
        away: AtomicBool,
        connection: AtomicU64,
        written: Mutex<Vec<(String, u64)>>,
        conflated: Mutex<Vec<u64>>,
    }

    impl OddsCache for ProbeCache {
        fn write(
            &self,
            states: Vec<Arc<MarketState>>,
        ) -> BoxFuture<'static, Result<(), CacheError>> {
            if self.away.load(Ordering::SeqCst) {
                return std::future::ready(Err(CacheError::Unavailable("away".to_owned()))).boxed();
            }
            let states = states
                .iter()
                .map(|state| (state.update.market.to_string(), state.seq));
            self.written.lock().unwrap().extend(states);
            std::future::ready(Ok(())).boxed()
        }

        fn write_changes(
            &self,
            changes: Vec<Change>,
        ) -> BoxFuture<'static, Result<Vec<EventId>, CacheError>> {
            let conflated = changes
                .iter()
                .filter(|change| change.conflated)
                .map(|change| change.state.seq);
            *self.conflated.lock().unwrap() = conflated.collect();
            let writing = self.write(changes.into_iter().map(|change| change.state).collect());
            async move { writing.await.map(|()| Vec::new()) }.boxed()
        }

        fn read_book(
            &self,
            _: &EventId,
        ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
            std::future::ready(Ok(Vec::new())).boxed()
        }

        fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
            self.write(Vec::new())
        }

        fn connection(&self) -> u64 {
            self.connection.load(Ordering::SeqCst)
        }

        fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
            None
        }
    }

    fn changed(market: &str, seq: u64) -> BookChanged {
        let update = market_update("E", market, None, seq as i64, 1);
        BookChanged {
            states: Arc::new([Arc::new(MarketState { update, seq })]),
            conflated: false,
        }
    }

    #[actix_web::test]
    async fn while_the_cache_is_away_the_latest_of_each_market_is_kept_and_written_on_return() {
        tokio::time::pause();
        let cache = Arc::new(ProbeCache::default());
        cache.away.store(true, Ordering::SeqCst);
        let metrics = ProcessorMetrics::new().unwrap();
        let writer = CacheWriter::new(cache.clone(), metrics.clone());
        let health = writer.health();
        let writer = writer.start();
        for (market, seq) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
            writer.send(changed(market, seq)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(metrics.errors.with_label_values(&["cache"]).get() > 0);
        assert_eq!(
            health.problem().unwrap(),
            "the cache is unavailable: away",
            "though it answers pings"
        );
        cache.away.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(
            *cache.written.lock().unwrap(),
            [("b".to_owned(), 2), ("a".to_owned(), 4)]
        );
        assert_eq!(
            *cache.conflated.lock().unwrap(),
            [4],
            "it is told that changes of a were left out, and none of b"
        );
        assert_eq!((metrics.cache_sets.get(), health.problem()), (2, None));
    }

    #[actix_web::test]
    async fn a_flush_is_answered_when_the_cache_has_everything_that_came_before_it() {
        tokio::time::pause();
        let cache = Arc::new(ProbeCache::default());
        let writer = CacheWriter::new(cache.clone(), ProcessorMetrics::new().unwrap()).start();
        writer.send(FlushCache).await.unwrap();
        writer.send(changed("a", 1)).await.unwrap();
        writer.send(FlushCache).await.unwrap();
        assert_eq!(cache.written.lock().unwrap().len(), 1);
        cache.away.store(true, Ordering::SeqCst);
        writer.send(changed("a", 2)).await.unwrap();
        let flush = writer.send(FlushCache);
        writer.send(changed("b", 3)).await.unwrap();
        let flush = tokio::spawn(flush);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!flush.is_finished());
        cache.away.store(false, Ordering::SeqCst);
        flush.await.unwrap().unwrap();
        assert!(cache.written.lock().unwrap().contains(&("a".to_owned(), 2)));
    }

    #[actix_web::test]
    async fn a_cache_that_comes_back_empty_is_filled_though_nothing_changed_meanwhile() {
        tokio::time::pause();
        let cache = Arc::new(ProbeCache::default());
        // Connections are counted from 1, as that of Redis.
        cache.connection.store(1, Ordering::SeqCst);
        let writer = CacheWriter::new(cache.clone(), ProcessorMetrics::new().unwrap()).start();
        let held = changed("held", 1);
        writer.send(held.clone()).await.unwrap();
        writer.send(FlushCache).await.unwrap();
        let written = || std::mem::take(&mut *cache.written.lock().unwrap());
        assert_eq!(written(), [("held".to_owned(), 1)]);
        cache.away.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(5)).await;
        // Nothing waits to be written, and whoever asks need not wait.
        writer.send(FlushCache).await.unwrap();
        cache.away.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(written(), [("held".to_owned(), 1)]);
        // Somebody else met the loss, and the writer sees only the new connection.
        cache.connection.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(written(), [("held".to_owned(), 1)]);
    }

    #[actix_web::test]
    async fn a_cache_that_comes_back_empty_gets_what_the_books_hold() {
        tokio::time::pause();
        let cache = Arc::new(ProbeCache::default());
        let writer = CacheWriter::new(cache.clone(), ProcessorMetrics::new().unwrap()).start();
        let (held, let_go) = (changed("held", 1), changed("let go", 2));
        writer.send(held.clone()).await.unwrap();
        writer.send(let_go).await.unwrap();
        writer.send(FlushCache).await.unwrap();
        cache.written.lock().unwrap().clear();
        cache.away.store(true, Ordering::SeqCst);
        writer.send(changed("new", 3)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        cache.away.store(false, Ordering::SeqCst);
        writer.send(FlushCache).await.unwrap();
        writer.send(FlushCache).await.unwrap();
        assert_eq!(
            *cache.written.lock().unwrap(),
            [("new".to_owned(), 3), ("held".to_owned(), 1)]
        );
    }
}
