//! Which pages of foreign origins may read responses (CORS): those of `ALLOWED_ORIGINS`, which may
//! also change something. Credentials of browsers are never allowed: callers are identified by a
//! header that the page sets.
//!
//! Own code instead of actix-cors, so that one check of the origin (`origin.rs`) decides for
//! preflights, changes and sockets.

use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderValue};

use super::origin::is_listed;

const METHODS: &str = "GET, HEAD, POST";
const REQUEST_HEADERS: &str =
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, X-Api-Key";
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "ETag, Link, Odds-Stale, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate",
);
/// How long a browser may remember the answer to a preflight, in seconds.
const MAX_AGE: &str = "600";

/// Whether this is the request by which a browser checks if a page may send another one.
pub(super) fn is_preflight(request: &RequestHead) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request
            .headers
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight from an allowed origin. It is the same for every path.
pub(super) fn preflight_response() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, METHODS))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, MAX_AGE))
        .finish()
}

/// What the response to a request says about its origin.
pub(super) enum Sharing {
    /// Nothing: no foreign origin is allowed.
    Never,
    /// The response depends on the origin, and this one may not read it.
    Refused,
    /// This origin may read the response.
    Allowed(HeaderValue),
}

impl Sharing {
    /// What the response to a request with these headers says.
    pub(super) fn of(request: &HeaderMap, allowed: &[String]) -> Sharing {
        if allowed.is_empty() {
            return Sharing::Never;
        }
        let mut origins = request.get_all(header::ORIGIN);
        match (origins.next(), origins.next()) {
            (Some(origin), None) if is_listed(origin.to_str().unwrap_or(""), allowed) => {
                Sharing::Allowed(origin.clone())
            }
            _ => Sharing::Refused,
        }
    }

    /// Adds the headers to a response.
    pub(super) fn add_to(self, response: &mut HeaderMap) {
        if !matches!(self, Sharing::Never) {
            response.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Sharing::Allowed(origin) = self {
            response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn shared_with(origins: &[&'static str], allowed: &[&str]) -> HeaderMap {
        let mut request = HeaderMap::new();
        for origin in origins {
            request.append(header::ORIGIN, HeaderValue::from_static(origin));
        }
        let allowed: Vec<String> = allowed.iter().map(|origin| (*origin).to_owned()).collect();
        let mut response = HeaderMap::new();
        Sharing::of(&request, &allowed).add_to(&mut response);
        response
    }

    #[rstest]
    #[case::exact("https://shop.example", true)]
    #[case::upper_case("HTTPS://Shop.EXAMPLE", true)]
    #[case::default_port("https://shop.example:443", true)]
    #[case::other_port("https://shop.example:8443", false)]
    #[case::other_scheme("http://shop.example", false)]
    #[case::other_name("https://shop.example.evil.example", false)]
    #[case::subdomain("https://a.shop.example", false)]
    #[case::null("null", false)]
    #[case::empty("", false)]
    #[case::file("file://", false)]
    #[case::ipv6("http://[2001:db8::1]:8080", true)]
    #[case::ipv6_written_out("http://[2001:DB8:0:0:0:0:0:1]:8080", true)]
    #[case::ipv6_without_port("http://[2001:db8::1]", false)]
    #[case::other_ipv6("http://[2001:db8::2]:8080", false)]
    fn only_listed_origins_read_responses(#[case] origin: &'static str, #[case] is_allowed: bool) {
        let response = shared_with(
            &[origin],
            &["https://shop.example", "http://[2001:db8::1]:8080"],
        );
        let allowed = response.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        assert_eq!(allowed.is_some(), is_allowed);
        assert!(allowed.is_none_or(|value| value == origin));
        assert!(!response.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert_eq!(response.get(header::VARY).unwrap(), "Origin");
    }

    #[test]
    fn responses_vary_only_if_origins_are_allowed() {
        assert!(shared_with(&["https://shop.example"], &[]).is_empty());
        for origins in [&[][..], &["https://shop.example", "https://shop.example"]] {
            let response = shared_with(origins, &["https://shop.example"]);
            assert_eq!(response.len(), 1, "{origins:?}");
            assert_eq!(response.get(header::VARY).unwrap(), "Origin");
        }
    }
}
