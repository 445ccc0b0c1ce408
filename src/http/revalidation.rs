//! Responses that a client may keep, and must revalidate each time.

use actix_web::http::header::{self, EntityTag, HeaderName, HeaderValue, IfNoneMatch};

/// The header of a response that may be cached but must be revalidated each time.
pub(crate) fn revalidate() -> (HeaderName, HeaderValue) {
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

/// Whether the client has the response with this tag.
pub(crate) fn has(known: Option<&IfNoneMatch>, tag: &EntityTag) -> bool {
    match known {
        Some(IfNoneMatch::Any) => true,
        Some(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(tag)),
        None => false,
    }
}
