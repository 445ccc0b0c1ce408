//! The transfers that bring a bet from what it has had to what it is owed.

use super::payout::Entitlement;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{Account, TransferKind};

/// A transfer of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Its purpose.
    pub kind: TransferKind,
    /// Its amount.
    pub amount: Amount,
}

impl Posting {
    /// By how much the transfer changes what the user owes, in cents.
    pub fn owed_change(&self) -> i64 {
        match self.kind.accounts() {
            (Account::Owed, _) => self.amount.cents(),
            (_, Account::Owed) => -self.amount.cents(),
            _ => 0,
        }
    }
}

/// What a bet has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetPosition {
    /// It is confirmed and not settled.
    Open,
    /// It is settled, and has been paid this much in all.
    Settled {
        /// In cents.
        paid: i64,
    },
}

/// What a user has and owes, in cents; neither is below 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserFunds {
    /// The available balance.
    pub available: i64,
    /// The amount held.
    pub reserved: i64,
    /// What the user owes.
    pub owed: i64,
}

/// A balance would exceed 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a balance would exceed the maximum")]
pub struct BalanceTooHigh;

/// The transfers that a bet needs, in order. None if it has had what it is owed, or if it is held.
pub fn postings(
    entitlement: Entitlement,
    stake: Amount,
    position: BetPosition,
    funds: UserFunds,
) -> Result<Vec<Posting>, BalanceTooHigh> {
    let (paid, was_settled) = match position {
        BetPosition::Open => (0, false),
        BetPosition::Settled { paid } => (paid, true),
    };
    let (owed, is_settled) = match entitlement {
        Entitlement::Held(_) => return Ok(Vec::new()),
        Entitlement::Open => (0, false),
        Entitlement::Settled { payout, .. } => (payout, true),
    };
    let stake_kind = match (was_settled, is_settled) {
        (false, true) => Some(TransferKind::Settle),
        (true, false) => Some(TransferKind::Unsettle),
        _ => None,
    };
    let mut postings = Vec::new();
    postings.extend(stake_kind.map(|kind| Posting {
        kind,
        amount: stake,
    }));
    postings.extend(pay_difference(owed - paid, funds)?);
    Ok(postings)
}

fn pay_difference(
    difference: i64,
    funds: UserFunds,
) -> Result<impl Iterator<Item = Posting>, BalanceTooHigh> {
    let UserFunds {
        available,
        reserved,
        owed,
    } = funds;
    let amounts = if difference >= 0 {
        let recovered = owed.min(difference);
        let total = available.checked_add(reserved).ok_or(BalanceTooHigh)?;
        total.checked_add(difference).ok_or(BalanceTooHigh)?;
        [
            (TransferKind::Payout, difference),
            (TransferKind::Recover, recovered),
        ]
    } else {
        let taken = available.min(-difference);
        let rest = -difference - taken;
        owed.checked_add(rest).ok_or(BalanceTooHigh)?;
        [(TransferKind::Clawback, taken), (TransferKind::Owe, rest)]
    };
    // A transfer moves at least one cent.
    let posting = |(kind, cents)| {
        Some(Posting {
            kind,
            amount: Amount::new(cents).ok()?,
        })
    };
    Ok(amounts.into_iter().filter_map(posting))
}
