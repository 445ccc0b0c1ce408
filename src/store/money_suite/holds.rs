//! Checks of holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pretty_assertions::assert_eq;

use super::batches::{place, placement};
use super::concurrency::concurrently;
use super::*;
use crate::domain::bets::bet::BetRefusal;
use crate::domain::odds::hold::{Hold, HoldScope};
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::testing::market_update;
use crate::store::Store;
use crate::store::holds::{HoldOrder, HoldStep, HoldStore, Released, StoredHold};
use crate::store::suite::positioned;

fn step(reason: &str, seconds: i64) -> HoldStep {
    HoldStep {
        at: at(seconds),
        by: "operator".to_owned(),
        reason: reason.to_owned(),
    }
}

fn held(scope: HoldScope, until: Option<Timestamp>) -> HoldOrder {
    HoldOrder {
        request: Uuid::now_v7(),
        scope,
        until,
        step: step("suspicious", -1),
    }
}

fn set(store: &dyn MoneyStore, scope: HoldScope) -> i64 {
    store.set_hold(&held(scope, None)).unwrap()
}

fn release(store: &dyn MoneyStore, id: i64) {
    let released = store.release_hold(id, &step("resolved", 0)).unwrap();
    assert!(matches!(released, Released::Now(_)), "{released:?}");
}

fn event() -> EventId {
    EventId::new("MATCH_001").unwrap()
}

fn market(name: &str, line: Option<&str>) -> MarketKey {
    MarketKey {
        name: MarketName::new(name).unwrap(),
        line: line.map(|line| line.parse().unwrap()),
    }
}

fn selection(id: &str) -> SelectionId {
    SelectionId::new(id).unwrap()
}

fn market_suspended() -> BetAnswer {
    BetAnswer::Refused(BetRefusal::MarketSuspended {
        status: MarketStatus::Suspended,
    })
}

fn selection_suspended() -> BetAnswer {
    BetAnswer::Refused(BetRefusal::SelectionSuspended {
        status: SelectionStatus::Suspended,
    })
}

/// Bets on `1x2`, `total_goals` 2.5 and 3.5, and on another event, and their answers: `None` for a
/// placed bet. All are placed with the same key, and then again one by one.
fn answers(store: &dyn MoneyStore, round: u128) -> Vec<Option<BetAnswer>> {
    let mut placements: Vec<_> = (0..4)
        .map(|number| placement("A", round * 10 + number, 1, None))
        .collect();
    placements[1].bet.market = market("total_goals", Some("2.5"));
    placements[2].bet.market = market("total_goals", Some("3.5"));
    placements[3].bet.event_id = EventId::new("MATCH_002").unwrap();
    placements[3].source = Source::new("b").unwrap();
    let answers = place(store, &placements).into_iter();
    answers
        .map(|answer| Some(answer).filter(|answer| !matches!(answer, BetAnswer::Placed { .. })))
        .collect()
}

pub(crate) fn held_bets_are_refused(store: &dyn MoneyStore) {
    store.deposit(&order("A", 1_000, "d")).unwrap();
    let (refused, by_selection) = (Some(market_suspended()), Some(selection_suspended()));
    let (goals, result) = (market("total_goals", Some("2.5")), market("1x2", None));
    let [held, open] = [refused.clone(), None];
    let cases = [
        (HoldScope::All, [&held, &held, &held, &held]),
        (HoldScope::Source(source()), [&held, &held, &held, &open]),
        (HoldScope::Event(event()), [&held, &held, &held, &open]),
        (
            HoldScope::Market(event(), goals.clone()),
            [&open, &held, &open, &open],
        ),
        (
            HoldScope::Market(event(), market("total_goals", None)),
            [&open; 4],
        ),
        (
            HoldScope::Selection(event(), result.clone(), selection("home")),
            [&by_selection, &open, &open, &open],
        ),
        (
            HoldScope::Selection(event(), result, selection("away")),
            [&open; 4],
        ),
    ];
    for (round, (scope, expected)) in cases.into_iter().enumerate() {
        let id = set(store, scope.clone());
        let round = 2 * round as u128;
        assert_eq!(
            answers(store, round),
            expected.map(Clone::clone),
            "{scope:?}"
        );
        let stored = store.holds(Some(at(0))).unwrap();
        let expected = StoredHold {
            hold: Hold {
                id,
                scope,
                until: None,
            },
            set: step("suspicious", -1),
            released: None,
        };
        assert_eq!(stored, [expected]);
        release(store, id);
        assert_eq!(answers(store, round + 1), vec![None; 4]);
    }
    assert_eq!(store.holds(Some(at(0))), Ok(Vec::new()));
    let all = store.holds(None).unwrap();
    assert_eq!(all.len(), 7);
    assert!(
        all.iter()
            .all(|hold| hold.released == Some(step("resolved", 0)))
    );
}

