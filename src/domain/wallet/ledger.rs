//! The ledger: double entry. Every movement of money is a transfer from one account to another, and
//! is never changed afterwards. A balance is what its transfers sum up to.
//!
//! The rules are here, and hold for both databases: in SQLite these functions decide, in PostgreSQL
//! the functions of `migrations/postgres` do, and one suite with one model is run against both.

use super::amount::Amount;
use crate::domain::string_enum::string_enum;

string_enum! {
    /// An account. A user has two; the house's are the counterparts.
    Account, "account", {
        /// A user's money that can be staked or withdrawn.
        Available = "available",
        /// A user's money that is held for a bet or another reservation.
        Reserved = "reserved",
        /// The house's cash: what came in by deposits and went out by withdrawals.
        Cash = "cash",
        /// The house's stakes: what bets that were taken brought in.
        Stakes = "stakes",
        /// The house's payouts: what bets that were won cost.
        Payouts = "payouts",
    }
}

string_enum! {
    /// What a transfer is for.
    TransferKind, "transfer kind", {
        /// Money comes in.
        Deposit = "deposit",
        /// Money goes out.
        Withdraw = "withdraw",
        /// Money is held.
        Reserve = "reserve",
        /// What was held is the house's.
        Commit = "commit",
        /// What was held is the user's again.
        Refund = "refund",
        /// What was held for too long is the user's again.
        Expire = "expire",
    }
}

string_enum! {
    /// What has become of a reservation.
    ReservationStatus, "reservation status", {
        /// The money is held.
        Pending = "PENDING",
        /// The money went to the house.
        Committed = "COMMITTED",
        /// The money went back to the user.
        Refunded = "REFUNDED",
        /// The money went back to the user, since nobody decided in time.
        Expired = "EXPIRED",
    }
}

impl TransferKind {
    /// The account that is debited, and the one that is credited. A user's balance is credits less
    /// debits.
    pub fn accounts(self) -> (Account, Account) {
        match self {
            TransferKind::Deposit => (Account::Cash, Account::Available),
            TransferKind::Withdraw => (Account::Available, Account::Cash),
            TransferKind::Reserve => (Account::Available, Account::Reserved),
            TransferKind::Commit => (Account::Reserved, Account::Stakes),
            TransferKind::Refund | TransferKind::Expire => (Account::Reserved, Account::Available),
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
    /// The money goes back to the user, because the time is over.
    Expire,
}

impl HoldResolution {
    /// The transfer that does it.
    pub fn kind(self) -> TransferKind {
        match self {
            HoldResolution::Commit => TransferKind::Commit,
            HoldResolution::Refund => TransferKind::Refund,
            HoldResolution::Expire => TransferKind::Expire,
        }
    }

    /// What the reservation becomes.
    pub fn status(self) -> ReservationStatus {
        match self {
            HoldResolution::Commit => ReservationStatus::Committed,
            HoldResolution::Refund => ReservationStatus::Refunded,
            HoldResolution::Expire => ReservationStatus::Expired,
        }
    }
}

/// What comes of a settlement that is asked of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveHold {
    /// It is pending, and ends now.
    Now,
    /// It has ended in just this way before.
    Before,
}

/// Why a reservation is not settled as was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettlementRefusal {
    /// It has ended in another way.
    #[error("the reservation is {0} already")]
    AlreadySettled(ReservationStatus),
    /// It is held for a bet, and somebody else asks.
    #[error("the reservation is held for a bet")]
    HeldByBet,
}

impl HoldResolution {
    /// What comes of this settlement where a reservation is of this status and held for this bet,
    /// and this bet asks: one that has ended stays so, and one that is held for a bet is ended by
    /// that bet's own decision only.
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

/// A user's two balances, in cents, as one moment had them. Neither is ever below zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// What can be staked or withdrawn.
    pub available: i64,
    /// What is held.
    pub reserved: i64,
}

/// Why a transfer is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefusal {
    /// The account that would be debited holds less.
    #[error("the balance is too low")]
    InsufficientFunds,
    /// A balance would be more than 64 bits hold.
    #[error("the balance would be more than can be held")]
    BalanceTooHigh,
}

