use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::actors::odds::messages::{Apply, BookChanged};
use crate::actors::odds::odds_book::{BusFeed, ChangeSubscriber};
use crate::actors::testing::{ProbeEdges, probe_edges};
use crate::domain::ids::Source;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::odds::update::testing::{market_update, update};
use crate::domain::streaming::protocol::FeedStatus;

type Recorded = Arc<Mutex<Vec<BookChanged>>>;

/// Markets with their sequence numbers, and sources with their states.
type Published = (Vec<(String, u64)>, Vec<(String, FeedStatus)>);

/// Records what is published again.
struct ProbeRegistry(Recorded);

impl Actor for ProbeRegistry {
    type Context = Context<Self>;
}

impl Handler<BookChanged> for ProbeRegistry {
    type Result = ();

    fn handle(&mut self, changed: BookChanged, _: &mut Context<Self>) {
        if changed.restated.is_some() {
            self.0.lock().unwrap().push(changed);
        }
    }
}

fn start() -> (Addr<BookRouter<BusFeed>>, ProbeEdges<BusFeed>, Recorded) {
    let mut probe = probe_edges();
    let recorded = Recorded::default();
    let registry = ProbeRegistry(recorded.clone()).start();
    let depth = probe.metrics.mailbox_depth.with_label_values(&["registry"]);
    let edges = Arc::get_mut(&mut probe.edges).unwrap();
    let subscriber = ChangeSubscriber::new(registry.recipient(), depth);
    edges.subscribers.push(subscriber);
    let router = BookRouter::new(probe.edges.clone(), Duration::from_secs(60)).start();
    (router, probe, recorded)
}

fn id() -> EventId {
    update(1, 1, 1).event_id
}

/// The source of one market is lost.
fn lost(source: &str) -> RestateBook {
    let change = RestrictionChange {
        sources: [(Source::new(source).unwrap(), true)].into(),
        ..RestrictionChange::default()
    };
    RestateBook {
        event_id: id(),
        change: Arc::new(change),
    }
}

fn positioned(source: &str, market: &str, position: u64) -> PositionedUpdate {
    let mut update = market_update(id().as_str(), market, None, 1, 1);
    update.source = Source::new(source).unwrap();
    PositionedUpdate {
        trace: None,
        update,
        partition: 0,
        position,
    }
}

/// The markets and sources of what was published again.
fn published(recorded: &Recorded) -> Vec<Published> {
    let recorded = std::mem::take(&mut *recorded.lock().unwrap());
    let restated = recorded.into_iter().map(|changed| {
        assert!(!changed.conflated);
        let state = |state: &Arc<MarketState>| (state.update.market.to_string(), state.seq);
        let sources = changed.restated.unwrap().sources;
        let source = |(source, status): &(Source, FeedStatus)| (source.to_string(), *status);
        (
            changed.states.iter().map(state).collect(),
            sources.iter().map(source).collect(),
        )
    });
    restated.collect()
}

#[actix_web::test]
async fn affected_states_are_published_again() {
    let (router, _probe, recorded) = start();
    let updates = [("a", "x", 1), ("b", "y", 2), ("a", "w", 3)];
    let batch = updates.map(|(source, market, position)| positioned(source, market, position));
    router.send(Apply(batch.into())).await.unwrap().unwrap();
    router.send(lost("a")).await.unwrap().unwrap();
    let states = vec![("x".to_owned(), 2), ("w".to_owned(), 4)];
    let sources = vec![("a".to_owned(), FeedStatus::Stale)];
    assert_eq!(published(&recorded), [(states, sources)]);
    router.send(lost("c")).await.unwrap().unwrap();
    assert_eq!(published(&recorded), []);
}

/// A book that was dropped because it was idle is loaded.
#[actix_web::test]
async fn missing_book_is_loaded() {
    let (router, probe, recorded) = start();
    router.send(lost("test")).await.unwrap().unwrap();
    assert_eq!(published(&recorded), [], "the event is unknown");
    probe.edges.source.clients().forget_all_unknown();
    probe.store.keep(MarketState {
        update: update(1, 5, 1),
        seq: 700,
    });
    router.send(lost("test")).await.unwrap().unwrap();
    let states = vec![("1x2".to_owned(), 700)];
    let sources = vec![("test".to_owned(), FeedStatus::Stale)];
    assert_eq!(published(&recorded), [(states, sources)]);
}

#[actix_web::test]
async fn unreadable_book_is_reported() {
    let (router, probe, _) = start();
    probe.store.down.store(true, Ordering::SeqCst);
    let reply = router.send(lost("test")).await.unwrap();
    assert_eq!(reply, Err(ApplyError::NotLoaded(id())));
}
