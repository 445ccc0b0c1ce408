//! What speaks against a mirrored book: broadcasts that contradict it, or that are ahead of the
//! clock.
//!
//! Anybody who may publish on the channel can forge a broadcast. One whose time is a few minutes
//! ahead is within the skew that a supplier is allowed, and would shut out every true price until
//! then. The hot copy is written in one step with each true broadcast, so a book that has doubts
//! reads it and takes it for right.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::warn;

use super::OddsBook;
use crate::cache::Change;
use crate::domain::ids::MarketKey;
use crate::domain::odds::book::{MarketState, Rejection};
use crate::domain::odds::update::Revision;
use crate::domain::timestamp::Timestamp;

/// A book compares with the hot copy at most this often, however many doubts come.
const VERIFY_PAUSE: Duration = Duration::from_secs(1);
/// A broadcast whose time is further ahead of the clock is compared with the hot copy, though it is
/// within the skew that a supplier is allowed: if it is forged, every true price is shut out until
/// then.
const DOUBTFUL_AHEAD: Duration = Duration::from_secs(2);

/// What speaks against a mirrored book.
#[derive(Default)]
pub(super) struct Doubts {
    /// The markets in doubt; no more than the book holds.
    markets: BTreeSet<MarketKey>,
    /// The largest number that the hot copy or the store had so far. An older broadcast with a
    /// larger one contradicts the book: a true one is published when the hot copy takes it, and
    /// that takes later revisions only.
    read_seq: u64,
    /// When the last comparison began.
    verified: Option<Instant>,
    /// The next comparison, where it has to wait.
    next: Option<SpawnHandle>,
}

impl Doubts {
    /// The latest time of a broadcast that is not doubtful.
    pub fn latest() -> Timestamp {
        Timestamp::now().later_by(DOUBTFUL_AHEAD)
    }

    /// Whether a broadcast is older than what is held, though it was numbered after the last look.
    pub fn is_unexplained(
        &self,
        taken: &Result<Arc<MarketState>, Rejection>,
        seq: Option<u64>,
    ) -> bool {
        *taken == Err(Rejection::Older) && seq.is_some_and(|seq| seq > self.read_seq)
    }

    /// Remembers a market where a broadcast speaks against what is held of it, or where that is
    /// ahead of the clock.
    pub fn consider(
        &mut self,
        market: MarketKey,
        held: Revision,
        contradicts: bool,
        latest: Timestamp,
    ) {
        if contradicts || held.updated_at > latest {
            self.markets.insert(market);
        }
    }

    /// The hot copy or the store was read, and has numbers up to this one.
    pub fn looked(&mut self, read_seq: u64) {
        self.read_seq = self.read_seq.max(read_seq);
    }
}

impl OddsBook {
    /// Whether doubts are to be settled now. If it is too early, they are later, however many come
    /// until then.
    pub(super) fn verify_when_due(&mut self, context: &mut Context<Self>) -> bool {
        if self.doubts.markets.is_empty() || self.doubts.next.is_some() {
            return false;
        }
        let pause = self.doubts.verified.map_or(Duration::ZERO, |at| {
            VERIFY_PAUSE.saturating_sub(at.elapsed())
        });
        if pause.is_zero() {
            return true;
        }
        self.doubts.next = Some(context.run_later(pause, |book, context| {
            book.doubts.next = None;
            if context.connected() {
                context.wait(book.verify());
            }
        }));
        false
    }

