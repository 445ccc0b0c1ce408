//! Decisions about bets.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel::sqlite::SqliteConnection;

use super::bets::{add_step, bet_columns, reference_of};
use super::{Stop, cancels, contradiction, outbox, reservations, settled_bets};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetStatus};
use crate::domain::ids::UserId;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::HoldResolution;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{DecideBet, Decided, DecisionStore, OutboxMessage, OutboxTopic};
use crate::store::rows::money::BetRow;
use crate::store::rows::{parsed, read_all, row_limit};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::bets;

impl DecisionStore for SqliteStore {
    fn decide_bet(
        &self,
        bet_id: BetId,
        outcome: &BetOutcome,
        notice: &OutboxMessage,
        at: Timestamp,
    ) -> Result<Decided, StoreError> {
        self.connections
            .write(|connection| decide(connection, bet_id, outcome, notice, at))
    }

    fn decide_bets(&self, decisions: &[DecideBet]) -> Result<Vec<Option<Decided>>, StoreError> {
        self.connections.write(|connection| {
            let decide = |decision: &DecideBet| {
                decide(
                    connection,
                    decision.bet_id,
                    &decision.outcome,
                    &decision.notice,
                    decision.at,
                )
                .map(Some)
            };
            decisions.iter().map(decide).collect()
        })
    }

    fn overdue_bets(&self, at: Timestamp, limit: usize) -> Result<Vec<Bet>, StoreError> {
        self.read(|connection| {
            let rows = bets::table
                // A literal, because only then SQLite recognises that the partial index covers the
                // condition.
                .filter(sql::<Bool>("status = 'PENDING_CONFIRMATION'"))
                .filter(bets::decide_by.le(at.micros()))
                .order((bets::decide_by, bets::id))
                .limit(row_limit(limit))
                .select(bet_columns())
                .load(connection)?;
            read_all(rows, BetRow::read)
        })
    }
}

/// Decides a pending bet.
fn decide(
    connection: &mut SqliteConnection,
    bet_id: BetId,
    outcome: &BetOutcome,
    notice: &OutboxMessage,
    at: Timestamp,
) -> Result<Decided, Failure> {
    let found = bets::table
        .find(bet_id.to_string())
        .select((bets::user_id, bets::status))
        .first::<(String, String)>(connection)
        .optional()?;
    let Some((user_id, status)) = found else {
        return Ok(Decided::Unknown);
    };
    let status: BetStatus = parsed("status", &status)?;
    if status != BetStatus::Pending {
        return Ok(Decided::Before(status));
    }
    let user_id = parsed("user_id", &user_id)?;
    end_reservation(connection, &user_id, bet_id, outcome, at)?;
    let status = outcome.status();
    let reason = outcome.reason();
    diesel::update(bets::table.find(bet_id.to_string()))
        .set((
            bets::status.eq(status.as_str()),
            bets::reason.eq(reason),
            bets::provider_ref.eq(outcome.provider_ref()),
            bets::decided_at.eq(at.micros()),
        ))
        .execute(connection)?;
    add_step(
        connection,
        bet_id,
        Some(BetStatus::Pending),
        (status, reason),
        at,
    )?;
    if status == BetStatus::Confirmed {
        settled_bets::queue_late_bet(connection, bet_id, at)?;
    }
    if *outcome == BetOutcome::TimedOut {
        cancels::add(connection, bet_id, at)?;
    }
    Ok(Decided::Now {
        outbox: outbox::add(connection, OutboxTopic::Confirmed, bet_id, notice, at)?,
    })
}

/// Transfers the stake to the house or back to the user.
fn end_reservation(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    bet_id: BetId,
    outcome: &BetOutcome,
    at: Timestamp,
) -> Result<(), Failure> {
    let settlement = match outcome.status() {
        BetStatus::Confirmed => HoldResolution::Commit,
        BetStatus::Rejected | BetStatus::Pending | BetStatus::Settled => HoldResolution::Refund,
    };
    match reservations::settle(
        connection,
        user_id,
        &reference_of(bet_id)?,
        settlement,
        Some(bet_id),
        at,
    ) {
        Ok(_) => Ok(()),
        Err(Stop::Refused(refusal)) => {
            let what =
                format_args!("bet {bet_id} is pending and its reservation is not: {refusal}");
            Err(contradiction(what).into())
        }
        Err(Stop::Failed(failure)) => Err(failure),
    }
}
