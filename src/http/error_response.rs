//! The responses to errors: `{"code","message"}`, or for clients that request
//! `application/problem+json` the same with the fields of RFC 9457. Others get `application/json` as
//! ever: some compare the media type, and may refuse fields that they do not know.

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, CacheDirective, HeaderMap, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use super::errors::ApiError;
use crate::domain::bets::bet::BetRefusal;
use crate::domain::odds::price::Price;
use crate::domain::wallet::amount::Amount;

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

#[derive(Serialize)]
struct Body {
    code: &'static str,
    message: String,
    /// The current price, if it has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    odd_value: Option<Price>,
    /// The limit that the stake or the payout violates.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_cents: Option<Amount>,
}

impl Body {
    fn of(error: &ApiError) -> Body {
        let (odd_value, limit_cents) = match error {
            ApiError::BetRefused(BetRefusal::OddsChanged { odd_value }) => (Some(*odd_value), None),
            ApiError::BetRefused(
                BetRefusal::StakeTooLow { limit_cents }
                | BetRefusal::StakeTooHigh { limit_cents }
                | BetRefusal::PayoutTooHigh { limit_cents },
            ) => (None, Some(*limit_cents)),
            _ => (None, None),
        };
        Body {
            code: error.code().0,
            message: error.to_string(),
            odd_value,
            limit_cents,
        }
    }
}

/// A body with the fields of RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    /// `code` says what the problem is, so its type has no page.
    r#type: &'static str,
    /// The name of the status, as RFC 9457 requires of this type.
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    body: &'a Body,
}

impl<'a> Problem<'a> {
    fn new(status: StatusCode, body: &'a Body) -> Problem<'a> {
        Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Unknown"),
            status: status.as_u16(),
            detail: &body.message,
            body,
        }
    }
}

/// Whether a client requests problem details.
pub(super) fn wants_problem(request: &HeaderMap) -> bool {
    let accepted = request.get_all(header::ACCEPT);
    accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .any(|media_type| media_type.trim().eq_ignore_ascii_case(PROBLEM))
}

/// The response to an error as problem details.
pub(super) fn problem_response(error: &ApiError) -> HttpResponse {
    let body = Body::of(error);
    let problem = Problem::new(error.status_code(), &body);
    let mut response = with_json(error, PROBLEM, &problem);
    let varies = HeaderValue::from_static("Accept");
    response.headers_mut().append(header::VARY, varies);
    response
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code().1
    }

    fn error_response(&self) -> HttpResponse {
        with_json(self, JSON, &Body::of(self))
    }
}

fn with_json(error: &ApiError, media_type: &'static str, body: &impl Serialize) -> HttpResponse {
    let json = serde_json::to_string(body).unwrap_or_default();
    let mut response = head(error).set_body(BoxBody::new(json));
    let media_type = HeaderValue::from_static(media_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

/// The response to an error without its body.
fn head(error: &ApiError) -> HttpResponse {
    let status = error.status_code();
    let mut response = HttpResponse::build(status);
    response.insert_header(header::CacheControl(vec![CacheDirective::NoStore]));
    if let Some(seconds) = retry_after(error) {
        response.insert_header((header::RETRY_AFTER, seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6750: the error only if a credential was given.
        let challenge = match error {
            ApiError::InvalidCredential(_) => "Bearer error=\"invalid_token\"",
            _ => "Bearer",
        };
        response.insert_header((header::WWW_AUTHENTICATE, challenge));
    }
    match error {
        ApiError::WebSocketVersion => {
            response.insert_header((header::UPGRADE, "websocket"));
            response.insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
        }
        ApiError::MethodNotAllowed { allowed, .. } => {
            response.insert_header((header::ALLOW, format!("{allowed}, OPTIONS")));
        }
        ApiError::TooManyRequests(exceeded) => {
            for limit in exceeded.headers() {
                response.insert_header(limit);
            }
        }
        _ => {}
    }
    response.finish()
}

/// In how many seconds a request may succeed, if that is a matter of time.
pub(crate) fn retry_after(error: &ApiError) -> Option<u64> {
    match (error, error.status_code()) {
        (ApiError::TooManyRequests(exceeded), _) => Some(exceeded.retry_after),
        (ApiError::RequestInFlight, _)
        | (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::http::Method;

    use super::*;

    fn wanted(accept: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        wants_problem(&headers)
    }

    #[test]
    fn problem_details_must_be_requested() {
        assert!(wanted("application/problem+json"));
        assert!(wanted("application/json, Application/Problem+JSON;q=0.9"));
        for other in [
            "*/*",
            "application/*",
            "application/json",
            "x-application/problem+json",
            "",
        ] {
            assert!(!wanted(other), "{other}");
        }
        assert!(!wants_problem(&HeaderMap::new()));
    }

    #[actix_web::test]
    async fn problem_details_keep_code_and_headers() {
        let error = ApiError::MethodNotAllowed {
            method: Method::PUT,
            allowed: "GET, HEAD",
        };
        let response = problem_response(&error);
        let header = |name: &str| response.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("allow"), "GET, HEAD, OPTIONS");
        assert_eq!(header("content-type"), PROBLEM);
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("vary"), "Accept");
        let body = to_bytes(response.into_body()).await.unwrap();
        insta::assert_snapshot!(std::str::from_utf8(&body).unwrap(), @r#"{"type":"about:blank","title":"Method Not Allowed","status":405,"detail":"method `PUT` is not allowed; use GET, HEAD, OPTIONS","code":"METHOD_NOT_ALLOWED","message":"method `PUT` is not allowed; use GET, HEAD, OPTIONS"}"#);
    }

    #[test]
    fn temporary_errors_say_when_to_retry() {
        let after = |error: ApiError| {
            let response = error.error_response();
            let value = response.headers().get(header::RETRY_AFTER)?;
            Some(value.to_str().unwrap().to_owned())
        };
        for error in [
            ApiError::StoreUnavailable,
            ApiError::TooManySessions(1),
            ApiError::TooManySessionsOfAddress(1),
            ApiError::TooManySessionsOfCaller(1),
            ApiError::RequestInFlight,
            ApiError::WalletBusy,
        ] {
            assert_eq!(after(error.clone()).as_deref(), Some("1"), "{error:?}");
        }
        assert_eq!(after(ApiError::KeyReused), None);
    }
}
