//! Checks that each rule detects its violations.

use pretty_assertions::assert_eq;

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

/// The bets of the scenario: 1 is confirmed, 2 rejected, 3 pending, 4 timed out.
#[rustfmt::skip]
pub(crate) const BROKEN: &[Broken] = &[
    broken(TOTAL, "UPDATE wallets SET available_cents = available_cents + 3 WHERE user_id = 'B'",
        "all accounts come to 0 billion and 3 cents, and not to 0"),
    broken(TOTAL, "UPDATE wallets SET available_cents = 9223372036854775807", "all accounts come to 18446744072 billion"),
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
}

/// Each rule detects its violations and reports them.
pub(crate) fn are_found<R: Raw>(store: &dyn MoneyStore, raw: &R) {
    const TABLES: &[&str] = &[
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
        (32, 30, 20)
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
