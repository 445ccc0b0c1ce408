//! The ledger, with double entry: every movement of money is a transfer from one account to
//! another, and is never changed afterwards. A balance is the sum of its transfers.
//!
//! The rules here hold for both databases. SQLite applies these functions, PostgreSQL the functions
//! of `migrations/postgres`; one test suite with one model runs against both.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};

use super::amount::Amount;
use crate::domain::unknown_variant::UnknownVariant;

/// An account. A user has three; the house's accounts are the counterparts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Serialize, Deserialize, Display, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_account)]
pub enum Account {
    /// A user's money that is available for stakes and withdrawals.
    Available,
    /// A user's money that is held for a bet or another reservation.
    Reserved,
    /// What a user owes the house: payouts that were taken back and already spent.
    Owed,
    /// The house's cash: deposits received less withdrawals paid.
    Cash,
    /// The stakes of open bets.
    Stakes,
    /// The house's result: stakes of settled bets less payouts.
    Payouts,
}

impl Account {
    /// The text on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_account(text: &str) -> UnknownVariant {
    UnknownVariant::new("account", text)
}

/// The purpose of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Serialize, Deserialize, Display, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_transfer_kind)]
pub enum TransferKind {
    /// Money comes in.
    Deposit,
    /// Money goes out.
    Withdraw,
    /// Money is held.
    Reserve,
    /// Held money goes to the house.
    Commit,
    /// Held money returns to the user.
    Refund,
    /// Held money returns to the user because the hold expired.
    Expire,
    /// The stake of a bet that is settled.
    Settle,
    /// The stake of a bet that is open again.
    Unsettle,
    /// A bet pays more than before.
    Payout,
    /// A payout is taken back.
    Clawback,
    /// The part of it that is no longer available.
    Owe,
    /// A payout pays off what the user owes.
    Recover,
}

impl TransferKind {
    /// The text on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_transfer_kind(text: &str) -> UnknownVariant {
    UnknownVariant::new("transfer kind", text)
}

/// Status of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Serialize, Deserialize, Display, EnumString, IntoStaticStr)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE", parse_err_ty = UnknownVariant, parse_err_fn = unknown_reservation_status)]
pub enum ReservationStatus {
    /// The money is held.
    Pending,
    /// The money went to the house.
    Committed,
    /// The money went back to the user.
    Refunded,
    /// The money went back to the user because no decision came in time.
    Expired,
}

impl ReservationStatus {
    /// The text on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_reservation_status(text: &str) -> UnknownVariant {
    UnknownVariant::new("reservation status", text)
}

impl TransferKind {
    /// The debited and the credited account. A user's balance is credits minus debits.
    pub fn accounts(self) -> (Account, Account) {
        match self {
            TransferKind::Deposit => (Account::Cash, Account::Available),
            TransferKind::Withdraw => (Account::Available, Account::Cash),
            TransferKind::Reserve => (Account::Available, Account::Reserved),
            TransferKind::Commit => (Account::Reserved, Account::Stakes),
            TransferKind::Refund | TransferKind::Expire => (Account::Reserved, Account::Available),
            TransferKind::Settle => (Account::Stakes, Account::Payouts),
            TransferKind::Unsettle => (Account::Payouts, Account::Stakes),
            TransferKind::Payout => (Account::Payouts, Account::Available),
            TransferKind::Clawback => (Account::Available, Account::Payouts),
            TransferKind::Owe => (Account::Owed, Account::Payouts),
            TransferKind::Recover => (Account::Available, Account::Owed),
        }
    }
}

/// How a pending reservation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldResolution {
    /// The money goes to the house.
    Commit,
    /// The money goes back to the user.
    Refund,
    /// The money goes back to the user because the hold expired.
    Expire,
}

impl HoldResolution {
    /// The kind of the transfer.
    pub fn kind(self) -> TransferKind {
        match self {
            HoldResolution::Commit => TransferKind::Commit,
            HoldResolution::Refund => TransferKind::Refund,
            HoldResolution::Expire => TransferKind::Expire,
        }
    }

    /// The resulting status of the reservation.
    pub fn status(self) -> ReservationStatus {
        match self {
            HoldResolution::Commit => ReservationStatus::Committed,
            HoldResolution::Refund => ReservationStatus::Refunded,
            HoldResolution::Expire => ReservationStatus::Expired,
        }
    }
}

/// The result of a request to resolve a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveHold {
    /// It is pending and is resolved now.
    Now,
    /// It was already resolved in the same way.
    Before,
}

/// Why a reservation is not resolved as requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettlementRefusal {
    /// It was resolved in another way.
    #[error("the reservation is already {0}")]
    AlreadySettled(ReservationStatus),
    /// It is held for a bet, and the request does not come from that bet.
    #[error("the reservation is held for a bet")]
    HeldByBet,
}

impl HoldResolution {
    /// Decides this resolution for a reservation with status `status` that is held for the bet
    /// `held_for`, as requested by `asked_by`. A resolved reservation stays as it is; one held for
    /// a bet is resolved only by the decision of that bet.
    pub fn of<Bet: PartialEq>(
        self,
        status: ReservationStatus,
        held_for: Option<Bet>,
        asked_by: Option<Bet>,
    ) -> Result<ResolveHold, SettlementRefusal> {
        match status {
            ReservationStatus::Pending if held_for == asked_by => Ok(ResolveHold::Now),
            ReservationStatus::Pending => Err(SettlementRefusal::HeldByBet),
            ended if ended == self.status() => Ok(ResolveHold::Before),
            ended => Err(SettlementRefusal::AlreadySettled(ended)),
        }
    }
}

/// A user's two balances at one point in time, in cents. Neither is ever negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The amount available for stakes and withdrawals.
    pub available: i64,
    /// The amount held.
    pub reserved: i64,
}

/// Why a transfer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefusal {
    /// The debited account does not hold enough.
    #[error("the balance is too low")]
    InsufficientFunds,
    /// A balance would exceed 64 bits.
    #[error("the balance would exceed the maximum")]
    BalanceTooHigh,
}

impl Balance {
    /// The balances after a transfer, or why it is refused. The user's total never exceeds
    /// `i64::MAX`, so no later transfer between the user's own accounts can be refused because of
    /// its size.
    pub fn after(self, kind: TransferKind, amount: Amount) -> Result<Balance, TransferRefusal> {
        let (debit, credit) = kind.accounts();
        let mut available = self.available;
        let mut reserved = self.reserved;
        let mut move_by = |account: Account, cents: i64| -> Result<(), TransferRefusal> {
            let balance = match account {
                Account::Available => &mut available,
                Account::Reserved => &mut reserved,
                Account::Owed | Account::Cash | Account::Stakes | Account::Payouts => return Ok(()),
            };
            *balance = balance
                .checked_add(cents)
                .ok_or(TransferRefusal::BalanceTooHigh)?;
            if *balance < 0 {
                Err(TransferRefusal::InsufficientFunds)
            } else {
                Ok(())
            }
        };
        move_by(debit, -amount.cents())?;
        move_by(credit, amount.cents())?;
        available
            .checked_add(reserved)
            .ok_or(TransferRefusal::BalanceTooHigh)?;
        Ok(Balance {
            available,
            reserved,
        })
    }
}

#[cfg(test)]
mod tests;
