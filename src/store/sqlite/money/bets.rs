//! Placing, deciding and reading bets.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::{
    Stop, StoreError, amount, contradiction, delivery, keys, optional, parsed, reservations, wallet,
};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetRefusal, BetStatus, BetStep};
use crate::domain::ids::{MarketKey, Reference, UserId};
use crate::domain::odds::price::Price;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::HoldResolution;
use crate::store::money::{
    BetAnswer, Decided, OutboxMessage, OutboxTopic, Page, RequestKey, TransferRequest, WalletError,
};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::read::rows_at_most;
use crate::store::sqlite::schema::{bet_history, bets};
use crate::store::sqlite::{line_text, time, unreadable};

/// Places a bet, unless its key already has an answer.
pub(super) fn place(
    connection: &mut SqliteConnection,
    bet: &Bet,
    key: Option<&RequestKey>,
    notice: &OutboxMessage,
) -> Result<BetAnswer, Failure> {
    if let Some(key) = key
        && let Some(first) = keys::first_answer(connection, &bet.user_id, key)?
    {
        return Ok(first);
    }
    if let Some(reservation) = reservations::find(connection, &bet.user_id, &reference_of(bet.id)?)?
    {
        return again(connection, bet, &reservation, key);
    }
    let refusal = match stake(connection, bet) {
        Ok(new_balance) => return keep(connection, bet, new_balance, key, notice),
        Err(Stop::Refused(WalletError::WalletNotFound)) => BetRefusal::WalletNotFound,
        Err(Stop::Refused(WalletError::InsufficientFunds)) => BetRefusal::InsufficientFunds,
        Err(Stop::Refused(other)) => {
            return Err(contradiction(format_args!("bet {}: {other}", bet.id)).into());
        }
        Err(Stop::Failed(failure)) => return Err(failure),
    };
    match key {
        Some(key) => keys::refuse(connection, &bet.user_id, key, &refusal, bet.placed_at),
        None => Ok(BetAnswer::Refused(refusal)),
    }
}

/// A bet that already exists. A request without a key may be repeated because its first answer was
/// lost.
fn again(
    connection: &mut SqliteConnection,
    bet: &Bet,
    held: &reservations::Held,
    key: Option<&RequestKey>,
) -> Result<BetAnswer, Failure> {
    match one(connection, bet.id)? {
        Some(first) if key.is_none() && held.bet_id == Some(bet.id) && first.stake == bet.stake => {
            let new_balance = reservations::available_after_reserve(
                connection,
                &bet.user_id,
                &held.reservation.reference,
            )?;
            Ok(BetAnswer::Placed {
                bet_id: first.id,
                price: first.price,
                new_balance,
                outbox: None,
            })
        }
        _ => Err(contradiction(format_args!(
            "bet {} or its reservation already exists",
            bet.id
        ))
        .into()),
    }
}

/// Reserves the stake and returns the available balance afterwards.
fn stake(connection: &mut SqliteConnection, bet: &Bet) -> Result<i64, Stop> {
    let wallet = wallet::known(connection, &bet.user_id)?;
    let order = TransferRequest {
        user_id: bet.user_id.clone(),
        amount: bet.stake,
        reference: reference_of(bet.id)?,
        at: bet.placed_at,
    };
    let (_, after) = reservations::hold(connection, wallet.balance, &order, Some(bet.id))?;
    Ok(after.available)
}

fn reference_of(bet_id: BetId) -> Result<Reference, StoreError> {
    parsed("bet", &bet_id.to_string())
}

fn keep(
    connection: &mut SqliteConnection,
    bet: &Bet,
    new_balance: i64,
    key: Option<&RequestKey>,
    notice: &OutboxMessage,
) -> Result<BetAnswer, Failure> {
    diesel::insert_into(bets::table)
        .values((
            bets::id.eq(bet.id.to_string()),
            bets::user_id.eq(bet.user_id.as_str()),
            bets::event_id.eq(bet.event_id.as_str()),
            bets::market.eq(bet.market.name.as_str()),
            bets::line.eq(line_text(bet.market.line)),
            bets::selection.eq(bet.selection.as_str()),
            bets::stake_cents.eq(bet.stake.cents()),
            bets::price_thousandths.eq(bet.price.thousandths() as i32),
            bets::status.eq(BetStatus::Pending.as_str()),
            bets::placed_at.eq(bet.placed_at.micros()),
            bets::decide_by.eq(bet.decide_by.micros()),
        ))
        .execute(connection)?;
    step(
        connection,
        bet.id,
        None,
        (BetStatus::Pending, None),
        bet.placed_at,
    )?;
    if let Some(key) = key {
        keys::keep_bet(
            connection,
            &bet.user_id,
            key,
            (bet.id, new_balance),
            bet.placed_at,
        )?;
    }
    let outbox = delivery::put(
        connection,
        OutboxTopic::BetPlaced,
        bet.id,
        notice,
        bet.placed_at,
    )?;
    Ok(BetAnswer::Placed {
        bet_id: bet.id,
        price: bet.price,
        new_balance,
        outbox: Some(outbox),
    })
}

fn step(
    connection: &mut SqliteConnection,
    bet_id: BetId,
    from: Option<BetStatus>,
    (to, reason): (BetStatus, Option<&str>),
    at: Timestamp,
) -> Result<(), Failure> {
    diesel::insert_into(bet_history::table)
        .values((
            bet_history::bet_id.eq(bet_id.to_string()),
            bet_history::old_status.eq(from.map(BetStatus::as_str)),
            bet_history::new_status.eq(to.as_str()),
            bet_history::reason.eq(reason),
            bet_history::at.eq(at.micros()),
        ))
        .execute(connection)?;
    Ok(())
}

