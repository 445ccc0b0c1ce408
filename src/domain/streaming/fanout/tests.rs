use std::cell::{Cell, RefCell};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::update::testing::*;

/// A session with room for some deliveries.
#[derive(Clone, Default)]
struct Probe {
    room: Rc<Cell<usize>>,
    gone: Rc<Cell<bool>>,
    taken: Rc<RefCell<Vec<(String, u64, bool)>>>,
    feed: Rc<RefCell<Vec<FeedStatus>>>,
}

impl DeliverySink for Probe {
    fn push(&self, delivery: Delivery) -> Result<(), PushError> {
        if self.gone.get() {
            return Err(PushError::Gone);
        }
        if self.room.get() == 0 {
            return Err(PushError::Full);
        }
        self.room.set(self.room.get() - 1);
        let taken = delivery
            .frames()
            .iter()
            .map(|frame| (frame.market.to_string(), frame.seq, delivery.conflated));
        self.taken.borrow_mut().extend(taken);
        self.feed.borrow_mut().extend(delivery.feed);
        Ok(())
    }
}

fn probe(room: usize) -> Probe {
    let probe = Probe::default();
    probe.room.set(room);
    probe
}

fn event() -> EventId {
    EventId::new("E").unwrap()
}

fn frames(changes: &[(&str, u64)]) -> Delivery {
    let frame = |(market, seq): &(&str, u64)| {
        let update = market_update("E", market, None, *seq as i64, 1);
        Arc::new(UpdateFrame::new(&MarketState { update, seq: *seq }))
    };
    Delivery::of(changes.iter().map(frame).collect(), false)
}

fn with(probes: &[Probe]) -> Fanout<Probe> {
    let mut fanout = Fanout::default();
    for (id, probe) in (0..).zip(probes) {
        fanout.connect(SessionId(id), probe.clone());
        assert!(fanout.subscribe(SessionId(id), &event()));
    }
    fanout
}

fn taken(probe: &Probe) -> Vec<(String, u64, bool)> {
    probe.taken.borrow().clone()
}

/// The other clients get every change.
#[test]
fn slow_client_gets_latest_per_market() {
    let slow = probe(1);
    let fast = probe(100);
    let mut fanout = with(&[slow.clone(), fast.clone()]);
    let now = Instant::now();
    let mut conflated = 0;
    for changes in [[("a", 1)], [("a", 2)], [("b", 3)], [("a", 4)]] {
        conflated += fanout.publish(&event(), &frames(&changes), now).conflated;
    }
    assert_eq!((conflated, fanout.stalled()), (1, 1));
    assert_eq!(fanout.offer_again().delivered, 0);
    slow.room.set(1);
    assert_eq!(fanout.offer_again().delivered, 2);
    assert_eq!(fanout.stalled(), 0);
    let expected = [("a", 1, false), ("b", 3, true), ("a", 4, true)];
    assert_eq!(
        taken(&slow),
        expected.map(|(market, seq, conflated)| (market.to_owned(), seq, conflated))
    );
    assert_eq!(taken(&fast).len(), 4);
    assert!(taken(&fast).iter().all(|(_, _, conflated)| !conflated));
}

/// A client that accepts some deliveries within the limit stays.
#[test]
fn only_fully_stalled_client_is_evicted() {
    let stalled = probe(0);
    let slow = probe(0);
    let mut fanout = with(&[stalled, slow.clone()]);
    let start = Instant::now();
    let limit = Duration::from_secs(10);
    fanout.publish(&event(), &frames(&[("a", 1)]), start);
    slow.room.set(1);
    fanout.offer_again();
    fanout.publish(
        &event(),
        &frames(&[("a", 2)]),
        start + Duration::from_secs(9),
    );
    assert!(
        fanout
            .evict_stalled(start + Duration::from_secs(9), limit)
            .is_empty()
    );
    let evicted = fanout.evict_stalled(start + Duration::from_secs(10), limit);
    assert_eq!(
        evicted.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [SessionId(0)]
    );
    assert_eq!(
        (fanout.sessions(), fanout.subscriptions(), fanout.stalled()),
        (1, 1, 1)
    );
}

/// The other clients get every status.
#[test]
fn slow_client_gets_latest_feed_status() {
    let slow = probe(0);
    let fast = probe(100);
    let mut fanout = with(&[slow.clone(), fast.clone()]);
    let now = Instant::now();
    for status in [FeedStatus::Stale, FeedStatus::Live, FeedStatus::Stale] {
        fanout.announce(status, None, now);
    }
    fanout.publish(&event(), &frames(&[("a", 1)]), now);
    fanout.announce(FeedStatus::Live, None, now);
    slow.room.set(1);
    fanout.offer_again();
    assert_eq!(*slow.feed.borrow(), [FeedStatus::Live]);
    assert_eq!(taken(&slow).len(), 1);
    assert_eq!(fast.feed.borrow().len(), 4);
    fanout.announce(FeedStatus::Stale, Some(SessionId(1)), now);
    assert_eq!((slow.feed.borrow().len(), fast.feed.borrow().len()), (1, 5));
}

#[test]
fn ended_sessions_are_removed() {
    let gone = probe(9);
    let stays = probe(9);
    let mut fanout = with(&[gone.clone(), stays.clone()]);
    gone.gone.set(true);
    let report = fanout.publish(&event(), &frames(&[("a", 1)]), Instant::now());
    assert_eq!(report.gone, [SessionId(0)]);
    assert_eq!((fanout.sessions(), fanout.subscriptions()), (1, 1));
    assert!(!fanout.subscribe(SessionId(0), &event()));
}

#[test]
fn unsubscribed_changes_are_not_offered() {
    let slow = probe(0);
    let mut fanout = with(std::slice::from_ref(&slow));
    fanout.publish(&event(), &frames(&[("a", 1)]), Instant::now());
    fanout.unsubscribe(SessionId(0), &event());
    slow.room.set(9);
    fanout.offer_again();
    assert!(taken(&slow).is_empty());
    assert_eq!(
        fanout.publish(&event(), &frames(&[("a", 2)]), Instant::now()),
        Report::default()
    );
}

proptest! {
    /// Whenever a client stalls and recovers, it ends with the latest change of each market, in
    /// increasing order.
    #[test]
    fn every_client_ends_with_latest_changes(steps in proptest::collection::vec((0u8..4, 0u8..3), 1..80)) {
        let client = probe(0);
        let mut fanout = with(std::slice::from_ref(&client));
        let mut latest = BTreeMap::new();
        let mut seq = 0;
        for (what, market) in steps {
            match what {
                0 => client.room.set(client.room.get() + 1),
                1 => { fanout.offer_again(); }
                _ => {
                    seq += 1;
                    let market = format!("m{market}");
                    fanout.publish(&event(), &frames(&[(&market, seq)]), Instant::now());
                    latest.insert(market, seq);
                }
            }
        }
        client.room.set(usize::MAX);
        fanout.offer_again();
        let taken = taken(&client);
        prop_assert!(taken.windows(2).all(|pair| pair[0].1 < pair[1].1), "{:?}", taken);
        let end: BTreeMap<_, _> = taken.into_iter().map(|(market, seq, _)| (market, seq)).collect();
        prop_assert_eq!(end, latest);
    }
}
