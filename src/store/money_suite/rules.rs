//! Checks that each rule detects its violations.

use pretty_assertions::assert_eq;
use serde_json::json;

use super::settling::*;
use super::*;

/// A violation: the start of the rule's text, SQL that breaks the rule with the integrity checks
/// disabled, and a part of the reported line.
pub(crate) struct Broken {
    rule: &'static str,
    by: &'static str,
    message: &'static str,
}

const fn broken(rule: &'static str, by: &'static str, message: &'static str) -> Broken {
    Broken { rule, by, message }
}

const TOTAL: &str = "debits equal credits";
const SUMS: &str = "each wallet balance equals the sum";
const CHAIN: &str = "the balances after each transfer";
const LAST: &str = "the balances after a user's last transfer";
const BELOW_ZERO: &str = "no balance is negative";
const USERS: &str = "each user with transfers";
const TWICE: &str = "no reference identifies two";
const KINDS: &str = "each transfer is between the accounts of its kind";
const HELD: &str = "each reservation was made by exactly one";
const ENDED: &str = "each reservation that ended";
const UNRESERVED: &str = "each reserve, commit, refund or expire transfer";
const ENDS: &str = "each reservation and each bet has an end time";
const STAKE: &str = "each bet has exactly one reservation";
const BETLESS: &str = "each reservation that is held for a bet";
const STATUS: &str = "the stake of a pending bet is held";
const STEPS: &str = "each bet's last step";
const STRAY: &str = "each step refers to an existing bet";
const LATE: &str = "no bet stays undecided";
const KEYS: &str = "each idempotency key refers";
const CANCELS: &str = "the supplier is asked to cancel";
const ORDER: &str = "each step starts at the status";
const OUTCOME: &str = "each settled bet has an outcome";
const MOVED: &str = "the transfers of each settled bet";
const STAKES: &str = "the stakes account holds";
const SETTLED: &str = "each bet's last settlement";
const DIFFERENCE: &str = "the difference of each settlement";
const SETTLEMENT: &str = "each settlement moved its difference";
const LATER: &str = "no bet and no market is settled by later results";
const UNSETTLED: &str = "each bet is settled by the latest results";

