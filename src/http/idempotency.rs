//! The idempotency key of a request: the header `Idempotency-Key`, or `requestId` in the body.

use actix_web::http::header::HeaderMap;

use super::body::{self, Field};
use super::errors::ApiError;

/// Maximum length of a key, in characters.
const MAX_KEY: usize = 255;
const HEADER: &str = "Idempotency-Key";
const FIELD: &str = "requestId";

/// The key of a request. Two different keys are refused: if one of them were used, a retry that
/// keeps only the other would be a second request.
pub(crate) fn key(headers: &HeaderMap, request_id: &Field) -> Result<Option<String>, ApiError> {
    let header = header_key(headers)?;
    let field = body::optional::<String>(FIELD, request_id)?;
    let (name, key) = match (header, field) {
        (Some(header), Some(field)) if header != field => {
            return Err(bad(FIELD, &format!("it differs from the header {HEADER}")));
        }
        (Some(header), _) => (HEADER, header),
        (None, Some(field)) => (FIELD, field),
        (None, None) => return Ok(None),
    };
    if key.is_empty() || key.chars().count() > MAX_KEY {
        return Err(bad(
            name,
            &format!("it must have 1 to {MAX_KEY} characters"),
        ));
    }
    if key.chars().any(char::is_control) {
        return Err(bad(name, "it contains a control character"));
    }
    Ok(Some(key))
}

fn header_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all(HEADER.to_ascii_lowercase());
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    if keys.next().is_some() {
        return Err(bad(HEADER, "it is given twice"));
    }
    let key = key
        .to_str()
        .map_err(|_| bad(HEADER, "it contains characters other than visible ASCII"))?;
    Ok(Some(key.to_owned()))
}

fn bad(field: &'static str, problem: &str) -> ApiError {
    ApiError::BadField {
        field,
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn read(headers: &[&[u8]], request_id: &str) -> String {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(
                HeaderName::from_static("idempotency-key"),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        let field: Field = serde_json::from_str(request_id).unwrap();
        match key(&map, &field) {
            Ok(key) => format!("{key:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn key_is_header_or_request_id() {
        assert_eq!(read(&[], "null"), "None");
        assert_eq!(read(&[], r#""""#), "None");
        assert_eq!(read(&[b"a"], "null"), r#"Some("a")"#);
        assert_eq!(read(&[], r#""b""#), r#"Some("b")"#);
        assert_eq!(read(&[b"a"], r#""a""#), r#"Some("a")"#);
        assert_eq!(
            read(&[b"a"], r#""b""#),
            "requestId: it differs from the header Idempotency-Key"
        );
    }

    #[test]
    fn two_header_keys_are_refused() {
        assert_eq!(
            read(&[b"a", b"b"], "null"),
            "Idempotency-Key: it is given twice"
        );
        assert_eq!(
            read(&[b"a", b"a"], "null"),
            "Idempotency-Key: it is given twice"
        );
    }

    #[test]
    fn invalid_key_is_refused() {
        assert_eq!(
            read(&[b""], "null"),
            "Idempotency-Key: it must have 1 to 255 characters"
        );
        assert_eq!(
            read(&[&[b'k'; 256]], "null"),
            "Idempotency-Key: it must have 1 to 255 characters"
        );
        assert_eq!(read(&[&[b'k'; 255]], "null").len(), 255 + 8);
        assert_eq!(
            read(&["é".as_bytes()], "null"),
            "Idempotency-Key: it contains characters other than visible ASCII"
        );
        assert_eq!(
            read(&[], r#""a\u0000""#),
            "requestId: it contains a control character"
        );
        assert_eq!(read(&[], "7"), "requestId: it must be a string");
    }
}
