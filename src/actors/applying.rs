//! The batches of the live path that are being applied. Pure: a batch of a slow event does not hold up the next one, and
//! the position moves on only past batches that are done.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bus::Position;

/// Records that may be in work before the bus is read on, in batches of the configured size.
const MOST_BATCHES: usize = 16;

/// A batch in work.
#[derive(Debug)]
struct Batch {
    number: u64,
    /// Behind its records.
    position: Position,
    records: usize,
    since: Instant,
    is_done: bool,
}

/// Batches in work, in the order of the bus.
#[derive(Debug)]
pub(super) struct Applying {
    batches: VecDeque<Batch>,
    next_number: u64,
    records: usize,
    most_records: usize,
}

impl Applying {
    /// At most 16 full batches of this size, or as many records in more batches.
    pub fn new(batch_size: usize) -> Applying {
        let most_records = batch_size.max(1).saturating_mul(MOST_BATCHES);
        Applying { batches: VecDeque::new(), next_number: 0, records: 0, most_records }
    }

    /// Whether another batch may begin.
    pub fn has_room(&self) -> bool {
        self.records < self.most_records
    }

    /// Work on a batch begins; gives its number.
    pub fn begin(&mut self, position: Position, records: usize, since: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.records += records;
        self.batches.push_back(Batch { number, position, records, since, is_done: false });
        number
    }

    /// Work on a batch is done. Gives the position before which everything is done, if it moved.
    pub fn done(&mut self, number: u64) -> Option<Position> {
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

    /// When the oldest batch in work was received.
    pub fn oldest(&self) -> Option<Instant> {
        self.batches.front().map(|batch| batch.since)
    }
}

/// How old the oldest record is that was received and is not applied, for those who judge the live path by it.
#[derive(Debug)]
pub struct Backlog {
    start: Instant,
    /// When it was received, in microseconds since `start`, counted from 1; 0 if everything is applied.
    oldest: AtomicU64,
}

impl Default for Backlog {
    fn default() -> Backlog {
        Backlog { start: Instant::now(), oldest: AtomicU64::new(0) }
    }
}

impl Backlog {
    /// The oldest unapplied record was received at this time.
    pub(super) fn set(&self, oldest: Option<Instant>) {
        let micros = oldest.map_or(0, |oldest| oldest.saturating_duration_since(self.start).as_micros() as u64 + 1);
        self.oldest.store(micros, Ordering::Relaxed);
    }

    /// The age of the oldest unapplied record; zero if everything is applied.
    pub fn age(&self) -> Duration {
        match self.oldest.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            micros => self.start.elapsed().saturating_sub(Duration::from_micros(micros)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(offset: u64) -> Position {
        let mut position = Position::default();
        position.advance(0, offset);
        position
    }

    #[test]
    fn position_waits_for_slow_batch() {
        let (mut applying, now) = (Applying::new(10), Instant::now());
        let first = applying.begin(behind(10), 10, now);
        let second = applying.begin(behind(20), 10, now);
        let third = applying.begin(behind(30), 10, now);
        assert_eq!(applying.done(second), None);
        assert_eq!(applying.oldest(), Some(now));
        assert_eq!(applying.done(first), Some(behind(20)));
        assert_eq!(applying.done(third), Some(behind(30)));
        assert!(applying.oldest().is_none());
    }

    #[test]
    fn records_in_work_are_bounded() {
        let mut applying = Applying::new(10);
        let mut begun = 0;
        while applying.has_room() {
            begun = applying.begin(behind(10), 10, Instant::now());
        }
        assert_eq!(begun as usize + 1, MOST_BATCHES);
        for number in 1..=begun {
            assert_eq!(applying.done(number), None);
        }
        assert!(!applying.has_room(), "the first one is not done");
    }
}
