//! Publishes states of a book again after the restrictions on them have changed.

use std::collections::{BTreeMap, BTreeSet};

use actix::prelude::*;

use super::state::BookState;
use super::{BookFeed, OddsBook};
use crate::actors::odds::messages::{ApplyError, BookChanged, Restate, Restated};
use crate::domain::ids::Source;
use crate::domain::odds::book::Snapshot;
use crate::domain::odds::restriction_change::RestrictionChange;
use crate::domain::streaming::protocol::FeedStatus;

/// The states that a change affects, in order of their sequence numbers; `None` if there are none.
fn restated(mut book: Snapshot, change: &RestrictionChange) -> Option<BookChanged> {
    book.markets.retain(|state| change.affects(state));
    book.markets.sort_by_key(|state| state.seq);
    let sources: BTreeSet<&Source> = book.markets.iter().map(|it| &it.update.source).collect();
    let reported = change.first_reports.keys().map(|source| (source, false));
    let changed: BTreeMap<&Source, bool> = reported
        .chain(
            change
                .sources
                .iter()
                .map(|(source, is_lost)| (source, *is_lost)),
        )
        .collect();
    let sources = changed
        .into_iter()
        .filter(|(source, _)| sources.contains(source))
        .map(|(source, is_lost)| {
            let status = if is_lost {
                FeedStatus::Stale
            } else {
                FeedStatus::Live
            };
            (source.clone(), status)
        })
        .collect();
    let head = book.seq;
    (!book.markets.is_empty()).then(|| BookChanged {
        states: book.markets.into(),
        conflated: false,
        traced: None,
        restated: Some(Restated { sources, head }),
    })
}

impl<F: BookFeed> Handler<Restate> for OddsBook<F> {
    // Atomic: the states are published before later changes.
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, Restate(change): Restate, _: &mut Context<Self>) -> Self::Result {
        let Some(book) = self.state.snapshot() else {
            let error = ApplyError::NotLoaded(self.event_id.clone());
            return AtomicResponse::new(Box::pin(fut::ready(Err(error))));
        };
        let edges = self.edges.clone();
        let publishing = async move {
            if let Some(changed) = restated(book, &change) {
                edges.send(changed).await;
            }
            Ok(())
        };
        AtomicResponse::new(Box::pin(publishing.into_actor(self)))
    }
}