    /// Compares the markets in doubt with the hot copy, which counts. It is written before each
    /// broadcast, in one step.
    pub(super) fn verify(&mut self) -> impl ActorFuture<Self, Output = ()> + use<> {
        self.doubts.verified = Some(Instant::now());
        let (edges, event_id) = (self.edges.clone(), self.event_id.clone());
        async move { edges.source.load_hot(&event_id).await }.into_actor(self).then(|hot, book, context| {
            if hot.is_read {
                book.doubts.looked(hot.largest_seq());
            } else {
                // Whether the cache is away shows elsewhere, and every market is stale then.
                book.verify_when_due(context);
            }
            let markets = if hot.is_read { std::mem::take(&mut book.doubts.markets) } else { BTreeSet::new() };
            let corrected = book.book.correct(&markets, &hot.states, Doubts::latest());
            book.edges.metrics.count_verification(corrected.len());
            if !corrected.is_empty() {
                book.generation.changed();
                let (event, markets) = (book.event_id.as_str(), corrected.len());
                warn!(event, markets; "broadcasts contradict the hot copy, which replaces them");
            }
            let edges = book.edges.clone();
            let news = corrected.into_iter().map(|state| Change { state, conflated: true }).collect();
            async move { edges.tell(news).await }.into_actor(book)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::actors::odds::book_source::{ReadPriority, ReplayBoundary};
    use crate::actors::odds::messages::{ApplyBroadcasts, GetSnapshot};
    use crate::actors::testing::{ProbeEdges, probe_edges_with};
    use crate::cache::{Broadcast, BroadcastStream, CacheError, OddsCache};
    use crate::domain::ids::EventId;
    use crate::domain::odds::book::Snapshot;
    use crate::domain::odds::status::MarketStatus;
    use crate::domain::odds::update::OddsUpdate;
    use crate::domain::odds::update::testing::{market_update, update};

    /// A hot copy that the test writes, and how often it was read.
    #[derive(Default)]
    struct HotCopy {
        states: Mutex<Vec<Arc<MarketState>>>,
        reads: AtomicUsize,
        is_away: AtomicBool,
    }

    impl OddsCache for HotCopy {
        fn write(
            &self,
            states: Vec<Arc<MarketState>>,
        ) -> BoxFuture<'static, Result<(), CacheError>> {
            *self.states.lock().unwrap() = states;
            std::future::ready(Ok(())).boxed()
        }

        fn read_book(
            &self,
            _: &EventId,
        ) -> BoxFuture<'static, Result<Vec<Arc<MarketState>>, CacheError>> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let is_away = self.is_away.load(Ordering::SeqCst);
            let read = Ok(self.states.lock().unwrap().clone());
            std::future::ready(if is_away {
                Err(CacheError::Unavailable("away".to_owned()))
            } else {
                read
            })
            .boxed()
        }

        fn ping(&self) -> BoxFuture<'static, Result<(), CacheError>> {
            std::future::ready(Ok(())).boxed()
        }

        fn listen(&self) -> Option<Box<dyn BroadcastStream>> {
            None
        }
    }

    struct Fixture {
        book: Addr<OddsBook>,
        hot: Arc<HotCopy>,
        probe: ProbeEdges,
    }

    async fn bench(states: Vec<Arc<MarketState>>) -> Fixture {
        let hot = Arc::new(HotCopy::default());
        hot.write(states).await.unwrap();
        let probe = probe_edges_with(hot.clone(), true);
        let (event, left) = (update(1, 1, 1).event_id, ReplayBoundary::NOTHING);
        let loaded = probe
            .edges
            .source
            .load_mirrored(&event, left, ReadPriority::Live, false)
            .await;
        let book = OddsBook::new(event, probe.edges.clone(), left, loaded).start();
        let bench = Fixture { book, hot, probe };
        bench.snapshot().await;
        bench
    }

    impl Fixture {
        async fn hear(&self, update: OddsUpdate, seq: Option<u64>) {
            let told = Broadcast {
                update,
                seq,
                conflated: false,
            };
            self.book
                .send(ApplyBroadcasts(vec![told]))
                .await
                .unwrap()
                .unwrap();
        }

        async fn snapshot(&self) -> Snapshot {
            self.book
                .send(GetSnapshot(update(1, 1, 1).event_id))
                .await
                .unwrap()
                .unwrap()
        }

        async fn shown(&self) -> OddsUpdate {
            self.snapshot().await.markets[0].update.clone()
        }

        async fn until_shown(&self, wanted: &OddsUpdate) {
            for _ in 0..1_000 {
                if self.shown().await == *wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("not within 10 s: {:?}", self.shown().await);
        }

        fn reads(&self) -> usize {
            self.hot.reads.load(Ordering::SeqCst)
        }
    }

    fn state(update: OddsUpdate, seq: u64) -> Vec<Arc<MarketState>> {
        vec![Arc::new(MarketState { update, seq })]
    }

    fn minutes_ahead(minutes: u64) -> OddsUpdate {
        let mut forged = update(1, 50, 9);
        forged.revision.updated_at = Timestamp::now().later_by(Duration::from_secs(60 * minutes));
        forged
    }

    /// The store may be ahead of the hot copy: broadcasts that it is ahead of are true, and late.
    #[actix_web::test]
    async fn store_ahead_of_broadcasts_is_no_contradiction() {
        let hot = Arc::new(HotCopy::default());
        let probe = probe_edges_with(hot.clone(), true);
        probe.store.keep(MarketState {
            update: update(1, 3, 3),
            seq: 28,
        });
        let (event, left) = (update(1, 1, 1).event_id, ReplayBoundary::NOTHING);
        let loaded = probe
            .edges
            .source
            .load_mirrored(&event, left, ReadPriority::Background, true)
            .await;
        let book = OddsBook::new(event, probe.edges.clone(), left, loaded).start();
        let bench = Fixture { book, hot, probe };
        bench.hot.write(state(update(1, 2, 2), 27)).await.unwrap();
        bench.hear(update(1, 2, 2), Some(27)).await;
        assert_eq!(bench.shown().await, update(1, 3, 3));
    }

