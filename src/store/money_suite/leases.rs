//! Checks of the leases of markets, and of settlers that overtake each other.

use pretty_assertions::assert_eq;
use serde_json::json;

use super::settling::*;
use super::*;
use crate::domain::settlement::payout::SettledAs;
use crate::domain::settlement::plan::SettlementReason;

const FINISHED: FinishedMarket<'static> = FinishedMarket {
    rules: "test",
    held: None,
    missing: 0,
};

/// Users A, B and C with 5000 each.
fn users(store: &dyn MoneyStore) {
    for name in ["A", "B", "C"] {
        store.deposit(&order(name, 5_000, "d")).unwrap();
    }
}

fn status(store: &dyn MoneyStore, number: u128) -> (BetStatus, Option<i64>) {
    let bet = store.bet(bet_id(number)).unwrap().unwrap();
    (bet.status, bet.settlement.map(|one| one.payout_cents))
}

/// What a settler does that has read this bet: pay 152.
fn pay(bet: &DueBet) -> SettleBet {
    SettleBet {
        bet_id: bet.id,
        settlements: bet.settlements,
        becomes: Some((SettledAs::Won, 152)),
        reason: SettlementReason::Result,
        payload: json!({}).to_string(),
    }
}

fn examined(bet: &DueBet) -> ExaminedBet {
    ExaminedBet {
        bet_id: bet.id,
        settlements: bet.settlements,
        held: None,
    }
}

pub(crate) fn market_is_leased_to_one_settler(store: &dyn MoneyStore) {
    assert_eq!(lease(store, 0), None);
    store_result(store, home("E", 1, "won"), 10);
    store_result(store, home("F", 1, "won"), 11);
    assert_eq!(lease(store, 9), None, "no market is due yet");
    let first = lease(store, 20).unwrap();
    assert_eq!(
        (&first.market, first.generation, first.due_since),
        (&market("E"), 1, at(10))
    );
    let other = lease(store, 20).unwrap();
    assert_eq!(other.market, market("F"));
    assert_eq!(lease(store, 20), None, "both are leased");
    // An extended lease lasts longer, one that has expired goes to somebody else.
    assert_eq!(store.extend_lease(&first, at(30)), Ok(true));
    let taken = lease(store, 21).unwrap();
    assert_eq!(taken.market, market("F"));
    assert_ne!(taken.id, other.id);
    assert_eq!(store.extend_lease(&other, at(99)), Ok(false));
    assert_eq!(store.finish_market(&other, &FINISHED), Ok(false));
    // Its holder keeps an expired lease until somebody takes it.
    assert_eq!(store.extend_lease(&first, at(31)), Ok(true));
    assert_eq!(store.finish_market(&first, &FINISHED), Ok(true));
    assert_eq!(store.finish_market(&first, &FINISHED), Ok(false));
    assert_eq!(store.finish_market(&taken, &FINISHED), Ok(true));
    assert_eq!(lease(store, 99), None, "nothing is due");
    assert_eq!(store.settlement_backlog(), Ok(SettlementBacklog::default()));
}

pub(crate) fn new_record_ends_a_lease(store: &dyn MoneyStore) {
    store_result(store, home("E", 1, "won"), 10);
    let first = lease(store, 20).unwrap();
    // A record that is known changes nothing.
    store_result(store, home("E", 1, "won"), 20);
    assert_eq!(store.extend_lease(&first, at(30)), Ok(true));
    store_result(store, home("E", 2, "lost"), 20);
    assert_eq!(store.extend_lease(&first, at(30)), Ok(false));
    assert_eq!(store.finish_market(&first, &FINISHED), Ok(false));
    let second = lease(store, 20).unwrap();
    // It has been due since the first record.
    assert_eq!((second.generation, second.due_since), (2, at(10)));
    assert_eq!(store.finish_market(&second, &FINISHED), Ok(true));
    store_result(store, home("E", 3, "lost"), 40);
    assert_eq!(lease(store, 40).unwrap().due_since, at(40));
}

