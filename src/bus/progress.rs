//! Tracks the commit position of a reader that works on many records at once: everything before it
//! is done. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Position;

/// A record in flight. If its partition is revoked, the token becomes invalid, even if the
/// partition is assigned again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InFlight {
    /// The record's partition.
    pub partition: u32,
    offset: u64,
    /// Distinguishes assignments: each time the partition is assigned it gets a new term.
    term: u64,
}

/// The records in flight, by partition.
#[derive(Clone, Debug, Default)]
pub struct CommitTracker {
    partitions: BTreeMap<u32, Partition>,
    terms: u64,
}

#[derive(Clone, Debug)]
struct Partition {
    term: u64,
    in_work: BTreeSet<u64>,
    /// The offset after the last record that was started.
    next: u64,
}

impl Partition {
    /// Everything before this offset is done.
    fn done(&self) -> u64 {
        self.in_work.first().copied().unwrap_or(self.next)
    }
}

impl CommitTracker {
    /// Starts work on a record. Records of a partition must start in order.
    pub fn begin(&mut self, partition: u32, offset: u64) -> InFlight {
        let terms = &mut self.terms;
        let known = self.partitions.entry(partition).or_insert_with(|| {
            *terms += 1;
            Partition {
                term: *terms,
                in_work: BTreeSet::new(),
                next: offset,
            }
        });
        known.in_work.insert(offset);
        known.next = known.next.max(offset.saturating_add(1));
        InFlight {
            partition,
            offset,
            term: known.term,
        }
    }

    /// Marks a record as done.
    pub fn done(&mut self, token: InFlight) {
        if let Some(known) = self.partitions.get_mut(&token.partition)
            && known.term == token.term
        {
            known.in_work.remove(&token.offset);
        }
    }

    /// The position before which everything is done, for each partition.
    pub fn position(&self) -> Position {
        let mut position = Position::default();
        self.partitions
            .iter()
            .for_each(|(partition, known)| position.advance(*partition, known.done()));
        position
    }

    /// Removes these partitions.
    pub fn forget(&mut self, partitions: &[u32]) {
        self.partitions
            .retain(|partition, _| !partitions.contains(partition));
    }

    /// How far, in offsets, the reader is ahead of the position that may be committed.
    pub fn ahead(&self) -> u64 {
        self.partitions
            .values()
            .map(|known| known.next - known.done())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(progress: &CommitTracker) -> Vec<(u32, u64)> {
        progress.position().iter().collect()
    }

    #[test]
    fn unfinished_head_holds_only_its_partition() {
        let mut progress = CommitTracker::default();
        let tokens: Vec<_> = (5..9).map(|offset| progress.begin(1, offset)).collect();
        let other = progress.begin(2, 0);
        assert_eq!(
            (position(&progress), progress.ahead()),
            (vec![(1, 5), (2, 0)], 5)
        );
        [tokens[1], tokens[3], other]
            .into_iter()
            .for_each(|token| progress.done(token));
        assert_eq!(
            (position(&progress), progress.ahead()),
            (vec![(1, 5), (2, 1)], 4)
        );
        progress.done(tokens[0]);
        assert_eq!(position(&progress), [(1, 7), (2, 1)]);
        progress.done(tokens[2]);
        assert_eq!(
            (position(&progress), progress.ahead()),
            (vec![(1, 9), (2, 1)], 0)
        );
    }

    #[test]
    fn token_from_before_revocation_is_ignored() {
        let mut progress = CommitTracker::default();
        let before = progress.begin(0, 5);
        progress.forget(&[0, 7]);
        assert_eq!(position(&progress), []);
        // The topic was recreated and the partition assigned again: the offset is now another
        // record.
        let again = progress.begin(0, 5);
        progress.done(before);
        assert_eq!(position(&progress), [(0, 5)]);
        progress.done(again);
        assert_eq!(position(&progress), [(0, 6)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin {
            partition: u32,
            gap: u64,
        },
        /// Index into all tokens issued, modulo their number.
        Done(usize),
        Forget(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..3_u32, 0..3_u64).prop_map(|(partition, gap)| Step::Begin { partition, gap }),
            5 => any::<usize>().prop_map(Step::Done),
            1 => (0..3_u32).prop_map(Step::Forget),
        ]
    }

    /// A record of the model: its index, its partition, its offset, and whether it is done. Records
    /// of a revoked partition are removed.
    type Model = Vec<(usize, u32, u64, bool)>;

    proptest! {
        #[test]
        fn tracker_agrees_with_linear_model(steps in proptest::collection::vec(step(), 0..80)) {
            let mut progress = CommitTracker::default();
            let (mut model, mut tokens, mut ends) = (Model::new(), Vec::new(), [0_u64; 3]);
            for step in steps {
                match step {
                    Step::Begin { partition, gap } => {
                        let offset = ends[partition as usize] + gap;
                        ends[partition as usize] = offset + 1;
                        model.push((tokens.len(), partition, offset, false));
                        tokens.push(progress.begin(partition, offset));
                    }
                    Step::Done(place) if !tokens.is_empty() => {
                        let place = place % tokens.len();
                        progress.done(tokens[place]);
                        model.iter_mut().filter(|(token, ..)| *token == place).for_each(|(.., done)| *done = true);
                    }
                    Step::Done(_) => {}
                    Step::Forget(partition) => {
                        progress.forget(&[partition]);
                        model.retain(|(_, of, ..)| *of != partition);
                        // The partition was recreated: offsets start at 0.
                        ends[partition as usize] = 0;
                    }
                }
                let mut expected = Vec::new();
                for partition in 0..3 {
                    let of: Vec<_> = model.iter().filter(|(_, of, ..)| *of == partition).collect();
                    let Some(last) = of.last() else { continue };
                    let open = of.iter().find(|(.., done)| !done);
                    expected.push((partition, open.map_or(last.2 + 1, |(_, _, offset, _)| *offset)));
                }
                prop_assert_eq!(position(&progress), expected);
            }
        }
    }
}
