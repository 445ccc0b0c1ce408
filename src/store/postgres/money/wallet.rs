//! Wallets, transfers and reservations.

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use super::{amount, given, parsed, refused, size};
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::{Balance, HoldResolution, ReservationStatus};
use crate::store::StoreError;
use crate::store::money::{Page, Reservation, Transfer, TransferRequest, Wallet, WalletError};
use crate::store::postgres::error::Failure;
use crate::store::postgres::statement::statement;
use crate::store::postgres::{stamp, time};

/// The outcome of a database function; a rejection is not a database failure.
type Outcome<T> = Result<Result<T, WalletError>, Failure>;

statement! {
    /// A wallet. Reading one row gives a consistent pair of balances.
    ReadWallet<'a> returns (SqlUuid, BigInt, BigInt):
    "SELECT wallet_id, available_cents, reserved_cents FROM wallets WHERE user_id = " { user: &'a str as Text } ""
}

statement! {
    /// A deposit or a withdrawal.
    Move<'a> returns (Text, Nullable<SqlUuid>, Nullable<BigInt>, Nullable<BigInt>):
    "SELECT outcome, wallet, available, reserved FROM wallet_move(" { user: &'a str as Text } ", "
        { kind: &'a str as Text } ", " { amount: i64 as BigInt } ", " { reference: &'a str as Text } ", "
        { new_wallet: Uuid as SqlUuid } ", " { now: PgTimestamp as Timestamptz } ")"
}

statement! {
    /// Reserves an amount.
    Reserve<'a> returns (Text, Nullable<SqlUuid>, Nullable<Text>, Nullable<Timestamptz>, Nullable<Timestamptz>):
    "SELECT outcome, reservation, status, created, settled FROM wallet_reserve(" { user: &'a str as Text } ", "
        { amount: i64 as BigInt } ", " { reference: &'a str as Text } ", " { id: Uuid as SqlUuid } ", NULL, "
        { now: PgTimestamp as Timestamptz } ")"
}

statement! {
    /// Ends a reservation.
    Settle<'a> returns (Text, Nullable<SqlUuid>, Nullable<BigInt>, Nullable<Text>, Nullable<Timestamptz>,
        Nullable<Timestamptz>):
    "SELECT outcome, reservation, amount, status, created, settled FROM wallet_settle(" { user: &'a str as Text } ", "
        { reference: &'a str as Text } ", " { kind: &'a str as Text } ", NULL, " { now: PgTimestamp as Timestamptz } ")"
}

statement! {
    /// Pending reservations that are due to expire, oldest first.
    ToExpire returns (Text, Text):
    "SELECT user_id, reference FROM reservations
    WHERE status = 'PENDING' AND bet_id IS NULL AND created_at < " { before: PgTimestamp as Timestamptz }
    " ORDER BY created_at LIMIT " { limit: i64 as BigInt } ""
}

statement! {
    /// A page of a user's transfers.
    Transfers<'a> returns (BigInt, Text, Text, Text, BigInt, Text, BigInt, BigInt, Timestamptz):
    "SELECT id, kind, debit_account, credit_account, amount_cents, reference, available_after, reserved_after, at
    FROM ledger_transfers WHERE user_id = " { user: &'a str as Text } " AND id < " { before: i64 as BigInt }
    " ORDER BY id DESC LIMIT " { limit: i64 as BigInt } ""
}

statement! {
    /// A page of a user's reservations.
    Reservations<'a> returns (SqlUuid, Text, BigInt, Text, Timestamptz, Nullable<Timestamptz>):
    "SELECT id, reference, amount_cents, status, created_at, settled_at
    FROM reservations WHERE user_id = " { user: &'a str as Text } " AND id < " { before: Uuid as SqlUuid }
    " AND status = COALESCE(" { status: Option<&'a str> as Nullable<Text> } ", status)
    ORDER BY id DESC LIMIT " { limit: i64 as BigInt } ""
}

pub(super) fn read(
    connection: &mut PgConnection,
    user_id: &UserId,
) -> Result<Option<Wallet>, Failure> {
    let row = ReadWallet {
        user: user_id.as_str(),
    }
    .get_result::<(Uuid, i64, i64)>(connection)
    .optional()?;
    Ok(row.map(|(wallet_id, available, reserved)| Wallet {
        wallet_id,
        balance: Balance {
            available,
            reserved,
        },
    }))
}

pub(super) fn deposit(connection: &mut PgConnection, order: &TransferRequest) -> Outcome<Wallet> {
    move_money(connection, "deposit", order)
}

pub(super) fn withdraw(connection: &mut PgConnection, order: &TransferRequest) -> Outcome<Wallet> {
    move_money(connection, "withdraw", order)
}

fn move_money(
    connection: &mut PgConnection,
    kind: &str,
    order: &TransferRequest,
) -> Outcome<Wallet> {
    let statement = Move {
        user: order.user_id.as_str(),
        kind,
        amount: order.amount.cents(),
        reference: order.reference.as_str(),
        new_wallet: Uuid::now_v7(),
        now: stamp(order.at),
    };
    let row =
        statement.get_result::<(String, Option<Uuid>, Option<i64>, Option<i64>)>(connection)?;
    let (outcome, wallet, available, reserved) = row;
    if outcome != "DONE" {
        return Ok(Err(refused(&outcome)?));
    }
    let balance = Balance {
        available: given("available", available)?,
        reserved: given("reserved", reserved)?,
    };
    Ok(Ok(Wallet {
        wallet_id: given("wallet", wallet)?,
        balance,
    }))
}

pub(super) fn reserve(
    connection: &mut PgConnection,
    order: &TransferRequest,
    id: Uuid,
) -> Outcome<Reservation> {
    type Row = (
        String,
        Option<Uuid>,
        Option<String>,
        Option<PgTimestamp>,
        Option<PgTimestamp>,
    );
    let statement = Reserve {
        user: order.user_id.as_str(),
        amount: order.amount.cents(),
        reference: order.reference.as_str(),
        id,
        now: stamp(order.at),
    };
    let (outcome, id, status, created, settled) = statement.get_result::<Row>(connection)?;
    if outcome != "DONE" {
        return Ok(Err(refused(&outcome)?));
    }
    Ok(Ok(Reservation {
        id: given("reservation", id)?,
        reference: order.reference.clone(),
        amount: order.amount,
        status: parsed("status", &given("status", status)?)?,
        created_at: time(given("created", created)?)?,
        settled_at: settled.map(time).transpose()?,
    }))
}

pub(super) fn settle(
    connection: &mut PgConnection,
    user_id: &UserId,
    reference: &Reference,
    settlement: HoldResolution,
    at: Timestamp,
) -> Outcome<Reservation> {
    type Row = (
        String,
        Option<Uuid>,
        Option<i64>,
        Option<String>,
        Option<PgTimestamp>,
        Option<PgTimestamp>,
    );
    let statement = Settle {
        user: user_id.as_str(),
        reference: reference.as_str(),
        kind: settlement.kind().as_str(),
        now: stamp(at),
    };
    let (outcome, id, held, status, created, settled) = statement.get_result::<Row>(connection)?;
    if outcome != "DONE" {
        return Ok(Err(refused(&outcome)?));
    }
    Ok(Ok(Reservation {
        id: given("reservation", id)?,
        reference: reference.clone(),
        amount: amount(given("amount", held)?)?,
        status: parsed("status", &given("status", status)?)?,
        created_at: time(given("created", created)?)?,
        settled_at: settled.map(time).transpose()?,
    }))
}

pub(super) fn to_expire(
    connection: &mut PgConnection,
    made_before: Timestamp,
    limit: usize,
) -> Result<Vec<(UserId, Reference)>, Failure> {
    let rows = ToExpire {
        before: stamp(made_before),
        limit: size(limit),
    }
    .load::<(String, String)>(connection)?;
    let read = |(user, reference): (String, String)| {
        Ok((parsed("user_id", &user)?, parsed("reference", &reference)?))
    };
    rows.into_iter().map(read).collect()
}

pub(super) fn transfers(
    connection: &mut PgConnection,
    user_id: &UserId,
    page: Page<i64>,
) -> Result<Vec<Transfer>, Failure> {
    type Row = (
        i64,
        String,
        String,
        String,
        i64,
        String,
        i64,
        i64,
        PgTimestamp,
    );
    let before = page.before.unwrap_or(i64::MAX);
    let rows = Transfers {
        user: user_id.as_str(),
        before,
        limit: size(page.limit),
    }
    .load::<Row>(connection)?;
    let read = |(id, kind, debit, credit, cents, reference, available, reserved, at): Row| {
        Ok::<_, StoreError>(Transfer {
            id,
            kind: parsed("kind", &kind)?,
            debit: parsed("debit_account", &debit)?,
            credit: parsed("credit_account", &credit)?,
            amount: amount(cents)?,
            reference: parsed("reference", &reference)?,
            balance: Balance {
                available,
                reserved,
            },
            at: time(at)?,
        })
    };
    Ok(rows.into_iter().map(read).collect::<Result<_, _>>()?)
}

pub(super) fn reservations(
    connection: &mut PgConnection,
    user_id: &UserId,
    status: Option<ReservationStatus>,
    page: Page<Uuid>,
) -> Result<Vec<Reservation>, Failure> {
    type Row = (Uuid, String, i64, String, PgTimestamp, Option<PgTimestamp>);
    let statement = Reservations {
        user: user_id.as_str(),
        before: page.before.unwrap_or(Uuid::max()),
        status: status.map(ReservationStatus::as_str),
        limit: size(page.limit),
    };
    let read = |(id, reference, cents, status, created, settled): Row| {
        Ok::<_, StoreError>(Reservation {
            id,
            reference: parsed("reference", &reference)?,
            amount: amount(cents)?,
            status: parsed("status", &status)?,
            created_at: time(created)?,
            settled_at: settled.map(time).transpose()?,
        })
    };
    Ok(statement
        .load::<Row>(connection)?
        .into_iter()
        .map(read)
        .collect::<Result<_, _>>()?)
}
