//! Reservations: how money is held, and how a hold ends.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use uuid::Uuid;

use super::{Stop, ledger};
use crate::domain::bets::bet::BetId;
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::{
    Balance, HoldResolution, ReservationStatus, ResolveHold, TransferKind,
};
use crate::store::failure::Failure;
use crate::store::money::{Reservation, TransferRequest, WalletError};
use crate::store::rows::Id;
use crate::store::rows::money::ReservationRow;
use crate::store::sqlite::schema::{ledger_transfers, reservations};

type Columns = (
    reservations::id,
    reservations::reference,
    reservations::amount_cents,
    reservations::status,
    reservations::created_at,
    reservations::settled_at,
);

/// The columns of a [`ReservationRow`].
pub(super) const COLUMNS: Columns = (
    reservations::id,
    reservations::reference,
    reservations::amount_cents,
    reservations::status,
    reservations::created_at,
    reservations::settled_at,
);

/// A reservation, and the bet that it is held for.
pub(super) struct Held {
    pub(super) reservation: Reservation,
    pub(super) bet_id: Option<BetId>,
}

/// A user's reservation.
pub(super) fn find(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    reference: &Reference,
) -> Result<Option<Held>, Failure> {
    let row = reservations::table
        .filter(reservations::user_id.eq(user_id.as_str()))
        .filter(reservations::reference.eq(reference.as_str()))
        .select((COLUMNS, reservations::bet_id))
        .first::<(ReservationRow, Option<Id>)>(connection)
        .optional()?;
    let Some((row, bet_id)) = row else {
        return Ok(None);
    };
    Ok(Some(Held {
        reservation: row.read()?,
        bet_id: bet_id.map(|id| BetId(id.0)),
    }))
}

/// The available balance after the transfer that made a reservation.
pub(super) fn available_after_reserve(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    reference: &Reference,
) -> Result<i64, Failure> {
    let made = ledger_transfers::table
        .filter(ledger_transfers::user_id.eq(user_id.as_str()))
        .filter(ledger_transfers::kind.eq(TransferKind::Reserve.as_str()))
        .filter(ledger_transfers::reference.eq(reference.as_str()))
        .select(ledger_transfers::available_after);
    Ok(made.first(connection)?)
}

/// Reserves money, unless the reservation already exists.
pub(super) fn reserve(
    connection: &mut SqliteConnection,
    order: &TransferRequest,
) -> Result<Reservation, Stop> {
    let wallet = ledger::known(connection, &order.user_id)?;
    match find(connection, &order.user_id, &order.reference)? {
        Some(held) if held.reservation.amount == order.amount => Ok(held.reservation),
        Some(_) => Err(WalletError::IdempotencyConflict.into()),
        None => Ok(hold(connection, wallet.balance, order, None)?.0),
    }
}

/// Creates a reservation with a new reference; returns it and the balances afterwards.
pub(super) fn hold(
    connection: &mut SqliteConnection,
    before: Balance,
    order: &TransferRequest,
    bet_id: Option<BetId>,
) -> Result<(Reservation, Balance), Stop> {
    let after = ledger::transfer(connection, before, TransferKind::Reserve, order)?;
    let reservation = Reservation {
        id: Uuid::now_v7(),
        reference: order.reference.clone(),
        amount: order.amount,
        status: ReservationStatus::Pending,
        created_at: order.at,
        settled_at: None,
    };
    diesel::insert_into(reservations::table)
        .values((
            reservations::id.eq(reservation.id.to_string()),
            reservations::user_id.eq(order.user_id.as_str()),
            reservations::reference.eq(reservation.reference.as_str()),
            reservations::amount_cents.eq(reservation.amount.cents()),
            reservations::status.eq(reservation.status.as_str()),
            reservations::bet_id.eq(bet_id.map(|id| id.to_string())),
            reservations::created_at.eq(reservation.created_at.micros()),
        ))
        .execute(connection)?;
    Ok((reservation, after))
}

/// Ends a reservation, on behalf of a bet or of anyone. Returns its new state, and whether this
/// call ended it.
pub(super) fn settle(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    reference: &Reference,
    settlement: HoldResolution,
    requested_by: Option<BetId>,
    at: Timestamp,
) -> Result<(Reservation, ResolveHold), Stop> {
    let wallet = ledger::known(connection, user_id)?;
    let held = find(connection, user_id, reference)?.ok_or(WalletError::ReservationNotFound)?;
    let Held {
        mut reservation,
        bet_id,
    } = held;
    let settling = settlement.of(reservation.status, bet_id, requested_by)?;
    if settling == ResolveHold::Now {
        let user_id = user_id.clone();
        let reference = reference.clone();
        let order = TransferRequest {
            user_id,
            amount: reservation.amount,
            reference,
            at,
        };
        ledger::transfer(connection, wallet.balance, settlement.kind(), &order)?;
        (reservation.status, reservation.settled_at) = (settlement.status(), Some(at));
        diesel::update(reservations::table.find(reservation.id.to_string()))
            .set((
                reservations::status.eq(reservation.status.as_str()),
                reservations::settled_at.eq(at.micros()),
            ))
            .execute(connection)?;
    }
    Ok((reservation, settling))
}
