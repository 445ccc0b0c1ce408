//! The running books of a router, and the last states of books that were dropped with their
//! partitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::warn;
use tokio::time::Instant;

use crate::actors::odds::odds_book::{BookFeed, IsAhead, OddsBook};
use crate::domain::ids::EventId;
use crate::domain::odds::book::MarketState;

/// A running book.
pub(super) struct RunningBook<F: BookFeed> {
    book: Addr<OddsBook<F>>,
    /// The event's bus partition; `None` until the first update.
    partition: Option<u32>,
    in_flight: usize,
    last_used: Instant,
    is_ahead: IsAhead,
    /// When the book was last asked to confirm that it is ahead, or started.
    last_confirmed: Instant,
}

impl<F: BookFeed> RunningBook<F> {
    fn new(book: Addr<OddsBook<F>>, is_ahead: IsAhead) -> RunningBook<F> {
        RunningBook {
            book,
            partition: None,
            in_flight: 0,
            last_used: Instant::now(),
            is_ahead,
            last_confirmed: Instant::now(),
        }
    }

    /// Sends a message that counts as use. `partition` is that of an update.
    pub(super) fn send<R>(
        &mut self,
        partition: Option<u32>,
        send: impl FnOnce(&Addr<OddsBook<F>>) -> R,
    ) -> R {
        self.partition = partition.or(self.partition);
        self.last_used = Instant::now();
        self.in_flight += 1;
        send(&self.book)
    }

    /// Whether a message is in flight, or what would be loaded again is older than the book.
    fn is_needed(&self) -> bool {
        self.in_flight > 0 || self.is_ahead.get()
    }

    /// Asks a book that is ahead of the cache to confirm it, at most once within `pause`.
    fn confirm_lead(&mut self, now: Instant, pause: Duration) {
        if now.duration_since(self.last_confirmed) >= pause {
            self.last_confirmed = now;
            F::confirm_lead(&self.book);
        }
    }

    /// Returns the address for one message that the caller sends later. It counts as in flight from
    /// now on, but not as use: an idle book is dropped all the same.
    pub(super) fn reserve(&mut self) -> Addr<OddsBook<F>> {
        self.in_flight += 1;
        self.book.clone()
    }
}

/// The last state of a book that was dropped with its partition.
struct RevokedBook {
    states: Vec<Arc<MarketState>>,
    since: Instant,
}

/// The running books by event.
pub(super) struct RunningBooks<F: BookFeed> {
    idle_limit: Duration,
    books: HashMap<EventId, RunningBook<F>>,
    /// Discarded after the idle limit, like an idle book.
    revoked: HashMap<EventId, RevokedBook>,
}

impl<F: BookFeed> RunningBooks<F> {
    /// A book is dropped after `idle_limit` without an update or a request.
    pub(super) fn new(idle_limit: Duration) -> RunningBooks<F> {
        RunningBooks {
            idle_limit,
            books: HashMap::new(),
            revoked: HashMap::new(),
        }
    }

    pub(super) fn contains(&self, event_id: &EventId) -> bool {
        self.books.contains_key(event_id)
    }

    pub(super) fn events(&self) -> impl Iterator<Item = &EventId> {
        self.books.keys()
    }

    pub(super) fn get_mut(&mut self, event_id: &EventId) -> Option<&mut RunningBook<F>> {
        self.books.get_mut(event_id)
    }

    pub(super) fn insert(
        &mut self,
        event_id: &EventId,
        book: Addr<OddsBook<F>>,
        is_ahead: IsAhead,
    ) -> &mut RunningBook<F> {
        self.books
            .entry(event_id.clone())
            .insert_entry(RunningBook::new(book, is_ahead))
            .into_mut()
    }

    /// Records the reply of a book. If the book is gone (`ended`), it is removed, and restarts on
    /// the next message.
    pub(super) fn record_reply(&mut self, event_id: &EventId, ended: bool) {
        let Some(running) = self.books.get_mut(event_id) else {
            return;
        };
        running.in_flight = running.in_flight.saturating_sub(1);
        if ended && !running.book.connected() {
            warn!(event = event_id.as_str(); "book stopped unexpectedly, restarting on next use");
            self.books.remove(event_id);
        }
    }

    /// Drops idle books and outdated states. A book that is ahead of the cache is kept and asked to
    /// confirm it. A book stops when its last address is dropped.
    pub(super) fn drop_idle(&mut self) {
        let now = Instant::now();
        let limit = self.idle_limit;
        self.books.retain(|_, running| {
            let is_used = running.in_flight > 0 || now.duration_since(running.last_used) < limit;
            let is_ahead = running.is_ahead.get();
            if !is_used && is_ahead {
                running.confirm_lead(now, limit);
            }
            is_used || is_ahead
        });
        self.revoked
            .retain(|_, revoked| now.duration_since(revoked.since) < limit);
    }

    /// Drops a book unless it is needed.
    pub(super) fn drop_unused(&mut self, event_id: &EventId) {
        if self
            .books
            .get(event_id)
            .is_some_and(|running| !running.is_needed())
        {
            self.books.remove(event_id);
        }
    }

    /// Removes the books of these partitions and returns their addresses.
    pub(super) fn remove_partitions(
        &mut self,
        partitions: &[u32],
    ) -> Vec<(EventId, Addr<OddsBook<F>>)> {
        self.books
            .extract_if(|_, running| {
                running
                    .partition
                    .is_some_and(|partition| partitions.contains(&partition))
            })
            .map(|(event_id, running)| (event_id, running.book))
            .collect()
    }

    /// Keeps the last states of a book that was dropped with its partition.
    pub(super) fn keep_revoked(&mut self, event_id: EventId, states: Vec<Arc<MarketState>>) {
        let since = Instant::now();
        self.revoked.insert(event_id, RevokedBook { states, since });
    }

    pub(super) fn has_revoked(&self, event_id: &EventId) -> bool {
        self.revoked.contains_key(event_id)
    }

    /// Removes and returns the last states of a book that was dropped with its partition.
    pub(super) fn take_revoked(&mut self, event_id: &EventId) -> Vec<Arc<MarketState>> {
        self.revoked
            .remove(event_id)
            .map(|revoked| revoked.states)
            .unwrap_or_default()
    }
}
