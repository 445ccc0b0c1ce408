//! The rules about settled bets.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        text: "each settled bet has an outcome, a payout and a time, and no other bet has them",
        rows: "bets",
        violations: "
            SELECT user_id || ': bet ' || CAST(id AS TEXT) || ' is ' || status || ', with outcome '
                || COALESCE(outcome, 'nothing') || ', payout ' || COALESCE(CAST(payout_cents AS TEXT), 'nothing')
                || ' and time ' || COALESCE(CAST(settled_at AS TEXT), 'nothing') AS line
            FROM bets
            WHERE (status = 'SETTLED') <> (outcome IS NOT NULL) OR (status = 'SETTLED') <> (payout_cents IS NOT NULL)
                OR (status = 'SETTLED') <> (settled_at IS NOT NULL) OR payout_cents < 0",
    },
    Rule {
        text: "the transfers of each settled bet moved its stake and its payout, those of another bet nothing",
        rows: "bets",
        violations: "
            SELECT user_id || ': bet ' || bet || ': ' || account || ' and its transfers are apart by '
                || CAST(billions AS TEXT) || ' billion and ' || CAST(rest AS TEXT) || ' cents' AS line
            FROM (
                SELECT user_id, bet, account, SUM(billions) AS billions, SUM(rest) AS rest FROM (
                    SELECT user_id, substr(reference, 1, 36) AS bet,
                        CASE WHEN kind IN ('settle', 'unsettle') THEN 'stake' ELSE 'payout' END AS account,
                        CASE WHEN kind IN ('settle', 'payout') THEN amount_cents / 1000000000
                            ELSE -(amount_cents / 1000000000) END AS billions,
                        CASE WHEN kind IN ('settle', 'payout') THEN amount_cents % 1000000000
                            ELSE -(amount_cents % 1000000000) END AS rest
                    FROM ledger_transfers WHERE kind IN ('settle', 'unsettle', 'payout', 'clawback', 'owe')
                    UNION ALL
                    SELECT user_id, CAST(id AS TEXT), 'stake', -(stake_cents / 1000000000), -(stake_cents % 1000000000)
                    FROM bets WHERE status = 'SETTLED'
                    UNION ALL
                    SELECT user_id, CAST(id AS TEXT), 'payout', -(payout_cents / 1000000000),
                        -(payout_cents % 1000000000)
                    FROM bets WHERE status = 'SETTLED' AND payout_cents IS NOT NULL
                ) AS entries
                GROUP BY user_id, bet, account
            ) AS sums
            WHERE rest % 1000000000 <> 0 OR billions <> -(rest / 1000000000)",
    },
    Rule {
        text: "the stakes account holds the stakes of the open bets, and what was committed without a bet",
        rows: "ledger_transfers",
        violations: "
            SELECT 'the stakes account and what it holds are apart by ' || CAST(billions AS TEXT) || ' billion and '
                || CAST(rest AS TEXT) || ' cents' AS line
            FROM (
                SELECT COALESCE(SUM(billions), 0) AS billions, COALESCE(SUM(rest), 0) AS rest FROM (
                    SELECT amount_cents / 1000000000 AS billions, amount_cents % 1000000000 AS rest
                    FROM ledger_transfers WHERE credit_account = 'stakes'
                    UNION ALL
                    SELECT -(amount_cents / 1000000000), -(amount_cents % 1000000000)
                    FROM ledger_transfers WHERE debit_account = 'stakes'
                    UNION ALL
                    SELECT -(stake_cents / 1000000000), -(stake_cents % 1000000000)
                    FROM bets WHERE status = 'CONFIRMED'
                    UNION ALL
                    SELECT -(amount_cents / 1000000000), -(amount_cents % 1000000000)
                    FROM reservations WHERE status = 'COMMITTED' AND bet_id IS NULL
                ) AS entries
            ) AS total
            WHERE rest % 1000000000 <> 0 OR billions <> -(rest / 1000000000)",
    },
    Rule {
        text: "each bet's last settlement is its state, and its settlements are numbered from 1",
        rows: "bets",
        violations: "
            SELECT bets.user_id || ': bet ' || CAST(bets.id AS TEXT) || ' was settled '
                || CAST(bets.settlements AS TEXT) || ' times, to ' || COALESCE(bets.outcome, 'open') || ' and '
                || CAST(COALESCE(bets.payout_cents, 0) AS TEXT) || ' by generation ' || CAST(bets.settled_by AS TEXT)
                || '; it has ' || CAST(COALESCE(done.number, 0) AS TEXT) || ' settlements, the last is '
                || COALESCE(CAST(done.last AS TEXT) || ' to ' || COALESCE(final.outcome, 'open') || ' and '
                    || CAST(final.payout_cents AS TEXT) || ' by generation ' || CAST(final.generation AS TEXT), 'nothing')
                AS line
            FROM bets
            LEFT JOIN (
                SELECT bet_id, COUNT(*) AS number, MAX(n) AS last FROM bet_settlements GROUP BY bet_id
            ) AS done ON done.bet_id = bets.id
            LEFT JOIN bet_settlements AS final ON final.bet_id = done.bet_id AND final.n = done.last
            WHERE COALESCE(done.number, 0) <> bets.settlements OR COALESCE(done.last, 0) <> bets.settlements
                OR COALESCE(final.outcome, '') <> COALESCE(bets.outcome, '')
                OR COALESCE(final.payout_cents, 0) <> COALESCE(bets.payout_cents, 0)
                OR COALESCE(final.generation, 0) > bets.settled_by",
    },
    Rule {
        text: "the difference of each settlement is what it paid less what the previous one had paid",
        rows: "bet_settlements",
        violations: "
            SELECT 'settlement ' || CAST(bet_id AS TEXT) || '#' || CAST(n AS TEXT) || ' by '
                || CAST(difference_cents AS TEXT) || ' leads from ' || CAST(paid_before AS TEXT) || ' to '
                || CAST(payout_cents AS TEXT) AS line
            FROM (
                SELECT bet_id, n, outcome, payout_cents, difference_cents,
                    COALESCE(LAG(payout_cents) OVER (PARTITION BY bet_id ORDER BY n), 0) AS paid_before
                FROM bet_settlements
            ) AS chain
            WHERE payout_cents - paid_before <> difference_cents OR payout_cents < 0
                OR (outcome IS NULL AND payout_cents <> 0)",
    },
    Rule {
        text: "each settlement moved its difference to an existing bet's user, and each of its transfers has a settlement",
        rows: "bet_settlements",
        violations: "
            SELECT user_id || ': ' || reference || ' has ' || CAST(settlements AS TEXT)
                || ' settlements, and its transfers and the difference are apart by ' || CAST(billions AS TEXT)
                || ' billion and ' || CAST(rest AS TEXT) || ' cents' AS line
            FROM (
                SELECT user_id, reference, SUM(settlements) AS settlements, SUM(billions) AS billions, SUM(rest) AS rest
                FROM (
                    SELECT user_id, reference, 0 AS settlements,
                        CASE WHEN kind = 'payout' THEN amount_cents / 1000000000
                            WHEN kind IN ('clawback', 'owe') THEN -(amount_cents / 1000000000) ELSE 0 END AS billions,
                        CASE WHEN kind = 'payout' THEN amount_cents % 1000000000
                            WHEN kind IN ('clawback', 'owe') THEN -(amount_cents % 1000000000) ELSE 0 END AS rest
                    FROM ledger_transfers
                    WHERE kind IN ('settle', 'unsettle', 'payout', 'clawback', 'owe', 'recover')
                    UNION ALL
                    SELECT COALESCE(bets.user_id, 'nobody'), CAST(done.bet_id AS TEXT) || '#' || CAST(done.n AS TEXT), 1,
                        -(done.difference_cents / 1000000000), -(done.difference_cents % 1000000000)
                    FROM bet_settlements AS done LEFT JOIN bets ON bets.id = done.bet_id
                ) AS entries
                GROUP BY user_id, reference
            ) AS sums
            WHERE user_id = 'nobody' OR settlements <> 1 OR rest % 1000000000 <> 0 OR billions <> -(rest / 1000000000)",
    },
    Rule {
        text: "no bet and no market is settled by later results than the market has",
        rows: "(SELECT market FROM market_settlements UNION ALL SELECT market FROM market_results
            UNION ALL SELECT market FROM bets WHERE settled_by > 0) AS rows_with_generations",
        violations: "
            SELECT bets.user_id || ': bet ' || CAST(bets.id AS TEXT) || ' is settled by generation '
                || CAST(bets.settled_by AS TEXT) || ', and its market has '
                || CAST(COALESCE(settlement.generation, 0) AS TEXT) AS line
            FROM bets
            LEFT JOIN market_settlements AS settlement ON settlement.event_id = bets.event_id
                AND settlement.market = bets.market AND settlement.line = bets.line
            WHERE bets.settled_by > COALESCE(settlement.generation, 0)
            UNION ALL
            SELECT event_id || ' ' || market || ' ' || line || ' is settled by generation '
                || CAST(settled_generation AS TEXT) || ' and has ' || CAST(generation AS TEXT)
            FROM market_settlements WHERE settled_generation > generation
            UNION ALL
            SELECT result.event_id || ' ' || result.market || ' ' || result.line || ' has a record of generation '
                || CAST(result.generation AS TEXT) || ', and has ' || CAST(COALESCE(settlement.generation, 0) AS TEXT)
            FROM market_results AS result
            LEFT JOIN market_settlements AS settlement ON settlement.event_id = result.event_id
                AND settlement.market = result.market AND settlement.line = result.line
            WHERE result.generation > COALESCE(settlement.generation, 0)",
    },
    Rule {
        text: "each bet is settled by the latest results of its market in time, unless the market waits for an operator",
        rows: "bets",
        violations: "
            SELECT bets.user_id || ': bet ' || CAST(bets.id AS TEXT) || ' is settled by generation '
                || CAST(bets.settled_by AS TEXT) || ', its market has ' || CAST(settlement.generation AS TEXT)
                || ', is settled by ' || CAST(settlement.settled_generation AS TEXT) || ', and was due at '
                || CAST(settlement.due_since AS TEXT) AS line
            FROM market_settlements AS settlement
            JOIN bets ON bets.event_id = settlement.event_id AND bets.market = settlement.market
                AND bets.line = settlement.line
            WHERE bets.status IN ('CONFIRMED', 'SETTLED') AND bets.settled_by < settlement.generation
                AND CASE WHEN settlement.settled_generation < settlement.generation
                    THEN settlement.due_since < :settle_by
                    ELSE settlement.held IS NULL
                        AND NOT EXISTS (SELECT 1 FROM bets_to_settle AS late WHERE late.bet_id = bets.id) END",
    },
];