/// The bets of the scenario: 1 is confirmed, 2 rejected, 3 pending, 4 timed out. Those of the user S: 5 and 6
/// had won and have lost, when S had withdrawn the payouts; 7 had lost and is open again; 8 has won later, and
/// its payout pays off a part of the debt; 9 is open.
#[rustfmt::skip]
pub(crate) const BROKEN: &[Broken] = &[
    broken(TOTAL, "UPDATE wallets SET available_cents = available_cents + 3 WHERE user_id = 'B'",
        "all accounts come to 0 billion and 3 cents, and not to 0"),
    broken(TOTAL, "UPDATE wallets SET available_cents = 9223372036854775807", "all accounts come to 27670116108 billion"),
    broken(TOTAL, "UPDATE wallets SET owed_cents = owed_cents + 3 WHERE user_id = 'S'",
        "all accounts come to 0 billion and -3 cents"),
    broken(SUMS, "UPDATE wallets SET owed_cents = owed_cents + 3 WHERE user_id = 'S'",
        "S: owed and its transfers are apart by 0 billion and 3 cents"),
    broken(SUMS, "DELETE FROM ledger_transfers WHERE kind = 'recover'",
        "S: owed and its transfers are apart by 0 billion and -764 cents"),
    broken(CHAIN, "DELETE FROM ledger_transfers WHERE kind = 'clawback'", "(owe 1195) leads from 333 and 0 to 0 and 0"),
    broken(SUMS, "UPDATE wallets SET available_cents = available_cents - 3 WHERE user_id = 'B'",
        "B: available and its transfers are apart by 0 billion and 3 cents"),
    broken(SUMS, "UPDATE wallets SET reserved_cents = reserved_cents + 1000000000 WHERE user_id = 'A'",
        "A: reserved and its transfers are apart by -1 billion and 0 cents"),
    broken(SUMS, "INSERT INTO wallets (user_id, wallet_id, available_cents, reserved_cents, created_at)
        SELECT 'C', '01990000-0000-7000-8000-00000000000c', 1, 0, created_at FROM wallets WHERE user_id = 'A'",
        "C: available and its transfers are apart by 0 billion and -1 cents"),
    broken(CHAIN, "UPDATE ledger_transfers SET available_after = available_after + 1
        WHERE user_id = 'A' AND kind = 'withdraw'", "(withdraw 500) leads from 10000 and 0 to 9501 and 0"),
    broken(CHAIN, "UPDATE ledger_transfers SET reserved_after = 5 WHERE user_id = 'B'",
        "(deposit 700) leads from 0 and 0 to 700 and 5"),
    broken(CHAIN, "DELETE FROM ledger_transfers WHERE user_id = 'A' AND kind = 'withdraw'", "leads from 10000 and 0 to 9200 and 300"),
    broken(LAST, "UPDATE wallets SET available_cents = 0 WHERE user_id = 'B'",
        "B: the wallet holds 0 and 0, the last transfer left 700 and 0"),
    broken(LAST, "DELETE FROM ledger_transfers WHERE user_id = 'B'",
        "B: the wallet holds 700 and 0, the last transfer left 0 and 0"),
    broken(BELOW_ZERO, "UPDATE wallets SET reserved_cents = -1 WHERE user_id = 'B'", "B: the wallet holds 700 and -1"),
    broken(BELOW_ZERO, "UPDATE wallets SET owed_cents = -1 WHERE user_id = 'S'", "S: the wallet holds 0 and 0, and owes -1"),
    broken(BELOW_ZERO, "UPDATE ledger_transfers SET amount_cents = 0 WHERE user_id = 'B'", "moves 0 and leaves 700 and 0"),
    broken(USERS, "DELETE FROM wallets WHERE user_id = 'B'", "B has no wallet"),
    broken(USERS, "UPDATE reservations SET user_id = 'D' WHERE reference = 'pending'", "D has no wallet"),
    broken(USERS, "UPDATE bets SET user_id = 'E' WHERE id = '01990000-0000-7000-8000-000000000003'", "E has no wallet"),
    broken(TWICE, "INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
        available_after, reserved_after, at)
        SELECT user_id, kind, debit_account, credit_account, amount_cents, reference, available_after, reserved_after, at
        FROM ledger_transfers WHERE kind = 'withdraw'", "A: withdraw w stands for 2 transfers"),
    broken(KINDS, "UPDATE ledger_transfers SET debit_account = 'stakes' WHERE user_id = 'B'",
        "is a deposit from stakes to available"),
    broken(KINDS, "UPDATE ledger_transfers SET debit_account = 'cash' WHERE kind = 'settle'",
        "is a settle from cash to payouts"),
    broken(KINDS, "UPDATE ledger_transfers SET debit_account = 'stakes' WHERE kind = 'unsettle'",
        "is a unsettle from stakes to stakes"),
    broken(KINDS, "UPDATE ledger_transfers SET debit_account = 'cash' WHERE kind = 'payout'",
        "is a payout from cash to available"),
    broken(KINDS, "UPDATE ledger_transfers SET credit_account = 'cash' WHERE kind = 'clawback'",
        "is a clawback from available to cash"),
    broken(KINDS, "UPDATE ledger_transfers SET debit_account = 'available' WHERE kind = 'owe'",
        "is a owe from available to payouts"),
    broken(KINDS, "UPDATE ledger_transfers SET credit_account = 'payouts' WHERE kind = 'recover'",
        "is a recover from available to payouts"),
    broken(KINDS, "UPDATE ledger_transfers SET kind = 'gift' WHERE user_id = 'B'", "is a gift from cash to available"),
    broken(HELD, "UPDATE ledger_transfers SET amount_cents = 1 WHERE kind = 'reserve' AND reference = 'pending'",
        "A: reservation pending of 100 was held by 1 transfers, the lowest of 1"),
    broken(HELD, "DELETE FROM ledger_transfers WHERE kind = 'reserve' AND reference = 'pending'",
        "A: reservation pending of 100 was held by 0 transfers, the lowest of nothing"),
    broken(ENDED, "UPDATE reservations SET status = 'REFUNDED' WHERE reference = 'committed'",
        "A: reservation committed of 300 is REFUNDED by 1 transfers, the first a commit of 300"),
    broken(ENDED, "UPDATE reservations SET status = 'PENDING' WHERE reference = 'refunded'",
        "A: reservation refunded of 200 is PENDING by 1 transfers"),
    broken(ENDED, "DELETE FROM ledger_transfers WHERE kind = 'expire'",
        "A: reservation expired of 50 is EXPIRED by 0 transfers, the first a nothing"),
    broken(ENDED, "UPDATE ledger_transfers SET kind = 'refund' WHERE kind = 'expire'",
        "A: reservation expired of 50 is EXPIRED by 1 transfers, the first a refund of 50"),
    broken(ENDED, "INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
        available_after, reserved_after, at)
        SELECT user_id, 'refund', 'reserved', 'available', amount_cents, reference, available_after, reserved_after, at
        FROM ledger_transfers WHERE kind = 'commit' AND reference = 'committed'",
        "A: reservation committed of 300 is COMMITTED by 2 transfers"),
    broken(UNRESERVED, "DELETE FROM reservations WHERE reference = 'committed'", "A: commit committed has no reservation"),
    broken(ENDS, "UPDATE reservations SET settled_at = created_at WHERE reference = 'pending'",
        "A: reservation pending is PENDING, and ended at "),
    broken(ENDS, "UPDATE reservations SET settled_at = NULL WHERE reference = 'refunded'",
        "A: reservation refunded is REFUNDED, and ended at no time"),
    broken(ENDS, "UPDATE bets SET decided_at = NULL WHERE id = '01990000-0000-7000-8000-000000000001'",
        "A: bet 01990000-0000-7000-8000-000000000001 is CONFIRMED, and was decided at no time"),
    broken(ENDS, "UPDATE bets SET decided_at = placed_at WHERE id = '01990000-0000-7000-8000-000000000003'",
        "A: bet 01990000-0000-7000-8000-000000000003 is PENDING_CONFIRMATION, and was decided at "),
    broken(STAKE, "UPDATE reservations SET amount_cents = 1 WHERE bet_id = '01990000-0000-7000-8000-000000000003'",
        "A: bet 01990000-0000-7000-8000-000000000003 of 13 has 1 reservations: 01990000-0000-7000-8000-000000000003 of A and 1"),
    broken(STAKE, "DELETE FROM reservations WHERE bet_id = '01990000-0000-7000-8000-000000000003'",
        "A: bet 01990000-0000-7000-8000-000000000003 of 13 has 0 reservations: nothing"),
    broken(STAKE, "UPDATE bets SET user_id = 'B' WHERE id = '01990000-0000-7000-8000-000000000003'",
        "B: bet 01990000-0000-7000-8000-000000000003 of 13 has 1 reservations: 01990000-0000-7000-8000-000000000003 of A and 13"),
    broken(STAKE, "UPDATE reservations SET reference = 'other' WHERE bet_id = '01990000-0000-7000-8000-000000000003'",
        "has 1 reservations: other of A and 13"),
    broken(BETLESS, "DELETE FROM bets WHERE id = '01990000-0000-7000-8000-000000000003'",
        "is held for bet 01990000-0000-7000-8000-000000000003, which is not there"),
    broken(STATUS, "UPDATE bets SET status = 'REJECTED' WHERE id = '01990000-0000-7000-8000-000000000001'",
        "A: bet 01990000-0000-7000-8000-000000000001 is REJECTED and its reservation COMMITTED"),
    broken(STATUS, "UPDATE reservations SET status = 'EXPIRED' WHERE bet_id = '01990000-0000-7000-8000-000000000002'",
        "is REJECTED and its reservation EXPIRED"),
    broken(STATUS, "UPDATE bets SET status = 'CONFIRMED' WHERE id = '01990000-0000-7000-8000-000000000003'",
        "is CONFIRMED and its reservation PENDING"),
    broken(STATUS, "UPDATE reservations SET status = 'REFUNDED' WHERE bet_id = '01990000-0000-7000-8000-000000000005'",
        "S: bet 01990000-0000-7000-8000-000000000005 is SETTLED and its reservation REFUNDED"),
    broken(STEPS, "DELETE FROM bet_history WHERE new_status = 'SETTLED' AND bet_id = '01990000-0000-7000-8000-000000000008'",
        "is SETTLED, its last step led to CONFIRMED, and 1 decided it, 0 settled it"),
    broken(STEPS, "DELETE FROM bet_history WHERE old_status = 'CONFIRMED' AND bet_id = '01990000-0000-7000-8000-000000000005'",
        "is SETTLED, its last step led to SETTLED, and 1 decided it, 1 settled it"),
    broken(ORDER, "DELETE FROM bet_history WHERE old_status = 'CONFIRMED' AND bet_id = '01990000-0000-7000-8000-000000000005'",
        "of bet 01990000-0000-7000-8000-000000000005 leads from SETTLED to SETTLED, and the previous one led to CONFIRMED"),
    broken(ORDER, "UPDATE bet_history SET old_status = NULL WHERE new_status = 'REJECTED'",
        "leads from nothing to REJECTED, and the previous one led to PENDING_CONFIRMATION"),
    broken(OUTCOME, "UPDATE bets SET outcome = NULL WHERE id = '01990000-0000-7000-8000-000000000008'",
        "S: bet 01990000-0000-7000-8000-000000000008 is SETTLED, with outcome nothing, payout 764 and time "),
    broken(OUTCOME, "UPDATE bets SET payout_cents = NULL WHERE id = '01990000-0000-7000-8000-000000000008'",
        "is SETTLED, with outcome won, payout nothing and time "),
    broken(OUTCOME, "UPDATE bets SET settled_at = NULL WHERE id = '01990000-0000-7000-8000-000000000008'",
        "is SETTLED, with outcome won, payout 764 and time nothing"),
    broken(OUTCOME, "UPDATE bets SET payout_cents = -1 WHERE id = '01990000-0000-7000-8000-000000000008'",
        "is SETTLED, with outcome won, payout -1 and time "),
    broken(OUTCOME, "UPDATE bets SET outcome = 'won' WHERE id = '01990000-0000-7000-8000-000000000009'",
        "is CONFIRMED, with outcome won, payout nothing and time nothing"),
    broken(MOVED, "DELETE FROM ledger_transfers WHERE kind = 'unsettle'",
        "S: bet 01990000-0000-7000-8000-000000000007: stake and its transfers are apart by 0 billion and 300 cents"),
    broken(MOVED, "UPDATE ledger_transfers SET amount_cents = 1000000000 WHERE kind = 'settle' AND amount_cents = 1000",
        "S: bet 01990000-0000-7000-8000-000000000005: stake and its transfers are apart by 1 billion and -1000 cents"),
    broken(MOVED, "UPDATE bets SET payout_cents = payout_cents + 1 WHERE id = '01990000-0000-7000-8000-000000000008'",
        "S: bet 01990000-0000-7000-8000-000000000008: payout and its transfers are apart by 0 billion and -1 cents"),
    broken(MOVED, "DELETE FROM ledger_transfers WHERE kind = 'owe' AND amount_cents = 1195",
        "S: bet 01990000-0000-7000-8000-000000000005: payout and its transfers are apart by 0 billion and 1195 cents"),
    broken(STAKES, "UPDATE bets SET stake_cents = stake_cents + 1 WHERE id = '01990000-0000-7000-8000-000000000009'",
        "the stakes account and what it holds are apart by 0 billion and -1 cents"),
    broken(STAKES, "DELETE FROM ledger_transfers WHERE kind = 'commit' AND reference = 'committed'",
        "the stakes account and what it holds are apart by 0 billion and -300 cents"),
    broken(STAKES, "UPDATE bets SET status = 'SETTLED' WHERE id = '01990000-0000-7000-8000-000000000009'",
        "the stakes account and what it holds are apart by 0 billion and 50 cents"),
    broken(SETTLED, "UPDATE bets SET settlements = 3 WHERE id = '01990000-0000-7000-8000-000000000005'",
        "S: bet 01990000-0000-7000-8000-000000000005 was settled 3 times, to lost and 0 by generation 3; \
            it has 2 settlements, the last is 2 to lost and 0 by generation 2"),
    broken(SETTLED, "UPDATE bet_settlements SET outcome = 'void' WHERE outcome = 'lost' AND n = 2",
        "the last is 2 to void and 0 by generation 2"),
    broken(SETTLED, "UPDATE bet_settlements SET payout_cents = 1 WHERE outcome = 'lost' AND n = 2",
        "the last is 2 to lost and 1 by generation 2"),
    broken(SETTLED, "DELETE FROM bet_settlements WHERE bet_id = '01990000-0000-7000-8000-000000000008'",
        "was settled 1 times, to won and 764 by generation 1; it has 0 settlements, the last is nothing"),
    broken(SETTLED, "UPDATE bet_settlements SET n = 7 WHERE n = 2 AND outcome IS NULL",
        "was settled 2 times, to open and 0 by generation 3; it has 2 settlements, the last is 7 to open and 0"),
    broken(SETTLED, "UPDATE bet_settlements SET generation = 2 WHERE bet_id = '01990000-0000-7000-8000-000000000008'",
        "to won and 764 by generation 1; it has 1 settlements, the last is 1 to won and 764 by generation 2"),
    broken(DIFFERENCE, "UPDATE bet_settlements SET difference_cents = 763 WHERE bet_id = '01990000-0000-7000-8000-000000000008'",
        "settlement 01990000-0000-7000-8000-000000000008#1 by 763 leads from 0 to 764"),
    broken(DIFFERENCE, "DELETE FROM bet_settlements WHERE n = 1 AND bet_id = '01990000-0000-7000-8000-000000000005'",
        "settlement 01990000-0000-7000-8000-000000000005#2 by -1528 leads from 0 to 0"),
    broken(SETTLEMENT, "DELETE FROM bet_settlements WHERE n = 2 AND bet_id = '01990000-0000-7000-8000-000000000005'",
        "S: 01990000-0000-7000-8000-000000000005#2 has 0 settlements, and its transfers and the difference are apart by \
            0 billion and -1528 cents"),
    broken(SETTLEMENT, "UPDATE ledger_transfers SET reference = 'x' WHERE kind = 'recover'",
        "S: x has 0 settlements, and its transfers and the difference are apart by 0 billion and 0 cents"),
    broken(SETTLEMENT, "DELETE FROM ledger_transfers WHERE kind = 'clawback'",
        "S: 01990000-0000-7000-8000-000000000005#2 has 1 settlements, and its transfers and the difference are apart by \
            0 billion and 333 cents"),
    broken(SETTLEMENT, "UPDATE ledger_transfers SET user_id = 'B' WHERE kind = 'payout'",
        "B: 01990000-0000-7000-8000-000000000005#1 has 0 settlements"),
    broken(SETTLEMENT, "DELETE FROM bets WHERE id = '01990000-0000-7000-8000-000000000008'",
        "nobody: 01990000-0000-7000-8000-000000000008#1 has 1 settlements"),
    broken(LATER, "UPDATE bets SET settled_by = 4 WHERE id = '01990000-0000-7000-8000-000000000005'",
        "S: bet 01990000-0000-7000-8000-000000000005 is settled by generation 4, and its market has 3"),
    broken(LATER, "UPDATE market_settlements SET settled_generation = 4 WHERE event_id = 'RESULT_1'",
        "RESULT_1 1x2  is settled by generation 4 and has 3"),
    broken(LATER, "DELETE FROM market_settlements WHERE event_id = 'RESULT_2'",
        "RESULT_2 1x2  has a record of generation 1, and has 0"),
    broken(UNSETTLED, "UPDATE bets SET event_id = 'RESULT_3' WHERE id = '01990000-0000-7000-8000-000000000009'",
        "S: bet 01990000-0000-7000-8000-000000000009 is settled by generation 1, its market has 2, is settled by 0, and was due at "),
    broken(UNSETTLED, "UPDATE bets SET settled_by = 0 WHERE id = '01990000-0000-7000-8000-000000000008'",
        "is settled by generation 0, its market has 1, is settled by 1, and was due at "),
    broken(STEPS, "DELETE FROM bet_history WHERE new_status = 'CONFIRMED'",
        "is CONFIRMED, its last step led to PENDING_CONFIRMATION, and 0 decided it"),
    broken(STEPS, "INSERT INTO bet_history (bet_id, old_status, new_status, at)
        SELECT bet_id, old_status, new_status, at FROM bet_history WHERE new_status = 'CONFIRMED'",
        "is CONFIRMED, its last step led to CONFIRMED, and 2 decided it"),
    broken(STEPS, "DELETE FROM bet_history", "is PENDING_CONFIRMATION, its last step led to nothing, and 0 decided it"),
    broken(STRAY, "DELETE FROM bets WHERE id = '01990000-0000-7000-8000-000000000003'",
        "to PENDING_CONFIRMATION is of bet 01990000-0000-7000-8000-000000000003, which is not there"),
    broken(LATE, "UPDATE bets SET decide_by = placed_at WHERE id = '01990000-0000-7000-8000-000000000003'",
        "A: bet 01990000-0000-7000-8000-000000000003 is undecided, and its time was over at "),
    broken(KEYS, "UPDATE bet_requests SET user_id = 'B' WHERE key = 'k1'",
        "B: key k1 was answered with bet 01990000-0000-7000-8000-000000000001, which is of A"),
    broken(KEYS, "UPDATE bet_requests SET bet_id = '01990000-0000-7000-8000-000000000099' WHERE key = 'k1'",
        "A: key k1 was answered with bet 01990000-0000-7000-8000-000000000099, which is not there"),
    broken(CANCELS, "DELETE FROM supplier_cancels",
        "is REJECTED for SUPPLIER_TIMEOUT, and the supplier is not told to cancel it"),
    broken(CANCELS, "UPDATE supplier_cancels SET bet_id = '01990000-0000-7000-8000-000000000001'",
        "is CONFIRMED for no reason, and the supplier is told to cancel it"),
];