pub(crate) fn held_and_missing_bets_are_counted(store: &dyn MoneyStore) {
    users(store);
    confirmed_bet(store, "E", ("A", 1, 100));
    confirmed_bet(store, "E", ("B", 2, 100));
    store_result(store, home("E", 1, "won"), 10);
    let first = lease(store, 20).unwrap();
    let held = FinishedMarket {
        held: Some("market_limit"),
        missing: 3,
        ..FINISHED
    };
    // Held as a whole, although bets are due.
    assert_eq!(store.finish_market(&first, &held), Ok(true));
    let backlog = SettlementBacklog {
        held_markets: 1,
        missing_bets: 3,
        ..SettlementBacklog::default()
    };
    assert_eq!(store.settlement_backlog(), Ok(backlog));
    assert_eq!(lease(store, 30), None);
    assert_clean(store);
    // A new record makes it due again, and each bet may be held by itself.
    store_result(store, home("E", 2, "won"), 31);
    let second = lease(store, 32).unwrap();
    let bets = due(store, &second, BetState::Open);
    let held = ExaminedBet {
        held: Some("disagreement"),
        ..examined(&bets[0])
    };
    store.mark_examined(&[held, examined(&bets[1])], 2).unwrap();
    assert_eq!(store.finish_market(&second, &FINISHED), Ok(true));
    let backlog = SettlementBacklog {
        held_bets: 1,
        ..SettlementBacklog::default()
    };
    assert_eq!(store.settlement_backlog(), Ok(backlog));
    // What users owe.
    store_result(store, home("E", 3, "won"), 40);
    settle_all(store, 41);
    assert_eq!(store.settlement_backlog(), Ok(SettlementBacklog::default()));
    store.withdraw(&order("A", 5_000, "w")).unwrap();
    store_result(store, home("E", 4, "lost"), 42);
    settle_all(store, 43);
    let backlog = SettlementBacklog {
        owed_cents: 100,
        ..SettlementBacklog::default()
    };
    assert_eq!(store.settlement_backlog(), Ok(backlog));
}

/// L14: the bet is confirmed after the result.
pub(crate) fn late_confirmation_reopens_its_market(store: &dyn MoneyStore) {
    users(store);
    placed_bet(store, "E", ("A", 1, 100));
    placed_bet(store, "E", ("B", 2, 100));
    placed_bet(store, "F", ("C", 3, 100));
    assert_eq!(store.has_pending_bets(&market("E")), Ok(true));
    assert_eq!(store.has_pending_bets(&market("G")), Ok(false));
    store_result(store, home("E", 1, "won"), 10);
    let first = lease(store, 20).unwrap();
    assert_eq!(due(store, &first, BetState::Open), []);
    assert_eq!(store.finish_market(&first, &FINISHED), Ok(true));
    // A rejected bet, and one of a market without results, reopen nothing.
    decide(store, 3, &confirmed());
    decide(store, 2, &rejected());
    assert_eq!(store.reopen_markets(at(21), 10), Ok(0));
    decide(store, 1, &confirmed());
    assert_eq!(store.has_pending_bets(&market("E")), Ok(false));
    // The bet waits to be queued, and is no violation.
    assert_clean(store);
    assert_eq!(lease(store, 22), None);
    assert_eq!(store.reopen_markets(at(22), 10), Ok(1));
    assert_eq!(store.reopen_markets(at(22), 10), Ok(0));
    let second = lease(store, 22).unwrap();
    assert_eq!((second.generation, second.due_since), (1, at(22)));
    assert_eq!(
        Settler::default().settle(store, &second, 22),
        Attempt::Finished
    );
    assert_eq!(status(store, 1), (BetStatus::Settled, Some(152)));
}

