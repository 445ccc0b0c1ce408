//! The markets with results, and their bets.

use diesel::dsl::{count_star, exists, select, sql};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use uuid::Uuid;

use super::settled_bets::settle;
use crate::domain::bets::bet::BetStatus;
use crate::domain::ids::EventMarket;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{
    BetState, DueBet, DueBets, DueCursor, ExaminedBet, FinishedMarket, MarketLease, OpenPosition,
    PositionScope, SettleBet, SettleCall, SettledNow, SettlementBacklog, SettlementStore,
};
use crate::store::rows::settlements::{BacklogRow, DueBetRow, LeasedRow, PositionRow, cents};
use crate::store::rows::{line_text, read_all, row_limit, signed};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::{bets, bets_to_settle, market_settlements};

impl SettlementStore for SqliteStore {
    fn lease_due_market(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
    ) -> Result<Option<MarketLease>, StoreError> {
        use market_settlements as markets;
        self.connections.write(|connection| {
            let due = markets::table
                .filter(sql::<Bool>("settled_generation < generation"))
                .filter(markets::next_attempt_at.le(at.micros()))
                .order(markets::next_attempt_at)
                .select((
                    markets::event_id,
                    markets::market,
                    markets::line,
                    markets::generation,
                    markets::due_since,
                ))
                .first::<LeasedRow>(connection)
                .optional()?;
            let Some(row) = due else {
                return Ok(None);
            };
            let lease = row.read(Uuid::now_v7())?;
            diesel::update(markets::table.find(key(&lease.market)))
                .set((
                    markets::lease.eq(lease.id.to_string()),
                    markets::next_attempt_at.eq(leased_until.micros()),
                ))
                .execute(connection)?;
            Ok(Some(lease))
        })
    }

    fn extend_lease(&self, lease: &MarketLease, until: Timestamp) -> Result<bool, StoreError> {
        self.connections.write(|connection| {
            let changed = diesel::update(market_settlements::table.find(key(&lease.market)))
                .filter(market_settlements::lease.eq(lease.id.to_string()))
                .set(market_settlements::next_attempt_at.eq(until.micros()))
                .execute(connection)?;
            Ok(changed == 1)
        })
    }

    fn finish_market(
        &self,
        lease: &MarketLease,
        finished: &FinishedMarket<'_>,
    ) -> Result<bool, StoreError> {
        use market_settlements as markets;
        self.connections.write(|connection| {
            if finished.held.is_none() && has_due_bets(connection, lease)? {
                return Ok(false);
            }
            let changed = diesel::update(markets::table.find(key(&lease.market)))
                .filter(markets::lease.eq(lease.id.to_string()))
                .filter(markets::generation.eq(signed(lease.generation)))
                .set((
                    markets::settled_generation.eq(markets::generation),
                    markets::lease.eq(None::<String>),
                    markets::rules.eq(finished.rules),
                    markets::held.eq(finished.held),
                    markets::missing.eq(signed(finished.missing)),
                ))
                .execute(connection)?;
            Ok(changed == 1)
        })
    }

    fn has_pending_bets(&self, market: &EventMarket) -> Result<bool, StoreError> {
        let (event_id, name, line) = key(market);
        self.read(|connection| {
            let pending = bets::table
                .filter(sql::<Bool>("status = 'PENDING_CONFIRMATION'"))
                .filter(bets::event_id.eq(event_id))
                .filter(bets::market.eq(name))
                .filter(bets::line.eq(line));
            Ok(select(exists(pending)).get_result(connection)?)
        })
    }

    fn due_bets(&self, query: &DueBets<'_>) -> Result<Vec<DueBet>, StoreError> {
        let (event_id, name, line) = key(query.market);
        let after = query.after.unwrap_or(DueCursor::START);
        // A literal, because only then SQLite recognises that the partial index covers the condition.
        let has_state = match query.state {
            BetState::Open => sql::<Bool>("status = 'CONFIRMED'"),
            BetState::Settled => sql::<Bool>("status = 'SETTLED'"),
        };
        let is_behind = sql::<Bool>("(settled_by, id) > (")
            .bind::<BigInt, _>(signed(after.settled_by))
            .sql(", ")
            .bind::<Text, _>(after.bet_id.to_string())
            .sql(")");
        self.read(|connection| {
            let rows = bets::table
                .filter(has_state)
                .filter(bets::event_id.eq(event_id))
                .filter(bets::market.eq(name))
                .filter(bets::line.eq(line))
                .filter(bets::settled_by.lt(signed(query.generation)))
                .filter(is_behind)
                .order((bets::settled_by, bets::id))
                .limit(row_limit(query.limit))
                .select((
                    bets::id,
                    bets::user_id,
                    bets::selection,
                    bets::stake_cents,
                    bets::price_thousandths,
                    bets::placed_at,
                    bets::status,
                    bets::payout_cents,
                    bets::outcome,
                    bets::settlements,
                    bets::settled_by,
                ))
                .load(connection)?;
            read_all(rows, DueBetRow::read)
        })
    }

