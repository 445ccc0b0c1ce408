//! Wallets and the transfers that change their balances.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use uuid::Uuid;

use super::{Stop, contradiction};
use crate::domain::ids::{Reference, UserId};
use crate::domain::settlement::postings::Posting;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::{Balance, TransferKind};
use crate::store::failure::Failure;
use crate::store::money::{TransferRequest, Wallet, WalletError};
use crate::store::rows::money::WalletRow;
use crate::store::sqlite::schema::{ledger_transfers, wallets};

/// A user's wallet.
pub(super) fn wallet(
    connection: &mut SqliteConnection,
    user_id: &UserId,
) -> Result<Option<Wallet>, Failure> {
    Ok(wallet_row(connection, user_id)?.map(WalletRow::read))
}

/// The row of a user's wallet.
pub(super) fn wallet_row(
    connection: &mut SqliteConnection,
    user_id: &UserId,
) -> Result<Option<WalletRow>, Failure> {
    let row = wallets::table
        .find(user_id.as_str())
        .select((
            wallets::wallet_id,
            wallets::available_cents,
            wallets::reserved_cents,
            wallets::owed_cents,
        ))
        .first(connection)
        .optional()?;
    Ok(row)
}

/// The wallet of a user, which must exist.
pub(super) fn known(connection: &mut SqliteConnection, user_id: &UserId) -> Result<Wallet, Stop> {
    Ok(wallet(connection, user_id)?.ok_or(WalletError::WalletNotFound)?)
}

pub(super) fn deposit(
    connection: &mut SqliteConnection,
    order: &TransferRequest,
) -> Result<Wallet, Stop> {
    let wallet = match wallet(connection, &order.user_id)? {
        Some(wallet) => wallet,
        None => new(connection, &order.user_id, order.at)?,
    };
    once(connection, wallet, TransferKind::Deposit, order)
}

pub(super) fn withdraw(
    connection: &mut SqliteConnection,
    order: &TransferRequest,
) -> Result<Wallet, Stop> {
    let wallet = known(connection, &order.user_id)?;
    once(connection, wallet, TransferKind::Withdraw, order)
}

fn new(
    connection: &mut SqliteConnection,
    user_id: &UserId,
    at: Timestamp,
) -> Result<Wallet, Failure> {
    let wallet = Wallet {
        wallet_id: Uuid::now_v7(),
        balance: Balance::default(),
    };
    diesel::insert_into(wallets::table)
        .values((
            wallets::user_id.eq(user_id.as_str()),
            wallets::wallet_id.eq(wallet.wallet_id.to_string()),
            wallets::available_cents.eq(wallet.balance.available),
            wallets::reserved_cents.eq(wallet.balance.reserved),
            wallets::created_at.eq(at.micros()),
        ))
        .execute(connection)?;
    Ok(wallet)
}

/// Executes a transfer, unless it was already executed; returns the wallet as it was afterwards.
fn once(
    connection: &mut SqliteConnection,
    wallet: Wallet,
    kind: TransferKind,
    order: &TransferRequest,
) -> Result<Wallet, Stop> {
    let made = ledger_transfers::table
        .filter(ledger_transfers::user_id.eq(order.user_id.as_str()))
        .filter(ledger_transfers::kind.eq(kind.as_str()))
        .filter(ledger_transfers::reference.eq(order.reference.as_str()))
        .select((
            ledger_transfers::amount_cents,
            ledger_transfers::available_after,
            ledger_transfers::reserved_after,
        ))
        .first::<(i64, i64, i64)>(connection)
        .optional()?;
    let balance = match made {
        Some((cents, available, reserved)) if cents == order.amount.cents() => Balance {
            available,
            reserved,
        },
        Some(_) => return Err(WalletError::IdempotencyConflict.into()),
        None => transfer(connection, wallet.balance, kind, order)?,
    };
    Ok(Wallet { balance, ..wallet })
}

/// Executes a transfer of a settlement; returns the balances afterwards.
pub(super) fn post(
    connection: &mut SqliteConnection,
    before: Balance,
    user_id: &UserId,
    posting: Posting,
    reference: &Reference,
    at: Timestamp,
) -> Result<Balance, Failure> {
    let order = TransferRequest {
        user_id: user_id.clone(),
        amount: posting.amount,
        reference: reference.clone(),
        at,
    };
    transfer(connection, before, posting.kind, &order).map_err(|stop| match stop {
        Stop::Refused(refusal) => contradiction(format_args!("{reference}: {refusal}")).into(),
        Stop::Failed(failure) => failure,
    })
}

/// Executes a transfer if the balances allow it; returns the balances afterwards.
pub(super) fn transfer(
    connection: &mut SqliteConnection,
    before: Balance,
    kind: TransferKind,
    order: &TransferRequest,
) -> Result<Balance, Stop> {
    let after = before.after(kind, order.amount)?;
    let (debit, credit) = kind.accounts();
    diesel::update(wallets::table.find(order.user_id.as_str()))
        .set((
            wallets::available_cents.eq(after.available),
            wallets::reserved_cents.eq(after.reserved),
        ))
        .execute(connection)?;
    diesel::insert_into(ledger_transfers::table)
        .values((
            ledger_transfers::user_id.eq(order.user_id.as_str()),
            ledger_transfers::kind.eq(kind.as_str()),
            ledger_transfers::debit_account.eq(debit.as_str()),
            ledger_transfers::credit_account.eq(credit.as_str()),
            ledger_transfers::amount_cents.eq(order.amount.cents()),
            ledger_transfers::reference.eq(order.reference.as_str()),
            ledger_transfers::available_after.eq(after.available),
            ledger_transfers::reserved_after.eq(after.reserved),
            ledger_transfers::at.eq(order.at.micros()),
        ))
        .execute(connection)?;
    Ok(after)
}
