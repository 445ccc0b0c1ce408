//! Decimal odds and market lines as fixed-point numbers, in thousandths.
//!
//! Both are parsed from the exact text of the JSON number and are never stored as floats.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Decimal odds in thousandths: 1.528 is stored as 1528.
///
/// Valid prices are 1.001 to 1000.000. Further decimals are rounded to the nearest thousandth, ties
/// upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(u32);

/// The line of a market in thousandths, such as the 2.5 of "total goals over/under 2.5". It may be
/// negative (a handicap).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line(i32);

/// Why a text is not a [`Price`] or a [`Line`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// The text is not a decimal number.
    #[error("`{0}` is not a decimal number")]
    NotANumber(String),
    /// The number is outside the valid range.
    #[error("{got} is outside the range {low} to {high}")]
    OutOfRange {
        /// The number, as written.
        got: String,
        /// The lowest valid number.
        low: &'static str,
        /// The highest valid number.
        high: &'static str,
    },
    /// The number has more than three decimals, and must not be rounded.
    #[error("`{0}` has more than three decimals")]
    TooPrecise(String),
}

impl Price {
    /// The lowest valid price, 1.001.
    pub const MIN: Price = Price(1_001);
    /// The highest valid price, 1000.000.
    pub const MAX: Price = Price(1_000_000);

    /// A price from its thousandths; `None` outside the valid range.
    pub fn from_thousandths(thousandths: u32) -> Option<Price> {
        (Price::MIN.0..=Price::MAX.0)
            .contains(&thousandths)
            .then_some(Price(thousandths))
    }

    /// The price in thousandths, 1001 to 1000000.
    pub fn thousandths(self) -> u32 {
        self.0
    }
}

impl Line {
    /// The largest absolute line, 100000.000.
    pub const LIMIT: i32 = 100_000_000;

    /// A line from its thousandths; `None` beyond ±[`Line::LIMIT`].
    pub fn from_thousandths(thousandths: i32) -> Option<Line> {
        (-Line::LIMIT..=Line::LIMIT)
            .contains(&thousandths)
            .then_some(Line(thousandths))
    }

    /// The line in thousandths.
    pub fn thousandths(self) -> i32 {
        self.0
    }
}

impl FromStr for Price {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Price, DecimalError> {
        let out_of_range = || DecimalError::OutOfRange {
            got: shorten(text),
            low: "1.001",
            high: "1000.000",
        };
        let thousandths = parse_rounded(text)?.ok_or_else(out_of_range)?;
        u32::try_from(thousandths)
            .ok()
            .and_then(Price::from_thousandths)
            .ok_or_else(out_of_range)
    }
}

impl FromStr for Line {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Line, DecimalError> {
        let out_of_range = || DecimalError::OutOfRange {
            got: shorten(text),
            low: "-100000",
            high: "100000",
        };
        let thousandths = parse_rounded(text)?.ok_or_else(out_of_range)?;
        i32::try_from(thousandths)
            .ok()
            .and_then(Line::from_thousandths)
            .ok_or_else(out_of_range)
    }
}

impl fmt::Display for Price {
    /// The shortest decimal text, such as `1.528` or `2`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_thousandths(i64::from(self.0), out)
    }
}

impl fmt::Display for Line {
    /// The shortest decimal text, such as `2.5` or `-1`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_thousandths(i64::from(self.0), out)
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_thousandths(i64::from(self.0), serializer)
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_thousandths(i64::from(self.0), serializer)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Price, D::Error> {
        <&RawValue>::deserialize(deserializer)?
            .get()
            .parse()
            .map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Line, D::Error> {
        <&RawValue>::deserialize(deserializer)?
            .get()
            .parse()
            .map_err(D::Error::custom)
    }
}

/// Writes thousandths as a JSON number. The division yields the correctly rounded quotient, so the
/// shortest text that reads back as the same double is the decimal itself. A test covers every
/// valid price.
pub(crate) fn serialize_thousandths<S: Serializer>(
    thousandths: i64,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if thousandths % 1_000 == 0 {
        serializer.serialize_i64(thousandths / 1_000)
    } else {
        serializer.serialize_f64(thousandths as f64 / 1_000.0)
    }
}

fn write_thousandths(thousandths: i64, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let sign = if thousandths < 0 { "-" } else { "" };
    let whole = thousandths.unsigned_abs() / 1_000;
    let rest = thousandths.unsigned_abs() % 1_000;
    match rest {
        0 => write!(out, "{sign}{whole}"),
        rest if rest % 100 == 0 => write!(out, "{sign}{whole}.{}", rest / 100),
        rest if rest % 10 == 0 => write!(out, "{sign}{whole}.{:02}", rest / 10),
        rest => write!(out, "{sign}{whole}.{rest:03}"),
    }
}

/// Parses a JSON number as exact thousandths between two bounds.
pub(crate) fn parse_exact(
    text: &str,
    (min, low): (i64, &'static str),
    (max, high): (i64, &'static str),
) -> Result<i64, DecimalError> {
    let read = parse_thousandths(text)?;
    let in_range = read.filter(|read| (min..=max).contains(&read.rounded));
    let got = || shorten(text);
    match in_range {
        None => Err(DecimalError::OutOfRange {
            got: got(),
            low,
            high,
        }),
        Some(read) if !read.is_exact => Err(DecimalError::TooPrecise(got())),
        Some(read) => Ok(read.rounded),
    }
}

fn parse_rounded(text: &str) -> Result<Option<i64>, DecimalError> {
    Ok(parse_thousandths(text)?.map(|read| read.rounded))
}

/// A number in thousandths.
struct Thousandths {
    /// Rounded to the nearest, ties away from zero.
    rounded: i64,
    /// Whether the number has no further decimals.
    is_exact: bool,
}

/// Parses a JSON number (sign, digits, fraction, exponent). `Ok(None)` if the number does not fit.
fn parse_thousandths(text: &str) -> Result<Option<Thousandths>, DecimalError> {
    let not_a_number = || DecimalError::NotANumber(shorten(text));
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            exponent.parse::<i32>().map_err(|_| not_a_number())?,
        ),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits_only =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits_only(whole) || !digits_only(fraction) {
        return Err(not_a_number());
    }

    // The digit at index `point` of `whole ++ fraction` is the first one after the decimal point.
    let point = whole.len() as i64 + i64::from(exponent);
    let digits = whole.bytes().chain(fraction.bytes());
    let mut thousandths: i64 = 0;
    let mut seen: i64 = 0;
    let mut rounds_up = false;
    let mut is_exact = true;
    for digit in digits.map(|byte| i64::from(byte - b'0')) {
        if seen < point + 3 {
            match thousandths
                .checked_mul(10)
                .and_then(|value| value.checked_add(digit))
            {
                Some(value) => thousandths = value,
                None => return Ok(None),
            }
        } else {
            is_exact &= digit == 0;
            rounds_up |= seen == point + 3 && digit >= 5;
        }
        seen += 1;
    }
    while seen < point + 3 && thousandths != 0 {
        match thousandths.checked_mul(10) {
            Some(value) => thousandths = value,
            None => return Ok(None),
        }
        seen += 1;
    }
    thousandths += i64::from(rounds_up);
    Ok(Some(Thousandths {
        rounded: if negative { -thousandths } else { thousandths },
        is_exact,
    }))
}

/// Truncates external text so that error messages stay short.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn thousandths(text: &str) -> u32 {
        text.parse::<Price>().unwrap().thousandths()
    }

