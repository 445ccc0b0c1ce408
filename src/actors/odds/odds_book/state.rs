//! The decisions of a book, without actors, clock and I/O: time and what was loaded are arguments,
//! effects are return values.

use std::sync::Arc;
use std::time::Duration;

use super::lead::IsAhead;
use crate::actors::odds::book_source::{LoadedState, ReplayBoundary};
use crate::cache::Change;
use crate::domain::ids::EventId;
use crate::domain::odds::book::{Book, MarketState, Rejection, Snapshot};
use crate::domain::odds::version_stamp::VersionCounter;
use crate::domain::trace_parent::TraceParent;

/// Delay before a book that could not read the store tries again.
pub(super) const RELOAD_DELAY: Duration = Duration::from_secs(1);

/// The effects of a batch.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// The changes to publish, in order.
    pub changes: Vec<Change>,
    /// Why the other inputs were rejected.
    pub rejected: Vec<Rejection>,
}

impl Applied {
    /// Adds an outcome. `conflated`: whether earlier changes may be missing.
    pub(super) fn add(
        &mut self,
        outcome: Result<Arc<MarketState>, Rejection>,
        conflated: bool,
        trace: Option<TraceParent>,
    ) {
        match outcome {
            Ok(state) => self.changes.push(Change {
                state,
                conflated,
                trace,
            }),
            Err(rejection) => self.rejected.push(rejection),
        }
    }
}

/// The effects of a load.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The changes to publish, in order of their sequence numbers.
    pub changes: Vec<Change>,
    /// The delay before the next load, because something could not be read. Replaces a scheduled
    /// load.
    pub reload_after: Option<Duration>,
}

/// What the two kinds of books have in common.
pub(crate) trait BookState: Send + Unpin + 'static {
    /// Restores the state that the book starts with.
    fn restore(&mut self, loaded: LoadedState) -> Restored;

    /// Adds state that was loaded again.
    fn reload(&mut self, loaded: LoadedState) -> Restored;

    /// The boundary of the next load.
    fn boundary(&self) -> ReplayBoundary;

    /// Whether the last load could read the cache.
    fn is_cache_read(&self) -> bool;

    /// Shows whether the cache lacks state of this book. Only for mirrors: books that are fed from
    /// the bus write the cache, and their records are committed afterwards.
    fn is_ahead(&self) -> IsAhead {
        IsAhead::default()
    }

    /// The current state; `None` if the book is empty and the event may have markets.
    fn snapshot(&self) -> Option<Snapshot>;
}

/// The common parts of the two kinds of books.
pub(super) struct BookCore {
    pub book: Book,
    /// Whether the stored state of the event has been read.
    pub is_loaded: bool,
    /// Whether the last load could read the cache.
    pub is_cache_read: bool,
    /// Advances when the snapshot changes.
    pub version: VersionCounter,
}

impl BookCore {
    pub(super) fn new(event_id: EventId) -> BookCore {
        BookCore {
            book: Book::new(event_id),
            is_loaded: false,
            is_cache_read: false,
            version: VersionCounter::default(),
        }
    }

    /// Restores loaded state and returns the whole book, ordered by sequence number.
    pub(super) fn restore(&mut self, states: Vec<Arc<MarketState>>) -> Vec<Arc<MarketState>> {
        self.book.restore(states);
        let mut states = self.book.snapshot().markets;
        states.sort_by_key(|state| state.seq);
        states
    }

    /// The current state. An empty book is valid only if the event is known to have no markets.
    pub(super) fn snapshot(&self, is_stale: bool) -> Option<Snapshot> {
        if !self.is_loaded && self.book.is_empty() {
            return None;
        }
        let snapshot = self.book.snapshot();
        let continuity = if self.is_loaded {
            snapshot.continuity
        } else {
            snapshot.continuity.of_partial_book()
        };
        Some(Snapshot {
            is_stale,
            validity: self.version.stamp(),
            continuity,
            ..snapshot
        })
    }
}

/// Marks all states as changes before which others may be missing.
pub(crate) fn conflated(states: Vec<Arc<MarketState>>) -> Vec<Change> {
    states
        .into_iter()
        .map(|state| Change {
            state,
            conflated: true,
            trace: None,
        })
        .collect()
}
