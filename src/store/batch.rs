//! The database-independent part of a write, shared by both engines: decides which updates of a
//! batch become the current state of their markets.

use std::collections::HashMap;
use std::sync::Arc;

use super::StoreError;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::{LOST_NUMBERS, MAX_MARKETS, MarketState, Rejection, decide};
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// Maximum number of rows that one call of [`Store::prune`](crate::store::Store::prune) removes
/// from a table, so that writes never wait long for it.
pub(super) const PRUNE_LIMIT: usize = 10_000;

/// A batch of updates, with its distinct events and markets.
pub(super) struct Batch<'a> {
    updates: &'a [PositionedUpdate],
    events: Vec<&'a EventId>,
    markets: Vec<(&'a EventId, &'a MarketKey)>,
    /// For each update, the indexes of its event and of its market in the lists above.
    indexes: Vec<(usize, usize)>,
    /// For each event, the last number that a book has published; 0 if the updates are those of the
    /// bus, and not states of a book.
    published: Vec<u64>,
}

/// The stored state of a batch's events and markets, in the order of [`Batch::events`] and
/// [`Batch::markets`].
pub(super) struct Heads {
    /// The last sequence number of each event; 0 if it has none.
    pub last_seqs: Vec<u64>,
    /// The revision of each market; `None` if it has no state, or if the time of its state is
    /// implausible.
    pub revisions: Vec<Option<Revision>>,
    /// How many markets each event has.
    pub market_counts: Vec<usize>,
}

/// Properties of an event that later updates of the market may omit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Details<'a> {
    /// The sport.
    pub sport: Option<&'a str>,
    /// When the event starts.
    pub start_time: Option<Timestamp>,
}

impl<'a> Details<'a> {
    fn after(self, update: &'a OddsUpdate) -> Details<'a> {
        Details {
            sport: update.sport.as_deref().or(self.sport),
            start_time: update.start_time.or(self.start_time),
        }
    }
}

/// The result of folding a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Folded<'a> {
    /// Number of updates that were applied.
    pub applied: usize,
    /// For each update, its sequence number if it is the state of its market after the batch.
    pub current: Vec<Option<i64>>,
    /// For each update that is the state of its market, the details from this update or from
    /// earlier ones in the batch.
    pub details: Vec<Details<'a>>,
    /// Indexes of updates whose markets keep their stored state with a larger sequence number, and
    /// that number.
    pub raised: Vec<(usize, i64)>,
}

