//! Feeds books with the broadcasts of other processes and with records of the odds topic, and
//! compares them with the cache.

use std::time::{Duration, Instant};

use actix::prelude::*;
use log::warn;

use super::OddsBook;
use super::feed::{ApplyResponse, BookFeed};
use super::lead::MarketsAhead;
use super::mirror_book::{MirrorBook, MirrorInput, Verification};
use crate::actors::odds::book_source::ReplayBoundary;
use crate::actors::odds::messages::{ApplyError, ReloadBook};
use crate::cache::Broadcast;
use crate::domain::ids::EventId;
use crate::domain::timestamp::Timestamp;
use crate::telemetry::log_limit::LogLimit;

/// Log lines about books that were ahead of the cache until they were idle.
static UNCONFIRMED: LogLimit = LogLimit::every(Duration::from_secs(10));

/// Books mirror those of other processes.
pub(crate) struct MirrorFeed;

impl BookFeed for MirrorFeed {
    type Item = MirrorInput;
    type State = MirrorBook;

    fn event_id(item: &MirrorInput) -> &EventId {
        &item.update().event_id
    }

    /// Mirrors are of all partitions, and none is revoked.
    fn partition(_: &MirrorInput) -> Option<u32> {
        None
    }

    /// Everything before a broadcast is loaded, unless it has no number. Before a record everything
    /// is loaded: the broadcasts may be ahead of it.
    fn boundary(&self, first: &MirrorInput) -> ReplayBoundary {
        match first {
            MirrorInput::Broadcast(Broadcast { seq: Some(seq), .. }) => {
                ReplayBoundary::after(seq.saturating_sub(1), true)
            }
            MirrorInput::Broadcast(_) | MirrorInput::Record(_) => ReplayBoundary::NOTHING,
        }
    }

    fn new_state(&self, event_id: EventId, boundary: ReplayBoundary) -> MirrorBook {
        MirrorBook::new(event_id, boundary)
    }

    fn apply(
        book: &mut OddsBook<Self>,
        items: Vec<MirrorInput>,
        context: &mut Context<OddsBook<Self>>,
    ) -> ApplyResponse<Self> {
        let applied = book.state.apply(items, Timestamp::now());
        let next = book.state.next_verification(Instant::now());
        let publishing = book.publish_applied(applied);
        if next == Verification::Now {
            // Verify before the next message, so that later broadcasts apply to the corrected
            // state.
            let verifying = publishing.then(|(), book: &mut OddsBook<Self>, _| book.verify());
            return AtomicResponse::new(Box::pin(verifying.map(|(), _, _| Ok(()))));
        }
        book.schedule_verification(next, context);
        AtomicResponse::new(Box::pin(publishing.map(|(), _, _| Ok(()))))
    }

    /// Records that waited for the load may have raised doubts.
    fn on_reload(book: &mut OddsBook<Self>, context: &mut Context<OddsBook<Self>>) {
        let next = match book.state.next_verification(Instant::now()) {
            Verification::Now => Verification::After(Duration::ZERO),
            next => next,
        };
        book.schedule_verification(next, context);
    }

    fn confirm_lead(book: &Addr<OddsBook<Self>>) {
        book.do_send(ConfirmLead);
    }
}

/// Sent by the router to a book that is idle and ahead of the cache: load cache and store, which
/// hold its state unless no processor has accepted it.
#[derive(Message)]
#[rtype(result = "()")]
struct ConfirmLead;

impl OddsBook<MirrorFeed> {
    fn schedule_verification(&self, next: Verification, context: &mut Context<Self>) {
        if let Verification::After(delay) = next {
            context.run_later(delay, |book, context| {
                if context.connected() {
                    context.wait(book.verify());
                }
            });
        }
    }

    /// Compares the markets in doubt with the cache and publishes the corrections.
    fn verify(&mut self) -> impl ActorFuture<Self, Output = ()> + use<> {
        self.state.start_verification(Instant::now());
        let edges = self.edges.clone();
        let event_id = self.event_id.clone();
        async move { edges.source.load_cached(&event_id).await }
            .into_actor(self)
            .then(|cached, book, context| {
                let verified = book.state.verify(&cached, Timestamp::now());
                book.schedule_verification(verified.next, context);
                let markets = verified.corrected;
                book.edges.metrics.count_verification(markets);
                if markets > 0 {
                    let event = book.event_id.as_str();
                    warn!(event, markets; "broadcasts contradict the cache, book corrected");
                }
                book.publish(verified.changes)
            })
    }

    /// Ends the lead in the markets that a load has not confirmed.
    fn end_lead(&mut self, unconfirmed: &MarketsAhead, is_complete: bool) {
        let markets = self.state.end_lead(unconfirmed, is_complete);
        if markets > 0
            && let Some(repeated) = UNCONFIRMED.check("unconfirmed")
        {
            let event = self.event_id.as_str();
            warn!(event, markets, repeated; "records of the odds topic are in neither cache nor database, idle book is dropped");
        }
    }
}

impl Handler<ConfirmLead> for OddsBook<MirrorFeed> {
    type Result = ();

    // Not atomic: a new update does not wait for the store.
    fn handle(&mut self, _: ConfirmLead, context: &mut Context<Self>) {
        let unconfirmed = self.state.markets_ahead();
        let edges = self.edges.clone();
        let event_id = self.event_id.clone();
        let boundary = ReplayBoundary::NOTHING;
        let loading = async move { edges.source.reload(&event_id, boundary).await };
        let loading = loading.into_actor(self);
        context.spawn(loading.map(move |loaded, book, context| {
            let is_complete = loaded.is_complete;
            let publishing = book.reload(loaded, context);
            book.end_lead(&unconfirmed, is_complete);
            context.wait(publishing);
        }));
    }
}

impl Handler<ReloadBook> for OddsBook<MirrorFeed> {
    // Atomic: later messages apply to the reloaded state.
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, _: ReloadBook, _: &mut Context<Self>) -> Self::Result {
        self.state.expect_gap();
        let edges = self.edges.clone();
        let event_id = self.event_id.clone();
        let loading = async move { edges.source.load_after_gap(&event_id).await };
        let reloading = loading.into_actor(self).then(|loaded, book, context| {
            let is_cache_available = loaded.is_cache_available();
            book.reload(loaded, context)
                .map(move |(), book: &mut Self, _| {
                    if is_cache_available {
                        Ok(())
                    } else {
                        Err(ApplyError::NotLoaded(book.event_id.clone()))
                    }
                })
        });
        AtomicResponse::new(Box::pin(reloading))
    }
}
