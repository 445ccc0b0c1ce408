//! What a bet is owed: exact fractions, truncated to the cent once, at the end.

use num_rational::BigRational;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantNames};

use super::effective::{Decision, HeldReason, LegState};
use super::record::{VoidFactor, Won};
use super::reductions::ratio;
use crate::domain::odds::price::Price;
use crate::domain::unknown_variant::UnknownVariant;
use crate::domain::wallet::amount::Amount;

/// What the results so far say about a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entitlement {
    /// The stake is at risk, and nothing is paid.
    Open,
    /// The bet is settled.
    Settled {
        /// The payout in cents, including returned stake.
        payout: i64,
        /// What happened to it.
        outcome: SettledAs,
    },
    /// An operator has to decide. No money is moved.
    Held(HeldReason),
}

/// How a bet was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[derive(
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantNames
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_outcome)]
pub enum SettledAs {
    /// It has won.
    Won,
    /// It has lost.
    Lost,
    /// The stake is returned.
    Void,
    /// Half of the stake has won, half is returned.
    HalfWon,
    /// Half of the stake has lost, half is returned.
    HalfLost,
    /// It has won with a part of the stake, because the place is shared.
    DeadHeat,
    /// Another part of the stake is returned.
    Partial,
}

fn unknown_outcome(text: &str) -> UnknownVariant {
    UnknownVariant::new("outcome of a bet", text)
}

/// Half, in thousandths.
const HALF: u16 = 500;
/// All, in thousandths.
const WHOLE: u16 = 1_000;

impl LegState {
    /// What a single bet on this leg is owed.
    pub fn entitlement(&self, stake: Amount, price: Price) -> Entitlement {
        let (multiplier, outcome) = match self {
            LegState::Open => return Entitlement::Open,
            LegState::Held(reason) => return Entitlement::Held(*reason),
            LegState::Cancelled | LegState::LateBet => (ratio(1, 1), SettledAs::Void),
            LegState::Decided(decision) => (decision.multiplier(price), decision.settled_as()),
        };
        let exact = ratio(stake.cents(), 1) * multiplier;
        i64::try_from(exact.floor().to_integer())
            .map_or(Entitlement::Held(HeldReason::PayoutTooHigh), |payout| {
                Entitlement::Settled { payout, outcome }
            })
    }
}

impl Decision {
    /// What each cent of the stake pays: never more than the price.
    pub fn multiplier(&self, price: Price) -> BigRational {
        match self {
            Decision::Void => ratio(1, 1),
            Decision::Lost { void } => returned(*void),
            Decision::Won { won, reduced } => {
                let price = reduced.as_ref().map_or_else(
                    || ratio(price.thousandths(), WHOLE),
                    |(rule, reductions)| rule.apply(reductions, price),
                );
                match won {
                    Won::Part { void } => returned(*void) + (ratio(1, 1) - returned(*void)) * price,
                    Won::DeadHeat(share) => ratio(share.places(), share.tied()) * price,
                }
            }
        }
    }

    fn settled_as(&self) -> SettledAs {
        let part = |void: VoidFactor, whole, half| match void.thousandths() {
            0 => whole,
            HALF => half,
            WHOLE => SettledAs::Void,
            _ => SettledAs::Partial,
        };
        match self {
            Decision::Void => SettledAs::Void,
            Decision::Lost { void } => part(*void, SettledAs::Lost, SettledAs::HalfLost),
            Decision::Won { won, .. } => match won {
                Won::Part { void } => part(*void, SettledAs::Won, SettledAs::HalfWon),
                Won::DeadHeat(_) => SettledAs::DeadHeat,
            },
        }
    }
}

fn returned(void: VoidFactor) -> BigRational {
    ratio(void.thousandths(), WHOLE)
}
