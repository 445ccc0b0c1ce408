//! The reduction of a price because other selections were removed after the bet was placed.

use num_bigint::BigInt;
use num_rational::BigRational;
use strum::{Display, EnumString};

use super::record::Reduction;
use crate::domain::ids::MarketName;
use crate::domain::odds::price::Price;
use crate::domain::unknown_variant::UnknownVariant;

/// How bets are reduced when selections are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Display, EnumString)]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_reductions)]
pub enum Reductions {
    /// Not at all.
    #[default]
    None,
    /// Off the winnings, by the sum of all reductions, at most 90 %.
    Rule4,
    /// As a betting exchange: in win markets off the price, without reductions below 2.5 %; in place
    /// markets off the winnings.
    Exchange,
}

fn unknown_reductions(text: &str) -> UnknownVariant {
    UnknownVariant::new("kind of reductions", text)
}

impl Reductions {
    pub(super) fn rule_for(self, market: &MarketName) -> Option<ReductionRule> {
        match self {
            Reductions::None => None,
            Reductions::Rule4 => Some(ReductionRule::Rule4),
            Reductions::Exchange if is_place_market(market) => Some(ReductionRule::ExchangePlace),
            Reductions::Exchange => Some(ReductionRule::ExchangeWin),
        }
    }
}

/// Betfair's place markets are `PLACE` and `OTHER_PLACE`.
fn is_place_market(market: &MarketName) -> bool {
    let name = market.as_str();
    name == "place" || name.ends_with("_place")
}

/// How the price of a leg is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReductionRule {
    /// [`Reductions::Rule4`].
    Rule4,
    /// [`Reductions::Exchange`] in a win market.
    ExchangeWin,
    /// [`Reductions::Exchange`] in a place market.
    ExchangePlace,
}

/// The largest sum of reductions by rule 4: 90 %, in thousandths of a percent.
const RULE4_MAX: u64 = 90_000;
/// The smallest reduction that counts in an exchange's win market: 2.5 %.
const EXCHANGE_WIN_MIN: u32 = 2_500;

impl ReductionRule {
    /// The price after the reductions: never above the price.
    pub(super) fn apply(self, reductions: &[Reduction], price: Price) -> BigRational {
        let one = ratio(1, 1);
        let price = ratio(price.thousandths(), 1_000);
        match self {
            ReductionRule::Rule4 => {
                let sum: u64 = reductions
                    .iter()
                    .map(|reduction| u64::from(reduction.thousandths()))
                    .sum();
                let sum = ratio(sum.min(RULE4_MAX), Reduction::MAX.thousandths());
                &one + (price - &one) * (&one - sum)
            }
            ReductionRule::ExchangeWin => {
                let counting = reductions
                    .iter()
                    .filter(|reduction| reduction.thousandths() >= EXCHANGE_WIN_MIN);
                // A price below the minimum is not raised to it.
                let minimum = ratio(101, 100).min(price.clone());
                (price * remaining(counting)).max(minimum)
            }
            ReductionRule::ExchangePlace => &one + (price - &one) * remaining(reductions.iter()),
        }
    }
}

/// The part that remains after all of these.
fn remaining<'a>(reductions: impl Iterator<Item = &'a Reduction>) -> BigRational {
    let whole = Reduction::MAX.thousandths();
    let parts = reductions.map(|reduction| ratio(whole - reduction.thousandths(), whole));
    parts.fold(ratio(1, 1), |remaining, part| remaining * part)
}

/// An exact fraction. The denominator must not be 0.
pub(super) fn ratio(numerator: impl Into<BigInt>, denominator: impl Into<BigInt>) -> BigRational {
    BigRational::new(numerator.into(), denominator.into())
}
