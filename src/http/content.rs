//! The accepted request bodies: uncompressed JSON. A web page can send a body of another type to
//! any server without a preflight request (CORS calls that a simple request), so the type is
//! checked before the body is read.

use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::mime::{self, Mime};

use super::errors::ApiError;

/// Refuses a body that is not JSON or is compressed.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(encoding) = foreign_encoding(headers) {
        return Err(ApiError::UnsupportedEncoding(encoding));
    }
    if !has_body(headers) {
        return Ok(());
    }
    let mut types = headers.get_all(header::CONTENT_TYPE);
    match (types.next(), types.next()) {
        (Some(one), None) if is_json(one) => Ok(()),
        (Some(one), None) => Err(ApiError::UnsupportedMediaType(shown(one))),
        (None, _) => Err(ApiError::UnsupportedMediaType("none".to_owned())),
        (Some(_), Some(_)) => Err(ApiError::BadRequest(
            "the header Content-Type is given twice".to_owned(),
        )),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    // The server itself refuses a length that is not a number.
    let has_length = headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|length| length.as_bytes() != b"0");
    has_length || headers.contains_key(header::TRANSFER_ENCODING)
}

fn foreign_encoding(headers: &HeaderMap) -> Option<String> {
    let is_plain = |value: &HeaderValue| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"identity")
    };
    headers
        .get_all(header::CONTENT_ENCODING)
        .find(|value| !is_plain(value))
        .map(shown)
}

/// `application/json` in UTF-8; a `charset` of UTF-8 or ASCII is accepted.
fn is_json(value: &HeaderValue) -> bool {
    let Some(mime) = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Mime>().ok())
    else {
        return false;
    };
    let has_known_charset = mime
        .get_param(mime::CHARSET)
        .is_none_or(|charset| charset == mime::UTF_8 || charset == "us-ascii");
    mime.essence_str() == mime::APPLICATION_JSON.essence_str() && has_known_charset
}

fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes())
        .chars()
        .take(80)
        .collect()
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderName;

    use super::*;

    fn code(headers: &[(&str, &str)]) -> &'static str {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        check(&map).map_or_else(|error| error.code().0, |()| "ok")
    }

    #[test]
    fn body_must_be_json() {
        let of = |kind: &str| code(&[("content-length", "2"), ("content-type", kind)]);
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json; charset=us-ascii",
        ] {
            assert_eq!(of(good), "ok", "{good}");
        }
        for bad in [
            "text/plain",
            "text/plain; application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "application/json-seq",
            "application/ld+json",
            "application/json; charset=utf-16",
            "application/json, text/plain",
            "json",
            "",
        ] {
            assert_eq!(of(bad), "UNSUPPORTED_MEDIA_TYPE", "{bad}");
        }
        assert_eq!(code(&[("content-length", "2")]), "UNSUPPORTED_MEDIA_TYPE");
        assert_eq!(
            code(&[("transfer-encoding", "chunked")]),
            "UNSUPPORTED_MEDIA_TYPE"
        );
        let twice = [
            ("content-length", "2"),
            ("content-type", "application/json"),
            ("content-type", "text/plain"),
        ];
        assert_eq!(code(&twice), "BAD_REQUEST");
        assert_eq!((code(&[]), code(&[("content-length", "0")])), ("ok", "ok"));
    }

    #[test]
    fn body_must_not_be_compressed() {
        let of = |encoding: &str| {
            code(&[
                ("content-length", "2"),
                ("content-type", "application/json"),
                ("content-encoding", encoding),
            ])
        };
        assert_eq!((of("identity"), of("Identity")), ("ok", "ok"));
        for bad in ["br", "gzip", "deflate", "zstd", "identity, gzip", "x"] {
            assert_eq!(of(bad), "UNSUPPORTED_MEDIA_TYPE", "{bad}");
        }
        let twice = [("content-encoding", "identity"), ("content-encoding", "br")];
        assert_eq!(code(&twice), "UNSUPPORTED_MEDIA_TYPE");
    }
}
