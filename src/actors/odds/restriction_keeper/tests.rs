use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::domain::ids::Source;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::hold::{Hold, HoldScope};
use crate::domain::odds::source_status::{SourceState, SourceStatus};
use crate::domain::odds::update::testing::update;
use crate::testing::until;

/// Replaces the registry and the router, and records which events are restated.
#[derive(Clone, Default)]
struct Probe {
    followed: Arc<Mutex<Vec<EventId>>>,
    restated: Arc<Mutex<Vec<(EventId, RestrictionChange)>>>,
    /// How many further requests fail.
    fails: Arc<AtomicUsize>,
}

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<GetFollowedEvents> for Probe {
    type Result = MessageResult<GetFollowedEvents>;

    fn handle(&mut self, _: GetFollowedEvents, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.followed.lock().unwrap().clone())
    }
}

impl Handler<RestateBook> for Probe {
    type Result = Result<(), ApplyError>;

    fn handle(&mut self, request: RestateBook, _: &mut Context<Self>) -> Self::Result {
        let RestateBook { event_id, change } = request;
        let left = self.fails.load(Ordering::SeqCst);
        self.fails.store(left.saturating_sub(1), Ordering::SeqCst);
        if left > 0 {
            return Err(ApplyError::NotLoaded(event_id));
        }
        let mut restated = self.restated.lock().unwrap();
        restated.push((event_id, Arc::unwrap_or_clone(change)));
        Ok(())
    }
}

fn event(name: &str) -> EventId {
    EventId::new(name).unwrap()
}

fn reported(state: SourceState) -> SourcesReported {
    let status = SourceStatus { state, at: None };
    SourcesReported([(Source::new("a").unwrap(), status)].into())
}

fn change(is_lost: bool) -> RestrictionChange {
    RestrictionChange {
        sources: [(Source::new("a").unwrap(), is_lost)].into(),
        ..RestrictionChange::default()
    }
}

fn start() -> (Addr<RestrictionKeeper>, Arc<CurrentRestrictions>, Probe) {
    let probe = Probe::default();
    *probe.followed.lock().unwrap() = vec![event("E"), event("F")];
    let address = probe.clone().start();
    let edges = KeeperEdges {
        followed: address.clone().recipient(),
        books: address.recipient(),
    };
    let current = Arc::<CurrentRestrictions>::default();
    let keeper = RestrictionKeeper::new(current.clone(), 0, edges).start();
    (keeper, current, probe)
}

impl Probe {
    /// Waits for this many restated books, and returns them ordered by event.
    async fn until_restated(&self, count: usize) -> Vec<(EventId, RestrictionChange)> {
        until("the books are restated", || {
            self.restated.lock().unwrap().len() >= count
        })
        .await;
        let mut restated = std::mem::take(&mut *self.restated.lock().unwrap());
        restated.sort_by(|(one, _), (other, _)| one.cmp(other));
        restated
    }
}

#[actix_web::test]
async fn lost_source_is_set_and_shown() {
    let (keeper, current, probe) = start();
    keeper.send(reported(SourceState::Live)).await.unwrap();
    assert!(!current.get().is_lost(&Source::new("a").unwrap()));
    keeper.send(reported(SourceState::Stale)).await.unwrap();
    assert!(current.get().is_lost(&Source::new("a").unwrap()));
    let expected = [(event("E"), change(true)), (event("F"), change(true))];
    assert_eq!(probe.until_restated(2).await, expected);
    let hold = Hold {
        id: 1,
        scope: HoldScope::Event(event("E")),
        until: None,
    };
    keeper.send(HoldsLoaded(vec![hold.clone()])).await.unwrap();
    assert_eq!(current.get().holds, [hold]);
    assert!(current.get().is_lost(&Source::new("a").unwrap()));
    let restated = probe.until_restated(2).await;
    let scopes = [HoldScope::Event(event("E"))].into();
    assert_eq!(restated[0].1.scopes, scopes);
}

/// From the start, markets from before this process are not trusted until their source is reported.
#[actix_web::test]
async fn unreported_market_is_stale_from_start() {
    let address = Probe::default().start();
    let edges = KeeperEdges {
        followed: address.clone().recipient(),
        books: address.recipient(),
    };
    let current = Arc::<CurrentRestrictions>::default();
    let keeper = RestrictionKeeper::new(current.clone(), 10, edges).start();
    let market = |source: &str, seq| {
        let mut update = update(1, 1, 1);
        update.source = Source::new(source).unwrap();
        MarketState { update, seq }
    };
    let is_stale = |source: &str, seq| current.get().is_stale(&market(source, seq));
    assert!(is_stale("a", 9) && !is_stale("a", 10));
    keeper.send(reported(SourceState::Live)).await.unwrap();
    assert!(!is_stale("a", 9) && is_stale("b", 9));
}

#[actix_web::test]
async fn failed_book_is_restated_again() {
    let (keeper, _, probe) = start();
    probe.fails.store(3, Ordering::SeqCst);
    keeper.send(reported(SourceState::Stale)).await.unwrap();
    let expected = [(event("E"), change(true)), (event("F"), change(true))];
    assert_eq!(probe.until_restated(2).await, expected);
    assert_eq!(probe.fails.load(Ordering::SeqCst), 0);
}
