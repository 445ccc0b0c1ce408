//! How far a reader has come that works on many records at once: up to where everything is done.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Position;

/// A record in work. Of a partition that was revoked meanwhile it counts for nothing, also when the
/// partition is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InFlight {
    /// The record's partition.
    pub partition: u32,
    offset: u64,
    /// Which of this reader's times with the partition.
    term: u64,
}

/// The records in work, by partition.
#[derive(Clone, Debug, Default)]
pub struct CommitTracker {
    partitions: BTreeMap<u32, Partition>,
    terms: u64,
}

#[derive(Clone, Debug)]
struct Partition {
    term: u64,
    in_work: BTreeSet<u64>,
    /// Behind the last record that was begun.
    next: u64,
}

impl Partition {
    /// Everything before this offset is done.
    fn done(&self) -> u64 {
        self.in_work.first().copied().unwrap_or(self.next)
    }
}

impl CommitTracker {
    /// Work on a record begins. Those of a partition begin in their order.
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

    /// Work on a record is done.
    pub fn done(&mut self, ticket: InFlight) {
        if let Some(known) = self.partitions.get_mut(&ticket.partition)
            && known.term == ticket.term
        {
            known.in_work.remove(&ticket.offset);
        }
    }

    /// Up to where everything is done, of each partition.
    pub fn position(&self) -> Position {
        let mut position = Position::default();
        self.partitions
            .iter()
            .for_each(|(partition, known)| position.advance(*partition, known.done()));
        position
    }

    /// Says nothing of these partitions any more.
    pub fn forget(&mut self, partitions: &[u32]) {
        self.partitions
            .retain(|partition, _| !partitions.contains(partition));
    }

    /// How far, in offsets, the reader is ahead of what may be committed.
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
    fn a_head_that_is_not_done_holds_the_position_and_not_the_others() {
        let mut progress = CommitTracker::default();
        let tickets: Vec<_> = (5..9).map(|offset| progress.begin(1, offset)).collect();
        let other = progress.begin(2, 0);
        assert_eq!(
            (position(&progress), progress.ahead()),
            (vec![(1, 5), (2, 0)], 5)
        );
        [tickets[1], tickets[3], other]
            .into_iter()
            .for_each(|ticket| progress.done(ticket));
        assert_eq!(
            (position(&progress), progress.ahead()),
            (vec![(1, 5), (2, 1)], 4)
        );
        progress.done(tickets[0]);
        assert_eq!(position(&progress), [(1, 7), (2, 1)]);
        progress.done(tickets[2]);
        assert_eq!(
            (position(&progress), progress.ahead()),
            (vec![(1, 9), (2, 1)], 0)
        );
    }

    #[test]
    fn what_was_begun_before_a_partition_was_revoked_counts_for_nothing() {
        let mut progress = CommitTracker::default();
        let before = progress.begin(0, 5);
        progress.forget(&[0, 7]);
        assert_eq!(position(&progress), []);
        // Made again, and back: another record has that offset now.
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
        /// The ticket at this place of all that were given, modulo.
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

    /// A record of the model: its partition, its offset, and whether it is done. A revoked one is
    /// taken out.
    type Model = Vec<(usize, u32, u64, bool)>;

    proptest! {
        #[test]
        fn it_agrees_with_a_list_that_is_searched(steps in proptest::collection::vec(step(), 0..80)) {
            let mut progress = CommitTracker::default();
            let (mut model, mut tickets, mut ends) = (Model::new(), Vec::new(), [0_u64; 3]);
            for step in steps {
                match step {
                    Step::Begin { partition, gap } => {
                        let offset = ends[partition as usize] + gap;
                        ends[partition as usize] = offset + 1;
                        model.push((tickets.len(), partition, offset, false));
                        tickets.push(progress.begin(partition, offset));
                    }
                    Step::Done(place) if !tickets.is_empty() => {
                        let place = place % tickets.len();
                        progress.done(tickets[place]);
                        model.iter_mut().filter(|(ticket, ..)| *ticket == place).for_each(|(.., done)| *done = true);
                    }
                    Step::Done(_) => {}
                    Step::Forget(partition) => {
                        progress.forget(&[partition]);
                        model.retain(|(_, of, ..)| *of != partition);
                        // Made again: it counts from 0.
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
