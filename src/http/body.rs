//! Bodies of money requests: JSON objects without unknown fields, since ignoring a misspelt
//! `external_ref` could cause a second transfer. Errors name the field that is missing, wrong,
//! unknown or repeated.

use std::str::FromStr;

use actix_web::{HttpRequest, web};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::content;
use super::errors::ApiError;
use crate::domain::json;
use crate::domain::wallet::amount::Amount;

/// Maximum size of a body, in bytes.
pub(crate) const MAX_BODY: usize = 16 * 1024;

/// Reads a JSON object.
pub(crate) async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, ApiError> {
    parse(&bytes(request, payload).await?)
}

/// Reads a body that is declared as JSON.
pub(crate) async fn bytes(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<web::Bytes, ApiError> {
    content::check(request.headers())?;
    let body = payload
        .to_bytes_limited(MAX_BODY)
        .await
        .map_err(|_| ApiError::PayloadTooLarge(MAX_BODY))?;
    body.map_err(|error| ApiError::BadRequest(format!("cannot read the body: {error}")))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(ApiError::BadRequest(
            "the body begins with a byte order mark".to_owned(),
        ));
    }
    json::from_slice(body).map_err(|error| ApiError::BadRequest(format!("invalid body: {error}")))
}

/// A field as raw JSON text.
pub(crate) type Field = Option<Box<RawValue>>;

/// Parses a string field; `None` if it is absent, null or empty.
pub(crate) fn optional<T>(name: &'static str, field: &Field) -> Result<Option<T>, ApiError>
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
        serde_json::from_str(field.get()).map_err(|_| bad("it must be a string".to_owned()))?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error: T::Err| bad(error.to_string()))
}

/// Parses a required string field.
pub(crate) fn text<T>(name: &'static str, field: &Field) -> Result<T, ApiError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    optional(name, field)?.ok_or_else(|| missing(name))
}

/// Parses a number field, as a type that reads the text of a JSON number.
pub(crate) fn number<T>(name: &'static str, field: &Field) -> Result<Option<T>, ApiError>
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

/// Parses a required amount of money.
pub(crate) fn amount(name: &'static str, field: &Field) -> Result<Amount, ApiError> {
    let invalid = |problem: String| ApiError::InvalidAmount {
        field: name,
        problem,
    };
    let field = field
        .as_ref()
        .ok_or_else(|| invalid("it is missing".to_owned()))?;
    serde_json::from_str(field.get()).map_err(|error| {
        // Without the position within the field, which is of no use.
        let text = error.to_string();
        invalid(
            text.split(" at line ")
                .next()
                .unwrap_or_default()
                .to_owned(),
        )
    })
}

/// The error for a missing field.
pub(crate) fn missing(name: &'static str) -> ApiError {
    ApiError::BadField {
        field: name,
        problem: "it is missing".to_owned(),
    }
}

/// The error for a missing query parameter.
pub(crate) fn missing_query(parameter: &'static str) -> ApiError {
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

    fn error_text<T>(read: Result<T, ApiError>) -> String {
        match read {
            Ok(_) => "taken".to_owned(),
            Err(error) => format!("{} {error}", error.code().0),
        }
    }

    #[test]
    fn invalid_field_is_named() {
        let user = |json| error_text(text::<UserId>("userId", &field(json)));
        assert_eq!(user("\"USER_001\""), "taken");
        assert_eq!(user("null"), "BAD_REQUEST userId: it is missing");
        assert_eq!(user("\"\""), "BAD_REQUEST userId: it is missing");
        assert_eq!(user("7"), "BAD_REQUEST userId: it must be a string");
        assert_eq!(
            user("\" a\"").split(": ").next(),
            Some("BAD_REQUEST userId")
        );
        assert!(user(&format!("\"{}\"", "x".repeat(129))).contains("is longer than 128 bytes"));
        assert_eq!(
            error_text(text::<UserId>("userId", &None)),
            "BAD_REQUEST userId: it is missing"
        );
    }

    #[test]
    fn amount_must_be_whole_cents() {
        let money = |json| error_text(amount("amount_cents", &field(json)));
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
            error_text(amount("amount_cents", &None)),
            "INVALID_AMOUNT amount_cents: it is missing"
        );
        assert_eq!(money("null"), "INVALID_AMOUNT amount_cents: it is missing");
    }

    #[test]
    fn price_is_read_from_exact_text() {
        let price = |json| {
            number::<Price>("odd_value", &field(json)).map(|price| price.map(Price::thousandths))
        };
        assert_eq!(price("1.63"), Ok(Some(1_630)));
        assert_eq!(price("null"), Ok(None));
        for bad in ["1", "\"1.63\"", "-2", "1001", "[]"] {
            assert!(
                error_text(price(bad)).starts_with("BAD_REQUEST odd_value: "),
                "{bad}"
            );
        }
    }
}