pub(crate) fn reopening_ends_a_lease(store: &dyn MoneyStore) {
    users(store);
    for (number, name) in [(1, "A"), (2, "B"), (3, "C")] {
        placed_bet(store, "E", (name, number, 100));
    }
    store_result(store, home("E", 1, "won"), 10);
    let first = lease(store, 20).unwrap();
    for number in 1..=3 {
        decide(store, number, &confirmed());
    }
    assert_eq!(store.reopen_markets(at(20), 2), Ok(2));
    assert_eq!(store.extend_lease(&first, at(30)), Ok(false));
    assert_eq!(store.finish_market(&first, &FINISHED), Ok(false));
    let second = lease(store, 20).unwrap();
    assert_eq!((second.generation, second.due_since), (1, at(10)));
    assert_eq!(
        Settler::default().settle(store, &second, 20),
        Attempt::Finished
    );
    // The third one is still queued, and settled already: the market is only looked at again.
    assert_eq!(store.reopen_markets(at(21), 2), Ok(1));
    let third = lease(store, 21).unwrap();
    assert_eq!(due(store, &third, BetState::Open), []);
    assert_eq!(
        Settler::default().settle(store, &third, 21),
        Attempt::Finished
    );
    assert_eq!(balances(store, "C"), (5_052, 0));
}

pub(crate) fn other_rules_reopen_markets_with_open_bets(store: &dyn MoneyStore) {
    users(store);
    confirmed_bet(store, "E", ("A", 1, 100));
    confirmed_bet(store, "F", ("A", 2, 100));
    store_result(store, rollback("E", 1), 10);
    store_result(store, home("F", 1, "won"), 10);
    store_result(store, home("G", 1, "won"), 10);
    // Markets that are due are settled by the rules of then anyway.
    assert_eq!(store.apply_rules("other", at(11)), Ok(0));
    settle_all(store, 11);
    assert_eq!(store.apply_rules("test", at(12)), Ok(0));
    assert_eq!(store.apply_rules("other", at(13)), Ok(1));
    assert_eq!(store.apply_rules("other", at(14)), Ok(0));
    let again = lease(store, 14).unwrap();
    assert_eq!(
        (&again.market, again.generation, again.due_since),
        (&market("E"), 2, at(13))
    );
    assert_eq!(store.market_results(&again.market).unwrap().generation, 2);
    assert_eq!(due(store, &again, BetState::Open).len(), 1);
    let finished = FinishedMarket {
        rules: "other",
        ..FINISHED
    };
    store
        .mark_examined(&[examined(&due(store, &again, BetState::Open)[0])], 2)
        .unwrap();
    assert_eq!(store.finish_market(&again, &finished), Ok(true));
    assert_eq!(store.apply_rules("other", at(15)), Ok(0));
    // The next record has the next generation.
    store_result(store, home("E", 2, "won"), 16);
    assert_eq!(lease(store, 16).unwrap().generation, 3);
    settle_all(store, 18);
}

/// A settler whose lease has ended does not undo what another one found by later results.
pub(crate) fn earlier_results_do_not_undo_later_ones(store: &dyn MoneyStore) {
    users(store);
    confirmed_bet(store, "E", ("A", 1, 100));
    confirmed_bet(store, "E", ("B", 2, 100));
    store_result(store, home("E", 1, "won"), 10);
    let slow = lease(store, 20).unwrap();
    let read = due(store, &slow, BetState::Open);
    assert_eq!(store.extend_lease(&slow, at(30)), Ok(true));
    store_result(store, rollback("E", 2), 21);
    // The other one finds the bets open, as they are.
    settle_all(store, 22);
    assert_eq!(
        store.settle_bet(&pay(&read[0]), &call(1, 23)),
        Ok(SettledNow::Changed)
    );
    let answers = store.settle_bets(&[pay(&read[0]), pay(&read[1])], &call(1, 23));
    assert_eq!(answers, Ok(vec![Some(SettledNow::Changed); 2]));
    assert_eq!(status(store, 1), (BetStatus::Confirmed, None));
    // It does not mark them as examined by the earlier results either.
    let held = ExaminedBet {
        held: Some("disagreement"),
        ..examined(&read[0])
    };
    store.mark_examined(&[held], 1).unwrap();
    assert_eq!(store.settlement_backlog(), Ok(SettlementBacklog::default()));
    assert_clean(store);
}

