//! Invariants between the money tables, checked on both databases.
//!
//! Each rule is SQL that both engines understand. It does not use the database functions or column
//! checks that it verifies. Sums are split into billions and a remainder, because the cents of all
//! users may exceed 64 bits, at which SQLite's `sum` fails.

mod settlements;

use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Text};

use super::money::{Check, Verification};
use crate::domain::timestamp::Timestamp;

/// Maximum number of violating rows that are shown for a rule.
const EXAMPLES: usize = 20;

/// Placeholder in a rule for the time before which the deadline of a pending bet must not lie.
const TOO_LATE: &str = ":too_late";

/// Placeholder in a rule for the time before which a market with unsettled bets must not be due.
const SETTLE_BY: &str = ":settle_by";

/// How long a market may be due. A large market takes minutes, and is tried again while bets are
/// pending or wallets are locked. The metrics raise an alert long before.
const SETTLEMENT_TIME: Duration = Duration::from_secs(3_600);

/// An invariant.
struct Rule {
    /// The invariant in words, as shown to the user.
    text: &'static str,
    /// The rows that it applies to, as a `FROM` clause.
    rows: &'static str,
    /// The rows that violate it, as one text column named `line`.
    violations: &'static str,
}

/// A result row.
#[derive(QueryableByName)]
pub(super) struct Row {
    #[diesel(sql_type = BigInt)]
    number: i64,
    #[diesel(sql_type = Text)]
    line: String,
}

/// Checks every rule. `query` runs a query; all its results must come from one snapshot. A bet may be
/// undecided for `grace` after its deadline. `sql_time` writes a time in SQL.
pub(super) fn run<E>(
    at: Timestamp,
    grace: Duration,
    sql_time: impl Fn(Timestamp) -> String,
    mut query: impl FnMut(&str) -> Result<Vec<Row>, E>,
) -> Result<Verification, E> {
    let too_late = at.earlier_by(grace);
    let settle_by = too_late.earlier_by(SETTLEMENT_TIME);
    let checks = RULES.iter().chain(settlements::RULES).map(|rule| {
        let counted = query(&format!("SELECT COUNT(*) AS number, '' AS line FROM {}", rule.rows))?;
        let violations = rule
            .violations
            .replace(TOO_LATE, &sql_time(too_late))
            .replace(SETTLE_BY, &sql_time(settle_by));
        let found = query(&format!(
            "SELECT COUNT(*) OVER () AS number, line FROM ({violations}) AS found ORDER BY line LIMIT {EXAMPLES}"
        ))?;
        Ok(Check {
            rule: rule.text,
            checked: number(&counted),
            violations: number(&found),
            examples: found.into_iter().map(|row| row.line).collect(),
        })
    });
    Ok(Verification {
        checks: checks.collect::<Result<_, E>>()?,
    })
}

/// The counted number; 0 without a row.
fn number(rows: &[Row]) -> u64 {
    rows.first().map_or(0, |row| row.number.unsigned_abs())
}