pub(crate) fn each_hold_is_released_by_itself(store: &dyn MoneyStore) {
    store.deposit(&order("A", 100, "d")).unwrap();
    let scope = HoldScope::Market(event(), market("1x2", None));
    let (one, other) = (set(store, scope.clone()), set(store, scope));
    assert!(one < other);
    let bet_on = |number| place_bet(store, &bet("A", bet_id(number), 1), None, &notice(""));
    release(store, one);
    assert_eq!(bet_on(1), Ok(market_suspended()));
    let all = set(store, HoldScope::All);
    release(store, other);
    assert_eq!(bet_on(2), Ok(market_suspended()));
    release(store, all);
    assert!(matches!(bet_on(3), Ok(BetAnswer::Placed { .. })));
}

pub(crate) fn hold_ends_at_its_time(store: &dyn MoneyStore) {
    store.deposit(&order("A", 100, "d")).unwrap();
    let id = store.set_hold(&held(HoldScope::All, Some(at(5)))).unwrap();
    let bet_at = |number, seconds| {
        let mut bet = bet("A", bet_id(number), 1);
        bet.placed_at = at(seconds);
        bet.decide_by = at(20);
        place_bet(store, &bet, None, &notice(""))
    };
    assert_eq!(bet_at(1, 4), Ok(market_suspended()));
    assert!(matches!(bet_at(2, 5), Ok(BetAnswer::Placed { .. })));
    // Each bet of a batch is judged at its own time.
    let mut batch = [
        placement("A", 3, 1, None),
        placement("A", 4, 1, None),
        placement("B", 5, 1, None),
    ];
    store.deposit(&order("B", 100, "d")).unwrap();
    for (placement, seconds) in batch.iter_mut().zip([5, 4, 6]) {
        placement.bet.placed_at = at(seconds);
    }
    let placed = place(store, &batch);
    let is_placed = |answer: &BetAnswer| matches!(answer, BetAnswer::Placed { .. });
    assert_eq!(
        placed.iter().map(is_placed).collect::<Vec<_>>(),
        [true, false, true]
    );
    let in_force = |seconds| store.holds(Some(at(seconds))).unwrap().len();
    assert_eq!((in_force(4), in_force(5)), (1, 0));
    assert_eq!(store.holds(None).unwrap()[0].hold.id, id);
    release(store, id);
}

pub(crate) fn refusal_by_hold_is_stored_with_key(store: &dyn MoneyStore) {
    store.deposit(&order("A", 100, "d")).unwrap();
    let first = key("k", "f");
    let bet_with = |number, key: &RequestKey| {
        place_bet(store, &bet("A", bet_id(number), 1), Some(key), &notice(""))
    };
    let placed = bet_with(1, &key("before", "f")).unwrap();
    let id = set(store, HoldScope::Event(event()));
    assert_eq!(bet_with(2, &first), Ok(market_suspended()));
    // A repeated request gets its first answer: of a placed bet during the hold, and of a refused
    // one after it.
    match (bet_with(3, &key("before", "f")).unwrap(), placed) {
        (BetAnswer::Placed { bet_id: again, .. }, BetAnswer::Placed { bet_id: first, .. }) => {
            assert_eq!(again, first);
        }
        other => panic!("{other:?}"),
    }
    release(store, id);
    assert_eq!(bet_with(4, &first), Ok(market_suspended()));
    assert!(matches!(
        bet_with(5, &key("k2", "f")),
        Ok(BetAnswer::Placed { .. })
    ));
    assert_eq!(balances(store, "A"), (98, 2));
    // The hold counts first, as the state of the market does.
    set(store, HoldScope::All);
    let poor = bet("A", bet_id(6), 1_000);
    assert_eq!(
        place_bet(store, &poor, None, &notice("")),
        Ok(market_suspended())
    );
}

/// Held bets of a batch are refused in it, and the others are placed.
pub(crate) fn held_bets_do_not_delay_their_batch(store: &dyn MoneyStore) {
    for name in ["A", "B", "C"] {
        store.deposit(&order(name, 100, "d")).unwrap();
    }
    set(store, HoldScope::Market(event(), market("corners", None)));
    let mut batch: Vec<_> = ["A", "A", "B", "C"]
        .into_iter()
        .zip(1..)
        .map(|(name, number)| placement(name, number, 1, Some(key(&number.to_string(), "f"))))
        .collect();
    batch[0].bet.market = market("corners", None);
    batch[2].bet.market = market("corners", None);
    let answers = store.place_bets(&batch).unwrap();
    let is_placed = |answer: &Option<BetAnswer>| matches!(answer, Some(BetAnswer::Placed { .. }));
    assert_eq!(answers[0], Some(market_suspended()));
    assert!(is_placed(&answers[1]), "{answers:?}");
    assert_eq!(answers[2], Some(market_suspended()));
    assert!(is_placed(&answers[3]), "{answers:?}");
    assert_eq!(
        ["A", "B", "C"].map(|name| balances(store, name)),
        [(99, 1), (100, 0), (99, 1)]
    );
}

pub(crate) fn repeated_hold_requests_count_once(store: &dyn MoneyStore) {
    let order = held(HoldScope::All, None);
    let id = store.set_hold(&order).unwrap();
    assert_eq!(store.set_hold(&order), Ok(id));
    assert_eq!(store.holds(None).unwrap().len(), 1);
    for _ in 0..2 {
        release(store, id);
    }
    let again = store.release_hold(id, &step("once more", 1)).unwrap();
    match again {
        Released::Before(hold) => assert_eq!(hold.released, Some(step("resolved", 0))),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        store.release_hold(id + 1, &step("typo", 1)),
        Ok(Released::Unknown)
    );
}

