//! What a batch of updates makes of the markets it touches: the part of a write that needs no
//! database, the same for every one.

use std::collections::HashMap;

use super::StoreError;
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::{MAX_MARKETS, decide};
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate, Revision};
use crate::domain::timestamp::Timestamp;

/// How many rows of one table [`Store::prune`](crate::store::Store::prune) removes at most a call,
/// so that a write never waits long behind it.
pub const PRUNE_LIMIT: usize = 10_000;

/// A batch, and the events and markets it touches, each once.
pub struct Batch<'a> {
    updates: &'a [PositionedUpdate],
    events: Vec<&'a EventId>,
    markets: Vec<(&'a EventId, &'a MarketKey)>,
    /// Of each update the places of its event and of its market in the lists above.
    places: Vec<(usize, usize)>,
}

/// What the database holds of a batch's events and markets, in the order of [`Batch::events`] and
/// [`Batch::markets`].
pub struct Heads {
    /// The last sequence number of each event; 0 where it has none.
    pub last_seqs: Vec<u64>,
    /// The revision of each market; none where it has no state, or one whose time is not believed.
    pub revisions: Vec<Option<Revision>>,
    /// How many markets each event has.
    pub market_counts: Vec<usize>,
}

/// What an update says about its event that later updates of the market may leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details<'a> {
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

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Folded<'a> {
    /// How many updates were taken.
    pub applied: usize,
    /// Of each update the sequence number, if the update is the state of its market behind the
    /// batch.
    pub current: Vec<Option<i64>>,
    /// Of each update that is the state of its market the details that it or an update before it in
    /// the batch told.
    pub details: Vec<Details<'a>>,
}

impl<'a> Batch<'a> {
    /// Lists what `updates` touch.
    pub fn of(updates: &'a [PositionedUpdate]) -> Batch<'a> {
        let (mut events, mut markets) = (Vec::new(), Vec::new());
        let (mut event_places, mut market_places) = (HashMap::new(), HashMap::new());
        let places = updates
            .iter()
            .map(|PositionedUpdate { update, .. }| {
                let event = place(&mut events, &mut event_places, &update.event_id);
                (
                    event,
                    place(
                        &mut markets,
                        &mut market_places,
                        (&update.event_id, &update.market),
                    ),
                )
            })
            .collect();
        Batch {
            updates,
            events,
            markets,
            places,
        }
    }

    /// The events, in the order of their first updates.
    pub fn events(&self) -> &[&'a EventId] {
        &self.events
    }

    /// The markets, in the order of their first updates.
    pub fn markets(&self) -> &[(&'a EventId, &'a MarketKey)] {
        &self.markets
    }

    /// Heads as of an empty database, to be filled in.
    pub fn no_heads(&self) -> Heads {
        let events = self.events.len();
        Heads {
            last_seqs: vec![0; events],
            revisions: vec![None; self.markets.len()],
            market_counts: vec![0; events],
        }
    }

    /// Takes the updates in their order, as the books of the live path do. `heads` must be of this
    /// batch.
    pub fn fold(&self, mut heads: Heads) -> Result<Folded<'a>, StoreError> {
        let mut applied = 0;
        let mut winners: Vec<Option<(usize, u64)>> = vec![None; self.markets.len()];
        let mut told = vec![Details::default(); self.markets.len()];
        for (index, (positioned, &(event, market))) in
            self.updates.iter().zip(&self.places).enumerate()
        {
            // The number is made from the position, and must fit the column.
            fit(positioned.position)?;
            let revision = positioned.update.revision;
            let is_new = heads.revisions[market].is_none();
            // As the books: both paths must number the changes alike.
            if is_new && heads.market_counts[event] >= MAX_MARKETS {
                continue;
            }
            if let Ok(seq) = decide(
                heads.revisions[market],
                heads.last_seqs[event],
                revision,
                positioned.position,
            ) {
                applied += 1;
                heads.market_counts[event] += usize::from(is_new);
                heads.revisions[market] = Some(revision);
                heads.last_seqs[event] = seq;
                winners[market] = Some((index, seq));
                told[market] = told[market].after(&positioned.update);
            }
        }
        let mut current = vec![None; self.updates.len()];
        let mut details = vec![Details::default(); self.updates.len()];
        for (winner, told) in winners.into_iter().zip(told) {
            if let Some((index, seq)) = winner {
                current[index] = Some(fit(seq)?);
                details[index] = told;
            }
        }
        Ok(Folded {
            applied,
            current,
            details,
        })
    }
}

