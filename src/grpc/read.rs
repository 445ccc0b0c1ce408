//! Reads the fields of requests. Errors name the field.

use std::fmt::Display;
use std::str::FromStr;

use super::proto::v1;
use crate::domain::ids::MarketKey;
use crate::domain::odds::price::{Line, Price};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::http::errors::ApiError;

/// Maximum number of rows of a page.
const MAX_PAGE: usize = 1_000;

/// The error of a field.
pub(super) fn bad(field: &'static str, problem: impl Display) -> ApiError {
    ApiError::BadField {
        field,
        problem: problem.to_string(),
    }
}

/// A required text.
pub(super) fn id<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, ApiError> {
    optional(field, text)?.ok_or_else(|| bad(field, "it is missing"))
}

/// A text that may be empty.
pub(super) fn optional<T: FromStr<Err: Display>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| bad(field, error))
}

/// A positive amount.
pub(super) fn amount(field: &'static str, cents: i64) -> Result<Amount, ApiError> {
    Amount::new(cents).map_err(|error| ApiError::InvalidAmount {
        field,
        problem: error.to_string(),
    })
}

/// A required price.
pub(super) fn price(field: &'static str, price: Option<v1::Price>) -> Result<Price, ApiError> {
    let price = price.ok_or_else(|| bad(field, "it is missing"))?;
    Price::from_thousandths(price.price_thousandths)
        .ok_or_else(|| bad(field, "expected 1001 to 1000000 thousandths"))
}

/// A required market.
pub(super) fn market(key: Option<v1::MarketKey>) -> Result<MarketKey, ApiError> {
    let key = key.ok_or_else(|| bad("market", "it is missing"))?;
    let line = key.line.map(|line| {
        Line::from_thousandths(line.line_thousandths)
            .ok_or_else(|| bad("line", "expected -100000000 to 100000000 thousandths"))
    });
    Ok(MarketKey {
        name: id("market", &key.name)?,
        line: line.transpose()?,
    })
}

/// A time that may be missing, cut to microseconds.
pub(super) fn time(
    field: &'static str,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, ApiError> {
    let Some(time) = time else { return Ok(None) };
    let nanos = Some(time.nanos).filter(|nanos| (0..1_000_000_000).contains(nanos));
    let micros = nanos.and_then(|nanos| {
        let whole = time.seconds.checked_mul(1_000_000)?;
        whole.checked_add(i64::from(nanos / 1_000))
    });
    micros
        .and_then(Timestamp::from_micros)
        .map(Some)
        .ok_or_else(|| bad(field, "it is not a time of the years 0 to 9999"))
}

/// The size of a page; 0 is the default.
pub(super) fn page_size(size: u32, default: usize) -> Result<usize, ApiError> {
    match size as usize {
        0 => Ok(default),
        size if size <= MAX_PAGE => Ok(size),
        _ => Err(bad("page_size", format!("expected at most {MAX_PAGE}"))),
    }
}

/// A known value of an enum; `None` if it is unspecified.
pub(super) fn known<P, T>(
    field: &'static str,
    number: i32,
    of: impl FnOnce(P) -> Option<T>,
) -> Result<Option<T>, ApiError>
where
    P: TryFrom<i32>,
{
    let value = P::try_from(number);
    let value = value.map_err(|_| bad(field, format!("{number} is not a known value")))?;
    Ok(of(value))
}
