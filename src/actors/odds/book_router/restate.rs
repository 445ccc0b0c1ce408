//! Has a book publish its states again after the restrictions on them have changed.

use std::sync::Arc;

use actix::prelude::*;

use super::{BookRouter, reply_of};
use crate::actors::odds::messages::{ApplyError, Restate, RestateBook};
use crate::actors::odds::odds_book::BookFeed;
use crate::domain::ids::EventId;
use crate::domain::odds::restriction_change::RestrictionChange;

type Restated<F> = ResponseActFuture<BookRouter<F>, Result<(), ApplyError>>;

impl<F: BookFeed> BookRouter<F> {
    /// Sends the change to the book, which is running or starting.
    fn restate(&mut self, event_id: EventId, change: Arc<RestrictionChange>) -> Restated<F> {
        let sending = self.send(&event_id, None, |book| book.send(Restate(change)));
        let replying = reply_of(sending).into_actor(self);
        Box::pin(replying.map(move |reply, router, _| {
            router.books.record_reply(&event_id, reply.is_err());
            reply.unwrap_or(Err(ApplyError::BookEnded(event_id)))
        }))
    }
}

impl<F: BookFeed> Handler<RestateBook> for BookRouter<F> {
    type Result = Restated<F>;

    fn handle(&mut self, request: RestateBook, context: &mut Context<Self>) -> Self::Result {
        let RestateBook { event_id, change } = request;
        if self.has_book(&event_id) {
            return self.restate(event_id, change);
        }
        // An idle book was dropped. It is loaded as for a client.
        let loading = self.request_snapshot(event_id.clone(), context);
        Box::pin(loading.then(move |loaded, router, _| -> Restated<F> {
            match loaded {
                Ok(_) if router.has_book(&event_id) => router.restate(event_id, change),
                // The event has no markets.
                Ok(_) => Box::pin(fut::ready(Ok(()))),
                Err(error) => Box::pin(fut::ready(Err(error))),
            }
        }))
    }
}

#[cfg(test)]
mod tests;