impl<'a> Batch<'a> {
    /// Collects the events and markets of `updates`.
    pub(super) fn of(updates: &'a [PositionedUpdate]) -> Batch<'a> {
        let mut events = Vec::new();
        let mut markets = Vec::new();
        let mut event_indexes = HashMap::new();
        let mut market_indexes = HashMap::new();
        let indexes = updates
            .iter()
            .map(|PositionedUpdate { update, .. }| {
                let event = index_of(&mut events, &mut event_indexes, &update.event_id);
                (
                    event,
                    index_of(
                        &mut markets,
                        &mut market_indexes,
                        (&update.event_id, &update.market),
                    ),
                )
            })
            .collect();
        Batch {
            updates,
            published: vec![0; events.len()],
            events,
            markets,
            indexes,
        }
    }

    /// Collects the events and markets of `updates`, which are states that books have published.
    /// Each has the position that its sequence number came from.
    pub(super) fn of_states(updates: &'a [PositionedUpdate]) -> Batch<'a> {
        let mut batch = Batch::of(updates);
        for (update, (event, _)) in updates.iter().zip(&batch.indexes) {
            let published = &mut batch.published[*event];
            *published = (*published).max(update.position.saturating_add(1));
        }
        batch
    }

    /// The updates.
    pub(super) fn updates(&self) -> &'a [PositionedUpdate] {
        self.updates
    }

    /// The events, in the order of their first updates.
    pub(super) fn events(&self) -> &[&'a EventId] {
        &self.events
    }

    /// The markets, in the order of their first updates.
    pub(super) fn markets(&self) -> &[(&'a EventId, &'a MarketKey)] {
        &self.markets
    }

    /// The heads of an empty database, for the caller to fill in.
    pub(super) fn no_heads(&self) -> Heads {
        let events = self.events.len();
        Heads {
            last_seqs: vec![0; events],
            revisions: vec![None; self.markets.len()],
            market_counts: vec![0; events],
        }
    }

    /// Applies the updates in order, with the same decisions as the live books. `heads` must belong
    /// to this batch.
    pub(super) fn fold(&self, mut heads: Heads) -> Result<Folded<'a>, StoreError> {
        let mut applied = 0;
        let mut winners: Vec<Option<(usize, u64)>> = vec![None; self.markets.len()];
        let mut reported = vec![Details::default(); self.markets.len()];
        let stored_seqs = heads.last_seqs.clone();
        let mut raised = Vec::new();
        for (index, (positioned, &(event, market))) in
            self.updates.iter().zip(&self.indexes).enumerate()
        {
            // The sequence number derives from the position, which must fit the column.
            fit(positioned.position)?;
            let revision = positioned.update.revision;
            let is_new = heads.revisions[market].is_none();
            // The books have the same limit: both paths must assign the same sequence numbers.
            if is_new && heads.market_counts[event] >= MAX_MARKETS {
                continue;
            }
            let last_seq = heads.last_seqs[event];
            let position = positioned.position;
            match decide(heads.revisions[market], last_seq, revision, position) {
                Ok(seq) => {
                    applied += 1;
                    heads.market_counts[event] += usize::from(is_new);
                    heads.revisions[market] = Some(revision);
                    heads.last_seqs[event] = seq;
                    winners[market] = Some((index, seq));
                    reported[market] = reported[market].after(&positioned.update);
                }
                Err(rejection) => {
                    let numbers = [stored_seqs[event], self.published[event]];
                    let seq = raised_seq(rejection, numbers, position);
                    if let Some(seq) = seq.map(|seq| seq.max(last_seq.saturating_add(1))) {
                        heads.last_seqs[event] = seq;
                        raised.push((index, fit(seq)?));
                    }
                }
            }
        }
        let mut current = vec![None; self.updates.len()];
        let mut details = vec![Details::default(); self.updates.len()];
        for (winner, reported) in winners.into_iter().zip(reported) {
            if let Some((index, seq)) = winner {
                current[index] = Some(fit(seq)?);
                details[index] = reported;
            }
        }
        Ok(Folded {
            applied,
            current,
            details,
            raised,
        })
    }
}

/// The least number of a stored state that is not replaced by the published one at `position`; `None`
/// if it keeps its own. `stored` is the event's last number in the store, `published` the last one that
/// a book has published, 0 if none.
fn raised_seq(rejection: Rejection, [stored, published]: [u64; 2], position: u64) -> Option<u64> {
    match rejection {
        // The stored state is later than everything that was published. The store may have applied
        // further changes since, and must not stay behind.
        Rejection::Older if published > 0 && stored <= published => {
            Some(published.saturating_add(LOST_NUMBERS))
        }
        Rejection::Duplicate if position < published && stored <= position => {
            Some(position.saturating_add(1))
        }
        _ => None,
    }
}

/// The states as updates, ordered by sequence number, at the positions that give them these numbers
/// again.
pub(super) fn positioned(states: &[Arc<MarketState>]) -> Vec<PositionedUpdate> {
    let mut states: Vec<_> = states.iter().collect();
    states.sort_by_key(|state| state.seq);
    let positioned = |state: &Arc<MarketState>| PositionedUpdate {
        update: state.update.clone(),
        // Only consumers need it.
        partition: 0,
        position: state.seq.saturating_sub(1),
        trace: None,
    };
    states.into_iter().map(positioned).collect()
}

/// The index of `item` in `list`; appends it if it is new.
fn index_of<T: Copy + Eq + std::hash::Hash>(
    list: &mut Vec<T>,
    indexes: &mut HashMap<T, usize>,
    item: T,
) -> usize {
    *indexes.entry(item).or_insert_with(|| {
        list.push(item);
        list.len() - 1
    })
}

/// Converts a bus position or sequence number to the signed type of the columns.
fn fit(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Refused(format!("{number} exceeds the largest sequence number")))
}

#[cfg(test)]
mod tests;
