//! The bodies of requests about money: JSON objects without unknown fields, since a misspelt
//! `external_ref` that is ignored would be a second movement of money. A field that is missing,
//! wrong, unknown or given twice is named.

use std::str::FromStr;

use actix_web::{HttpRequest, web};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::content;
use super::errors::ApiError;
use crate::domain::json;
use crate::domain::wallet::amount::Amount;

/// The largest body.
pub const MAX_BODY: usize = 16 * 1024;

/// Reads a JSON object.
pub async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, ApiError> {
    parse(&bytes(request, payload).await?)
}

/// Reads a body that says it is JSON.
pub async fn bytes(request: &HttpRequest, payload: web::Payload) -> Result<web::Bytes, ApiError> {
    content::check(request.headers())?;
    let body = payload
        .to_bytes_limited(MAX_BODY)
        .await
        .map_err(|_| ApiError::PayloadTooLarge(MAX_BODY))?;
    body.map_err(|error| ApiError::BadRequest(format!("the body cannot be read: {error}")))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(ApiError::BadRequest(
            "the body begins with a byte order mark".to_owned(),
        ));
    }
    json::from_slice(body)
        .map_err(|error| ApiError::BadRequest(format!("the body is not accepted: {error}")))
}

/// A field as its JSON text.
pub type Field = Option<Box<RawValue>>;

/// A field that holds a text, as one of our types; none where it is not there, null or empty.
pub fn optional<T>(name: &'static str, field: &Field) -> Result<Option<T>, ApiError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let bad = |problem: String| ApiError::BadField {
        field: name,
        problem,
    };
    let Some(field) = field.as_ref().filter(|field| field.get() != "null") else {
        return Ok(None);
    };
    let text: String =
        serde_json::from_str(field.get()).map_err(|_| bad("a text is wanted".to_owned()))?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error: T::Err| bad(error.to_string()))
}

/// A field that holds a text and must be there.
pub fn text<T>(name: &'static str, field: &Field) -> Result<T, ApiError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    optional(name, field)?.ok_or_else(|| missing(name))
}

/// A field that holds a number, as one of our types that reads a JSON number's text.
pub fn number<T>(name: &'static str, field: &Field) -> Result<Option<T>, ApiError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let Some(field) = field.as_ref().filter(|field| field.get() != "null") else {
        return Ok(None);
    };
    let bad = |error: T::Err| ApiError::BadField {
        field: name,
        problem: error.to_string(),
    };
    field.get().parse().map(Some).map_err(bad)
}

/// A field that holds money and must be there.
pub fn amount(name: &'static str, field: &Field) -> Result<Amount, ApiError> {
    let invalid = |problem: String| ApiError::InvalidAmount {
        field: name,
        problem,
    };
    let field = field
        .as_ref()
        .ok_or_else(|| invalid("it is missing".to_owned()))?;
    serde_json::from_str(field.get()).map_err(|error| {
        // Without the place within the field, which nobody looks for.
        let text = error.to_string();
        invalid(
            text.split(" at line ")
                .next()
                .unwrap_or_default()
                .to_owned(),
        )
    })
}

/// A field that must be there.
pub fn missing(name: &'static str) -> ApiError {
    ApiError::BadField {
        field: name,
        problem: "it is missing".to_owned(),
    }
}

/// A query parameter that must be there.
pub fn missing_query(parameter: &'static str) -> ApiError {
    ApiError::BadQuery {
        parameter: parameter.to_owned(),
        problem: "it is missing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::UserId;
    use crate::domain::odds::price::Price;

    fn field(json: &str) -> Field {
        serde_json::from_str(json).unwrap()
    }

    fn said<T>(read: Result<T, ApiError>) -> String {
        match read {
            Ok(_) => "taken".to_owned(),
            Err(error) => format!("{} {error}", error.code().0),
        }
    }

    #[test]
    fn a_field_that_is_wrong_is_told_by_its_name() {
        let user = |json| said(text::<UserId>("userId", &field(json)));
        assert_eq!(user("\"USER_001\""), "taken");
        assert_eq!(user("null"), "BAD_REQUEST userId: it is missing");
        assert_eq!(user("\"\""), "BAD_REQUEST userId: it is missing");
        assert_eq!(user("7"), "BAD_REQUEST userId: a text is wanted");
        assert_eq!(
            user("\" a\"").split(": ").next(),
            Some("BAD_REQUEST userId")
        );
        assert!(user(&format!("\"{}\"", "x".repeat(129))).contains("is longer than 128 bytes"));
        assert_eq!(
            said(text::<UserId>("userId", &None)),
            "BAD_REQUEST userId: it is missing"
        );
    }

    #[test]
    fn money_is_read_to_the_cent_or_refused() {
        let money = |json| said(amount("amount_cents", &field(json)));
        assert_eq!(money("1"), "taken");
        assert_eq!(money("9223372036854775807"), "taken");
        assert_eq!(
            money("0"),
            "INVALID_AMOUNT amount_cents: 0 is not at least 1 cent"
        );
        assert_eq!(
            money("-5"),
            "INVALID_AMOUNT amount_cents: -5 is not at least 1 cent"
        );
        for bad in ["1.0", "1e3", "\"1\"", "9223372036854775808", "true", "{}"] {
            assert_eq!(
                money(bad),
                format!("INVALID_AMOUNT amount_cents: `{bad}` is not a whole number of cents")
            );
        }
        assert_eq!(
            said(amount("amount_cents", &None)),
            "INVALID_AMOUNT amount_cents: it is missing"
        );
        assert_eq!(money("null"), "INVALID_AMOUNT amount_cents: it is missing");
    }

    #[test]
    fn a_price_is_read_from_its_exact_text() {
        let price = |json| {
            number::<Price>("odd_value", &field(json)).map(|price| price.map(Price::thousandths))
        };
        assert_eq!(price("1.63"), Ok(Some(1_630)));
        assert_eq!(price("null"), Ok(None));
        for bad in ["1", "\"1.63\"", "-2", "1001", "[]"] {
            assert!(
                said(price(bad)).starts_with("BAD_REQUEST odd_value: "),
                "{bad}"
            );
        }
    }
}
