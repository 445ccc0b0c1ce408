//! The JSON form of wallets, reservations and transfers.

use serde::Serialize;
use uuid::Uuid;

use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{Account, ReservationStatus, TransferKind};
use crate::store::money::{Reservation, Transfer, Wallet};

/// A wallet with both balances.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WalletView<'a> {
    user_id: &'a UserId,
    wallet_id: Uuid,
    #[serde(rename = "balance_cents")]
    balance_cents: i64,
    #[serde(rename = "reserved_cents")]
    reserved_cents: i64,
    /// What the user owes; only in the answer to a read.
    #[serde(rename = "owed_cents", skip_serializing_if = "Option::is_none")]
    owed_cents: Option<i64>,
    currency: &'a str,
}

/// A reservation.
#[derive(Serialize)]
pub(super) struct ReservationView<'a> {
    reservation_id: Uuid,
    status: ReservationStatus,
    external_ref: &'a Reference,
    amount_cents: Amount,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_at: Option<Timestamp>,
}

/// A transfer of the ledger.
#[derive(Serialize)]
pub(super) struct TransferView<'a> {
    id: i64,
    kind: TransferKind,
    debit: Account,
    credit: Account,
    amount_cents: Amount,
    external_ref: &'a Reference,
    balance_cents: i64,
    reserved_cents: i64,
    at: Timestamp,
}

impl<'a> WalletView<'a> {
    /// The wallet of a user.
    pub(super) fn new(user_id: &'a UserId, wallet: &Wallet, currency: &'a str) -> WalletView<'a> {
        WalletView {
            user_id,
            wallet_id: wallet.wallet_id,
            balance_cents: wallet.balance.available,
            reserved_cents: wallet.balance.reserved,
            owed_cents: None,
            currency,
        }
    }

    /// With what the user owes, in cents.
    pub(super) fn with_debt(self, owed_cents: i64) -> WalletView<'a> {
        WalletView {
            owed_cents: Some(owed_cents),
            ..self
        }
    }
}

impl<'a> ReservationView<'a> {
    /// A reservation.
    pub(super) fn new(reservation: &'a Reservation) -> ReservationView<'a> {
        ReservationView {
            reservation_id: reservation.id,
            status: reservation.status,
            external_ref: &reservation.reference,
            amount_cents: reservation.amount,
            created_at: reservation.created_at,
            settled_at: reservation.settled_at,
        }
    }
}

impl<'a> TransferView<'a> {
    /// A transfer.
    pub(super) fn new(transfer: &'a Transfer) -> TransferView<'a> {
        TransferView {
            id: transfer.id,
            kind: transfer.kind,
            debit: transfer.debit,
            credit: transfer.credit,
            amount_cents: transfer.amount,
            external_ref: &transfer.reference,
            balance_cents: transfer.balance.available,
            reserved_cents: transfer.balance.reserved,
            at: transfer.at,
        }
    }
}
