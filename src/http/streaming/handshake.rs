//! The opening handshake of RFC 6455, checked strictly.

use actix_http::ws::{HandshakeError, verify_handshake};
use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::http::{Method, Version};
use actix_web::{HttpRequest, HttpResponseBuilder};
use actix_web_actors::ws::handshake;
use url::form_urlencoded;

use crate::http::errors::ApiError;

/// Parameters in which clients of other servers send their credential.
const CREDENTIAL_PARAMETERS: [&str; 2] = ["token", "access_token"];

/// Refuses a credential in the URL, which proxies and browsers log and keep.
pub(crate) fn refuse_credential_in_url(request: &HttpRequest) -> Result<(), ApiError> {
    let parameters = form_urlencoded::parse(request.query_string().as_bytes());
    let mut names = parameters.map(|(name, _)| name.to_ascii_lowercase());
    match names.find(|name| CREDENTIAL_PARAMETERS.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(ApiError::BadHandshake(format!(
            "the URL has a parameter `{name}`; send the credential in the header Authorization, or as the first message {{\"type\":\"auth\",\"token\":\"...\"}}"
        ))),
    }
}

/// Checks the handshake and returns the beginning of the response.
pub(crate) fn accept(request: &HttpRequest) -> Result<HttpResponseBuilder, ApiError> {
    let bad = |problem: &str| Err(ApiError::BadHandshake(problem.to_owned()));
    let headers = request.headers();
    if request.method() == Method::GET && request.version() != Version::HTTP_11 {
        return bad("HTTP/1.1 is required");
    }
    let single = [
        header::HOST,
        header::ORIGIN,
        header::UPGRADE,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
    ];
    if let Some(name) = single
        .iter()
        .find(|name| headers.get_all(*name).count() > 1)
    {
        return bad(&format!("more than one `{name}` header"));
    }
    if !headers.contains_key(header::HOST) {
        return bad("the `Host` header is missing");
    }
    if headers.contains_key(header::UPGRADE) && !has_token(headers, &header::UPGRADE, "websocket") {
        return bad("`Upgrade` does not offer `websocket`");
    }
    match verify_handshake(request.head()) {
        Ok(()) if !has_token(headers, &header::CONNECTION, "upgrade") => {
            bad("`Connection` does not offer `upgrade`")
        }
        Ok(()) => handshake(request).or_else(|error| bad(&error.to_string())),
        Err(HandshakeError::UnsupportedVersion) => Err(ApiError::WebSocketVersion),
        Err(error) => bad(&error.to_string()),
    }
}

/// Whether a header lists a token, in any case.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use rstest::rstest;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn code(changes: &[(&'static str, &'static str)]) -> &'static str {
        let mut headers = vec![
            ("Host", "odds.example"),
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "WebSocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        for (name, value) in changes {
            match value.strip_prefix('+') {
                Some(more) => headers.push((name, more)),
                None => headers
                    .iter_mut()
                    .filter(|(other, _)| other == name)
                    .for_each(|header| header.1 = value),
            }
        }
        let request = headers.into_iter().filter(|(_, value)| !value.is_empty());
        let request = request.fold(TestRequest::default(), |request, header| {
            request.append_header(header)
        });
        accept(&request.to_http_request()).map_or_else(|error| error.code().0, |_| "taken")
    }

    #[rstest]
    #[case::as_it_should_be("taken", &[])]
    #[case::one_origin("taken", &[("Origin", "+https://odds.example")])]
    #[case::version_8("UNSUPPORTED_WEBSOCKET_VERSION", &[("Sec-WebSocket-Version", "8")])]
    #[case::no_version("BAD_HANDSHAKE", &[("Sec-WebSocket-Version", "")])]
    #[case::two_versions("BAD_HANDSHAKE", &[("Sec-WebSocket-Version", "+8")])]
    #[case::no_key("BAD_HANDSHAKE", &[("Sec-WebSocket-Key", "")])]
    #[case::short_key("BAD_HANDSHAKE", &[("Sec-WebSocket-Key", "c2hvcnQ=")])]
    #[case::no_base64("BAD_HANDSHAKE", &[("Sec-WebSocket-Key", "!GhlIHNhbXBsZSBub25jZQ==")])]
    #[case::two_keys("BAD_HANDSHAKE", &[("Sec-WebSocket-Key", "+dGhlIHNhbXBsZSBub25jZQ==")])]
    #[case::other_upgrade("BAD_HANDSHAKE", &[("Upgrade", "notwebsocket")])]
    #[case::no_upgrade("BAD_HANDSHAKE", &[("Upgrade", "")])]
    #[case::no_connection("BAD_HANDSHAKE", &[("Connection", "keep-alive")])]
    #[case::other_connection("BAD_HANDSHAKE", &[("Connection", "notupgrade")])]
    #[case::two_origins("BAD_HANDSHAKE", &[("Origin", "+https://a.example"), ("Origin", "+https://b.example")])]
    #[case::two_hosts("BAD_HANDSHAKE", &[("Host", "+other.example")])]
    #[case::no_host("BAD_HANDSHAKE", &[("Host", "")])]
    fn handshakes_are_strict(
        #[case] expected: &str,
        #[case] changes: &[(&'static str, &'static str)],
    ) {
        assert_eq!(code(changes), expected);
    }

    #[rstest]
    #[case::nothing(None, "/ws/odds")]
    #[case::other_parameter(None, "/ws/odds?tokens=1&event=token")]
    #[case::token(Some("`token`"), "/ws/odds?a=1&token=eyJh")]
    #[case::access_token(Some("`access_token`"), "/ws/odds?access_token=eyJh")]
    #[case::without_value(Some("`token`"), "/ws/odds?token")]
    #[case::escaped(Some("`token`"), "/ws/odds?%54oken=eyJh")]
    fn credential_in_url_is_refused(#[case] named: Option<&str>, #[case] uri: &str) {
        let request = TestRequest::with_uri(uri).to_http_request();
        let refused = refuse_credential_in_url(&request).err();
        assert_eq!(refused.is_some(), named.is_some());
        if let (Some(error), Some(named)) = (refused, named) {
            assert_eq!(error.code().0, "BAD_HANDSHAKE");
            let text = error.to_string();
            assert!(text.contains(named) && !text.contains("eyJh"), "{text}");
        }
    }

    #[test]
    fn old_http_is_refused() {
        let request = TestRequest::default()
            .version(Version::HTTP_10)
            .to_http_request();
        assert_eq!(
            accept(&request).map_or_else(|error| error.code().0, |_| "taken"),
            "BAD_HANDSHAKE"
        );
    }
}
