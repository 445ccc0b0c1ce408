//! Wallets, transfers and reservations.

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

use super::required;
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{Balance, HoldResolution, ReservationStatus};
use crate::store::StoreError;
use crate::store::money::{
    Page, RequestKey, Reservation, Transfer, TransferRequest, Wallet, WalletError, WalletStore,
};
use crate::store::movements::{Moved, Movement, refusal_of};
use crate::store::postgres::PgStore;
use crate::store::postgres::statement::statement;
use crate::store::rows::money::{ReservationRow, TransferRow, WalletRow};
use crate::store::rows::{Time, amount, parsed, pg_time, read_all, row_limit, unreadable};

statement! {
    /// A wallet. Reading one row gives a consistent pair of balances.
    ReadWallet<'a> returns (SqlUuid, BigInt, BigInt, BigInt):
    "SELECT wallet_id, available_cents, reserved_cents, owed_cents FROM wallets WHERE user_id = " { user: &'a str as Text } ""
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

statement! {
    /// Executes a movement, unless its key has an answer.
    ApplyOnce<'a> returns (Text):
    "SELECT answer FROM wallet_apply_once(" { user: &'a str as Text } ", " { operation: &'a str as Text } ", "
        { key: &'a str as Text } ", " { fingerprint: &'a str as Text } ", "
        { amount: Option<i64> as Nullable<BigInt> } ", " { reference: &'a str as Text } ", "
        { id: Uuid as SqlUuid } ", " { now: PgTimestamp as Timestamptz } ")"
}

impl WalletStore for PgStore {
    fn wallet_and_debt(&self, user_id: &UserId) -> Result<Option<(Wallet, i64)>, StoreError> {
        let statement = ReadWallet {
            user: user_id.as_str(),
        };
        self.readers()?.run(|connection| {
            let row = statement.get_result(connection).optional()?;
            Ok(row.map(WalletRow::read_with_debt))
        })
    }

    fn deposit(&self, order: &TransferRequest) -> Result<Wallet, WalletError> {
        self.move_money("deposit", order)
    }

    fn withdraw(&self, order: &TransferRequest) -> Result<Wallet, WalletError> {
        self.move_money("withdraw", order)
    }

    fn reserve(&self, order: &TransferRequest) -> Result<Reservation, WalletError> {
        type Row = (
            String,
            Option<Uuid>,
            Option<String>,
            Option<Time>,
            Option<Time>,
        );
        let statement = Reserve {
            user: order.user_id.as_str(),
            amount: order.amount.cents(),
            reference: order.reference.as_str(),
            id: Uuid::now_v7(),
            now: pg_time(order.at),
        };
        self.money()?.run(|connection| {
            let (outcome, id, status, created, settled) =
                statement.get_result::<Row>(connection)?;
            if let Some(refusal) = rejection(&outcome)? {
                return Ok(Err(refusal));
            }
            Ok(Ok(Reservation {
                id: required("reservation", id)?,
                reference: order.reference.clone(),
                amount: order.amount,
                status: parsed("status", &required("status", status)?)?,
                created_at: required("created", created)?.0,
                settled_at: settled.map(|time| time.0),
            }))
        })?
    }

    fn settle(
        &self,
        user_id: &UserId,
        reference: &Reference,
        settlement: HoldResolution,
        at: Timestamp,
    ) -> Result<Reservation, WalletError> {
        type Row = (
            String,
            Option<Uuid>,
            Option<i64>,
            Option<String>,
            Option<Time>,
            Option<Time>,
        );
        let statement = Settle {
            user: user_id.as_str(),
            reference: reference.as_str(),
            kind: settlement.kind().as_str(),
            now: pg_time(at),
        };
        self.money()?.run(|connection| {
            let (outcome, id, cents, status, created, settled) =
                statement.get_result::<Row>(connection)?;
            if let Some(refusal) = rejection(&outcome)? {
                return Ok(Err(refusal));
            }
            Ok(Ok(Reservation {
                id: required("reservation", id)?,
                reference: reference.clone(),
                amount: amount("amount", required("amount", cents)?)?,
                status: parsed("status", &required("status", status)?)?,
                created_at: required("created", created)?.0,
                settled_at: settled.map(|time| time.0),
            }))
        })?
    }

    fn apply_once(&self, movement: &Movement, key: &RequestKey) -> Result<Moved, WalletError> {
        let statement = ApplyOnce {
            user: movement.user_id().as_str(),
            operation: movement.operation(),
            key: &key.key,
            fingerprint: &key.fingerprint,
            amount: movement.amount().map(Amount::cents),
            reference: movement.reference().as_str(),
            id: Uuid::now_v7(),
            now: pg_time(movement.at()),
        };
        self.money()?.run(|connection| {
            let (answer,) = statement.get_result::<(String,)>(connection)?;
            Ok(movement.read_answer(&answer)?)
        })?
    }

    fn transfers(&self, user_id: &UserId, page: Page<i64>) -> Result<Vec<Transfer>, StoreError> {
        let statement = Transfers {
            user: user_id.as_str(),
            before: page.before.unwrap_or(i64::MAX),
            limit: row_limit(page.limit),
        };
        self.readers()?
            .run(|connection| read_all(statement.load(connection)?, TransferRow::read))
    }

    fn reservations(
        &self,
        user_id: &UserId,
        status: Option<ReservationStatus>,
        page: Page<Uuid>,
    ) -> Result<Vec<Reservation>, StoreError> {
        let statement = Reservations {
            user: user_id.as_str(),
            before: page.before.unwrap_or(Uuid::max()),
            status: status.map(ReservationStatus::as_str),
            limit: row_limit(page.limit),
        };
        self.readers()?
            .run(|connection| read_all(statement.load(connection)?, ReservationRow::read))
    }
}

impl PgStore {
    fn move_money(&self, kind: &str, order: &TransferRequest) -> Result<Wallet, WalletError> {
        type Row = (String, Option<Uuid>, Option<i64>, Option<i64>);
        let statement = Move {
            user: order.user_id.as_str(),
            kind,
            amount: order.amount.cents(),
            reference: order.reference.as_str(),
            new_wallet: Uuid::now_v7(),
            now: pg_time(order.at),
        };
        self.money()?.run(|connection| {
            let (outcome, wallet, available, reserved) = statement.get_result::<Row>(connection)?;
            if let Some(refusal) = rejection(&outcome)? {
                return Ok(Err(refusal));
            }
            let balance = Balance {
                available: required("available", available)?,
                reserved: required("reserved", reserved)?,
            };
            Ok(Ok(Wallet {
                wallet_id: required("wallet", wallet)?,
                balance,
            }))
        })?
    }
}

/// The rejection of an outcome word; `None` if the movement was executed.
fn rejection(outcome: &str) -> Result<Option<WalletError>, StoreError> {
    if outcome == "DONE" {
        return Ok(None);
    }
    refusal_of(outcome)
        .map(Some)
        .ok_or_else(|| unreadable("outcome", outcome))
}
