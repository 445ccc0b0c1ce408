//! Probes for actor tests.

pub(crate) mod money;
pub(crate) mod supplier;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use actix::prelude::*;

use super::odds::book_source::{BookSource, MergePolicy};
use super::odds::client_reads::{ClientReads, ReadLimits};
use super::odds::messages::BookChanged;
use super::odds::odds_book::{BookEdges, BookFeed, BusFeed, ChangeSubscriber, MirrorFeed};
use crate::cache::OddsCache;
use crate::cache::embedded::EmbeddedCache;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate};
use crate::domain::timestamp::Timestamp;
use crate::store::events::{EventPage, EventQuery};
use crate::store::{
    BatchReport, HistoryEntry, HistoryQuery, MarketsOfSourceQuery, PruneReport, Store, StoreError,
    StoredDeadLetter,
};
use crate::telemetry::metrics::ProcessorMetrics;

/// A store that holds only the states it was given, or is unavailable.
#[derive(Default)]
pub(super) struct ProbeStore {
    pub states: Mutex<HashMap<EventId, Vec<Arc<MarketState>>>>,
    pub down: std::sync::atomic::AtomicBool,
    /// Reads of events whose ids start with one of these prefixes block.
    pub held: Mutex<Vec<&'static str>>,
    pub reads: std::sync::atomic::AtomicUsize,
}

impl ProbeStore {
    pub(super) fn keep(&self, state: MarketState) {
        self.states
            .lock()
            .unwrap()
            .entry(state.update.event_id.clone())
            .or_default()
            .push(Arc::new(state));
    }
}

impl Store for ProbeStore {
    fn migrate(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn stream_epoch(&self) -> Result<String, StoreError> {
        Ok("test".to_owned())
    }

    fn write_updates(&self, _: &[PositionedUpdate]) -> Result<BatchReport, StoreError> {
        Ok(BatchReport::default())
    }

    fn write_states(&self, _: &[Arc<MarketState>]) -> Result<BatchReport, StoreError> {
        Ok(BatchReport::default())
    }

    fn load_event(&self, event_id: &EventId) -> Result<Vec<Arc<MarketState>>, StoreError> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        while self
            .held
            .lock()
            .unwrap()
            .iter()
            .any(|held| event_id.as_str().starts_with(held))
        {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        if self.down.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Unavailable("down".to_owned()));
        }
        Ok(self
            .states
            .lock()
            .unwrap()
            .get(event_id)
            .cloned()
            .unwrap_or_default())
    }

    fn unfinished_markets(&self, _: &MarketsOfSourceQuery) -> Result<Vec<OddsUpdate>, StoreError> {
        Ok(Vec::new())
    }

    fn sources_of_unfinished_markets(&self) -> Result<Vec<Source>, StoreError> {
        if self.down.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Unavailable("down".to_owned()));
        }
        let states = self.states.lock().unwrap();
        let sources: std::collections::BTreeSet<_> = states
            .values()
            .flatten()
            .map(|state| state.update.source.clone())
            .collect();
        Ok(sources.into_iter().collect())
    }

    fn list_events(&self, _: &EventQuery) -> Result<EventPage, StoreError> {
        Ok(EventPage::default())
    }

    fn history(&self, _: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError> {
        Ok(Vec::new())
    }

    fn write_dead_letters(&self, _: &[DeadLetter]) -> Result<(), StoreError> {
        Ok(())
    }

    fn list_dead_letters(&self, _: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
        Ok(Vec::new())
    }

    fn prune(&self, _: Timestamp, _: Timestamp) -> Result<PruneReport, StoreError> {
        Ok(PruneReport::default())
    }
}

/// Records each change as market and sequence number, and the numbers of conflated changes.
pub(super) struct ProbeSubscriber {
    pub published: Arc<Mutex<Vec<(String, u64)>>>,
    pub conflated: Arc<Mutex<Vec<u64>>>,
}

impl Actor for ProbeSubscriber {
    type Context = Context<Self>;
}

impl Handler<BookChanged> for ProbeSubscriber {
    type Result = ();

    fn handle(&mut self, changed: BookChanged, _: &mut Context<Self>) {
        let published = changed
            .states
            .iter()
            .map(|state| (state.update.market.to_string(), state.seq));
        self.published.lock().unwrap().extend(published);
        let conflated = changed
            .states
            .iter()
            .filter(|_| changed.conflated)
            .map(|state| state.seq);
        self.conflated.lock().unwrap().extend(conflated);
    }
}

/// Book edges with a probe store and a probe subscriber.
pub(super) struct ProbeEdges<F> {
    pub edges: Arc<BookEdges<F>>,
    pub store: Arc<ProbeStore>,
    pub published: Arc<Mutex<Vec<(String, u64)>>>,
    pub conflated: Arc<Mutex<Vec<u64>>>,
    pub refused: prometheus::IntCounter,
    pub metrics: ProcessorMetrics,
}

/// Edges of books that are fed from an embedded bus.
pub(super) fn probe_edges() -> ProbeEdges<BusFeed> {
    let cache = Arc::new(EmbeddedCache::new(std::time::Duration::from_secs(60)));
    bus_edges(cache)
}

/// Edges of books that are fed from an embedded bus and read this cache.
pub(super) fn bus_edges(cache: Arc<dyn OddsCache>) -> ProbeEdges<BusFeed> {
    let feed = BusFeed {
        first_position: Some(0),
    };
    edges_of(feed, MergePolicy::LatestWins, cache)
}

/// Edges of books that are fed by broadcasts and read this cache.
pub(super) fn mirror_edges(cache: Arc<dyn OddsCache>) -> ProbeEdges<MirrorFeed> {
    edges_of(MirrorFeed, MergePolicy::CacheWins, cache)
}

fn edges_of<F: BookFeed>(feed: F, policy: MergePolicy, cache: Arc<dyn OddsCache>) -> ProbeEdges<F> {
    let metrics = ProcessorMetrics::new().unwrap();
    let store = Arc::new(ProbeStore::default());
    let published = Arc::<Mutex<Vec<_>>>::default();
    let conflated = Arc::<Mutex<Vec<_>>>::default();
    let subscriber = ProbeSubscriber {
        published: published.clone(),
        conflated: conflated.clone(),
    }
    .start();
    let depth = metrics.mailbox_depth.with_label_values(&["probe"]);
    let limits = ReadLimits {
        at_once: 2,
        waiting: 8,
        unknown_ttl: std::time::Duration::from_secs(60),
    };
    let refused = prometheus::IntCounter::new("refused", "test").unwrap();
    let clients = Arc::new(ClientReads::new(limits, refused.clone()));
    let book_metrics = metrics.book_metrics();
    let edges = BookEdges {
        feed,
        source: BookSource::new(policy, cache, store.clone(), clients, book_metrics),
        subscribers: vec![ChangeSubscriber::new(subscriber.recipient(), depth)],
        metrics: metrics.book_metrics(),
    };
    ProbeEdges {
        edges: Arc::new(edges),
        store,
        published,
        conflated,
        refused,
        metrics,
    }
}
