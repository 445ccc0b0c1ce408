//! Tracks the batches of the live path that are in flight, without I/O. A batch with a slow event
//! does not block the next one, and the position advances only past completed batches.

use std::collections::VecDeque;
use std::time::Instant;

use crate::bus::{Position, Record};
use crate::domain::odds::plausible::record_age;
use crate::domain::timestamp::Timestamp;

/// How many full batches may be in flight before the consumer stops reading.
const MAX_BATCHES: usize = 16;

/// A batch in flight.
#[derive(Debug)]
struct Batch {
    number: u64,
    /// The position after its records.
    position: Position,
    records: usize,
    since: Instant,
    is_done: bool,
}

/// Batches in flight, in bus order.
#[derive(Debug)]
pub(super) struct BatchesInFlight {
    batches: VecDeque<Batch>,
    next_number: u64,
    records: usize,
    most_records: usize,
}

impl BatchesInFlight {
    /// Allows 16 full batches of this size, or the same number of records in more batches.
    pub(super) fn new(batch_size: usize) -> BatchesInFlight {
        let most_records = batch_size.max(1).saturating_mul(MAX_BATCHES);
        BatchesInFlight {
            batches: VecDeque::new(),
            next_number: 0,
            records: 0,
            most_records,
        }
    }

    /// Whether another batch may start.
    pub(super) fn has_room(&self) -> bool {
        self.records < self.most_records
    }

    /// Records the start of a batch and returns its number.
    pub(super) fn begin(&mut self, position: Position, records: usize, since: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.records += records;
        self.batches.push_back(Batch {
            number,
            position,
            records,
            since,
            is_done: false,
        });
        number
    }

    /// Marks a batch as completed. Returns the position up to which everything is applied, if it
    /// advanced.
    pub(super) fn done(&mut self, number: u64) -> Option<Position> {
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.number == number) {
            batch.is_done = true;
        }
        let mut moved: Option<Position> = None;
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.is_done) {
            self.records -= batch.records;
            match &mut moved {
                Some(position) => position.merge(&batch.position),
                None => moved = Some(batch.position),
            }
        }
        moved
    }

    /// When the oldest record of the first batch in flight was published.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.batches.front().map(|batch| batch.since)
    }
}

/// When the oldest record of a batch was published: a consumer that reads a long backlog lags by
/// the age of its records. The current time if no record has a usable timestamp.
pub(super) fn oldest_of(batch: &[Record]) -> Instant {
    let (now, clock) = (Instant::now(), Timestamp::now());
    let ages = batch
        .iter()
        .filter_map(|record| record_age(record.published_at?, clock));
    now.checked_sub(ages.max().unwrap_or_default())
        .unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::bus::NewRecord;
    use crate::runtime::backlog::Backlog;

    fn after(offset: u64) -> Position {
        let mut position = Position::default();
        position.advance(0, offset);
        position
    }

    #[test]
    fn position_waits_for_slow_batch() {
        let mut applying = BatchesInFlight::new(10);
        let now = Instant::now();
        let first = applying.begin(after(10), 10, now);
        let second = applying.begin(after(20), 10, now);
        let third = applying.begin(after(30), 10, now);
        assert_eq!(applying.done(second), None);
        assert_eq!(applying.oldest(), Some(now));
        assert_eq!(applying.done(first), Some(after(20)));
        assert_eq!(applying.done(third), Some(after(30)));
        assert!(applying.oldest().is_none());
    }

    #[test]
    fn backlog_age_uses_publication_time() {
        let now = Timestamp::now();
        let at = |published_at| Record {
            partition: 0,
            offset: 0,
            published_at,
            record: NewRecord {
                key: Bytes::new(),
                payload: Bytes::new(),
                headers: Vec::new(),
            },
        };
        let hours = |count: u64| Duration::from_secs(3_600 * count);
        let backlog = Backlog::default();
        let age_of = |batch: &[Record]| {
            backlog.set(Some(oldest_of(batch)));
            backlog.age()
        };
        let old = age_of(&[
            at(None),
            at(Some(now)),
            at(Some(now.earlier_by(hours(2)))),
            at(Some(now)),
        ]);
        assert!(old >= hours(2) && old < hours(3), "{old:?}");
        // Missing and implausible timestamps have no age.
        let unusable = [
            at(None),
            at(Timestamp::from_millis(0)),
            at(Timestamp::from_millis(1_700_000)),
            at(Some(now.later_by(hours(1)))),
        ];
        assert!(age_of(&unusable) < hours(1));
        backlog.set(None);
        assert_eq!(backlog.age(), Duration::ZERO);
    }

    #[test]
    fn records_in_flight_are_bounded() {
        let mut applying = BatchesInFlight::new(10);
        let mut begun = 0;
        while applying.has_room() {
            begun = applying.begin(after(10), 10, Instant::now());
        }
        assert_eq!(begun as usize + 1, MAX_BATCHES);
        for number in 1..=begun {
            assert_eq!(applying.done(number), None);
        }
        assert!(!applying.has_room(), "the first batch is not completed");
    }
}
