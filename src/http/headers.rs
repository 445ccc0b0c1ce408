//! Headers of every response: what a browser may do with it.

use actix_web::http::header::{
    self, CROSS_ORIGIN_RESOURCE_POLICY, HeaderMap, HeaderName, HeaderValue,
};

use super::origin;

const DEFAULTS: [(HeaderName, HeaderValue); 4] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        CROSS_ORIGIN_RESOURCE_POLICY,
        HeaderValue::from_static("same-origin"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];
/// The headers of responses that are written without a handler, as text.
pub(super) const DEFAULT_LINES: &str = "x-content-type-options: nosniff\r\n\
                                        referrer-policy: no-referrer\r\n\
                                        cross-origin-resource-policy: same-origin\r\n";

/// Adds the headers that a response does not have yet, and the policy of a page.
pub(super) fn complete(response: &mut HeaderMap, request: Option<&HeaderMap>) {
    for (name, value) in DEFAULTS {
        if !response.contains_key(&name) {
            response.insert(name, value);
        }
    }
    let is_page = response
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page
        && !response.contains_key(header::CONTENT_SECURITY_POLICY)
        && let Ok(policy) = page_policy(request).try_into()
    {
        response.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// Whether the request is for this machine, whose name other developers' servers share.
pub(super) fn is_localhost(request: &HeaderMap) -> bool {
    origin::host(request).is_ok_and(|host| host.name.eq_ignore_ascii_case("localhost"))
}

/// Has browsers use only TLS for this host name from now on (RFC 6797). Only for responses over TLS.
pub(super) fn require_tls(response: &mut HeaderMap) {
    response.insert(
        header::STRICT_TRANSPORT_SECURITY,
        HeaderValue::from_static("max-age=31536000"),
    );
}

/// What a page may load: its own scripts, styles and images, and no inline ones. `'self'` does not
/// cover WebSockets in every browser, so the server's own are named, except at an IPv6 address, which
/// a policy cannot name.
fn page_policy(request: Option<&HeaderMap>) -> String {
    let host = request
        .filter(|headers| origin::host(headers).is_ok())
        .and_then(|headers| headers.get(header::HOST)?.to_str().ok())
        .filter(|host| !host.starts_with('['));
    let sockets = host.map_or_else(String::new, |host| format!(" ws://{host} wss://{host}"));
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'{sockets}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn completed(response: &[(HeaderName, &'static str)], host: &'static str) -> Vec<String> {
        let mut request = HeaderMap::new();
        request.insert(header::HOST, HeaderValue::from_static(host));
        let mut headers = HeaderMap::new();
        for (name, value) in response {
            headers.insert(name.clone(), HeaderValue::from_static(value));
        }
        complete(&mut headers, Some(&request));
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn every_response_has_default_headers() {
        assert_eq!(
            completed(&[(header::CONTENT_TYPE, "application/json")], "x"),
            [
                "cache-control: no-store",
                "content-type: application/json",
                "cross-origin-resource-policy: same-origin",
                "referrer-policy: no-referrer",
                "x-content-type-options: nosniff",
            ]
        );
    }

    #[test]
    fn headers_of_a_handler_are_kept() {
        let own = [
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_TYPE, "text/html"),
            (header::CONTENT_SECURITY_POLICY, "default-src 'self'"),
        ];
        let lines = completed(&own, "x");
        for line in [
            "cache-control: no-cache",
            "content-security-policy: default-src 'self'",
        ] {
            assert!(lines.contains(&line.to_owned()), "{lines:?}");
        }
    }

    #[test]
    fn pages_load_only_their_own_parts() {
        let policy = |host| {
            let lines = completed(&[(header::CONTENT_TYPE, "text/html; charset=utf-8")], host);
            lines
                .into_iter()
                .find(|line| line.starts_with("content-security-policy: "))
                .unwrap()
        };
        let of = |sockets: &str| {
            format!(
                "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                 connect-src 'self'{sockets}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
            )
        };
        assert_eq!(
            policy("odds.example:8443"),
            of(" ws://odds.example:8443 wss://odds.example:8443")
        );
        for host in ["[::1]:80", "evil; script-src *", "a b", "user@host"] {
            assert_eq!(policy(host), of(""), "{host}");
        }
    }

    #[test]
    fn text_form_has_the_same_headers() {
        for (name, value) in DEFAULTS.into_iter().take(3) {
            let line = format!("{name}: {}\r\n", value.to_str().unwrap());
            assert!(DEFAULT_LINES.contains(&line), "{line}");
        }
    }
}
