//! The trace of a request for a bet.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;

use super::errors::ApiError;
use super::limits::RequestLimits;
use crate::domain::access::Caller;
use crate::domain::trace_parent::{TRACEPARENT, TraceParent};
use crate::telemetry::trace::{self, Span};

/// Begins the span of a request for a bet. Services and trusted proxies decide whether it is sampled,
/// if they send `traceparent`; other callers do not.
pub(super) fn begin(request: &HttpRequest, caller: &Caller, name: &'static str) -> Span {
    let limits = request.app_data::<RequestLimits>();
    let is_proxy = limits.is_some_and(|limits| limits.is_from_proxy(request.head()));
    begin_call(request.headers(), is_proxy, caller, name)
}

/// The same for a call that is no HTTP request of REST.
pub(crate) fn begin_call(
    headers: &HeaderMap,
    is_proxy: bool,
    caller: &Caller,
    name: &'static str,
) -> Span {
    let is_trusted = is_proxy || matches!(caller, Caller::Service { .. });
    trace::sample_bet(incoming(headers), is_trusted, name).span
}

/// The caller's `traceparent`, if it sends one that can be read. Two of them are none.
pub(super) fn incoming(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT);
    let (first, None) = (values.next()?, values.next()) else {
        return None;
    };
    first.to_str().ok()?.parse().ok()
}

/// Ends the span of a request that was answered.
pub(crate) fn end(span: Span, failure: Option<&ApiError>) {
    let (code, status) = match failure {
        Some(error) => error.code(),
        None => ("", StatusCode::OK),
    };
    end_with(span, status.as_u16(), code);
}

/// Ends the span of a request that was answered with this status.
pub(super) fn end_with(mut span: Span, status: u16, code: &'static str) {
    // Unauthenticated and rate-limited requests are not exported.
    if matches!(status, 401 | 429) {
        return span.discard();
    }
    span.set("http.response.status_code", i64::from(status));
    // A request that is refused is no failure of the service.
    match (status, code) {
        (500.., "") => span.fail("unavailable"),
        (500.., code) => span.fail(code),
        (_, "") => {}
        (_, code) => span.set("error.type", code),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn two_headers_are_none() {
        let one = TestRequest::default().append_header((TRACEPARENT, EXAMPLE));
        let parent = incoming(one.to_http_request().headers());
        assert_eq!(parent.map(|it| it.to_string()).as_deref(), Some(EXAMPLE));
        let two = TestRequest::default()
            .append_header((TRACEPARENT, EXAMPLE))
            .append_header((TRACEPARENT, EXAMPLE));
        assert_eq!(incoming(two.to_http_request().headers()), None);
        let wrong = TestRequest::default().append_header((TRACEPARENT, "00-1-2-01"));
        assert_eq!(incoming(wrong.to_http_request().headers()), None);
    }
}
