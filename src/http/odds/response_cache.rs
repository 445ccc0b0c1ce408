//! Responses with current odds that are cached until the odds change.

use std::cell::RefCell;
use std::collections::HashMap;

use actix_web::http::header::{
    self, ETag, EntityTag, HeaderValue, IfNoneMatch, InvalidHeaderValue, TryIntoHeaderValue,
};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};

use crate::domain::odds::version_stamp::VersionStamp;
use crate::http::revalidation::{has, revalidate};

/// Maximum number of responses that a thread caches.
const MAX_RESPONSES: usize = 4_096;

/// A response of `GET /v1/events/{id}/odds`.
#[derive(Clone, Debug)]
pub(crate) struct CachedResponse {
    body: Bytes,
    tag: EntityTag,
    tag_header: HeaderValue,
    versions: [VersionStamp; 2],
}

impl CachedResponse {
    /// A response with this JSON, valid until its book or the restrictions change. The tag
    /// distinguishes it from every other response of the event. Fails if no header can contain the
    /// tag.
    pub(crate) fn new(
        body: String,
        tag: EntityTag,
        versions: [VersionStamp; 2],
    ) -> Result<CachedResponse, InvalidHeaderValue> {
        let tag_header = ETag(tag.clone()).try_into_value()?;
        Ok(CachedResponse {
            body: body.into(),
            tag,
            tag_header,
            versions,
        })
    }

    fn is_current(&self) -> bool {
        self.versions.iter().all(VersionStamp::is_current)
    }

    /// The response to a client that may have it already; `add_headers` adds further headers.
    pub(crate) fn answer(
        &self,
        known: Option<&IfNoneMatch>,
        add_headers: impl FnOnce(&mut HttpResponseBuilder),
    ) -> HttpResponse {
        let unchanged = has(known, &self.tag);
        let mut response = if unchanged {
            HttpResponse::NotModified()
        } else {
            HttpResponse::Ok()
        };
        add_headers(&mut response);
        response.insert_header((header::ETAG, self.tag_header.clone()));
        response.insert_header(revalidate());
        if unchanged {
            response.finish()
        } else {
            response
                .content_type(HeaderValue::from_static("application/json"))
                .body(self.body.clone())
        }
    }
}

/// The responses of one thread, by event, so that a repeated request needs no round trip to a book.
#[derive(Default)]
pub(crate) struct ResponseCache(RefCell<HashMap<String, CachedResponse>>);

impl ResponseCache {
    /// The cached response for an event, if it is still valid.
    pub(crate) fn get(&self, event: &str) -> Option<CachedResponse> {
        self.0
            .borrow()
            .get(event)
            .filter(|ready| ready.is_current())
            .cloned()
    }

    /// Stores a response. If the cache is full, the outdated responses are removed, or all of them
    /// if none is outdated.
    pub(crate) fn keep(&self, event: &str, ready: CachedResponse) {
        let mut answers = self.0.borrow_mut();
        if answers.len() >= MAX_RESPONSES {
            answers.retain(|_, ready| ready.is_current());
            if answers.len() >= MAX_RESPONSES {
                answers.clear();
            }
        }
        answers.insert(event.to_owned(), ready);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::domain::odds::version_stamp::VersionCounter;

    /// Restrictions that never change.
    static RESTRICTIONS: LazyLock<VersionCounter> = LazyLock::new(VersionCounter::default);

    fn ready(generation: &VersionCounter) -> CachedResponse {
        restricted(generation, &RESTRICTIONS)
    }

    fn restricted(generation: &VersionCounter, restrictions: &VersionCounter) -> CachedResponse {
        let tag = EntityTag::new_weak("1".to_owned());
        let versions = [generation.stamp(), restrictions.stamp()];
        CachedResponse::new("[]".to_owned(), tag, versions).unwrap()
    }

    #[test]
    fn response_is_valid_until_book_changes() {
        let answers = ResponseCache::default();
        let generation = VersionCounter::default();
        answers.keep("E", ready(&generation));
        assert!(answers.get("E").is_some() && answers.get("F").is_none());
        generation.changed();
        assert!(answers.get("E").is_none());
        let restrictions = VersionCounter::default();
        answers.keep("E", restricted(&generation, &restrictions));
        assert!(answers.get("E").is_some());
        restrictions.changed();
        assert!(answers.get("E").is_none());
    }

    #[test]
    fn full_cache_drops_outdated_first() {
        let answers = ResponseCache::default();
        let old = VersionCounter::default();
        let new = VersionCounter::default();
        for event in 0..MAX_RESPONSES - 1 {
            answers.keep(&event.to_string(), ready(&old));
        }
        answers.keep("new", ready(&new));
        old.changed();
        answers.keep("newer", ready(&new));
        assert!(answers.get("new").is_some() && answers.get("newer").is_some());
        assert_eq!(answers.0.borrow().len(), 2);
        for event in 0..MAX_RESPONSES {
            answers.keep(&event.to_string(), ready(&new));
            assert!(answers.0.borrow().len() <= MAX_RESPONSES);
        }
    }
}