/// A bet that is requested after the hold was set is refused, whatever is in flight.
pub(crate) fn no_bet_is_placed_after_a_hold(store: &dyn MoneyStore) {
    const CLIENTS: usize = 6;
    for client in 1..=CLIENTS {
        let deposit = order(&format!("user{client}"), 1_000_000, "d");
        store.deposit(&deposit).unwrap();
    }
    let (placed, is_held) = (AtomicU64::new(0), AtomicBool::new(false));
    concurrently(CLIENTS + 1, |client| {
        if client == 0 {
            while placed.load(Ordering::SeqCst) < 4 * CLIENTS as u64 {
                std::thread::yield_now();
            }
            set(store, HoldScope::Event(event()));
            is_held.store(true, Ordering::SeqCst);
            return;
        }
        let name = format!("user{client}");
        for number in 0.. {
            let was_held = is_held.load(Ordering::SeqCst);
            let id = 1_000_000 * client as u128 + number;
            let answer = place(store, &[placement(&name, id, 1, None)]).remove(0);
            if answer == market_suspended() {
                break;
            }
            assert!(matches!(answer, BetAnswer::Placed { .. }), "{answer:?}");
            assert!(!was_held, "a bet was placed after the hold");
            placed.fetch_add(1, Ordering::SeqCst);
        }
    });
}

pub(crate) fn open_markets_are_counted<S: Store + HoldStore>(store: &S) {
    let markets = [
        ("E", None, MarketStatus::Open),
        ("E", Some("2.5"), MarketStatus::Open),
        ("E", Some("3.5"), MarketStatus::Closed),
        ("F", None, MarketStatus::Open),
    ];
    let updates = markets.map(|(event, line, status)| {
        let mut update = market_update(event, "goals", line, 1, 1);
        update.source = Source::new(event).unwrap();
        update.status = status;
        update
    });
    let known = updates[0].selections[0].id.clone();
    store.write_updates(&positioned(1, updates)).unwrap();
    let event = |id| EventId::new(id).unwrap();
    let goals = |line| market("goals", line);
    for (scope, expected) in [
        (HoldScope::All, 3),
        (HoldScope::Source(Source::new("E").unwrap()), 2),
        (HoldScope::Source(Source::new("none").unwrap()), 0),
        (HoldScope::Event(event("E")), 2),
        (HoldScope::Event(event("none")), 0),
        (HoldScope::Market(event("E"), goals(Some("2.5"))), 1),
        (HoldScope::Market(event("E"), goals(Some("3.5"))), 0),
        (HoldScope::Market(event("F"), goals(None)), 1),
        (HoldScope::Selection(event("F"), goals(None), known), 1),
        (
            HoldScope::Selection(event("F"), goals(None), selection("none")),
            0,
        ),
    ] {
        assert_eq!(store.count_open_markets(&scope), Ok(expected), "{scope:?}");
    }
}

pub(crate) fn records_stay<R: Raw>(store: &dyn MoneyStore, raw: &R) {
    let (kept, released) = (
        set(store, HoldScope::Event(event())),
        set(store, HoldScope::All),
    );
    release(store, released);
    let before = store.holds(None).unwrap();
    for change in [
        "UPDATE holds SET reason = 'other'",
        "UPDATE holds SET until = created_at",
        "UPDATE holds SET released_at = NULL, released_by = NULL, release_reason = NULL",
        "UPDATE holds SET released_by = 'other' WHERE released_at IS NOT NULL",
        "DELETE FROM holds",
    ] {
        let refused = raw.run(change).unwrap_err();
        assert!(refused.contains("a hold is never changed"), "{refused}");
    }
    for change in [
        "UPDATE hold_audit SET reason = 'other'",
        "DELETE FROM hold_audit",
    ] {
        let refused = raw.run(change).unwrap_err();
        assert!(refused.contains("audit of holds"), "{refused}");
    }
    assert_eq!(store.holds(None).unwrap(), before);
    // A scope names what it needs, and nothing else.
    for scope in [
        "'all', 'a', NULL, NULL, NULL, NULL",
        "'source', NULL, NULL, NULL, NULL, NULL",
        "'event', NULL, NULL, 'm', '', NULL",
        "'market', NULL, 'E', 'm', NULL, NULL",
        "'selection', NULL, 'E', 'm', '', NULL",
        "'other', NULL, NULL, NULL, NULL, NULL",
    ] {
        let insert = format!(
            "INSERT INTO holds (request, scope, source, event_id, market, line, selection, reason, created_by, created_at)
            SELECT '01990000-0000-7000-8000-000000000099', {scope}, 'r', 'o', created_at FROM holds WHERE id = {kept}"
        );
        let refused = raw.run(&insert).unwrap_err().to_lowercase();
        assert!(refused.contains("check"), "{refused}");
    }
}
