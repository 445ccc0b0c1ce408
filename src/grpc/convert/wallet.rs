//! Messages with money.

use super::time;
use crate::domain::ids::UserId;
use crate::domain::wallet::ledger::{Account, ReservationStatus, TransferKind};
use crate::grpc::proto::v1;
use crate::store::money::{Reservation, Transfer, Wallet};

/// A wallet, with what the user owes if that was read.
pub(in crate::grpc) fn wallet(
    user_id: &UserId,
    wallet: &Wallet,
    owed_cents: Option<i64>,
    currency: &str,
) -> v1::Wallet {
    v1::Wallet {
        user_id: user_id.to_string(),
        wallet_id: wallet.wallet_id.to_string(),
        balance_cents: wallet.balance.available,
        reserved_cents: wallet.balance.reserved,
        owed_cents,
        currency: currency.to_owned(),
    }
}

/// A reservation.
pub(in crate::grpc) fn reservation(reservation: &Reservation) -> v1::Reservation {
    let status = match reservation.status {
        ReservationStatus::Pending => v1::ReservationStatus::Pending,
        ReservationStatus::Committed => v1::ReservationStatus::Committed,
        ReservationStatus::Refunded => v1::ReservationStatus::Refunded,
        ReservationStatus::Expired => v1::ReservationStatus::Expired,
    };
    v1::Reservation {
        reservation_id: reservation.id.to_string(),
        status: status.into(),
        external_ref: reservation.reference.to_string(),
        amount_cents: reservation.amount.cents(),
        created_at: Some(time(reservation.created_at)),
        settled_at: reservation.settled_at.map(time),
    }
}

/// The filter of a list; `None` if it is unspecified.
pub(in crate::grpc) fn status_of_reservation(
    status: v1::ReservationStatus,
) -> Option<ReservationStatus> {
    match status {
        v1::ReservationStatus::Unspecified => None,
        v1::ReservationStatus::Pending => Some(ReservationStatus::Pending),
        v1::ReservationStatus::Committed => Some(ReservationStatus::Committed),
        v1::ReservationStatus::Refunded => Some(ReservationStatus::Refunded),
        v1::ReservationStatus::Expired => Some(ReservationStatus::Expired),
    }
}

/// A transfer.
pub(in crate::grpc) fn transfer(transfer: &Transfer) -> v1::Transfer {
    v1::Transfer {
        transfer_id: transfer.id,
        kind: kind(transfer.kind).into(),
        debit: account(transfer.debit).into(),
        credit: account(transfer.credit).into(),
        amount_cents: transfer.amount.cents(),
        external_ref: transfer.reference.to_string(),
        balance_cents: transfer.balance.available,
        reserved_cents: transfer.balance.reserved,
        at: Some(time(transfer.at)),
    }
}

fn kind(kind: TransferKind) -> v1::TransferKind {
    match kind {
        TransferKind::Deposit => v1::TransferKind::Deposit,
        TransferKind::Withdraw => v1::TransferKind::Withdraw,
        TransferKind::Reserve => v1::TransferKind::Reserve,
        TransferKind::Commit => v1::TransferKind::Commit,
        TransferKind::Refund => v1::TransferKind::Refund,
        TransferKind::Expire => v1::TransferKind::Expire,
        TransferKind::Settle => v1::TransferKind::Settle,
        TransferKind::Unsettle => v1::TransferKind::Unsettle,
        TransferKind::Payout => v1::TransferKind::Payout,
        TransferKind::Clawback => v1::TransferKind::Clawback,
        TransferKind::Owe => v1::TransferKind::Owe,
        TransferKind::Recover => v1::TransferKind::Recover,
    }
}

fn account(account: Account) -> v1::Account {
    match account {
        Account::Available => v1::Account::Available,
        Account::Reserved => v1::Account::Reserved,
        Account::Owed => v1::Account::Owed,
        Account::Cash => v1::Account::Cash,
        Account::Stakes => v1::Account::Stakes,
        Account::Payouts => v1::Account::Payouts,
    }
}