const RULES: &[Rule] = &[
    Rule {
        text: "debits equal credits: house accounts and user wallets sum to zero",
        rows: "ledger_transfers",
        violations: "
            SELECT 'all accounts come to ' || CAST(billions AS TEXT) || ' billion and ' || CAST(rest AS TEXT)
                || ' cents, and not to 0' AS line
            FROM (
                SELECT COALESCE(SUM(billions), 0) AS billions, COALESCE(SUM(rest), 0) AS rest FROM (
                    SELECT amount_cents / 1000000000 AS billions, amount_cents % 1000000000 AS rest
                    FROM ledger_transfers WHERE credit_account NOT IN ('available', 'reserved', 'owed')
                    UNION ALL
                    SELECT -(amount_cents / 1000000000), -(amount_cents % 1000000000)
                    FROM ledger_transfers WHERE debit_account NOT IN ('available', 'reserved', 'owed')
                    UNION ALL
                    SELECT available_cents / 1000000000, available_cents % 1000000000 FROM wallets
                    UNION ALL
                    SELECT reserved_cents / 1000000000, reserved_cents % 1000000000 FROM wallets
                    UNION ALL
                    SELECT -(owed_cents / 1000000000), -(owed_cents % 1000000000) FROM wallets
                ) AS entries
            ) AS total
            WHERE rest % 1000000000 <> 0 OR billions <> -(rest / 1000000000)",
    },
    Rule {
        text: "each wallet balance equals the sum of its transfers",
        rows: "wallets",
        violations: "
            SELECT user_id || ': ' || account || ' and its transfers are apart by ' || CAST(billions AS TEXT)
                || ' billion and ' || CAST(rest AS TEXT) || ' cents' AS line
            FROM (
                SELECT user_id, account, SUM(billions) AS billions, SUM(rest) AS rest FROM (
                    SELECT user_id, credit_account AS account, amount_cents / 1000000000 AS billions,
                        amount_cents % 1000000000 AS rest
                    FROM ledger_transfers WHERE credit_account IN ('available', 'reserved', 'owed')
                    UNION ALL
                    SELECT user_id, debit_account, -(amount_cents / 1000000000), -(amount_cents % 1000000000)
                    FROM ledger_transfers WHERE debit_account IN ('available', 'reserved', 'owed')
                    UNION ALL
                    SELECT user_id, 'available', -(available_cents / 1000000000), -(available_cents % 1000000000)
                    FROM wallets
                    UNION ALL
                    SELECT user_id, 'reserved', -(reserved_cents / 1000000000), -(reserved_cents % 1000000000)
                    FROM wallets
                    UNION ALL
                    SELECT user_id, 'owed', owed_cents / 1000000000, owed_cents % 1000000000 FROM wallets
                ) AS entries
                GROUP BY user_id, account
            ) AS sums
            WHERE rest % 1000000000 <> 0 OR billions <> -(rest / 1000000000)",
    },
    Rule {
        text: "the balances after each transfer equal the previous balances plus its amount",
        rows: "ledger_transfers",
        violations: "
            SELECT user_id || ': transfer ' || CAST(id AS TEXT) || ' (' || kind || ' ' || CAST(amount_cents AS TEXT)
                || ') leads from ' || CAST(available_before AS TEXT) || ' and ' || CAST(reserved_before AS TEXT)
                || ' to ' || CAST(available_after AS TEXT) || ' and ' || CAST(reserved_after AS TEXT) AS line
            FROM (
                SELECT id, user_id, kind, debit_account, credit_account, amount_cents, available_after, reserved_after,
                    COALESCE(LAG(available_after) OVER (PARTITION BY user_id ORDER BY id), 0) AS available_before,
                    COALESCE(LAG(reserved_after) OVER (PARTITION BY user_id ORDER BY id), 0) AS reserved_before
                FROM ledger_transfers
            ) AS chain
            WHERE available_after - available_before <> CASE 'available'
                    WHEN credit_account THEN amount_cents WHEN debit_account THEN -amount_cents ELSE 0 END
                OR reserved_after - reserved_before <> CASE 'reserved'
                    WHEN credit_account THEN amount_cents WHEN debit_account THEN -amount_cents ELSE 0 END",
    },
    Rule {
        text: "the balances after a user's last transfer match the wallet",
        rows: "wallets",
        violations: "
            SELECT wallets.user_id || ': the wallet holds ' || CAST(available_cents AS TEXT) || ' and '
                || CAST(reserved_cents AS TEXT) || ', the last transfer left '
                || CAST(COALESCE(available_after, 0) AS TEXT) || ' and ' || CAST(COALESCE(reserved_after, 0) AS TEXT)
                AS line
            FROM wallets
            LEFT JOIN (SELECT user_id, MAX(id) AS id FROM ledger_transfers GROUP BY user_id) AS newest
                ON newest.user_id = wallets.user_id
            LEFT JOIN ledger_transfers ON ledger_transfers.id = newest.id
            WHERE available_cents <> COALESCE(available_after, 0) OR reserved_cents <> COALESCE(reserved_after, 0)",
    },
    Rule {
        text: "no balance is negative and each transfer amount is positive",
        rows: "(SELECT user_id FROM wallets UNION ALL SELECT user_id FROM ledger_transfers) AS rows_with_amounts",
        violations: "
            SELECT user_id || ': the wallet holds ' || CAST(available_cents AS TEXT) || ' and '
                || CAST(reserved_cents AS TEXT) || ', and owes ' || CAST(owed_cents AS TEXT) AS line
            FROM wallets WHERE available_cents < 0 OR reserved_cents < 0 OR owed_cents < 0
            UNION ALL
            SELECT user_id || ': transfer ' || CAST(id AS TEXT) || ' moves ' || CAST(amount_cents AS TEXT)
                || ' and leaves ' || CAST(available_after AS TEXT) || ' and ' || CAST(reserved_after AS TEXT)
            FROM ledger_transfers WHERE amount_cents <= 0 OR available_after < 0 OR reserved_after < 0",
    },
    Rule {
        text: "each user with transfers, reservations or bets has a wallet",
        rows: "(SELECT user_id FROM ledger_transfers UNION SELECT user_id FROM reservations
            UNION SELECT user_id FROM bets) AS users",
        violations: "
            SELECT user_id || ' has no wallet' AS line
            FROM (SELECT user_id FROM ledger_transfers UNION SELECT user_id FROM reservations
                UNION SELECT user_id FROM bets) AS users
            WHERE NOT EXISTS (SELECT 1 FROM wallets WHERE wallets.user_id = users.user_id)",
    },
    Rule {
        text: "no reference identifies two transfers of one kind and one user",
        rows: "ledger_transfers",
        violations: "
            SELECT user_id || ': ' || kind || ' ' || reference || ' stands for ' || CAST(COUNT(*) AS TEXT) || ' transfers'
                AS line
            FROM ledger_transfers GROUP BY user_id, kind, reference HAVING COUNT(*) > 1",
    },
    Rule {
        text: "each transfer is between the accounts of its kind",
        rows: "ledger_transfers",
        violations: "
            SELECT user_id || ': transfer ' || CAST(id AS TEXT) || ' is a ' || kind || ' from ' || debit_account || ' to '
                || credit_account AS line
            FROM ledger_transfers
            WHERE NOT (
                (kind = 'deposit' AND debit_account = 'cash' AND credit_account = 'available')
                OR (kind = 'withdraw' AND debit_account = 'available' AND credit_account = 'cash')
                OR (kind = 'reserve' AND debit_account = 'available' AND credit_account = 'reserved')
                OR (kind = 'commit' AND debit_account = 'reserved' AND credit_account = 'stakes')
                OR (kind IN ('refund', 'expire') AND debit_account = 'reserved' AND credit_account = 'available')
                OR (kind = 'settle' AND debit_account = 'stakes' AND credit_account = 'payouts')
                OR (kind = 'unsettle' AND debit_account = 'payouts' AND credit_account = 'stakes')
                OR (kind = 'payout' AND debit_account = 'payouts' AND credit_account = 'available')
                OR (kind = 'clawback' AND debit_account = 'available' AND credit_account = 'payouts')
                OR (kind = 'owe' AND debit_account = 'owed' AND credit_account = 'payouts')
                OR (kind = 'recover' AND debit_account = 'available' AND credit_account = 'owed'))",
    },
    Rule {
        text: "each reservation was made by exactly one transfer of its amount",
        rows: "reservations",
        violations: "
            SELECT held.user_id || ': reservation ' || held.reference || ' of ' || CAST(held.amount_cents AS TEXT)
                || ' was held by ' || CAST(COUNT(moved.id) AS TEXT) || ' transfers, the lowest of '
                || COALESCE(CAST(MIN(moved.amount_cents) AS TEXT), 'nothing') AS line
            FROM reservations AS held
            LEFT JOIN ledger_transfers AS moved
                ON moved.user_id = held.user_id AND moved.reference = held.reference AND moved.kind = 'reserve'
            GROUP BY held.id, held.user_id, held.reference, held.amount_cents
            HAVING COUNT(moved.id) <> 1 OR MIN(moved.amount_cents) <> held.amount_cents",
    },
    Rule {
        text: "each reservation that ended was ended by exactly one transfer of its amount, of the kind its status says; a pending one by none",
        rows: "reservations",
        violations: "
            SELECT held.user_id || ': reservation ' || held.reference || ' of ' || CAST(held.amount_cents AS TEXT)
                || ' is ' || held.status || ' by ' || CAST(COUNT(moved.id) AS TEXT) || ' transfers, the first a '
                || COALESCE(MIN(moved.kind) || ' of ' || CAST(MIN(moved.amount_cents) AS TEXT), 'nothing') AS line
            FROM reservations AS held
            LEFT JOIN ledger_transfers AS moved
                ON moved.user_id = held.user_id AND moved.reference = held.reference
                AND moved.kind IN ('commit', 'refund', 'expire')
            GROUP BY held.id, held.user_id, held.reference, held.amount_cents, held.status
            HAVING COUNT(moved.id) <> CASE held.status WHEN 'PENDING' THEN 0 ELSE 1 END
                OR MIN(moved.amount_cents) <> held.amount_cents
                OR MIN(moved.kind) <> CASE held.status
                    WHEN 'COMMITTED' THEN 'commit' WHEN 'REFUNDED' THEN 'refund' ELSE 'expire' END",
    },
    Rule {
        text: "each reserve, commit, refund or expire transfer has a reservation",
        rows: "ledger_transfers",
        violations: "
            SELECT user_id || ': ' || kind || ' ' || reference || ' has no reservation' AS line
            FROM ledger_transfers AS moved
            WHERE kind IN ('reserve', 'commit', 'refund', 'expire') AND NOT EXISTS (
                SELECT 1 FROM reservations AS held
                WHERE held.user_id = moved.user_id AND held.reference = moved.reference)",
    },
    Rule {
        text: "each reservation and each bet has an end time if and only if it is no longer pending",
        rows: "(SELECT user_id FROM reservations UNION ALL SELECT user_id FROM bets) AS rows_that_end",
        violations: "
            SELECT user_id || ': reservation ' || reference || ' is ' || status || ', and ended at '
                || COALESCE(CAST(settled_at AS TEXT), 'no time') AS line
            FROM reservations WHERE (status = 'PENDING') <> (settled_at IS NULL)
            UNION ALL
            SELECT user_id || ': bet ' || CAST(id AS TEXT) || ' is ' || status || ', and was decided at '
                || COALESCE(CAST(decided_at AS TEXT), 'no time')
            FROM bets WHERE (status = 'PENDING_CONFIRMATION') <> (decided_at IS NULL)",
    },
    Rule {
        text: "each bet has exactly one reservation, with its user, its stake, and its id as reference",
        rows: "bets",
        violations: "
            SELECT bets.user_id || ': bet ' || CAST(bets.id AS TEXT) || ' of ' || CAST(bets.stake_cents AS TEXT)
                || ' has ' || CAST(COUNT(held.id) AS TEXT) || ' reservations: '
                || COALESCE(MIN(held.reference) || ' of ' || MIN(held.user_id) || ' and '
                    || CAST(MIN(held.amount_cents) AS TEXT), 'nothing') AS line
            FROM bets
            LEFT JOIN reservations AS held ON held.bet_id = bets.id
            GROUP BY bets.id, bets.user_id, bets.stake_cents
            HAVING COUNT(held.id) <> 1 OR MIN(held.amount_cents) <> bets.stake_cents
                OR MIN(held.user_id) <> bets.user_id OR MIN(held.reference) <> CAST(bets.id AS TEXT)",
    },
    Rule {
        text: "each reservation that is held for a bet refers to an existing bet",
        rows: "reservations",
        violations: "
            SELECT held.user_id || ': reservation ' || held.reference || ' is held for bet ' || CAST(held.bet_id AS TEXT)
                || ', which is not there' AS line
            FROM reservations AS held
            WHERE held.bet_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM bets WHERE bets.id = held.bet_id)",
    },
    Rule {
        text: "the stake of a pending bet is held, of a confirmed or settled bet committed, of a rejected bet refunded",
        rows: "bets",
        violations: "
            SELECT bets.user_id || ': bet ' || CAST(bets.id AS TEXT) || ' is ' || bets.status
                || ' and its reservation ' || held.status AS line
            FROM bets
            JOIN reservations AS held ON held.bet_id = bets.id
            WHERE NOT (
                (bets.status = 'PENDING_CONFIRMATION' AND held.status = 'PENDING')
                OR (bets.status IN ('CONFIRMED', 'SETTLED') AND held.status = 'COMMITTED')
                OR (bets.status = 'REJECTED' AND held.status = 'REFUNDED'))",
    },
    Rule {
        text: "each bet's last step led to its status, exactly one step decided each decided bet, and each settlement is a step",
        rows: "bets",
        violations: "
            SELECT bets.user_id || ': bet ' || CAST(bets.id AS TEXT) || ' is ' || bets.status || ', its last step led to '
                || COALESCE(final.new_status, 'nothing') || ', and ' || CAST(COALESCE(steps.deciding, 0) AS TEXT)
                || ' decided it, ' || CAST(COALESCE(steps.settling, 0) AS TEXT) || ' settled it' AS line
            FROM bets
            LEFT JOIN (
                SELECT bet_id, MAX(id) AS id,
                    SUM(CASE WHEN old_status = 'PENDING_CONFIRMATION' AND new_status IN ('CONFIRMED', 'REJECTED')
                        THEN 1 ELSE 0 END) AS deciding,
                    SUM(CASE WHEN old_status IN ('CONFIRMED', 'SETTLED') AND new_status IN ('CONFIRMED', 'SETTLED')
                        THEN 1 ELSE 0 END) AS settling
                FROM bet_history GROUP BY bet_id
            ) AS steps ON steps.bet_id = bets.id
            LEFT JOIN bet_history AS final ON final.id = steps.id
            WHERE COALESCE(final.new_status, '') <> bets.status
                OR steps.deciding <> CASE bets.status WHEN 'PENDING_CONFIRMATION' THEN 0 ELSE 1 END
                OR steps.settling <> bets.settlements",
    },
    Rule {
        text: "each step starts at the status that the previous step led to",
        rows: "bet_history",
        violations: "
            SELECT 'step ' || CAST(id AS TEXT) || ' of bet ' || CAST(bet_id AS TEXT) || ' leads from '
                || COALESCE(old_status, 'nothing') || ' to ' || new_status || ', and the previous one led to '
                || COALESCE(status_before, 'nothing') AS line
            FROM (
                SELECT id, bet_id, old_status, new_status,
                    LAG(new_status) OVER (PARTITION BY bet_id ORDER BY id) AS status_before
                FROM bet_history
            ) AS chain
            WHERE COALESCE(old_status, '') <> COALESCE(status_before, '')",
    },
    Rule {
        text: "each step refers to an existing bet",
        rows: "bet_history",
        violations: "
            SELECT 'step ' || CAST(id AS TEXT) || ' to ' || new_status || ' is of bet ' || CAST(bet_id AS TEXT)
                || ', which is not there' AS line
            FROM bet_history WHERE NOT EXISTS (SELECT 1 FROM bets WHERE bets.id = bet_history.bet_id)",
    },
    Rule {
        text: "no bet stays undecided past its deadline",
        rows: "bets",
        violations: "
            SELECT user_id || ': bet ' || CAST(id AS TEXT) || ' is undecided, and its time was over at '
                || CAST(decide_by AS TEXT) AS line
            FROM bets WHERE status = 'PENDING_CONFIRMATION' AND decide_by < :too_late",
    },
    Rule {
        text: "each idempotency key refers to an existing bet of the same user",
        rows: "bet_requests",
        violations: "
            SELECT request.user_id || ': key ' || request.key || ' was answered with bet ' || CAST(request.bet_id AS TEXT)
                || ', which is ' || COALESCE('of ' || bets.user_id, 'not there') AS line
            FROM bet_requests AS request
            LEFT JOIN bets ON bets.id = request.bet_id
            WHERE request.bet_id IS NOT NULL AND COALESCE(bets.user_id, '') <> request.user_id",
    },
    Rule {
        text: "the supplier is asked to cancel each bet that it did not answer in time, and no other",
        rows: "bets",
        violations: "
            SELECT bets.user_id || ': bet ' || CAST(bets.id AS TEXT) || ' is ' || bets.status || ' for '
                || COALESCE(bets.reason, 'no reason') || ', and the supplier is '
                || CASE WHEN cancel.bet_id IS NULL THEN 'not ' ELSE '' END || 'told to cancel it' AS line
            FROM bets
            LEFT JOIN supplier_cancels AS cancel ON cancel.bet_id = bets.id
            WHERE (bets.status = 'REJECTED' AND COALESCE(bets.reason, '') = 'SUPPLIER_TIMEOUT')
                <> (cancel.bet_id IS NOT NULL)",
    },
];
