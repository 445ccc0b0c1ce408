//! Reservations: how money is held, and how a hold ends.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use uuid::Uuid;

use super::{Stop, StoreError, amount, optional, parsed, wallet};
use crate::domain::bets::bet::BetId;
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::{
    Balance, HoldResolution, ReservationStatus, ResolveHold, TransferKind,
};
use crate::store::money::{Page, Reservation, TransferRequest, WalletError};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::read::rows_at_most;
use crate::store::sqlite::schema::{ledger_transfers, reservations};
use crate::store::sqlite::time;

#[derive(Queryable, Selectable)]
#[diesel(table_name = reservations)]
struct ReservationRow {
    id: String,
    reference: String,
    amount_cents: i64,
    status: String,
    bet_id: Option<String>,
    created_at: i64,
    settled_at: Option<i64>,
}

/// A reservation, and the bet that it is held for.
pub(super) struct Held {
    pub(super) reservation: Reservation,
    pub(super) bet_id: Option<BetId>,
}

impl ReservationRow {
    fn read(self) -> Result<Held, StoreError> {
        let reservation = Reservation {
            id: parsed("id", &self.id)?,
            reference: parsed("reference", &self.reference)?,
            amount: amount("amount_cents", self.amount_cents)?,
            status: parsed("status", &self.status)?,
            created_at: time(self.created_at)?,
            settled_at: optional(self.settled_at, time)?,
        };
        Ok(Held {
            reservation,
            bet_id: optional(self.bet_id, |id| parsed("bet_id", &id))?,
        })
    }
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
        .select(ReservationRow::as_select())
        .first(connection)
        .optional()?;
    Ok(optional(row, ReservationRow::read)?)
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
    let wallet = wallet::known(connection, &order.user_id)?;
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
    let after = wallet::transfer(connection, before, TransferKind::Reserve, order)?;
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
    let wallet = wallet::known(connection, user_id)?;
    let held = find(connection, user_id, reference)?.ok_or(WalletError::ReservationNotFound)?;
    let Held {
        mut reservation,
        bet_id,
    } = held;
    let settling = settlement.of(reservation.status, bet_id, requested_by)?;
    if settling == ResolveHold::Now {
        let (user_id, reference) = (user_id.clone(), reference.clone());
        let order = TransferRequest {
            user_id,
            amount: reservation.amount,
            reference,
            at,
        };
        wallet::transfer(connection, wallet.balance, settlement.kind(), &order)?;
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

/// Pending reservations that are due to expire, oldest first.
pub(super) fn to_expire(
    connection: &mut SqliteConnection,
    made_before: Timestamp,
    limit: usize,
) -> Result<Vec<(UserId, Reference)>, Failure> {
    let rows = reservations::table
        // A literal, because only then SQLite recognises that the partial index covers the
        // condition.
        .filter(diesel::dsl::sql::<diesel::sql_types::Bool>(
            "status = 'PENDING' AND bet_id IS NULL",
        ))
        .filter(reservations::created_at.lt(made_before.micros()))
        .order(reservations::created_at)
        .limit(rows_at_most(limit))
        .select((reservations::user_id, reservations::reference))
        .load::<(String, String)>(connection)?;
    let read = |(user_id, reference): (String, String)| -> Result<_, StoreError> {
        Ok((
            parsed("user_id", &user_id)?,
            parsed("reference", &reference)?,
        ))
    };
    Ok(rows.into_iter().map(read).collect::<Result<_, _>>()?)
}

/// Expires a reservation. Returns whether this call did it, rather than a concurrent one.
pub(super) fn expire(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    reference: &Reference,
    at: Timestamp,
) -> Result<bool, Failure> {
    match settle(
        connection,
        user_id,
        reference,
        HoldResolution::Expire,
        None,
        at,
    ) {
        Ok((_, settling)) => Ok(settling == ResolveHold::Now),
        Err(Stop::Refused(WalletError::AlreadySettled(_))) => Ok(false),
        Err(Stop::Refused(refusal)) => {
            Err(super::contradiction(format_args!("{reference} of {user_id}: {refusal}")).into())
        }
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

/// A page of a user's reservations.
pub(super) fn of(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    status: Option<ReservationStatus>,
    page: Page<Uuid>,
) -> Result<Vec<Reservation>, Failure> {
    let mut rows = reservations::table
        .filter(reservations::user_id.eq(user_id.as_str()))
        .order(reservations::id.desc())
        .limit(rows_at_most(page.limit))
        .select(ReservationRow::as_select())
        .into_boxed();
    if let Some(status) = status {
        rows = rows.filter(reservations::status.eq(status.as_str()));
    }
    if let Some(before) = page.before {
        rows = rows.filter(reservations::id.lt(before.to_string()));
    }
    let rows = rows.load(connection)?.into_iter();
    Ok(rows
        .map(|row| row.read().map(|held| held.reservation))
        .collect::<Result<_, _>>()?)
}
