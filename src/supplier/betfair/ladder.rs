//! The prices of one runner, and the selection of its published price.

use std::collections::BTreeSet;

use serde_json::value::RawValue;

use super::wire::RunnerChange;
use crate::domain::odds::price::{DecimalError, Price};
use crate::supplier::Refused;

/// The maximum price points of one ladder; the finest real ladder rarely has more than a few
/// hundred.
const MAX_LEVELS: usize = 5_000;

/// The prices available to back, ordered by exact price. A size of 0 removes a price.
#[derive(Debug, Default)]
pub(crate) struct Ladder {
    prices: BTreeSet<Price>,
}

impl Ladder {
    /// Sets the size available at a price.
    pub(crate) fn set(&mut self, price: &RawValue, size: f64) -> Result<(), Refused> {
        check_size(size)?;
        match price.get().parse::<Price>() {
            Ok(price) if size == 0.0 => {
                self.prices.remove(&price);
            }
            Ok(price) if self.prices.len() < MAX_LEVELS || self.prices.contains(&price) => {
                self.prices.insert(price);
            }
            Ok(price) => {
                let detail = format!("{price} would be price {} of the ladder", MAX_LEVELS + 1);
                return Err(Refused {
                    reason: "too_many_levels",
                    detail,
                });
            }
            // Such a price is never stored, so it needs no removal.
            Err(DecimalError::OutOfRange { .. }) if size == 0.0 => {}
            Err(error) => return Err(bad_price(&error)),
        }
        Ok(())
    }

    /// The highest available price.
    pub(crate) fn best(&self) -> Option<Price> {
        self.prices.last().copied()
    }
}

/// The stream's prices of one runner.
#[derive(Debug, Default)]
pub(crate) struct RunnerPrices {
    /// `atb`: the ladder by price.
    available: Ladder,
    /// `batb`: level 0 of the ladder by depth.
    best: Option<Price>,
    /// `ltp`: the last traded price.
    last: Option<Price>,
}

impl RunnerPrices {
    /// The best price available to back, else the last traded price.
    pub(crate) fn price(&self) -> Option<Price> {
        self.available.best().or(self.best).or(self.last)
    }

    /// Applies a change; unreadable parts are added to `refused`.
    pub(crate) fn apply(&mut self, change: &RunnerChange<'_>, refused: &mut Vec<Refused>) {
        for (price, size) in change.atb.iter().flatten() {
            refused.extend(self.available.set(price, *size).err());
        }
        for (level, price, size) in change.batb.iter().flatten() {
            if *level == 0 {
                refused.extend(set_single(&mut self.best, price, *size).err());
            }
        }
        if let Some(last) = change.ltp {
            // A last traded price of 0 means that it was withdrawn.
            let size = if matches!(last.get(), "0" | "0.0") {
                0.0
            } else {
                1.0
            };
            refused.extend(set_single(&mut self.last, last, size).err());
        }
    }
}

/// Replaces a single price. An unreadable price clears it rather than leaving a stale one.
fn set_single(slot: &mut Option<Price>, price: &RawValue, size: f64) -> Result<(), Refused> {
    *slot = None;
    check_size(size)?;
    if size > 0.0 {
        *slot = Some(price.get().parse().map_err(|error| bad_price(&error))?);
    }
    Ok(())
}

fn check_size(size: f64) -> Result<(), Refused> {
    if size >= 0.0 {
        Ok(())
    } else {
        Err(Refused {
            reason: "bad_size",
            detail: format!("size {size} is below 0"),
        })
    }
}

fn bad_price(error: &DecimalError) -> Refused {
    Refused {
        reason: "bad_price",
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn apply(prices: &mut RunnerPrices, change: &str) -> Vec<&'static str> {
        let mut refused = Vec::new();
        prices.apply(&serde_json::from_str(change).unwrap(), &mut refused);
        refused.into_iter().map(|refused| refused.reason).collect()
    }

    #[test]
    fn price_falls_back_to_last_traded() {
        let mut prices = RunnerPrices::default();
        assert_eq!(prices.price(), None);
        let mut price_after = |change| {
            assert!(apply(&mut prices, change).is_empty());
            prices
                .price()
                .map(|price| price.to_string())
                .unwrap_or_default()
        };
        assert_eq!(price_after(r#"{"id":1,"ltp":4.4}"#), "4.4");
        assert_eq!(price_after(r#"{"id":1,"batb":[[1,4.8,1],[0,5,2.5]]}"#), "5");
        assert_eq!(
            price_after(r#"{"id":1,"atb":[[4.7,1],[4.9,0.5],[1.01,13002]]}"#),
            "4.9"
        );
        assert_eq!(price_after(r#"{"id":1,"atb":[[4.9,0]]}"#), "4.7");
        assert_eq!(price_after(r#"{"id":1,"atb":[[4.70,0],[1.010,0]]}"#), "5");
        assert_eq!(price_after(r#"{"id":1,"batb":[[0,0,0]]}"#), "4.4");
        assert_eq!(price_after(r#"{"id":1,"ltp":null}"#), "4.4");
        assert_eq!(price_after(r#"{"id":1,"ltp":0}"#), "");
    }

    #[test]
    fn price_out_of_range_is_rejected() {
        let mut prices = RunnerPrices::default();
        let refused = apply(
            &mut prices,
            r#"{"id":1,"atb":[[1001,5],[1.0,5],[2,-1],[3,5],["4",5],[1001,0]],"ltp":0.5}"#,
        );
        assert_eq!(
            refused,
            [
                "bad_price",
                "bad_price",
                "bad_size",
                "bad_price",
                "bad_price"
            ]
        );
        assert_eq!(prices.price(), Price::from_thousandths(3_000));
        assert_eq!(
            apply(&mut prices, r#"{"id":1,"atb":[[3,0]],"batb":[[0,2000,1]]}"#),
            ["bad_price"]
        );
        assert_eq!(prices.price(), None);
    }

    #[test]
    fn ladder_is_bounded() {
        let mut ladder = Ladder::default();
        for thousandths in 0..MAX_LEVELS {
            ladder
                .set(&raw(&format!("2{thousandths:04}e-3")), 1.0)
                .unwrap();
        }
        assert_eq!(ladder.set(&raw("20"), 1.0), Ok(()));
        assert_eq!(
            ladder.set(&raw("999"), 1.0).unwrap_err().reason,
            "too_many_levels"
        );
    }

    proptest! {
        #[test]
        fn ladder_agrees_with_size_map(changes in proptest::collection::vec((1_001u32..1_040, 0u32..3), 0..200)) {
            let mut ladder = Ladder::default();
            let mut model = BTreeMap::new();
            for (price, size) in changes {
                let text = format!("{}.{:03}", price / 1_000, price % 1_000);
                ladder.set(&raw(&text), f64::from(size)).unwrap();
                model.insert(price, size);
                let best = model.iter().rev().find(|(_, size)| **size > 0).map(|(price, _)| *price);
                prop_assert_eq!(ladder.best().map(Price::thousandths), best);
            }
        }
    }
}
