//! Decisions about bets.

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use uuid::Uuid;

use super::batch::{BUSY, Wait, alone, each, in_places};
use super::required;
use crate::domain::bets::bet::{Bet, BetId, BetOutcome};
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{DecideBet, Decided, DecisionStore, OutboxMessage};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::money::BetRow;
use crate::store::rows::{parsed, pg_time, read_all, row_limit, unreadable};

statement! {
    /// Decides bets.
    Decide<'a> returns (Integer, Text, Nullable<Text>, Nullable<BigInt>):
    "SELECT place, outcome, status, record FROM bets_decide(" { waits: bool as Bool } ", "
        { ids: &'a [Uuid] as Array<SqlUuid> } ", " { statuses: &'a [&'a str] as Array<Text> } ", "
        { reasons: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { provider_refs: &'a [Option<&'a str>] as Array<Nullable<Text>> } ", "
        { cancels: &'a [bool] as Array<Bool> } ", " { payloads: &'a [&'a str] as Array<Text> } ", "
        { leased_until: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { now: &'a [PgTimestamp] as Array<Timestamptz> } ", "
        { traceparents: &'a [Option<String>] as Array<Nullable<Text>> } ")"
}

statement! {
    /// Pending bets past their deadline.
    OverdueBets returns (SqlUuid, Text, Text, Text, Text, Text, BigInt, Integer, Text, Nullable<Text>, Nullable<Text>,
        Timestamptz, Timestamptz, Nullable<Timestamptz>, Nullable<Text>, Nullable<BigInt>, Nullable<Timestamptz>):
    "SELECT id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status, reason,
        provider_ref, placed_at, decide_by, decided_at, outcome, payout_cents, settled_at
    FROM bets WHERE status = 'PENDING_CONFIRMATION' AND decide_by <= " { now: PgTimestamp as Timestamptz }
    " ORDER BY decide_by LIMIT " { limit: i64 as BigInt } ""
}

impl DecisionStore for PgStore {
    fn decide_bet(
        &self,
        bet_id: BetId,
        outcome: &BetOutcome,
        notice: &OutboxMessage,
        at: Timestamp,
    ) -> Result<Decided, StoreError> {
        let decision = DecideBet {
            bet_id,
            outcome: outcome.clone(),
            notice: notice.clone(),
            at,
        };
        self.money()?.run(|connection| {
            alone(decide(
                connection,
                std::slice::from_ref(&decision),
                Wait::ForWallets,
            )?)
        })
    }

    fn decide_bets(&self, decisions: &[DecideBet]) -> Result<Vec<Option<Decided>>, StoreError> {
        self.money()?
            .run(|connection| decide(connection, decisions, Wait::ForNobody))
    }

    fn overdue_bets(&self, at: Timestamp, limit: usize) -> Result<Vec<Bet>, StoreError> {
        let statement = OverdueBets {
            now: pg_time(at),
            limit: row_limit(limit),
        };
        self.money()?
            .run(|connection| read_all(statement.load(connection)?, BetRow::read))
    }
}

fn decide(
    connection: &mut PgConnection,
    decisions: &[DecideBet],
    wait: Wait,
) -> Result<Vec<Option<Decided>>, Failure> {
    let statement = Decide {
        waits: wait == Wait::ForWallets,
        ids: &each(decisions, |decision| decision.bet_id.0),
        statuses: &each(decisions, |decision| decision.outcome.status().as_str()),
        reasons: &each(decisions, |decision| decision.outcome.reason()),
        provider_refs: &each(decisions, |decision| decision.outcome.provider_ref()),
        cancels: &each(decisions, |decision| {
            decision.outcome == BetOutcome::TimedOut
        }),
        payloads: &each(decisions, |decision| decision.notice.payload.as_str()),
        leased_until: &each(decisions, |decision| pg_time(decision.notice.leased_until)),
        now: &each(decisions, |decision| pg_time(decision.at)),
        traceparents: &each(decisions, |decision| {
            decision.notice.trace.map(|it| it.to_string())
        }),
    };
    let decided = statement.load::<DecidedRow>(connection)?;
    in_places(decisions.len(), decided.into_iter().map(DecidedRow::read))
}

/// The result of deciding a bet.
#[derive(Queryable)]
struct DecidedRow {
    /// The position of the decision in the call, from 1.
    place: i32,
    outcome: String,
    status: Option<String>,
    record: Option<i64>,
}

impl DecidedRow {
    fn read(self) -> Result<(i32, Option<Decided>), StoreError> {
        let decided = match self.outcome.as_str() {
            "DECIDED" => Some(Decided::Now {
                outbox: required("record", self.record)?,
            }),
            "ALREADY" => {
                let status = required("status", self.status)?;
                Some(Decided::Before(parsed("status", &status)?))
            }
            "UNKNOWN" => Some(Decided::Unknown),
            BUSY => None,
            other => return Err(unreadable("outcome", other)),
        };
        Ok((self.place, decided))
    }
}
