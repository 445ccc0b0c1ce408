//! The settlement of one bet. [`postings`] says what is moved.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;

use super::bets::{add_step, reference_of};
use super::{contradiction, ledger, outbox};
use crate::domain::bets::bet::{BetId, BetStatus};
use crate::domain::ids::{Reference, UserId};
use crate::domain::settlement::payout::Entitlement;
use crate::domain::settlement::postings::{BetPosition, UserFunds, postings};
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::money::{OutboxMessage, OutboxTopic, SettleBet, SettleCall, SettledNow};
use crate::store::rows::{amount, parsed, signed};
use crate::store::sqlite::schema::{bet_settlements, bets, wallets};

/// The columns of a bet that its settlement reads.
#[derive(Queryable)]
struct BetFacts {
    user_id: String,
    stake_cents: i64,
    status: String,
    payout_cents: Option<i64>,
    settlements: i32,
    settled_by: i64,
}

/// Settles a bet, unless somebody else did meanwhile.
pub(super) fn settle(
    connection: &mut SqliteConnection,
    bet: &SettleBet,
    call: &SettleCall,
) -> Result<SettledNow, Failure> {
    let facts = bets::table
        .find(bet.bet_id.to_string())
        .select((
            bets::user_id,
            bets::stake_cents,
            bets::status,
            bets::payout_cents,
            bets::settlements,
            bets::settled_by,
        ))
        .first::<BetFacts>(connection)
        .optional()?
        .filter(|facts| facts.settlements == bet.settlements.cast_signed())
        .filter(|facts| facts.settled_by < signed(call.generation));
    let Some(facts) = facts else {
        return Ok(SettledNow::Changed);
    };
    let position = match (parsed("status", &facts.status)?, facts.payout_cents) {
        (BetStatus::Settled, Some(paid)) => BetPosition::Settled { paid },
        (BetStatus::Confirmed, _) => BetPosition::Open,
        _ => return Ok(SettledNow::Changed),
    };
    if !pay(connection, bet, &facts, position, call.at)? {
        return Ok(SettledNow::BalanceTooHigh);
    }
    record(connection, bet, position, call)
}

/// Makes the transfers of a settlement; false if the balance would become too high.
fn pay(
    connection: &mut SqliteConnection,
    bet: &SettleBet,
    facts: &BetFacts,
    position: BetPosition,
    at: Timestamp,
) -> Result<bool, Failure> {
    let user_id: UserId = parsed("user_id", &facts.user_id)?;
    let row = ledger::wallet_row(connection, &user_id)?;
    let row = row.ok_or_else(|| contradiction(format_args!("{user_id} has no wallet")))?;
    let (wallet, mut owed) = row.read_with_debt();
    let funds = UserFunds {
        available: wallet.balance.available,
        reserved: wallet.balance.reserved,
        owed,
    };
    let entitlement = bet.becomes.map_or(Entitlement::Open, |(outcome, payout)| {
        Entitlement::Settled { payout, outcome }
    });
    let stake = amount("stake_cents", facts.stake_cents)?;
    let Ok(postings) = postings(entitlement, stake, position, funds) else {
        return Ok(false);
    };
    let mut balance = wallet.balance;
    for posting in postings {
        balance = ledger::post(
            connection,
            balance,
            &user_id,
            posting,
            &reference_of_settlement(bet)?,
            at,
        )?;
        owed += posting.owed_change();
    }
    diesel::update(wallets::table.find(user_id.as_str()))
        .set(wallets::owed_cents.eq(owed))
        .execute(connection)?;
    Ok(true)
}

/// The reference of a settlement's transfers.
fn reference_of_settlement(bet: &SettleBet) -> Result<Reference, StoreError> {
    let bet_id = reference_of(bet.bet_id)?;
    parsed("bet", &format!("{bet_id}#{}", bet.settlements + 1))
}

/// Writes the state of a bet, its settlement, its history and its outbox record.
fn record(
    connection: &mut SqliteConnection,
    bet: &SettleBet,
    position: BetPosition,
    call: &SettleCall,
) -> Result<SettledNow, Failure> {
    let n = bet.settlements.cast_signed() + 1;
    let at = call.at;
    let outcome = bet.becomes.map(|(outcome, _)| <&str>::from(outcome));
    let payout = bet.becomes.map(|(_, payout)| payout);
    let (before, paid) = match position {
        BetPosition::Open => (BetStatus::Confirmed, 0),
        BetPosition::Settled { paid } => (BetStatus::Settled, paid),
    };
    let after = match outcome {
        Some(_) => BetStatus::Settled,
        None => BetStatus::Confirmed,
    };
    let id = bet.bet_id.to_string();
    diesel::update(bets::table.find(&id))
        .set((
            bets::status.eq(after.as_str()),
            bets::outcome.eq(outcome),
            bets::payout_cents.eq(payout),
            bets::settled_at.eq(outcome.map(|_| at.micros())),
            bets::settlements.eq(n),
            bets::settled_by.eq(signed(call.generation)),
            bets::held.eq(None::<String>),
        ))
        .execute(connection)?;
    diesel::insert_into(bet_settlements::table)
        .values((
            bet_settlements::bet_id.eq(&id),
            bet_settlements::n.eq(n),
            bet_settlements::outcome.eq(outcome),
            bet_settlements::payout_cents.eq(payout.unwrap_or(0)),
            bet_settlements::difference_cents.eq(payout.unwrap_or(0) - paid),
            bet_settlements::reason.eq(<&str>::from(bet.reason)),
            bet_settlements::generation.eq(signed(call.generation)),
            bet_settlements::at.eq(at.micros()),
        ))
        .execute(connection)?;
    let reason = bet
        .reason
        .in_history(bet.becomes.map(|(outcome, _)| outcome));
    add_step(
        connection,
        bet.bet_id,
        Some(before),
        (after, Some(reason)),
        at,
    )?;
    let notice = OutboxMessage {
        payload: bet.payload.clone(),
        leased_until: call.leased_until,
        trace: None,
    };
    let outbox = outbox::add(connection, OutboxTopic::Settled, bet.bet_id, &notice, at)?;
    Ok(SettledNow::Settled { outbox })
}

/// Queues a bet that was confirmed after a result of its market arrived.
pub(super) fn queue_late_bet(
    connection: &mut SqliteConnection,
    bet_id: BetId,
    at: Timestamp,
) -> Result<(), Failure> {
    sql_query(
        "INSERT INTO bets_to_settle (bet_id, at)
        SELECT id, ? FROM bets JOIN market_settlements USING (event_id, market, line) WHERE id = ?",
    )
    .bind::<BigInt, _>(at.micros())
    .bind::<Text, _>(bet_id.to_string())
    .execute(connection)?;
    Ok(())
}
