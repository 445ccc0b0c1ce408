//! Settlements and locked wallets.

use diesel::connection::SimpleConnection;
use pretty_assertions::assert_eq;

use super::support::{Database, column, wait_until};
use crate::domain::settlement::payout::SettledAs;
use crate::domain::settlement::plan::SettlementReason;
use crate::store::money::{SettleBet, SettledNow, SettlementStore, WalletStore};
use crate::store::money_suite::settling::{call, confirmed_bet, home, store_result};
use crate::store::money_suite::{assert_clean, balances, bet_id, order};

fn pay(number: u128) -> SettleBet {
    SettleBet {
        bet_id: bet_id(number),
        settlements: 0,
        becomes: Some((SettledAs::Won, 15)),
        reason: SettlementReason::Result,
        payload: "{}".to_owned(),
    }
}

fn is_settled(answer: &Option<SettledNow>) -> bool {
    matches!(answer, Some(SettledNow::Settled { .. }))
}

/// A batch leaves out the bet whose wallet is locked; alone, it waits for the wallet.
#[test]
#[ignore = "needs the real engines: make test"]
fn locked_wallet_is_left_out_of_settlements() {
    let (store, database) = Database::migrated();
    for (name, number) in [("A", 1), ("B", 2), ("C", 3)] {
        store.deposit(&order(name, 1_000, "d")).unwrap();
        confirmed_bet(&store, "E", (name, number, 10));
    }
    store_result(&store, home("E", 1, "won"), 1);
    let mut other = database.connection();
    let mut observer = database.connection();
    other
        .batch_execute("BEGIN; SELECT FROM wallets WHERE user_id = 'A' FOR UPDATE")
        .unwrap();
    let answers = store.settle_bets(&[pay(1), pay(2)], &call(1, 2)).unwrap();
    assert_eq!(
        answers.iter().map(is_settled).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(answers[0], None);
    assert_eq!(
        (balances(&store, "A"), balances(&store, "B")),
        ((990, 0), (1_005, 0))
    );
    let settled = std::thread::scope(|scope| {
        let settling = scope.spawn(|| store.settle_bet(&pay(1), &call(1, 3)));
        let waits = "SELECT count(*)::text AS text FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait_until("the settlement waits for the wallet", || {
            column(&mut observer, waits) == ["1"]
        });
        // Others are settled meanwhile.
        let others = store.settle_bets(&[pay(3)], &call(1, 3)).unwrap();
        assert!(is_settled(&others[0]), "{others:?}");
        other.batch_execute("COMMIT").unwrap();
        settling.join().unwrap()
    });
    assert!(is_settled(&settled.ok()));
    assert_eq!(balances(&store, "A"), (1_005, 0));
    assert_clean(&store);
}

/// Examining a bet locks no wallet. A settlement by earlier results that waits for the row of the bet
/// then sees that the bet was examined.
#[test]
#[ignore = "needs the real engines: make test"]
fn settlement_sees_what_was_examined_meanwhile() {
    let (store, database) = Database::migrated();
    store.deposit(&order("A", 1_000, "d")).unwrap();
    confirmed_bet(&store, "E", ("A", 1, 10));
    store_result(&store, home("E", 1, "won"), 1);
    store_result(&store, home("E", 2, "won"), 1);
    let mut other = database.connection();
    let mut observer = database.connection();
    other
        .batch_execute("BEGIN; UPDATE bets SET settled_by = 2")
        .unwrap();
    let settled = std::thread::scope(|scope| {
        let settling = scope.spawn(|| store.settle_bets(&[pay(1)], &call(1, 3)));
        let waits = "SELECT count(*)::text AS text FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait_until("the settlement waits for the bet", || {
            column(&mut observer, waits) == ["1"]
        });
        other.batch_execute("COMMIT").unwrap();
        settling.join().unwrap()
    });
    assert_eq!(settled, Ok(vec![Some(SettledNow::Changed)]));
    assert_eq!(balances(&store, "A"), (990, 0));
    assert_clean(&store);
}
