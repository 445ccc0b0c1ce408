//! Query parameters. Errors name the parameter.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::{Ready, ready};
use std::str::FromStr;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use url::form_urlencoded;

use super::errors::ApiError;

/// Refuses a `%` that does not begin an escape, and escapes that are not UTF-8: a lenient reader
/// would replace them and answer for an id that was not requested.
pub(crate) fn check_escapes(text: &str) -> Result<(), ApiError> {
    if !text.contains('%') {
        return Ok(());
    }
    let refuse = |what: &str| Err(ApiError::BadRequest(format!("the URL contains {what}")));
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        match tail {
            [high, low, tail @ ..] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push((high * 16 + low) as u8);
                    rest = tail;
                }
                _ => return refuse("a % that is not followed by two hexadecimal digits"),
            },
            _ => return refuse("a % that is not followed by two hexadecimal digits"),
        }
    }
    if std::str::from_utf8(&decoded).is_err() {
        refuse("escapes that are not UTF-8")
    } else {
        Ok(())
    }
}

/// The parameters of a request, each given once.
pub(crate) struct Query(HashMap<String, String>);

impl FromRequest for Query {
    type Error = ApiError;
    type Future = Ready<Result<Query, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Query::read(request.query_string()))
    }
}

fn bad(parameter: &str, problem: String) -> ApiError {
    ApiError::BadQuery {
        parameter: parameter.chars().take(40).collect(),
        problem,
    }
}

impl Query {
    /// Reads the query of a URL.
    pub(crate) fn read(text: &str) -> Result<Query, ApiError> {
        let mut parameters = HashMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if parameters.contains_key(&*name) {
                return Err(bad(&name, "it is given twice".to_owned()));
            }
            parameters.insert(name.into_owned(), value.into_owned());
        }
        Ok(Query(parameters))
    }

    /// Refuses every other parameter: if a misspelt filter were ignored, the response would contain
    /// more than was requested.
    pub(crate) fn only(self, known: &[&str]) -> Result<Query, ApiError> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(self),
            Some(unknown) => Err(bad(
                unknown,
                format!("it is unknown; expected one of {}", known.join(", ")),
            )),
        }
    }

    /// The text of a parameter, if it is present and not empty.
    pub(crate) fn text(&self, parameter: &str) -> Option<&str> {
        self.0
            .get(parameter)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// The parsed value of a parameter, if it is present and not empty.
    pub(crate) fn parsed<T>(&self, parameter: &'static str) -> Result<Option<T>, ApiError>
    where
        T: FromStr,
        T::Err: Display,
    {
        let read = self.text(parameter).map(|text| text.parse()).transpose();
        read.map_err(|error: T::Err| bad(parameter, error.to_string()))
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn number(
        &self,
        parameter: &'static str,
        min: usize,
        max: usize,
    ) -> Result<Option<usize>, ApiError> {
        let problem = || {
            bad(
                parameter,
                format!("it must be a whole number from {min} to {max}"),
            )
        };
        let number: Option<usize> = self.parsed(parameter).map_err(|_| problem())?;
        match number {
            Some(number) if !(min..=max).contains(&number) => Err(problem()),
            number => Ok(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_given_twice_is_refused() {
        let read = |text: &str| {
            Query::read(text)
                .map(|query| query.0.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            (read(""), read("a=1&b=2"), read("a=%201+2")),
            (Ok(0), Ok(2), Ok(1))
        );
        for text in ["a=1&a=1", "a=1&b=2&a=3", "a&a", "a=1&%61=2"] {
            assert_eq!(read(text), Err("a: it is given twice".to_owned()), "{text}");
        }
    }

    #[test]
    fn unknown_parameter_is_named() {
        let only = |text: &str| {
            Query::read(text)
                .and_then(|query| query.only(&["userId", "limit"]))
                .map(|_| ())
        };
        assert_eq!(only("userId=u&limit=1"), Ok(()));
        let refused = only("userId=u&Limit=1").unwrap_err();
        assert_eq!(
            (refused.code().0, refused.to_string().as_str()),
            (
                "BAD_QUERY",
                "Limit: it is unknown; expected one of userId, limit"
            )
        );
    }

    #[test]
    fn escapes_must_be_valid_utf_8() {
        for good in [
            "",
            "/v1/events",
            "a%2Fb",
            "%25",
            "S%C3%A3o",
            "%e2%9a%bd",
            "100%25",
        ] {
            assert_eq!(check_escapes(good), Ok(()), "{good}");
        }
        for bad in ["%", "a%", "a%2", "%zz", "%+1", "%C3", "%ff", "%C3%28"] {
            assert!(
                matches!(check_escapes(bad), Err(ApiError::BadRequest(_))),
                "{bad}"
            );
        }
    }
}
