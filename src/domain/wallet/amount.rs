//! Money in whole cents: never a float, and at least 1 cent in a transfer.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::domain::odds::price::Price;

/// The amount of a transfer, in cents of the deployment's single currency: 1 to `i64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

/// Why something is not an [`Amount`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Less than a cent.
    #[error("{0} is not at least 1 cent")]
    TooLow(i64),
    /// Not a whole number of cents that fits 64 bits: a fraction, an exponent, a string, or too
    /// many digits.
    #[error("`{0}` is not a whole number of cents")]
    NotWhole(String),
}

impl Amount {
    /// An amount of `cents`, which must be at least 1.
    pub const fn new(cents: i64) -> Result<Amount, AmountError> {
        if cents >= 1 {
            Ok(Amount(cents))
        } else {
            Err(AmountError::TooLow(cents))
        }
    }

    /// The cents, at least 1.
    pub fn cents(self) -> i64 {
        self.0
    }

    /// The payout of a stake of this amount at a price, including the stake: stake × price,
    /// truncated to the cent. An `i128` holds the result for the maximum of both.
    pub fn payout_at(self, price: Price) -> i128 {
        i128::from(self.0) * i128::from(price.thousandths()) / 1_000
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    /// Accepts a JSON number without fraction and exponent. The text itself is parsed, so nothing
    /// is rounded on the way.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let cents = text
            .parse()
            .map_err(|_| AmountError::NotWhole(text.chars().take(40).collect()));
        cents.and_then(Amount::new).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amount_is_positive_whole_cents() {
        let read =
            |json: &str| serde_json::from_str::<Amount>(json).map_err(|error| error.to_string());
        assert_eq!(read("1").map(Amount::cents), Ok(1));
        assert_eq!(read("9223372036854775807").map(Amount::cents), Ok(i64::MAX));
        for bad in ["0", "-1", "-9223372036854775808"] {
            assert!(
                read(bad).unwrap_err().contains("is not at least 1 cent"),
                "{bad}"
            );
        }
        for bad in [
            "1.0",
            "1.5",
            "1e3",
            "\"1\"",
            "true",
            "null",
            "[]",
            "9223372036854775808",
            "1e400",
        ] {
            assert!(
                read(bad)
                    .unwrap_err()
                    .contains("is not a whole number of cents"),
                "{bad}"
            );
        }
        assert!(read("NaN").is_err() && read("Infinity").is_err() && read("").is_err());
    }

    #[test]
    fn payout_is_truncated_without_overflow() {
        let payout = |cents, price: &str| {
            Amount::new(cents)
                .unwrap()
                .payout_at(price.parse().unwrap())
        };
        assert_eq!(payout(1_000, "1.63"), 1_630);
        assert_eq!(payout(333, "1.528"), 508);
        assert_eq!(payout(1, "1.001"), 1);
        assert_eq!(payout(i64::MAX, "1000"), i128::from(i64::MAX) * 1_000);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = serde_json::from_str::<Amount>(&text);
        }

        #[test]
        fn every_amount_reads_back(cents in 1..i64::MAX) {
            let json = serde_json::to_string(&Amount::new(cents).unwrap()).unwrap();
            prop_assert_eq!(serde_json::from_str::<Amount>(&json).unwrap().cents(), cents);
        }
    }
}