/// A market is not finished while a settler whose lease has ended has settled a bet by earlier results.
pub(crate) fn market_with_due_bets_is_not_finished(store: &dyn MoneyStore) {
    users(store);
    confirmed_bet(store, "E", ("A", 1, 100));
    store_result(store, home("E", 1, "won"), 10);
    let slow = lease(store, 20).unwrap();
    let read = due(store, &slow, BetState::Open);
    store_result(store, rollback("E", 2), 21);
    let fast = lease(store, 22).unwrap();
    let bets = due(store, &fast, BetState::Open);
    assert!(matches!(
        store.settle_bet(&pay(&read[0]), &call(1, 23)),
        Ok(SettledNow::Settled { .. })
    ));
    store.mark_examined(&[examined(&bets[0])], 2).unwrap();
    assert_eq!(store.finish_market(&fast, &FINISHED), Ok(false));
    assert_eq!(store.extend_lease(&fast, at(24)), Ok(true));
    settle_all(store, 25);
    assert_eq!(status(store, 1), (BetStatus::Confirmed, None));
    assert_eq!(balances(store, "A"), (4_900, 0));
    assert_eq!(house(store, "A"), (100, 0));
    // The same with a bet that was settled, and is open by the earlier results.
    store_result(store, home("E", 3, "won"), 30);
    settle_all(store, 31);
    store_result(store, rollback("E", 4), 32);
    let slow = lease(store, 33).unwrap();
    let read = due(store, &slow, BetState::Settled);
    store_result(store, home("E", 5, "won"), 34);
    let fast = lease(store, 35).unwrap();
    assert_eq!(due(store, &fast, BetState::Open), []);
    let opened = SettleBet {
        becomes: None,
        reason: SettlementReason::Withdrawn,
        ..pay(&read[0])
    };
    assert!(matches!(
        store.settle_bet(&opened, &call(4, 36)),
        Ok(SettledNow::Settled { .. })
    ));
    assert_eq!(due(store, &fast, BetState::Settled), []);
    assert_eq!(store.finish_market(&fast, &FINISHED), Ok(false));
    settle_all(store, 40);
    assert_eq!(status(store, 1), (BetStatus::Settled, Some(152)));
}

/// A bet that is confirmed late and settled by earlier results stays queued.
pub(crate) fn late_bet_settled_by_earlier_results_is_due(store: &dyn MoneyStore) {
    users(store);
    placed_bet(store, "E", ("A", 1, 100));
    store_result(store, home("E", 1, "won"), 10);
    let slow = lease(store, 20).unwrap();
    store_result(store, home("E", 2, "lost"), 21);
    let fast = lease(store, 22).unwrap();
    assert_eq!(due(store, &fast, BetState::Open), []);
    assert_eq!(store.finish_market(&fast, &FINISHED), Ok(true));
    decide(store, 1, &confirmed());
    let read = due(store, &slow, BetState::Open);
    assert!(matches!(
        store.settle_bet(&pay(&read[0]), &call(1, 23)),
        Ok(SettledNow::Settled { .. })
    ));
    assert_clean(store);
    settle_all(store, 24);
    assert_eq!(status(store, 1), (BetStatus::Settled, Some(0)));
}

/// What waits is no violation of a rule; what should not wait is one.
pub(crate) fn unsettled_bets_are_found<R: Raw>(store: &dyn MoneyStore, raw: &R) {
    users(store);
    confirmed_bet(store, "E", ("A", 1, 100));
    store_result(store, home("E", 1, "won"), 10);
    let violations = |seconds: i64| {
        let found = store.verify(at(seconds), Duration::from_secs(60)).unwrap();
        found.violations()
    };
    assert_eq!(violations(10 + 3_660), 0);
    assert_eq!(violations(10 + 3_661), 1);
    let first = lease(store, 20).unwrap();
    let held = FinishedMarket {
        held: Some("market_limit"),
        ..FINISHED
    };
    assert_eq!(store.finish_market(&first, &held), Ok(true));
    assert_eq!(violations(100_000), 0);
    raw.run("UPDATE market_settlements SET held = NULL")
        .unwrap();
    assert_eq!(violations(0), 1);
    raw.run("INSERT INTO bets_to_settle (bet_id, at) SELECT id, placed_at FROM bets")
        .unwrap();
    assert_eq!(violations(0), 0);
    settle_all(store, 30);
    assert_clean(store);
}
