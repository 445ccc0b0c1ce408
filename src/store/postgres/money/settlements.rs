//! Settling bets.

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use uuid::Uuid;

use super::batch::{BUSY, Wait, alone, each, in_places};
use super::required;
use crate::domain::ids::EventMarket;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{
    BetState, DueBet, DueBets, DueCursor, ExaminedBet, FinishedMarket, MarketLease, OpenPosition,
    PositionScope, SettleBet, SettleCall, SettledNow, SettlementBacklog, SettlementStore,
};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::settlements::{BacklogRow, DueBetRow, LeasedRow, PositionRow, cents};
use crate::store::rows::{line_text, pg_time, read_all, row_limit, signed, unreadable};

statement! {
    /// Leases the market that has been waiting longest.
    Lease returns (Text, Text, Text, BigInt, Timestamptz):
    "UPDATE market_settlements AS settlement SET lease = " { id: Uuid as SqlUuid } ", next_attempt_at = "
        { until: PgTimestamp as Timestamptz }
    " FROM (
        SELECT event_id, market, line FROM market_settlements
        WHERE settled_generation < generation AND next_attempt_at <= " { now: PgTimestamp as Timestamptz }
    " ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE settlement.event_id = due.event_id AND settlement.market = due.market AND settlement.line = due.line
    RETURNING settlement.event_id, settlement.market, settlement.line, settlement.generation,
        settlement.due_since"
}

