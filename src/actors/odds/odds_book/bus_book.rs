//! The book of a processor: it applies the updates of the bus and numbers them by their positions.

use super::state::{Applied, BookCore, BookState, RELOAD_DELAY, Restored};
use crate::actors::odds::book_source::{LoadedState, ReplayBoundary};
use crate::cache::Change;
use crate::domain::ids::EventId;
use crate::domain::odds::book::Snapshot;
use crate::domain::odds::update::PositionedUpdate;

/// The state of a book that is fed from the bus.
pub(crate) struct BusBook {
    core: BookCore,
    boundary: ReplayBoundary,
    first_position: Option<u64>,
}

impl BusBook {
    /// Creates an empty book that starts at `boundary`. `first_position` is the first position of a
    /// bus that starts with the process: every change published earlier has a lower sequence
    /// number.
    pub(crate) fn new(
        event_id: EventId,
        boundary: ReplayBoundary,
        first_position: Option<u64>,
    ) -> BusBook {
        BusBook {
            core: BookCore::new(event_id),
            boundary,
            first_position,
        }
    }

    /// Applies updates in bus order.
    pub(crate) fn apply(&mut self, updates: Vec<PositionedUpdate>) -> Applied {
        let mut applied = Applied::default();
        for PositionedUpdate {
            update,
            position,
            trace,
            ..
        } in updates
        {
            applied.add(self.core.book.apply(update, position), false, trace);
        }
        self.core.version.changed();
        applied
    }
}

impl BookState for BusBook {
    /// Publishes the whole book: the store may hold a change that no client has seen. Clients that
    /// have a change already drop it by its sequence number. No change is missing before a state
    /// that is exactly the update the book starts for.
    fn restore(&mut self, loaded: LoadedState) -> Restored {
        self.core.is_loaded = loaded.is_complete;
        self.core.is_cache_read = loaded.is_cache_read;
        let reload_after = loaded.reload_after(RELOAD_DELAY);
        let states = self.core.restore(loaded.states);
        self.core
            .book
            .continue_from(self.first_position.unwrap_or(0));
        self.core.version.changed();
        let next = self.boundary.next();
        let changes = states
            .into_iter()
            .map(|state| Change {
                conflated: Some(state.seq) != next,
                state,
                trace: None,
            })
            .collect();
        Restored {
            changes,
            reload_after,
        }
    }

    fn reload(&mut self, loaded: LoadedState) -> Restored {
        self.restore(loaded)
    }

    fn boundary(&self) -> ReplayBoundary {
        self.boundary
    }

    fn is_cache_read(&self) -> bool {
        self.core.is_cache_read
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.core.snapshot(false)
    }
}

#[cfg(test)]
mod tests;
