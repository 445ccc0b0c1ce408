//! Answers with current odds that were given before and are still right.

use std::cell::RefCell;
use std::collections::HashMap;

use actix_web::http::header::{
    self, ETag, EntityTag, HeaderName, HeaderValue, IfNoneMatch, InvalidHeaderValue,
    TryIntoHeaderValue,
};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};

use crate::domain::odds::version_stamp::VersionStamp;

/// The most answers that a thread keeps.
const MOST: usize = 4_096;

/// The header of an answer that may be kept, and is to be asked for anew each time.
pub fn revalidate() -> (HeaderName, HeaderValue) {
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

/// An answer of `GET /v1/events/{id}/odds`.
#[derive(Clone, Debug)]
pub struct CachedResponse {
    body: Bytes,
    tag: EntityTag,
    tag_header: HeaderValue,
    version: VersionStamp,
}

impl CachedResponse {
    /// An answer with this JSON, for as long as its book does not change. The tag tells it from
    /// every other of the event; an error where no header can hold it.
    pub fn new(
        body: String,
        tag: EntityTag,
        version: VersionStamp,
    ) -> Result<CachedResponse, InvalidHeaderValue> {
        let tag_header = ETag(tag.clone()).try_into_value()?;
        Ok(CachedResponse {
            body: body.into(),
            tag,
            tag_header,
            version,
        })
    }

    /// The answer to a client that may know it already; `adorn` adds what else is to be said.
    pub fn answer(
        &self,
        known: Option<&IfNoneMatch>,
        adorn: impl FnOnce(&mut HttpResponseBuilder),
    ) -> HttpResponse {
        let unchanged = match known {
            Some(IfNoneMatch::Any) => true,
            Some(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&self.tag)),
            None => false,
        };
        let mut response = if unchanged {
            HttpResponse::NotModified()
        } else {
            HttpResponse::Ok()
        };
        adorn(&mut response);
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

/// The answers that one thread has given, by event: asking again costs no way to a book and back.
#[derive(Default)]
pub struct ResponseCache(RefCell<HashMap<String, CachedResponse>>);

impl ResponseCache {
    /// The answer for an event, where it is still right.
    pub fn get(&self, event: &str) -> Option<CachedResponse> {
        self.0
            .borrow()
            .get(event)
            .filter(|ready| ready.version.is_current())
            .cloned()
    }

    /// Keeps an answer. Where there is no room, those go that are right no more, and all of them if
    /// need be.
    pub fn keep(&self, event: &str, ready: CachedResponse) {
        let mut answers = self.0.borrow_mut();
        if answers.len() >= MOST {
            answers.retain(|_, ready| ready.version.is_current());
            if answers.len() >= MOST {
                answers.clear();
            }
        }
        answers.insert(event.to_owned(), ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::odds::version_stamp::VersionCounter;

    fn ready(generation: &VersionCounter) -> CachedResponse {
        CachedResponse::new(
            "[]".to_owned(),
            EntityTag::new_weak("1".to_owned()),
            generation.stamp(),
        )
        .unwrap()
    }

    #[test]
    fn an_answer_is_ready_for_as_long_as_its_book_does_not_change() {
        let (answers, generation) = (ResponseCache::default(), VersionCounter::default());
        answers.keep("E", ready(&generation));
        assert!(answers.get("E").is_some() && answers.get("F").is_none());
        generation.changed();
        assert!(answers.get("E").is_none());
    }

    #[test]
    fn a_thread_keeps_only_so_many_and_lets_the_old_ones_go_first() {
        let (answers, old, new) = (
            ResponseCache::default(),
            VersionCounter::default(),
            VersionCounter::default(),
        );
        for event in 0..MOST - 1 {
            answers.keep(&event.to_string(), ready(&old));
        }
        answers.keep("new", ready(&new));
        old.changed();
        answers.keep("newer", ready(&new));
        assert!(answers.get("new").is_some() && answers.get("newer").is_some());
        assert_eq!(answers.0.borrow().len(), 2);
        for event in 0..MOST {
            answers.keep(&event.to_string(), ready(&new));
            assert!(answers.0.borrow().len() <= MOST);
        }
    }
}