statement! {
    /// Changes the end of a lease.
    Extend<'a>:
    "UPDATE market_settlements SET next_attempt_at = " { until: PgTimestamp as Timestamptz }
    " WHERE event_id = " { event: &'a str as Text } " AND market = " { market: &'a str as Text } " AND line = "
        { line: &'a str as Text } " AND lease = " { id: Uuid as SqlUuid } ""
}

statement! {
    /// Ends the settlement of a market, unless bets are due and the market is not held.
    Finish<'a>:
    "UPDATE market_settlements AS settlement
    SET settled_generation = generation, lease = NULL, rules = " { rules: &'a str as Text }
    ", held = " { held: Option<&'a str> as Nullable<Text> } ", missing = " { missing: i64 as BigInt }
    " WHERE event_id = " { event: &'a str as Text } " AND market = " { market: &'a str as Text } " AND line = "
        { line: &'a str as Text } " AND lease = " { id: Uuid as SqlUuid } " AND generation = "
        { generation: i64 as BigInt }
    " AND (" { is_held: bool as Bool } " OR NOT EXISTS (
        SELECT FROM bets WHERE status = 'CONFIRMED' AND bets.event_id = settlement.event_id
            AND bets.market = settlement.market AND bets.line = settlement.line AND settled_by < generation
    ) AND NOT EXISTS (
        SELECT FROM bets WHERE status = 'SETTLED' AND bets.event_id = settlement.event_id
            AND bets.market = settlement.market AND bets.line = settlement.line AND settled_by < generation))"
}

statement! {
    /// Whether bets of a market are pending. The index bets_to_decide has the pending bets only.
    Pending<'a> returns (Bool):
    "SELECT EXISTS (
        SELECT FROM bets
        WHERE status = 'PENDING_CONFIRMATION' AND decide_by > '-infinity' AND event_id = " { event: &'a str as Text }
    " AND market = " { market: &'a str as Text } " AND line = " { line: &'a str as Text } ")"
}

/// Defines a query for due bets with this status: a literal, because only then the planner uses the
/// index that has these bets.
macro_rules! due_bets {
    ($name:ident, $text:literal) => {
        statement! {
            /// Due bets.
            $name<'a> returns (SqlUuid, Text, Text, BigInt, Integer, Timestamptz, Text, Nullable<BigInt>,
                Nullable<Text>, Integer, BigInt):
            $text { event: &'a str as Text } " AND market = " { market: &'a str as Text } " AND line = "
                { line: &'a str as Text } " AND settled_by < " { generation: i64 as BigInt } " AND (settled_by, id) > ("
                { after_generation: i64 as BigInt } ", " { after_bet: Uuid as SqlUuid }
            ") ORDER BY settled_by, id LIMIT " { limit: i64 as BigInt } ""
        }
    };
}

due_bets! { DueOpen, "SELECT id, user_id, selection, stake_cents, price_thousandths, placed_at, status, payout_cents,
outcome, settlements, settled_by FROM bets WHERE status = 'CONFIRMED' AND event_id = " }
due_bets! { DueSettled, "SELECT id, user_id, selection, stake_cents, price_thousandths, placed_at, status, payout_cents,
outcome, settlements, settled_by FROM bets WHERE status = 'SETTLED' AND event_id = " }

statement! {
    /// What the settled bets of a generation have been paid, in billions and a rest.
    PaidBy<'a> returns (BigInt, BigInt):
    "SELECT COALESCE(SUM(payout_cents / 1000000000), 0)::BIGINT, COALESCE(SUM(payout_cents % 1000000000), 0)::BIGINT
    FROM bets WHERE status = 'SETTLED' AND event_id = " { event: &'a str as Text } " AND market = "
        { market: &'a str as Text } " AND line = " { line: &'a str as Text } " AND settled_by >= "
        { generation: i64 as BigInt } " AND placed_at >= COALESCE("
        { placed_from: Option<PgTimestamp> as Nullable<Timestamptz> } ", '-infinity')"
}

statement! {
    /// Settles bets.
    Settle<'a> returns (Integer, Text, Nullable<BigInt>):
    "SELECT place, outcome, record FROM bets_settle(" { waits: bool as Bool } ", " { ids: &'a [Uuid] as Array<SqlUuid> } ", "
        { settlements: &'a [i32] as Array<Integer> } ", " { outcomes: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { payouts: &'a [i64] as Array<BigInt> } ", " { reasons: &'a [&'a str] as Array<Text> } ", "
        { payloads: &'a [&'a str] as Array<Text> } ", " { generation: i64 as BigInt } ", "
        { leased_until: PgTimestamp as Timestamptz } ", " { now: PgTimestamp as Timestamptz } ")"
}

statement! {
    /// Marks bets as examined. All statements lock bets in the order of their ids.
    Examined<'a>:
    "WITH given AS (
        SELECT * FROM unnest(" { ids: &'a [Uuid] as Array<SqlUuid> } ", "
            { settlements: &'a [i32] as Array<Integer> } ", "
            { held: &'a [Option<&'a str>] as Array<Nullable<Text>> } ") AS given (id, settlements, held)
    ), locked AS MATERIALIZED (
        SELECT id FROM bets WHERE id IN (SELECT id FROM given) ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE bets SET settled_by = " { generation: i64 as BigInt } ", held = given.held FROM locked JOIN given USING (id)
    WHERE bets.id = given.id AND bets.settlements = given.settlements AND bets.settled_by < "
        { before: i64 as BigInt } " AND bets.status IN ('CONFIRMED', 'SETTLED')"
}

statement! {
    /// Makes the markets of the queued bets due, and returns the number of bets.
    Reopen returns (BigInt):
    "WITH queued AS (
        DELETE FROM bets_to_settle WHERE bet_id IN (
            SELECT bet_id FROM bets_to_settle ORDER BY at LIMIT " { limit: i64 as BigInt } " FOR UPDATE SKIP LOCKED)
        RETURNING bet_id
    ), markets AS (
        SELECT settlement.event_id, settlement.market, settlement.line
        FROM (SELECT DISTINCT event_id::TEXT, market::TEXT, line FROM bets JOIN queued ON bets.id = queued.bet_id) AS late
        JOIN market_settlements AS settlement USING (event_id, market, line)
        ORDER BY settlement.event_id, settlement.market, settlement.line FOR UPDATE OF settlement
    ), reopened AS (
        UPDATE market_settlements AS settlement SET
            due_since = CASE WHEN settled_generation < generation THEN due_since ELSE " { now: PgTimestamp as Timestamptz }
    "        END, settled_generation = 0, next_attempt_at = " { again: PgTimestamp as Timestamptz } ", lease = NULL
        FROM markets WHERE settlement.event_id = markets.event_id AND settlement.market = markets.market
            AND settlement.line = markets.line
    )
    SELECT count(*) FROM queued"
}

statement! {
    /// Makes markets due that were settled by other rules and have open bets.
    ApplyRules<'a> returns (BigInt):
    "WITH markets AS (
        SELECT event_id, market, line FROM market_settlements AS settlement
        WHERE settled_generation = generation AND rules <> " { rules: &'a str as Text } " AND EXISTS (
            SELECT FROM bets WHERE bets.status = 'CONFIRMED' AND bets.event_id = settlement.event_id
                AND bets.market = settlement.market AND bets.line = settlement.line)
        ORDER BY event_id, market, line FOR UPDATE
    ), changed AS (
        UPDATE market_settlements AS settlement SET generation = generation + 1, due_since = "
        { now: PgTimestamp as Timestamptz } ", next_attempt_at = " { again: PgTimestamp as Timestamptz } ", lease = NULL
        FROM markets WHERE settlement.event_id = markets.event_id AND settlement.market = markets.market
            AND settlement.line = markets.line
    )
    SELECT count(*) FROM markets"
}

statement! {
    /// The open bets, by market and selection. NULL selects all events.
    Positions<'a> returns (Text, Text, Text, Text, BigInt, BigInt, BigInt):
    "SELECT event_id, market, line, selection, count(*), SUM(stake_cents)::BIGINT,
        SUM(stake_cents * price_thousandths / 1000)::BIGINT
    FROM bets WHERE status = 'CONFIRMED' AND event_id = COALESCE(" { event: Option<&'a str> as Nullable<Text> } ", event_id)
    GROUP BY event_id, market, line, selection ORDER BY event_id, market, line, selection"
}

statement! {
    /// The open bets of a market, by selection.
    PositionsOfMarket<'a> returns (Text, Text, Text, Text, BigInt, BigInt, BigInt):
    "SELECT event_id, market, line, selection, count(*), SUM(stake_cents)::BIGINT,
        SUM(stake_cents * price_thousandths / 1000)::BIGINT
    FROM bets WHERE status = 'CONFIRMED' AND event_id = " { event: &'a str as Text } " AND market = "
        { market: &'a str as Text } " AND line = " { line: &'a str as Text }
    " GROUP BY event_id, market, line, selection ORDER BY selection"
}

statement! {
    /// What is waiting. Each part reads a partial index.
    Backlog returns (BigInt, Nullable<Timestamptz>, BigInt, BigInt, BigInt, BigInt, BigInt):
    "SELECT due.markets, due.since, checks.held, (SELECT count(*) FROM bets WHERE held IS NOT NULL), checks.conflicts,
        checks.missing,
        (SELECT LEAST(COALESCE(SUM(owed_cents), 0), 9223372036854775807)::BIGINT FROM wallets WHERE owed_cents > 0)
    FROM (
        SELECT count(*) AS markets, min(due_since) AS since FROM market_settlements WHERE settled_generation < generation
    ) AS due, (
        SELECT count(*) FILTER (WHERE held IS NOT NULL) AS held, COALESCE(SUM(conflicts), 0)::BIGINT AS conflicts,
            COALESCE(SUM(missing), 0)::BIGINT AS missing
        FROM market_settlements WHERE held IS NOT NULL OR conflicts > 0 OR missing > 0
    ) AS checks"
}

impl SettlementStore for PgStore {
    fn lease_due_market(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
    ) -> Result<Option<MarketLease>, StoreError> {
        let statement = Lease {
            id: Uuid::now_v7(),
            until: pg_time(leased_until),
            now: pg_time(at),
        };
        let read = |row: LeasedRow| row.read(statement.id);
        let leased: Vec<MarketLease> = self
            .money()?
            .run(|connection| read_all(statement.load(connection)?, read))?;
        Ok(leased.into_iter().next())
    }

    fn extend_lease(&self, lease: &MarketLease, until: Timestamp) -> Result<bool, StoreError> {
        let line = line_text(lease.market.market.line);
        let statement = Extend {
            until: pg_time(until),
            event: lease.market.event_id.as_str(),
            market: lease.market.market.name.as_str(),
            line: &line,
            id: lease.id,
        };
        self.money()?
            .run(|connection| Ok(statement.execute(connection)? == 1))
    }

    fn finish_market(
        &self,
        lease: &MarketLease,
        finished: &FinishedMarket<'_>,
    ) -> Result<bool, StoreError> {
        let line = line_text(lease.market.market.line);
        let statement = Finish {
            rules: finished.rules,
            held: finished.held,
            missing: signed(finished.missing),
            event: lease.market.event_id.as_str(),
            market: lease.market.market.name.as_str(),
            line: &line,
            id: lease.id,
            generation: signed(lease.generation),
            is_held: finished.held.is_some(),
        };
        self.money()?
            .run(|connection| Ok(statement.execute(connection)? == 1))
    }

    fn has_pending_bets(&self, market: &EventMarket) -> Result<bool, StoreError> {
        let statement = Pending {
            event: market.event_id.as_str(),
            market: market.market.name.as_str(),
            line: &line_text(market.market.line),
        };
        self.money()?
            .run(|connection| Ok(statement.get_result::<(bool,)>(connection)?.0))
    }

    fn due_bets(&self, query: &DueBets<'_>) -> Result<Vec<DueBet>, StoreError> {
        let after = query.after.unwrap_or(DueCursor::START);
        let line = line_text(query.market.market.line);
        macro_rules! load {
            ($statement:ident) => {{
                let statement = $statement {
                    event: query.market.event_id.as_str(),
                    market: query.market.market.name.as_str(),
                    line: &line,
                    generation: signed(query.generation),
                    after_generation: signed(after.settled_by),
                    after_bet: after.bet_id.0,
                    limit: row_limit(query.limit),
                };
                self.money()?
                    .run(|connection| read_all(statement.load(connection)?, DueBetRow::read))
            }};
        }
        match query.state {
            BetState::Open => load!(DueOpen),
            BetState::Settled => load!(DueSettled),
        }
    }

    fn paid_by(
        &self,
        market: &EventMarket,
        generation: u64,
        placed_from: Option<Timestamp>,
    ) -> Result<i128, StoreError> {
        let statement = PaidBy {
            event: market.event_id.as_str(),
            market: market.market.name.as_str(),
            line: &line_text(market.market.line),
            generation: signed(generation),
            placed_from: placed_from.map(pg_time),
        };
        self.money()?.run(|connection| {
            let (billions, rest) = statement.get_result::<(i64, i64)>(connection)?;
            Ok(cents(billions, rest))
        })
    }

    fn settle_bets(
        &self,
        bets: &[SettleBet],
        call: &SettleCall,
    ) -> Result<Vec<Option<SettledNow>>, StoreError> {
        self.money()?
            .run(|connection| settle(connection, bets, call, Wait::ForNobody))
    }

    fn settle_bet(&self, bet: &SettleBet, call: &SettleCall) -> Result<SettledNow, StoreError> {
        let bets = std::slice::from_ref(bet);
        self.money()?
            .run(|connection| alone(settle(connection, bets, call, Wait::ForWallets)?))
    }

    fn mark_examined(&self, bets: &[ExaminedBet], generation: u64) -> Result<(), StoreError> {
        let statement = Examined {
            ids: &each(bets, |bet| bet.bet_id.0),
            settlements: &each(bets, |bet| number(bet.settlements)),
            held: &each(bets, |bet| bet.held),
            generation: signed(generation),
            before: signed(generation),
        };
        self.money()?.run(|connection| {
            statement.execute(connection)?;
            Ok(())
        })
    }

    fn reopen_markets(&self, at: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let statement = Reopen {
            limit: row_limit(limit),
            now: pg_time(at),
            again: pg_time(at),
        };
        self.money()?.run(|connection| {
            let (bets,) = statement.get_result::<(i64,)>(connection)?;
            usize::try_from(bets).map_err(|_| unreadable("count", bets).into())
        })
    }

    fn apply_rules(&self, rules: &str, at: Timestamp) -> Result<usize, StoreError> {
        let statement = ApplyRules {
            rules,
            now: pg_time(at),
            again: pg_time(at),
        };
        self.money()?.run(|connection| {
            let (markets,) = statement.get_result::<(i64,)>(connection)?;
            usize::try_from(markets).map_err(|_| unreadable("count", markets).into())
        })
    }

    fn open_positions(&self, scope: PositionScope<'_>) -> Result<Vec<OpenPosition>, StoreError> {
        let event = match scope {
            PositionScope::All => None,
            PositionScope::Event(event_id) => Some(event_id.as_str()),
            PositionScope::Market(market) => {
                let statement = PositionsOfMarket {
                    event: market.event_id.as_str(),
                    market: market.market.name.as_str(),
                    line: &line_text(market.market.line),
                };
                return self
                    .money()?
                    .run(|connection| read_all(statement.load(connection)?, PositionRow::read));
            }
        };
        let statement = Positions { event };
        self.money()?
            .run(|connection| read_all(statement.load(connection)?, PositionRow::read))
    }

    fn settlement_backlog(&self) -> Result<SettlementBacklog, StoreError> {
        self.money()?
            .run(|connection| Ok(Backlog {}.get_result::<BacklogRow>(connection)?.read()?))
    }
}

fn settle(
    connection: &mut PgConnection,
    bets: &[SettleBet],
    call: &SettleCall,
    wait: Wait,
) -> Result<Vec<Option<SettledNow>>, Failure> {
    let statement = Settle {
        waits: wait == Wait::ForWallets,
        ids: &each(bets, |bet| bet.bet_id.0),
        settlements: &each(bets, |bet| number(bet.settlements)),
        outcomes: &each(bets, |bet| {
            bet.becomes.map(|(outcome, _)| <&str>::from(outcome))
        }),
        payouts: &each(bets, |bet| bet.becomes.map_or(0, |(_, payout)| payout)),
        reasons: &each(bets, |bet| <&str>::from(bet.reason)),
        payloads: &each(bets, |bet| bet.payload.as_str()),
        generation: signed(call.generation),
        leased_until: pg_time(call.leased_until),
        now: pg_time(call.at),
    };
    let settled = statement.load::<SettledRow>(connection)?;
    in_places(bets.len(), settled.into_iter().map(SettledRow::read))
}

/// The result of settling a bet.
#[derive(Queryable)]
struct SettledRow {
    /// The position of the bet in the call, from 1.
    place: i32,
    outcome: String,
    record: Option<i64>,
}

impl SettledRow {
    fn read(self) -> Result<(i32, Option<SettledNow>), StoreError> {
        let settled = match self.outcome.as_str() {
            "SETTLED" => Some(SettledNow::Settled {
                outbox: required("record", self.record)?,
            }),
            "CHANGED" => Some(SettledNow::Changed),
            "BALANCE_TOO_HIGH" => Some(SettledNow::BalanceTooHigh),
            BUSY => None,
            other => return Err(unreadable("outcome", other)),
        };
        Ok((self.place, settled))
    }
}

/// A number of settlements in its column. None exceeds 31 bits.
fn number(settlements: u32) -> i32 {
    i32::try_from(settlements).unwrap_or(i32::MAX)
}