    fn paid_by(
        &self,
        market: &EventMarket,
        generation: u64,
        placed_from: Option<Timestamp>,
    ) -> Result<i128, StoreError> {
        let (event_id, name, line) = key(market);
        self.read(|connection| {
            let (billions, rest) = bets::table
                .filter(sql::<Bool>("status = 'SETTLED'"))
                .filter(bets::event_id.eq(event_id))
                .filter(bets::market.eq(name))
                .filter(bets::line.eq(line))
                .filter(bets::settled_by.ge(signed(generation)))
                .filter(bets::placed_at.ge(placed_from.map_or(i64::MIN, Timestamp::micros)))
                .select((
                    sql::<BigInt>("COALESCE(SUM(payout_cents / 1000000000), 0)"),
                    sql::<BigInt>("COALESCE(SUM(payout_cents % 1000000000), 0)"),
                ))
                .first::<(i64, i64)>(connection)?;
            Ok(cents(billions, rest))
        })
    }

    fn settle_bets(
        &self,
        bets: &[SettleBet],
        call: &SettleCall,
    ) -> Result<Vec<Option<SettledNow>>, StoreError> {
        self.connections.write(|connection| {
            let settle = |bet| settle(connection, bet, call).map(Some);
            bets.iter().map(settle).collect()
        })
    }

    fn settle_bet(&self, bet: &SettleBet, call: &SettleCall) -> Result<SettledNow, StoreError> {
        self.connections
            .write(|connection| settle(connection, bet, call))
    }

    fn mark_examined(&self, examined: &[ExaminedBet], generation: u64) -> Result<(), StoreError> {
        self.connections.write(|connection| {
            for bet in examined {
                diesel::update(bets::table.find(bet.bet_id.to_string()))
                    .filter(bets::settlements.eq(bet.settlements.cast_signed()))
                    .filter(bets::settled_by.lt(signed(generation)))
                    .filter(
                        bets::status.eq_any(
                            [BetStatus::Confirmed, BetStatus::Settled].map(BetStatus::as_str),
                        ),
                    )
                    .set((
                        bets::settled_by.eq(signed(generation)),
                        bets::held.eq(bet.held),
                    ))
                    .execute(connection)?;
            }
            Ok(())
        })
    }

    fn reopen_markets(&self, at: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let waiting = self.read(|connection| {
            Ok(bets_to_settle::table
                .select(count_star())
                .first::<i64>(connection)?)
        })?;
        if waiting == 0 {
            return Ok(0);
        }
        self.connections.write(|connection| {
            let queued: Vec<(String, String, String, String)> = bets_to_settle::table
                .inner_join(bets::table.on(bets::id.eq(bets_to_settle::bet_id)))
                .order(bets_to_settle::at)
                .limit(row_limit(limit))
                .select((bets::id, bets::event_id, bets::market, bets::line))
                .load(connection)?;
            for (bet_id, event_id, name, line) in &queued {
                reopen(connection, (event_id, name, line), at)?;
                diesel::delete(bets_to_settle::table.find(bet_id)).execute(connection)?;
            }
            Ok(queued.len())
        })
    }

    fn apply_rules(&self, rules: &str, at: Timestamp) -> Result<usize, StoreError> {
        self.connections.write(|connection| {
            let changed = sql_query(
                "UPDATE market_settlements AS settlement
                SET generation = generation + 1, due_since = ?, next_attempt_at = ?, lease = NULL
                WHERE settled_generation = generation AND rules <> ? AND EXISTS (
                    SELECT 1 FROM bets WHERE bets.status = 'CONFIRMED' AND bets.event_id = settlement.event_id
                        AND bets.market = settlement.market AND bets.line = settlement.line)",
            );
            Ok(changed
                .bind::<BigInt, _>(at.micros())
                .bind::<BigInt, _>(at.micros())
                .bind::<Text, _>(rules)
                .execute(connection)?)
        })
    }