/// The place of `item` in `list`, where it is put if it is new.
fn place<T: Copy + Eq + std::hash::Hash>(
    list: &mut Vec<T>,
    places: &mut HashMap<T, usize>,
    item: T,
) -> usize {
    *places.entry(item).or_insert_with(|| {
        list.push(item);
        list.len() - 1
    })
}

/// A number of the bus or of an event as databases keep it: signed.
fn fit(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Refused(format!("{number} is beyond the largest sequence number")))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::domain::odds::update::testing::*;

    fn positioned(
        update: crate::domain::odds::update::OddsUpdate,
        position: u64,
    ) -> PositionedUpdate {
        PositionedUpdate {
            update,
            partition: 0,
            position,
        }
    }

    #[test]
    fn only_the_last_taken_update_of_a_market_is_current() {
        let updates = [
            positioned(market_update("A", "1x2", None, 1, 1), 10),
            positioned(market_update("A", "goals", Some("2.5"), 1, 1), 11),
            positioned(market_update("A", "1x2", None, 3, 1), 12),
            positioned(market_update("A", "1x2", None, 2, 1), 13),
            positioned(market_update("B", "1x2", None, 1, 1), 14),
            positioned(market_update("B", "1x2", None, 1, 1), 15),
        ];
        let batch = Batch::of(&updates);
        assert_eq!(
            batch
                .events()
                .iter()
                .map(|event| event.as_str())
                .collect::<Vec<_>>(),
            ["A", "B"]
        );
        assert_eq!(batch.markets().len(), 3);
        let folded = batch.fold(batch.no_heads()).unwrap();
        assert_eq!(
            (folded.applied, folded.current),
            (4, vec![None, Some(12), Some(13), None, Some(15), None])
        );
    }

    #[test]
    fn details_outlast_updates_without_them() {
        let told = |time, sport: Option<&str>, start| OddsUpdate {
            sport: sport.map(Into::into),
            start_time: Timestamp::from_millis(start).filter(|_| start > 0),
            ..update(1, time, 1)
        };
        let updates = [
            told(1, Some("tennis"), 7),
            told(3, Some("soccer"), 0),
            told(4, None, 0),
            told(2, Some("late"), 9),
        ];
        let updates = updates.map(|update| positioned(update, 0));
        let batch = Batch::of(&updates);
        let details = batch.fold(batch.no_heads()).unwrap().details;
        assert_eq!(
            details[2],
            Details {
                sport: Some("soccer"),
                start_time: Timestamp::from_millis(7)
            }
        );
    }

    #[test]
    fn heads_of_the_database_count() {
        let updates = [
            positioned(update(1, 5, 1), 0),
            positioned(update(1, 6, 1), 1),
        ];
        let batch = Batch::of(&updates);
        let heads = || Heads {
            last_seqs: vec![1_000],
            revisions: vec![Some(updates[0].update.revision)],
            market_counts: vec![1],
        };
        let folded = batch.fold(heads()).unwrap();
        assert_eq!(
            (folded.applied, folded.current),
            (1, vec![None, Some(1_001)])
        );
    }

    #[test]
    fn a_new_market_beyond_the_limit_is_not_taken() {
        let updates = [
            positioned(update(1, 5, 1), 0),
            positioned(market_update("MATCH_001", "new", None, 5, 1), 1),
        ];
        let batch = Batch::of(&updates);
        let heads = |count| Heads {
            last_seqs: vec![0],
            revisions: vec![Some(update(1, 4, 1).revision), None],
            market_counts: vec![count],
        };
        let folded = batch.fold(heads(MAX_MARKETS)).unwrap();
        assert_eq!((folded.applied, folded.current), (1, vec![Some(1), None]));
        assert_eq!(batch.fold(heads(MAX_MARKETS - 1)).unwrap().applied, 2);
    }

    #[test]
    fn a_number_too_large_for_a_database_is_refused() {
        for position in [i64::MAX as u64, u64::MAX] {
            let updates = [positioned(update(1, 5, 1), position)];
            let batch = Batch::of(&updates);
            assert!(
                matches!(batch.fold(batch.no_heads()), Err(StoreError::Refused(_))),
                "{position}"
            );
        }
    }
}