/// A scenario with rows in every table.
fn scenario(store: &dyn MoneyStore) {
    store.deposit(&order("A", 10_000, "d")).unwrap();
    store.deposit(&order("B", 700, "d")).unwrap();
    store.withdraw(&order("A", 500, "w")).unwrap();
    for (cents, text) in [
        (300, "committed"),
        (200, "refunded"),
        (100, "pending"),
        (50, "expired"),
    ] {
        store.reserve(&order("A", cents, text)).unwrap();
    }
    settle(store, "A", "committed", HoldResolution::Commit).unwrap();
    settle(store, "A", "refunded", HoldResolution::Refund).unwrap();
    settle(store, "A", "expired", HoldResolution::Expire).unwrap();
    for number in 1..=4 {
        let bet = bet("A", bet_id(number), 10 + number as i64);
        place_bet(
            store,
            &bet,
            Some(&key(&format!("k{number}"), "f")),
            &notice(""),
        )
        .unwrap();
    }
    for (number, outcome) in [(1, confirmed()), (2, rejected()), (4, BetOutcome::TimedOut)] {
        store
            .decide_bet(bet_id(number), &outcome, &notice(""), at(1))
            .unwrap();
    }
    assert_eq!(
        balances(store, "A"),
        (9_500 - 300 - 100 - 11 - 13, 100 + 13)
    );
    settlements(store);
}

