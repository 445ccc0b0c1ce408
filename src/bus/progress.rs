//! Tracks the commit position of a reader that works on many records at once: everything before it
//! is done. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Position;

/// A record in flight. If its partition is revoked, the token becomes invalid, even if the
/// partition is assigned again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InFlight {
    /// The record's partition.
    pub partition: u32,
    offset: u64,
    /// Distinguishes assignments: each time the partition is assigned it gets a new term.
    term: u64,
}

/// The records in flight, by partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommitTracker {
    partitions: BTreeMap<u32, Partition>,
    terms: u64,
}

#[derive(Clone, Debug)]
struct Partition {
    term: u64,
    in_flight: BTreeSet<u64>,
    /// The offset after the last record that was started.
    next: u64,
}

impl Partition {
    /// Everything before this offset is done.
    fn done(&self) -> u64 {
        self.in_flight.first().copied().unwrap_or(self.next)
    }
}

impl CommitTracker {
    /// Starts work on a record. Records of a partition must start in order.
    pub(crate) fn begin(&mut self, partition: u32, offset: u64) -> InFlight {
        let terms = &mut self.terms;
        let known = self.partitions.entry(partition).or_insert_with(|| {
            *terms += 1;
            Partition {
                term: *terms,
                in_flight: BTreeSet::new(),
                next: offset,
            }
        });
        known.in_flight.insert(offset);
        known.next = known.next.max(offset.saturating_add(1));
        InFlight {
            partition,
            offset,
            term: known.term,
        }
    }

    /// Marks a record as done.
    pub(crate) fn done(&mut self, token: InFlight) {
        if let Some(known) = self.partitions.get_mut(&token.partition)
            && known.term == token.term
        {
            known.in_flight.remove(&token.offset);
        }
    }

    /// The position before which everything is done, for each partition.
    pub(crate) fn position(&self) -> Position {
        let mut position = Position::default();
        self.partitions
            .iter()
            .for_each(|(partition, known)| position.advance(*partition, known.done()));
        position
    }

    /// Removes these partitions.
    pub(crate) fn forget(&mut self, partitions: &[u32]) {
        self.partitions
            .retain(|partition, _| !partitions.contains(partition));
    }

    /// How far, in offsets, the reader is ahead of the position that may be committed.
    pub(crate) fn ahead(&self) -> u64 {
        self.partitions
            .values()
            .map(|known| known.next - known.done())
            .sum()
    }
}

#[cfg(test)]
mod tests;
