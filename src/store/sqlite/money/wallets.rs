//! Wallets, transfers and reservations, as clients request them.

use diesel::prelude::*;
use uuid::Uuid;

use super::{ledger, reservations, wallet_keys};
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::{HoldResolution, ReservationStatus};
use crate::store::StoreError;
use crate::store::money::{
    Page, RequestKey, Reservation, Transfer, TransferRequest, Wallet, WalletError, WalletStore,
};
use crate::store::movements::{Moved, Movement};
use crate::store::rows::money::{ReservationRow, TransferRow, WalletRow};
use crate::store::rows::{read_all, row_limit};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema;

impl WalletStore for SqliteStore {
    fn wallet_and_debt(&self, user_id: &UserId) -> Result<Option<(Wallet, i64)>, StoreError> {
        self.read(|connection| {
            let row = ledger::wallet_row(connection, user_id)?;
            Ok(row.map(WalletRow::read_with_debt))
        })
    }

    fn deposit(&self, order: &TransferRequest) -> Result<Wallet, WalletError> {
        self.write_or_reject(|connection| ledger::deposit(connection, order))
    }

    fn withdraw(&self, order: &TransferRequest) -> Result<Wallet, WalletError> {
        self.write_or_reject(|connection| ledger::withdraw(connection, order))
    }

    fn reserve(&self, order: &TransferRequest) -> Result<Reservation, WalletError> {
        self.write_or_reject(|connection| reservations::reserve(connection, order))
    }

    fn settle(
        &self,
        user_id: &UserId,
        reference: &Reference,
        settlement: HoldResolution,
        at: Timestamp,
    ) -> Result<Reservation, WalletError> {
        let settled = self.write_or_reject(|connection| {
            reservations::settle(connection, user_id, reference, settlement, None, at)
        });
        settled.map(|(reservation, _)| reservation)
    }

    fn apply_once(&self, movement: &Movement, key: &RequestKey) -> Result<Moved, WalletError> {
        self.connections
            .write(|connection| wallet_keys::apply_once(connection, movement, key))?
    }

    fn transfers(&self, user_id: &UserId, page: Page<i64>) -> Result<Vec<Transfer>, StoreError> {
        use schema::ledger_transfers;
        self.read(|connection| {
            let rows = ledger_transfers::table
                .filter(ledger_transfers::user_id.eq(user_id.as_str()))
                .filter(ledger_transfers::id.lt(page.before.unwrap_or(i64::MAX)))
                .order(ledger_transfers::id.desc())
                .limit(row_limit(page.limit))
                .select((
                    ledger_transfers::id,
                    ledger_transfers::kind,
                    ledger_transfers::debit_account,
                    ledger_transfers::credit_account,
                    ledger_transfers::amount_cents,
                    ledger_transfers::reference,
                    ledger_transfers::available_after,
                    ledger_transfers::reserved_after,
                    ledger_transfers::at,
                ))
                .load(connection)?;
            read_all(rows, TransferRow::read)
        })
    }

    fn reservations(
        &self,
        user_id: &UserId,
        status: Option<ReservationStatus>,
        page: Page<Uuid>,
    ) -> Result<Vec<Reservation>, StoreError> {
        use schema::reservations;
        let mut rows = reservations::table
            .filter(reservations::user_id.eq(user_id.as_str()))
            .order(reservations::id.desc())
            .limit(row_limit(page.limit))
            .select(super::reservations::COLUMNS)
            .into_boxed();
        if let Some(status) = status {
            rows = rows.filter(reservations::status.eq(status.as_str()));
        }
        if let Some(before) = page.before {
            rows = rows.filter(reservations::id.lt(before.to_string()));
        }
        self.read(|connection| read_all(rows.load(connection)?, ReservationRow::read))
    }
}