/// Bets that are settled, with transfers of every kind, and a market that has long been due.
fn settlements(store: &dyn MoneyStore) {
    store.deposit(&order("S", 5_000, "d")).unwrap();
    for (number, event, cents) in [(5, "RESULT_1", 1_000), (6, "RESULT_1", 200)] {
        confirmed_bet(store, event, ("S", number, cents));
    }
    let on = |event: &str, selection: &str, number, cents| {
        let bet = Bet {
            event_id: EventId::new(event).unwrap(),
            selection: SelectionId::new(selection).unwrap(),
            ..bet("S", bet_id(number), cents)
        };
        place_bet(store, &bet, None, &notice("")).unwrap();
        decide(store, number, &confirmed());
    };
    on("RESULT_1", "away", 7, 300);
    let result = |home: &str, version| {
        let selections = json!([{"id": "home", "result": home}, {"id": "away", "result": "lost"}]);
        let fields = json!({"selections": selections});
        let result = record("RESULT_1", "settlement", version, fields);
        store_result(store, result, 1);
        settle_all(store, 2);
    };
    result("won", 1);
    store.withdraw(&order("S", 5_000, "w")).unwrap();
    result("lost", 2);
    let back = json!({"selections": ["away"]});
    let back = record("RESULT_1", "rollback_settlement", 3, back);
    store_result(store, back, 1);
    store.deposit(&order("S", 550, "d2")).unwrap();
    confirmed_bet(store, "RESULT_2", ("S", 8, 500));
    on("RESULT_2", "draw", 9, 50);
    store_result(store, home("RESULT_2", 1, "won"), 1);
    settle_all(store, 3);
    assert_eq!(
        (balances(store, "S"), owed(store, "S")),
        ((0, 0), 1_500 - 764)
    );
    // Never settled, but without bets.
    let long_ago = -100_000;
    store_result(store, home("RESULT_3", 1, "won"), long_ago);
    store_result(store, rollback("RESULT_3", 2), long_ago);
}