impl Balance {
    /// The balances after a transfer, or why it is not made. What a user has in all never exceeds
    /// `i64::MAX`, so no later transfer between the user's own accounts can be refused for its
    /// size.
    pub fn after(self, kind: TransferKind, amount: Amount) -> Result<Balance, TransferRefusal> {
        let (debit, credit) = kind.accounts();
        let (mut available, mut reserved) = (self.available, self.reserved);
        let mut move_by = |account: Account, cents: i64| -> Result<(), TransferRefusal> {
            let balance = match account {
                Account::Available => &mut available,
                Account::Reserved => &mut reserved,
                Account::Cash | Account::Stakes | Account::Payouts => return Ok(()),
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(cents: i64) -> Amount {
        Amount::new(cents).unwrap()
    }

    #[test]
    fn money_goes_from_one_account_to_the_other_and_never_below_zero() {
        let start = Balance {
            available: 100,
            reserved: 20,
        };
        let after = |kind, cents| start.after(kind, amount(cents));
        let balance = |available, reserved| {
            Ok(Balance {
                available,
                reserved,
            })
        };
        assert_eq!(after(TransferKind::Deposit, 5), balance(105, 20));
        assert_eq!(after(TransferKind::Withdraw, 100), balance(0, 20));
        assert_eq!(after(TransferKind::Reserve, 100), balance(0, 120));
        assert_eq!(after(TransferKind::Commit, 20), balance(100, 0));
        assert_eq!(after(TransferKind::Refund, 20), balance(120, 0));
        assert_eq!(after(TransferKind::Expire, 1), balance(101, 19));
        for (kind, cents) in [
            (TransferKind::Withdraw, 101),
            (TransferKind::Reserve, 101),
            (TransferKind::Commit, 21),
            (TransferKind::Refund, 21),
        ] {
            assert_eq!(
                after(kind, cents),
                Err(TransferRefusal::InsufficientFunds),
                "{kind}"
            );
        }
    }

    #[test]
    fn what_a_user_has_in_all_fits_64_bits() {
        let rich = Balance {
            available: i64::MAX - 10,
            reserved: 5,
        };
        assert!(rich.after(TransferKind::Deposit, amount(5)).is_ok());
        assert_eq!(
            rich.after(TransferKind::Deposit, amount(6)),
            Err(TransferRefusal::BalanceTooHigh)
        );
        assert_eq!(
            rich.after(TransferKind::Deposit, amount(i64::MAX)),
            Err(TransferRefusal::BalanceTooHigh)
        );
        assert!(
            rich.after(TransferKind::Reserve, amount(i64::MAX - 10))
                .is_ok()
        );
    }

    #[test]
    fn a_reservation_ends_once_and_that_of_a_bet_by_the_bet() {
        use ReservationStatus::{Committed, Expired, Pending, Refunded};
        for settlement in [
            HoldResolution::Commit,
            HoldResolution::Refund,
            HoldResolution::Expire,
        ] {
            assert_eq!(
                settlement.of::<u8>(Pending, None, None),
                Ok(ResolveHold::Now)
            );
            assert_eq!(
                settlement.of(Pending, Some(1), Some(1)),
                Ok(ResolveHold::Now)
            );
            for (held_for, asked_by) in [(Some(1), None), (None, Some(1)), (Some(1), Some(2))] {
                assert_eq!(
                    settlement.of(Pending, held_for, asked_by),
                    Err(SettlementRefusal::HeldByBet)
                );
            }
            for ended in [Committed, Refunded, Expired] {
                let expected = if settlement.status() == ended {
                    Ok(ResolveHold::Before)
                } else {
                    Err(SettlementRefusal::AlreadySettled(ended))
                };
                assert_eq!(settlement.of(ended, Some(1), None), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn a_transfer_within_a_wallet_keeps_its_sum(available in 0..i64::MAX / 2, reserved in 0..i64::MAX / 2, cents in 1..i64::MAX) {
            let start = Balance { available, reserved };
            for kind in [TransferKind::Reserve, TransferKind::Refund, TransferKind::Expire] {
                if let Ok(after) = start.after(kind, amount(cents)) {
                    prop_assert_eq!(after.available + after.reserved, available + reserved);
                    prop_assert!(after.available >= 0 && after.reserved >= 0);
                }
            }
        }
    }
}