    #[actix_web::test]
    async fn a_forged_price_some_minutes_ahead_is_put_right() {
        let bench = bench(state(update(1, 1, 1), 5)).await;
        bench.hear(minutes_ahead(4), Some(6)).await;
        assert_eq!(
            bench.shown().await,
            update(1, 1, 1),
            "at once, with the answer"
        );
        let told = bench
            .probe
            .told
            .lock()
            .unwrap()
            .iter()
            .map(|(_, seq)| *seq)
            .collect::<Vec<_>>();
        assert_eq!(
            told,
            [5, 6, 7],
            "every client is told, under a number that grows"
        );
        // The next true price is followed, though its time is before the forged one's.
        bench.hear(update(1, 2, 1), Some(6)).await;
        assert_eq!(bench.shown().await, update(1, 2, 1));
    }

    #[actix_web::test]
    async fn a_contradicted_price_is_put_right() {
        let bench = bench(state(update(1, 1, 1), 5)).await;
        // Forged, in the past, under a number far beyond the others.
        bench.hear(update(1, 50, 1), Some(1_700_000_000_000)).await;
        assert_eq!(
            bench.shown().await,
            update(1, 50, 1),
            "nothing speaks against it yet"
        );
        let suspended = OddsUpdate {
            status: MarketStatus::Suspended,
            ..update(1, 2, 1)
        };
        bench.hot.write(state(suspended.clone(), 6)).await.unwrap();
        bench.hear(suspended.clone(), Some(6)).await;
        bench.until_shown(&suspended).await;
    }

    #[actix_web::test]
    async fn a_made_up_market_is_suspended() {
        let bench = bench(state(update(1, 1, 1), 5)).await;
        let mut forged = market_update("MATCH_001", "made_up", None, 1, 1);
        forged.revision = minutes_ahead(3).revision;
        bench.hear(forged, Some(6)).await;
        let statuses: Vec<_> = bench
            .snapshot()
            .await
            .markets
            .iter()
            .map(|state| state.update.status)
            .collect();
        assert_eq!(statuses, [MarketStatus::Open, MarketStatus::Suspended]);
    }

    /// A market that the hot copy did not have is suspended under its own revision, and opens again
    /// once the hot copy has it.
    #[actix_web::test]
    async fn suspended_market_opens_under_same_revision() {
        let bench = bench(state(update(1, 1, 1), 5)).await;
        let btts = |time| market_update("MATCH_001", "btts", None, time, 1);
        let early = btts(50);
        bench.hear(early.clone(), Some(6)).await;
        bench.hear(btts(40), Some(7)).await;
        let status = async || bench.snapshot().await.markets[1].update.status;
        assert_eq!(status().await, MarketStatus::Suspended);
        let known = [state(update(1, 1, 1), 5), state(early.clone(), 6)].concat();
        bench.hot.write(known).await.unwrap();
        bench.hear(early, Some(6)).await;
        for _ in 0..1_000 {
            if status().await == MarketStatus::Open {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s");
    }

    #[actix_web::test]
    async fn a_flood_of_forged_prices_is_no_flood_of_reads() {
        let bench = bench(state(update(1, 1, 1), 5)).await;
        let before = (bench.reads(), Instant::now());
        for seq in 6..506 {
            bench.hear(minutes_ahead(4), Some(seq)).await;
        }
        let most = 2 + before.1.elapsed().as_secs() as usize;
        assert!(
            bench.reads() - before.0 <= most,
            "{} reads",
            bench.reads() - before.0
        );
        bench.until_shown(&update(1, 1, 1)).await;
    }

    #[actix_web::test]
    async fn what_the_last_look_explains_is_not_doubted() {
        let bench = bench(state(update(1, 9, 1), 9)).await;
        // A book that starts looks once more, for what only the store knows.
        while bench.reads() < 2 {
            tokio::task::yield_now().await;
        }
        let before = bench.reads();
        for (time, seq) in [(7, 7), (8, 8), (9, 9)] {
            bench.hear(update(1, time, 1), Some(seq)).await;
        }
        // The original counts nothing, and tells late ones as well.
        bench.hear(update(1, 8, 1), None).await;
        bench.hear(update(1, 10, 1), Some(10)).await;
        assert_eq!(bench.reads(), before);
    }

    #[actix_web::test]
    async fn doubts_outlast_a_cache_that_is_away() {
        let bench = bench(state(update(1, 1, 1), 5)).await;
        bench.hot.is_away.store(true, Ordering::SeqCst);
        let forged = minutes_ahead(4);
        bench.hear(forged.clone(), Some(6)).await;
        assert_eq!(bench.shown().await, forged);
        bench.hot.is_away.store(false, Ordering::SeqCst);
        bench.until_shown(&update(1, 1, 1)).await;
    }
}