/// Each rule detects its violations and reports them.
pub(crate) fn are_found<R: Raw>(store: &dyn MoneyStore, raw: &R) {
    const TABLES: &[&str] = &[
        "bets_to_settle",
        "bet_settlements",
        "market_settlements",
        "market_results",
        "supplier_cancels",
        "outbox",
        "bet_requests",
        "bet_history",
        "bets",
        "reservations",
        "ledger_transfers",
        "wallets",
    ];
    let nothing: String = TABLES
        .iter()
        .map(|table| format!("; DELETE FROM {table}"))
        .collect();
    for broken in BROKEN {
        scenario(store);
        is_found(store, raw, broken);
        raw.run(&format!("{}{nothing}", R::UNGUARD)).unwrap();
    }
}

fn is_found<R: Raw>(store: &dyn MoneyStore, raw: &R, broken: &Broken) {
    // Bet 3 has its deadline at `at(10)`; with a grace of five seconds it is late after `at(15)`.
    let verify = || store.verify(at(15), Duration::from_secs(5)).unwrap();
    let before = verify();
    assert_eq!(before.violations(), 0, "{before:#?}");
    raw.run(&format!("{}; {}", R::UNGUARD, broken.by)).unwrap();
    let after = verify();
    assert_eq!(before.checks.len(), after.checks.len());
    let check = after
        .checks
        .iter()
        .find(|check| check.rule.starts_with(broken.rule))
        .unwrap();
    assert!(
        check.violations > 0 && check.checked > 0,
        "{}: {after:#?}",
        broken.by
    );
    assert_eq!(check.examples.len() as u64, check.violations.min(20));
    assert!(
        check
            .examples
            .iter()
            .any(|line| line.contains(broken.message)),
        "{}: {check:#?}",
        broken.by
    );
}

