//! Reloads the mirrors after changes may have been missed.

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use super::{BookReply, BookRouter, reply_of};
use crate::actors::odds::messages::{ReloadBook, ReloadBooks};
use crate::actors::odds::odds_book::MirrorFeed;
use crate::domain::ids::EventId;

/// How many books reload from the cache concurrently. All of them share one connection, which is
/// abandoned if it does not answer within a second.
pub(super) const RELOADS_AT_ONCE: usize = 64;

impl BookRouter<MirrorFeed> {
    /// Records that changes may have been missed, of all events or of these: earlier reads and
    /// reads in flight may be outdated.
    fn record_gap(&mut self, events: Option<&[EventId]>) {
        let clients = self.edges.source.clients();
        let Some(events) = events else {
            clients.forget_all_unknown();
            self.reloads += 1;
            return;
        };
        for event_id in events {
            clients.forget_unknown(event_id);
        }
        if events
            .iter()
            .any(|event_id| self.client_loads.contains_key(event_id))
        {
            self.reloads += 1;
        }
    }

    /// Sends the reload to a book, if there is one: a book that was dropped loads its state when it
    /// restarts. A starting book may have read its state before the gap ended, so it reloads after
    /// its start.
    fn reload_book(&mut self, event_id: EventId) -> Option<LocalBoxFuture<'static, BookReply>> {
        if self.starting.contains_key(&event_id) {
            let sending = self.send(&event_id, None, |book| book.send(ReloadBook));
            return Some(async move { (reply_of(sending).await, event_id) }.boxed_local());
        }
        let book = self.books.get_mut(&event_id)?.reserve();
        // Sent when it is polled, so that a bounded number of books reload at a time.
        Some(async move { (book.send(ReloadBook).await, event_id) }.boxed_local())
    }
}

impl Handler<ReloadBooks> for BookRouter<MirrorFeed> {
    type Result = ResponseActFuture<Self, Vec<EventId>>;

    fn handle(&mut self, ReloadBooks(events): ReloadBooks, _: &mut Context<Self>) -> Self::Result {
        self.record_gap(events.as_deref());
        let events = events.unwrap_or_else(|| {
            let running = self.books.events();
            running.chain(self.starting.keys()).cloned().collect()
        });
        let reloads: Vec<_> = events
            .into_iter()
            .filter_map(|event_id| self.reload_book(event_id))
            .collect();
        let reloading = stream::iter(reloads)
            .buffer_unordered(RELOADS_AT_ONCE)
            .collect::<Vec<BookReply>>();
        Box::pin(reloading.into_actor(self).map(|replies, router, _| {
            let mut failed = Vec::new();
            for (reply, event_id) in replies {
                router.books.record_reply(&event_id, reply.is_err());
                if !matches!(reply, Ok(Ok(()))) {
                    failed.push(event_id);
                }
            }
            failed
        }))
    }
}
