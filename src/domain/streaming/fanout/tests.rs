use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::domain::odds::book::MarketState;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::OddsUpdate;
use crate::domain::odds::update::testing::*;
use crate::domain::streaming::shown_at::ShownAt;

/// A session with room for some deliveries.
#[derive(Clone, Default)]
struct Probe {
    room: Rc<Cell<usize>>,
    gone: Rc<Cell<bool>>,
    taken: Rc<RefCell<Vec<(String, u64, bool)>>>,
    feed: Rc<RefCell<Vec<FeedStatus>>>,
    notices: Rc<RefCell<Vec<String>>>,
    /// The addresses of the buffers with encoded changes.
    joined: Rc<RefCell<Vec<usize>>>,
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
        let texts = delivery.notices().iter();
        let texts = texts.map(|notice| String::from_utf8_lossy(&notice.wire).into_owned());
        self.notices.borrow_mut().extend(texts);
        let joined = delivery.joined(true).map(|bytes| bytes.as_ptr() as usize);
        self.joined.borrow_mut().extend(joined);
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
        Arc::new(UpdateFrame::new(&Arc::new(MarketState {
            update,
            seq: *seq,
        })))
    };
    Delivery::of(changes.iter().map(frame).collect(), false)
}

fn with(probes: &[Probe]) -> Fanout<Probe> {
    let mut fanout = Fanout::default();
    for (id, probe) in (0..).zip(probes) {
        fanout.connect(SessionId(id), probe.clone());
        assert!(fanout.subscribe(SessionId(id), &event(), None));
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
    assert!(!fanout.subscribe(SessionId(0), &event(), None));
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

fn step(millis: u64) -> Option<ConflationStep> {
    ConflationStep::of(millis)
}

fn statuses(changes: &[(&str, u64, MarketStatus)]) -> Delivery {
    let frame = |(market, seq, status): &(&str, u64, MarketStatus)| {
        let mut update = market_update("E", market, None, *seq as i64, 1);
        update.status = *status;
        Arc::new(UpdateFrame::new(&Arc::new(MarketState {
            update,
            seq: *seq,
        })))
    };
    Delivery::of(changes.iter().map(frame).collect(), false)
}

/// R6 and R9: at 100 changes a second, clients of a second's step get at most two messages a second
/// and the last state; a thousand clients share one encoding.
#[test]
fn clients_of_a_step_share_messages() {
    const SECONDS: u64 = 10;
    let mut fanout = Fanout::default();
    let probes: Vec<_> = (0..1_000).map(|_| probe(usize::MAX)).collect();
    for (id, probe) in (0..).zip(&probes) {
        fanout.connect(SessionId(id), probe.clone());
        fanout.subscribe(SessionId(id), &event(), step(1_000));
    }
    let start = Instant::now();
    for change in 1..=SECONDS * 100 {
        let now = start + Duration::from_millis(change * 10);
        fanout.flush_due(now);
        fanout.publish(&event(), &frames(&[("a", change)]), now);
    }
    fanout.flush_due(start + Duration::from_secs(SECONDS + 2));
    let mut buffers = BTreeSet::new();
    for probe in &probes {
        let seen = taken(probe);
        assert!(seen.len() as u64 <= SECONDS * 2, "{}", seen.len());
        assert_eq!(seen.last().unwrap().1, SECONDS * 100);
        buffers.extend(probe.joined.borrow().iter().copied());
    }
    assert!(buffers.len() as u64 <= SECONDS * 2, "{}", buffers.len());
    assert!(!fanout.is_holding());
}

/// R7: a suspension is sent at once, after everything that was held back, in order.
#[test]
fn suspension_is_not_held_back() {
    let client = probe(100);
    let plain = probe(100);
    let mut fanout = with(std::slice::from_ref(&plain));
    fanout.connect(SessionId(9), client.clone());
    fanout.subscribe(SessionId(9), &event(), step(120_000));
    let now = Instant::now();
    use MarketStatus::{Closed, Open, Settled, Suspended};
    let seqs = || {
        taken(&client)
            .iter()
            .map(|(_, seq, _)| *seq)
            .collect::<Vec<_>>()
    };
    fanout.publish(&event(), &statuses(&[("a", 1, Open), ("b", 2, Open)]), now);
    fanout.publish(&event(), &statuses(&[("a", 3, Open)]), now);
    assert_eq!(seqs(), [0; 0]);
    assert_eq!(
        fanout.complete_until(SessionId(9), now + Duration::from_secs(9)),
        Some(now)
    );
    fanout.publish(&event(), &statuses(&[("b", 4, Suspended)]), now);
    assert_eq!(seqs(), [3, 4]);
    // A market that stays suspended, or opens, is held back again.
    fanout.publish(&event(), &statuses(&[("b", 5, Suspended)]), now);
    fanout.publish(&event(), &statuses(&[("b", 6, Open)]), now);
    assert_eq!(seqs(), [3, 4]);
    fanout.publish(&event(), &statuses(&[("b", 7, Closed)]), now);
    fanout.publish(&event(), &statuses(&[("b", 8, Settled)]), now);
    assert_eq!(seqs(), [3, 4, 7, 8]);
    fanout.publish(&event(), &statuses(&[("c", 9, Open)]), now);
    fanout.flush_due(now + Duration::from_secs(119));
    assert_eq!(seqs(), [3, 4, 7, 8]);
    fanout.flush_due(now + Duration::from_secs(120));
    assert_eq!(seqs(), [3, 4, 7, 8, 9]);
    assert_eq!(taken(&plain).len(), 9);
}

/// A selection that is suspended alone is not held back either.
#[test]
fn suspended_selection_is_not_held_back() {
    let client = probe(100);
    let mut fanout = Fanout::default();
    fanout.connect(SessionId(1), client.clone());
    fanout.subscribe(SessionId(1), &event(), step(1_000));
    let mut update = market_update("E", "a", None, 1, 1);
    let now = Instant::now();
    for (seq, expected) in [(1, 0), (2, 1)] {
        let state = Arc::new(MarketState {
            update: update.clone(),
            seq,
        });
        let delivery = Delivery::of(vec![Arc::new(UpdateFrame::new(&state))], false);
        fanout.publish(&event(), &delivery, now);
        assert_eq!(taken(&client).len(), expected);
        update.selections[0].status = SelectionStatus::Suspended;
    }
}

/// One selection is withdrawn while another one returns, disappears, or loses its price.
#[test]
fn withdrawn_selection_is_not_held_back() {
    let withdrawals: [fn(&mut OddsUpdate); 3] = [
        |update| {
            update.selections[0].status = SelectionStatus::Suspended;
            update.selections[1].status = SelectionStatus::Active;
        },
        |update| drop(update.selections.remove(0)),
        |update| update.selections[0].price = None,
    ];
    for withdraw in withdrawals {
        let client = probe(100);
        let mut fanout = Fanout::default();
        fanout.connect(SessionId(1), client.clone());
        fanout.subscribe(SessionId(1), &event(), step(1_000));
        let mut update = market_update("E", "a", None, 1, 1);
        update.selections[1].status = SelectionStatus::Suspended;
        let now = Instant::now();
        for seq in 1..=2 {
            let state = Arc::new(MarketState {
                update: update.clone(),
                seq,
            });
            let delivery = Delivery::of(vec![Arc::new(UpdateFrame::new(&state))], false);
            fanout.publish(&event(), &delivery, now);
            // The earlier state of the first one is unknown, so it is sent at once too.
            assert_eq!(taken(&client).len(), seq as usize);
            withdraw(&mut update);
        }
    }
}

#[test]
fn held_changes_can_be_sent_at_once() {
    let client = probe(100);
    let mut fanout = Fanout::default();
    fanout.connect(SessionId(1), client.clone());
    fanout.subscribe(SessionId(1), &event(), step(120_000));
    let now = Instant::now();
    fanout.publish(&event(), &frames(&[("a", 1), ("b", 2)]), now);
    assert!(taken(&client).is_empty());
    assert_eq!(fanout.flush_all(now).delivered, 2);
    assert_eq!(taken(&client).len(), 2);
    assert!(!fanout.is_holding());
}

#[test]
fn subscription_settings_can_change() {
    let client = probe(100);
    let mut fanout = with(std::slice::from_ref(&client));
    let id = SessionId(0);
    let now = Instant::now();
    assert!(fanout.subscribe(id, &event(), step(1_000)));
    assert_eq!(fanout.subscriptions(), 1);
    fanout.publish(&event(), &frames(&[("a", 1)]), now);
    assert!(taken(&client).is_empty());
    assert!(fanout.subscribe(id, &event(), None));
    fanout.publish(&event(), &frames(&[("a", 2)]), now);
    fanout.flush_due(now + Duration::from_secs(9));
    assert_eq!(taken(&client).len(), 1);
    assert!(fanout.subscribe(id, &event(), step(50)));
    fanout.unsubscribe(id, &event());
    assert!(!fanout.has_subscribers(&event()));
    assert_eq!(fanout.subscriptions(), 0);
}

#[test]
fn slow_client_gets_latest_notice_of_source() {
    let slow = probe(0);
    let mut fanout = with(std::slice::from_ref(&slow));
    let source = Source::new("a").unwrap();
    for status in [FeedStatus::Stale, FeedStatus::Live, FeedStatus::Stale] {
        let notice = SourceNotice::new(&event(), &source, status, ShownAt::default());
        let delivery = Delivery::with_notices(vec![notice], Vec::new(), false);
        fanout.publish(&event(), &delivery, Instant::now());
    }
    slow.room.set(1);
    fanout.offer_again();
    let notices = slow.notices.borrow();
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains(r#""status":"stale","source":"a""#));
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