/// Transfers cannot be changed; and the result contains every rule, violated or not.
pub(crate) fn transfers_stay<R: Raw>(store: &dyn MoneyStore, raw: &R) {
    scenario(store);
    let before = transfers(store, "A");
    for change in [
        "UPDATE ledger_transfers SET amount_cents = 1",
        "DELETE FROM ledger_transfers WHERE user_id = 'A'",
    ] {
        let refused = raw.run(change).unwrap_err();
        assert!(refused.contains("transfers are never changed"), "{refused}");
    }
    // The constraints hold even without prior reads: no reference is two movements, and no key has
    // two answers.
    for again in [
        "INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
            available_after, reserved_after, at)
        SELECT user_id, kind, debit_account, credit_account, amount_cents, reference, available_after, reserved_after, at
        FROM ledger_transfers WHERE kind = 'withdraw'",
        "INSERT INTO reservations (id, user_id, reference, amount_cents, status, created_at)
        SELECT '01990000-0000-7000-8000-000000000099', user_id, reference, amount_cents, status, created_at
        FROM reservations WHERE reference = 'pending'",
        "INSERT INTO bet_requests (user_id, key, fingerprint, refusal, at)
        SELECT user_id, key, 'other', '\"WALLET_NOT_FOUND\"', at FROM bet_requests WHERE key = 'k1'",
    ] {
        let refused = raw.run(again).unwrap_err().to_lowercase();
        assert!(refused.contains("unique"), "{refused}");
    }
    for below in ["available_cents", "reserved_cents"] {
        raw.run(&format!("UPDATE wallets SET {below} = -1"))
            .unwrap_err();
    }
    assert_eq!(transfers(store, "A"), before);

    // A moment later the bet is late.
    let late = store
        .verify(
            Timestamp::from_micros(at(15).micros() + 1).unwrap(),
            Duration::from_secs(5),
        )
        .unwrap();
    assert_eq!(late.violations(), 1, "{late:#?}");
    // The count includes violations that are not shown.
    raw.run(&format!(
        "{}; UPDATE ledger_transfers SET amount_cents = amount_cents + 1",
        R::UNGUARD
    ))
    .unwrap();
    for number in 0..30 {
        store
            .deposit(&order(&format!("U{number:02}"), 5, "d"))
            .unwrap();
    }
    raw.run(&format!(
        "{}; UPDATE wallets SET available_cents = 6 WHERE user_id LIKE 'U%'",
        R::UNGUARD
    ))
    .unwrap();
    let found = store.verify(at(0), Duration::ZERO).unwrap();
    let last = found
        .checks
        .iter()
        .find(|check| check.rule.starts_with(LAST))
        .unwrap();
    assert_eq!(
        (last.checked, last.violations, last.examples.len()),
        (33, 30, 20)
    );
    assert_eq!(
        last.examples[0],
        "U00: the wallet holds 6 and 0, the last transfer left 5 and 0"
    );
    let scope: Vec<_> = BROKEN.iter().map(|broken| broken.rule).collect();
    for check in &found.checks {
        assert!(
            scope.iter().any(|rule| check.rule.starts_with(rule)),
            "no violation is tested for: {}",
            check.rule
        );
    }
}
