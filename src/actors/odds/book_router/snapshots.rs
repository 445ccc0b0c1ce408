//! Snapshots for clients: from the book of the event, or from state that is loaded for the clients.

use actix::prelude::*;
use tokio::sync::oneshot;

use super::{BookRouter, reply_of};
use crate::actors::odds::book_source::{LoadedState, ReplayBoundary};
use crate::actors::odds::client_reads::ReadPermit;
use crate::actors::odds::messages::{ApplyError, GetSnapshot};
use crate::actors::odds::odds_book::BookFeed;
use crate::domain::ids::EventId;
use crate::domain::odds::book::{Book, Snapshot};

type SnapshotResult = Result<Snapshot, ApplyError>;

/// A client waiting for a snapshot.
pub(super) type WaitingClient = oneshot::Sender<SnapshotResult>;

impl<F: BookFeed> BookRouter<F> {
    /// Requests a snapshot from the book, from the book that is starting for an update, or from
    /// state that is loaded for clients.
    pub(super) fn request_snapshot(
        &mut self,
        event_id: EventId,
        context: &mut Context<Self>,
    ) -> ResponseActFuture<Self, SnapshotResult> {
        if self.has_book(&event_id) {
            return self.snapshot_of_book(event_id);
        }
        if self.edges.source.clients().is_unknown(&event_id) {
            return Box::pin(fut::ready(Ok(Book::new(event_id).snapshot())));
        }
        let (reply_to, reply) = oneshot::channel();
        if let Some(waiting) = self.client_loads.get_mut(&event_id) {
            waiting.push(reply_to);
        } else {
            let Ok(permit) = self.edges.source.clients().enter() else {
                return Box::pin(fut::ready(Err(ApplyError::Busy(event_id))));
            };
            self.client_loads.insert(event_id.clone(), vec![reply_to]);
            self.load_for_clients(event_id.clone(), permit, context);
        }
        let replying = async move { reply.await.unwrap_or(Err(ApplyError::BookEnded(event_id))) };
        Box::pin(replying.into_actor(self))
    }

    fn snapshot_of_book(&mut self, event_id: EventId) -> ResponseActFuture<Self, SnapshotResult> {
        let request = GetSnapshot(event_id.clone());
        let sending = self.send(&event_id, None, |book| book.send(request));
        let replying = reply_of(sending).into_actor(self);
        Box::pin(replying.map(move |reply, router, _| {
            router.books.record_reply(&event_id, reply.is_err());
            let snapshot = reply.unwrap_or_else(|_| Err(ApplyError::BookEnded(event_id.clone())));
            // A book without state is dropped, so that the next request loads it again.
            if snapshot
                .as_ref()
                .map_or(true, |snapshot| snapshot.markets.is_empty())
            {
                router.books.drop_unused(&event_id);
            }
            snapshot
        }))
    }

    fn load_for_clients(
        &mut self,
        event_id: EventId,
        permit: ReadPermit,
        context: &mut Context<Self>,
    ) {
        let edges = self.edges.clone();
        let event = event_id.clone();
        let reloads = self.reloads;
        let loading = async move { edges.source.load_for_client(&event, permit).await };
        let loading = loading.into_actor(self);
        context.spawn(loading.map(move |mut loaded, router, context| {
            if router.reloads != reloads
                && let Ok(loaded) = &mut loaded
            {
                loaded.mark_outdated();
            }
            router.finish_client_load(event_id, loaded, context);
        }));
    }

    fn finish_client_load(
        &mut self,
        event_id: EventId,
        loaded: Result<LoadedState, ApplyError>,
        context: &mut Context<Self>,
    ) {
        let waiting = self.client_loads.remove(&event_id).unwrap_or_default();
        if !self.has_book(&event_id) {
            match loaded {
                Err(busy) => return reply_to_all(waiting, &Err(busy)),
                Ok(loaded) if loaded.states.is_empty() && !self.books.has_revoked(&event_id) => {
                    let empty = self.empty_snapshot(event_id, loaded.is_complete);
                    return reply_to_all(waiting, &empty);
                }
                Ok(loaded) => drop(self.start(&event_id, ReplayBoundary::NOTHING, loaded)),
            }
        }
        // A book that was started for an update in the meantime has newer state.
        self.reply_from_book(event_id, waiting, context);
    }

    /// The reply for an event of which no state was loaded.
    fn empty_snapshot(&self, event_id: EventId, is_complete: bool) -> SnapshotResult {
        if !is_complete {
            return Err(ApplyError::NotLoaded(event_id));
        }
        self.edges.source.clients().remember_unknown(&event_id);
        Ok(Book::new(event_id).snapshot())
    }

    /// Requests one snapshot for all waiting clients.
    pub(super) fn reply_from_book(
        &mut self,
        event_id: EventId,
        waiting: Vec<WaitingClient>,
        context: &mut Context<Self>,
    ) {
        if waiting.is_empty() {
            return;
        }
        let requesting = self.request_snapshot(event_id, context);
        context.spawn(requesting.map(|snapshot, _, _| reply_to_all(waiting, &snapshot)));
    }
}

impl<F: BookFeed> Handler<GetSnapshot> for BookRouter<F> {
    type Result = ResponseActFuture<Self, SnapshotResult>;

    fn handle(&mut self, request: GetSnapshot, context: &mut Context<Self>) -> Self::Result {
        self.request_snapshot(request.0, context)
    }
}

/// Clients that are gone are skipped.
fn reply_to_all(waiting: Vec<WaitingClient>, snapshot: &SnapshotResult) {
    for client in waiting {
        let _ = client.send(snapshot.clone());
    }
}
