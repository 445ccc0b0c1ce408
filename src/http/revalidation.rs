//! Responses that a client may keep, and must revalidate each time.

use actix_web::HttpResponse;
use actix_web::http::header::{self, ETag, EntityTag, HeaderName, HeaderValue, IfNoneMatch};

/// The header of a response that may be cached but must be revalidated each time.
pub(crate) fn revalidate() -> (HeaderName, HeaderValue) {
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

/// A text with this tag, or 304 if the client has it. A client may keep it but asks each time,
/// because its address stays the same from version to version.
pub(crate) fn respond(
    body: &'static [u8],
    content_type: &'static str,
    tag: &EntityTag,
    known: Option<&IfNoneMatch>,
) -> HttpResponse {
    let is_known = has(known, tag);
    let mut response = if is_known {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response.insert_header(ETag(tag.clone()));
    response.insert_header(revalidate());
    if is_known {
        response.finish()
    } else {
        response.content_type(content_type).body(body)
    }
}

/// Whether the client has the response with this tag.
pub(crate) fn has(known: Option<&IfNoneMatch>, tag: &EntityTag) -> bool {
    match known {
        Some(IfNoneMatch::Any) => true,
        Some(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(tag)),
        None => false,
    }
}