    fn open_positions(&self, scope: PositionScope<'_>) -> Result<Vec<OpenPosition>, StoreError> {
        let mut rows = bets::table
            .filter(sql::<Bool>("status = 'CONFIRMED'"))
            .group_by((bets::event_id, bets::market, bets::line, bets::selection))
            .order((bets::event_id, bets::market, bets::line, bets::selection))
            .select((
                bets::event_id,
                bets::market,
                bets::line,
                bets::selection,
                count_star(),
                sql::<BigInt>("SUM(stake_cents)"),
                sql::<BigInt>("SUM(stake_cents * price_thousandths / 1000)"),
            ))
            .into_boxed();
        match scope {
            PositionScope::All => {}
            PositionScope::Event(event_id) => {
                rows = rows.filter(bets::event_id.eq(event_id.as_str()));
            }
            PositionScope::Market(market) => {
                let (event_id, name, line) = key(market);
                rows = rows
                    .filter(bets::event_id.eq(event_id))
                    .filter(bets::market.eq(name))
                    .filter(bets::line.eq(line));
            }
        }
        self.read(|connection| read_all(rows.load(connection)?, PositionRow::read))
    }

    fn settlement_backlog(&self) -> Result<SettlementBacklog, StoreError> {
        let backlog = sql::<(
            BigInt,
            Nullable<BigInt>,
            BigInt,
            BigInt,
            BigInt,
            BigInt,
            BigInt,
        )>(
            "SELECT due.markets, due.since, checks.held, (SELECT count(*) FROM bets WHERE held IS NOT NULL),
                checks.conflicts, checks.missing,
                (SELECT CAST(MIN(TOTAL(owed_cents), 9e18) AS INTEGER) FROM wallets WHERE owed_cents > 0)
            FROM (
                SELECT count(*) AS markets, min(due_since) AS since FROM market_settlements
                WHERE settled_generation < generation
            ) AS due, (
                SELECT count(*) FILTER (WHERE held IS NOT NULL) AS held, COALESCE(SUM(conflicts), 0) AS conflicts,
                    COALESCE(SUM(missing), 0) AS missing
                FROM market_settlements WHERE held IS NOT NULL OR conflicts > 0 OR missing > 0
            ) AS checks",
        );
        self.read(|connection| Ok(backlog.get_result::<BacklogRow>(connection)?.read()?))
    }
}

fn key(market: &EventMarket) -> (&str, &str, String) {
    let EventMarket { event_id, market } = market;
    (
        event_id.as_str(),
        market.name.as_str(),
        line_text(market.line),
    )
}

/// Whether bets of a leased market are due: another worker with an earlier generation settled them
/// meanwhile.
fn has_due_bets(connection: &mut SqliteConnection, lease: &MarketLease) -> Result<bool, Failure> {
    let (event_id, name, line) = key(&lease.market);
    for has_state in ["status = 'CONFIRMED'", "status = 'SETTLED'"] {
        let due = bets::table
            .filter(sql::<Bool>(has_state))
            .filter(bets::event_id.eq(event_id))
            .filter(bets::market.eq(name))
            .filter(bets::line.eq(&line))
            .filter(bets::settled_by.lt(signed(lease.generation)));
        if select(exists(due)).get_result(connection)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes a market due again, for bets that were confirmed after its result arrived.
fn reopen(
    connection: &mut SqliteConnection,
    key: (&str, &str, &str),
    at: Timestamp,
) -> Result<(), Failure> {
    sql_query(
        "UPDATE market_settlements
        SET due_since = CASE WHEN settled_generation < generation THEN due_since ELSE ? END, settled_generation = 0,
            next_attempt_at = ?, lease = NULL
        WHERE event_id = ? AND market = ? AND line = ?",
    )
    .bind::<BigInt, _>(at.micros())
    .bind::<BigInt, _>(at.micros())
    .bind::<Text, _>(key.0)
    .bind::<Text, _>(key.1)
    .bind::<Text, _>(key.2)
    .execute(connection)?;
    Ok(())
}
