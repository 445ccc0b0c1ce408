//! The transfers that bring a bet from what it has had to what it is owed.

use strum::{Display, EnumString, IntoStaticStr};

use super::payout::Entitlement;
use crate::domain::unknown_variant::UnknownVariant;
use crate::domain::wallet::amount::Amount;

/// An account that settlement moves money from or to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SettlementAccount {
    /// The user's money that is available for stakes and withdrawals.
    Available,
    /// What the user owes the house: payouts that were taken back and already spent.
    Owed,
    /// The house's stakes of open bets.
    Stakes,
    /// The house's result of settled bets.
    Payouts,
}

/// The purpose of a transfer of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Display, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_posting)]
pub enum PostingKind {
    /// The stake of a bet that is settled.
    Settle,
    /// The stake of a bet that is open again.
    Unsettle,
    /// The user gets more than before.
    Payout,
    /// A payout is taken back.
    Clawback,
    /// The part of it that is no longer available.
    Owe,
    /// A payout pays off what the user owes.
    Recover,
}

fn unknown_posting(text: &str) -> UnknownVariant {
    UnknownVariant::new("kind of settlement transfer", text)
}

impl PostingKind {
    /// The debited and the credited account.
    pub fn accounts(self) -> (SettlementAccount, SettlementAccount) {
        use SettlementAccount::{Available, Owed, Payouts, Stakes};
        match self {
            PostingKind::Settle => (Stakes, Payouts),
            PostingKind::Unsettle => (Payouts, Stakes),
            PostingKind::Payout => (Payouts, Available),
            PostingKind::Clawback => (Available, Payouts),
            PostingKind::Owe => (Owed, Payouts),
            PostingKind::Recover => (Available, Owed),
        }
    }
}

/// A transfer of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Its purpose.
    pub kind: PostingKind,
    /// Its amount.
    pub amount: Amount,
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
        (false, true) => Some(PostingKind::Settle),
        (true, false) => Some(PostingKind::Unsettle),
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
    let UserFunds { available, owed } = funds;
    let amounts = if difference >= 0 {
        let recovered = owed.min(difference);
        available.checked_add(difference).ok_or(BalanceTooHigh)?;
        [
            (PostingKind::Payout, difference),
            (PostingKind::Recover, recovered),
        ]
    } else {
        let taken = available.min(-difference);
        let rest = -difference - taken;
        owed.checked_add(rest).ok_or(BalanceTooHigh)?;
        [(PostingKind::Clawback, taken), (PostingKind::Owe, rest)]
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