/// Decides a pending bet.
pub(super) fn decide(
    connection: &mut SqliteConnection,
    bet_id: BetId,
    verdict: &BetOutcome,
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
    give(
        connection,
        &parsed("user_id", &user_id)?,
        bet_id,
        verdict,
        at,
    )?;
    let (status, reason) = (verdict.status(), verdict.reason());
    diesel::update(bets::table.find(bet_id.to_string()))
        .set((
            bets::status.eq(status.as_str()),
            bets::reason.eq(reason),
            bets::provider_ref.eq(verdict.provider_ref()),
            bets::decided_at.eq(at.micros()),
        ))
        .execute(connection)?;
    step(
        connection,
        bet_id,
        Some(BetStatus::Pending),
        (status, reason),
        at,
    )?;
    if *verdict == BetOutcome::TimedOut {
        delivery::order_cancel(connection, bet_id, at)?;
    }
    Ok(Decided::Now {
        outbox: delivery::put(connection, OutboxTopic::BetConfirmed, bet_id, notice, at)?,
    })
}

/// Transfers the stake to the house or back to the user.
fn give(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    bet_id: BetId,
    verdict: &BetOutcome,
    at: Timestamp,
) -> Result<(), Failure> {
    let settlement = match verdict.status() {
        BetStatus::Confirmed => HoldResolution::Commit,
        BetStatus::Rejected | BetStatus::Pending => HoldResolution::Refund,
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

/// Reads a price from its column.
pub(super) fn price(thousandths: i32) -> Result<Price, StoreError> {
    let price = u32::try_from(thousandths)
        .ok()
        .and_then(Price::from_thousandths);
    price.ok_or_else(|| unreadable("price_thousandths", thousandths))
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = bets)]
struct BetRow {
    id: String,
    user_id: String,
    event_id: String,
    market: String,
    line: String,
    selection: String,
    stake_cents: i64,
    price_thousandths: i32,
    status: String,
    reason: Option<String>,
    provider_ref: Option<String>,
    placed_at: i64,
    decide_by: i64,
    decided_at: Option<i64>,
}

impl BetRow {
    fn read(self) -> Result<Bet, StoreError> {
        let line = Some(self.line).filter(|line| !line.is_empty());
        let line = optional(line, |line| parsed("line", &line))?;
        Ok(Bet {
            id: parsed("id", &self.id)?,
            user_id: parsed("user_id", &self.user_id)?,
            event_id: parsed("event_id", &self.event_id)?,
            market: MarketKey {
                name: parsed("market", &self.market)?,
                line,
            },
            selection: parsed("selection", &self.selection)?,
            stake: amount("stake_cents", self.stake_cents)?,
            price: price(self.price_thousandths)?,
            status: parsed("status", &self.status)?,
            reason: self.reason,
            provider_ref: self.provider_ref,
            placed_at: time(self.placed_at)?,
            decide_by: time(self.decide_by)?,
            decided_at: optional(self.decided_at, time)?,
        })
    }
}

fn read(rows: Vec<BetRow>) -> Result<Vec<Bet>, Failure> {
    Ok(rows
        .into_iter()
        .map(BetRow::read)
        .collect::<Result<_, _>>()?)
}

/// A bet.
pub(super) fn one(
    connection: &mut SqliteConnection,
    bet_id: BetId,
) -> Result<Option<Bet>, Failure> {
    let row = bets::table
        .find(bet_id.to_string())
        .select(BetRow::as_select())
        .first(connection)
        .optional()?;
    Ok(optional(row, BetRow::read)?)
}

/// The steps of a bet.
pub(super) fn history(
    connection: &mut SqliteConnection,
    bet_id: BetId,
) -> Result<Vec<BetStep>, Failure> {
    type Row = (Option<String>, String, Option<String>, i64);
    let rows = bet_history::table
        .filter(bet_history::bet_id.eq(bet_id.to_string()))
        .order(bet_history::id)
        .select((
            bet_history::old_status,
            bet_history::new_status,
            bet_history::reason,
            bet_history::at,
        ))
        .load::<Row>(connection)?;
    let read = |(from, to, reason, at): Row| -> Result<BetStep, StoreError> {
        let from = optional(from, |from| parsed("old_status", &from))?;
        Ok(BetStep {
            from,
            to: parsed("new_status", &to)?,
            reason,
            at: time(at)?,
        })
    };
    Ok(rows.into_iter().map(read).collect::<Result<_, _>>()?)
}

/// A page of a user's bets.
pub(super) fn of(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    status: Option<BetStatus>,
    page: Page<BetId>,
) -> Result<Vec<Bet>, Failure> {
    let mut rows = bets::table
        .filter(bets::user_id.eq(user_id.as_str()))
        .order(bets::id.desc())
        .limit(rows_at_most(page.limit))
        .select(BetRow::as_select())
        .into_boxed();
    if let Some(status) = status {
        rows = rows.filter(bets::status.eq(status.as_str()));
    }
    if let Some(before) = page.before {
        rows = rows.filter(bets::id.lt(before.to_string()));
    }
    read(rows.load(connection)?)
}

/// Pending bets past their deadline.
pub(super) fn overdue(
    connection: &mut SqliteConnection,
    at: Timestamp,
    limit: usize,
) -> Result<Vec<Bet>, Failure> {
    let rows = bets::table
        // A literal, because only then SQLite recognises that the partial index covers the
        // condition.
        .filter(diesel::dsl::sql::<diesel::sql_types::Bool>(
            "status = 'PENDING_CONFIRMATION'",
        ))
        .filter(bets::decide_by.le(at.micros()))
        .order((bets::decide_by, bets::id))
        .limit(rows_at_most(limit))
        .select(BetRow::as_select())
        .load(connection)?;
    read(rows)
}