    #[test]
    fn reads_number_forms_of_suppliers() {
        assert_eq!(thousandths("1.528"), 1_528);
        assert_eq!(thousandths("2"), 2_000);
        assert_eq!(thousandths("5.0"), 5_000);
        assert_eq!(thousandths("3.393131547636627"), 3_393);
        assert_eq!(thousandths("1e1"), 10_000);
        assert_eq!(thousandths("1.5E+2"), 150_000);
        assert_eq!(thousandths("15280e-4"), 1_528);
        assert_eq!(thousandths("1000"), 1_000_000);
    }

    /// The nearest double lies below the tie, so a float would be rounded down.
    #[test]
    fn rounds_exact_tie_upwards() {
        assert_eq!(thousandths("1.0015"), 1_002);
        assert_eq!(thousandths("1.0005"), 1_001);
        assert_eq!(thousandths("1000.0004"), 1_000_000);
    }

    #[test]
    fn refuses_out_of_range_without_clamping() {
        for text in [
            "1",
            "1.0004",
            "0",
            "-2",
            "1000.0005",
            "1001",
            "1e400",
            "99999999999999999999999",
            "1e-9",
        ] {
            let error = text.parse::<Price>().unwrap_err();
            assert!(
                matches!(error, DecimalError::OutOfRange { .. }),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn refuses_text_without_number() {
        for text in [
            "", "-", ".", "1.", ".5", "1,5", "NaN", "inf", "\"2\"", "2 ", "1e", "1e1.5", "0x10",
            "null",
        ] {
            let error = text.parse::<Price>().unwrap_err();
            assert!(
                matches!(error, DecimalError::NotANumber(_)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn exact_number_is_not_rounded() {
        let read = |text| parse_exact(text, (0, "0"), (1_000, "1"));
        for (text, thousandths) in [
            ("0", 0),
            ("1", 1_000),
            ("0.5", 500),
            ("5e-1", 500),
            ("0.3330000", 333),
        ] {
            assert_eq!(read(text), Ok(thousandths), "{text}");
        }
        for text in [
            "0.3333",
            "0.0001",
            "9999e-4",
            "0.00000000000000000000000001",
        ] {
            assert!(
                matches!(read(text), Err(DecimalError::TooPrecise(_))),
                "{text}"
            );
        }
        for text in ["1.001", "-0.001", "1e300"] {
            assert!(
                matches!(read(text), Err(DecimalError::OutOfRange { .. })),
                "{text}"
            );
        }
        assert!(matches!(read("\"0.5\""), Err(DecimalError::NotANumber(_))));
    }

    #[test]
    fn every_valid_price_reads_back() {
        for value in Price::MIN.0..=Price::MAX.0 {
            let price = Price(value);
            let json = serde_json::to_string(&price).unwrap();
            assert_eq!(json, price.to_string());
            assert_eq!(serde_json::from_str::<Price>(&json).unwrap(), price);
        }
    }

    #[test]
    fn lines_may_be_negative() {
        assert_eq!("-1.5".parse::<Line>().unwrap().thousandths(), -1_500);
        assert_eq!("-0.25".parse::<Line>().unwrap().to_string(), "-0.25");
        assert_eq!("0".parse::<Line>().unwrap().to_string(), "0");
        assert!("100000.001".parse::<Line>().is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Price>();
        }

        #[test]
        fn rounds_to_nearest_thousandth(value in 1_001_000u64..1_000_000_000) {
            let text = format!("{}.{:06}", value / 1_000_000, value % 1_000_000);
            let nearest = (value + 500) / 1_000;
            prop_assert_eq!(u64::from(text.parse::<Price>().unwrap().thousandths()), nearest);
        }

        #[test]
        fn lines_read_back(value in -Line::LIMIT..=Line::LIMIT) {
            let line = Line(value);
            prop_assert_eq!(line.to_string().parse::<Line>().unwrap(), line);
        }
    }
}
