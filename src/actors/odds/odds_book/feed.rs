//! The two ways to feed books: the bus, and the broadcasts of other processes.

use actix::prelude::*;

use super::OddsBook;
use super::bus_book::BusBook;
use super::state::BookState;
use crate::actors::odds::book_source::ReplayBoundary;
use crate::actors::odds::messages::ApplyError;
use crate::domain::ids::EventId;
use crate::domain::odds::update::PositionedUpdate;

/// The reply to a batch. Atomic: the changes of one batch are published before the next one is
/// applied.
pub(super) type ApplyResponse<F> = AtomicResponse<OddsBook<F>, Result<(), ApplyError>>;

/// How books are fed.
pub(crate) trait BookFeed: Send + Sync + Sized + Unpin + 'static {
    /// One input.
    type Item: Send + 'static;
    /// The state of a book.
    type State: BookState;

    /// The event of an input.
    fn event_id(item: &Self::Item) -> &EventId;

    /// The bus partition of an input, if it comes from the bus.
    fn partition(item: &Self::Item) -> Option<u32>;

    /// The boundary of a book that starts for this input.
    fn boundary(&self, first: &Self::Item) -> ReplayBoundary;

    /// The state of a new book that starts at `boundary`.
    fn new_state(&self, event_id: EventId, boundary: ReplayBoundary) -> Self::State;

    /// Applies a batch to a book and publishes the changes.
    fn apply(
        book: &mut OddsBook<Self>,
        items: Vec<Self::Item>,
        context: &mut Context<OddsBook<Self>>,
    ) -> ApplyResponse<Self>;

    /// Called when a book has added loaded state.
    fn on_reload(_book: &mut OddsBook<Self>, _context: &mut Context<OddsBook<Self>>) {}

    /// Asks an idle book that is ahead of the cache to compare itself with cache and store.
    fn confirm_lead(_book: &Addr<OddsBook<Self>>) {}
}

/// Books are fed from the bus.
pub(crate) struct BusFeed {
    /// The first position of a bus that starts with the process. Every change published earlier has
    /// a lower sequence number. `None` for a durable bus: it may be replayed from its beginning.
    pub first_position: Option<u64>,
}

impl BookFeed for BusFeed {
    type Item = PositionedUpdate;
    type State = BusBook;

    fn event_id(item: &PositionedUpdate) -> &EventId {
        &item.update.event_id
    }

    fn partition(item: &PositionedUpdate) -> Option<u32> {
        Some(item.partition)
    }

    fn boundary(&self, first: &PositionedUpdate) -> ReplayBoundary {
        ReplayBoundary::after(first.position, self.first_position.is_some())
    }

    fn new_state(&self, event_id: EventId, boundary: ReplayBoundary) -> BusBook {
        BusBook::new(event_id, boundary, self.first_position)
    }

    fn apply(
        book: &mut OddsBook<Self>,
        items: Vec<PositionedUpdate>,
        _: &mut Context<OddsBook<Self>>,
    ) -> ApplyResponse<Self> {
        let applied = book.state.apply(items);
        let publishing = book.publish_applied(applied);
        AtomicResponse::new(Box::pin(publishing.map(|(), _, _| Ok(()))))
    }
}
