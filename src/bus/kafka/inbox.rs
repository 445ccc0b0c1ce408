//! Records that were read and not yet delivered, and the offsets of each partition. Pure:
//! independent of Kafka.

use std::collections::{BTreeMap, VecDeque};

use crate::bus::{ConsumerEvent, Position, Record};

/// The maximum that waits for delivery; above it the partitions are paused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

enum Item {
    Record {
        record: Record,
        /// It was committed earlier, and is read again.
        is_replayed: bool,
        /// It is lost on the bus: there is nothing to commit.
        is_lost: bool,
    },
    Revoked {
        partitions: Vec<u32>,
        are_records_lost: bool,
    },
}

impl Item {
    /// Whether a record is replayed; `None` for a revocation.
    fn is_replayed(&self) -> Option<bool> {
        match self {
            Item::Record { is_replayed, .. } => Some(*is_replayed),
            Item::Revoked { .. } => None,
        }
    }
}

/// The offsets of a partition.
#[derive(Clone, Copy, Debug, Default)]
struct PartitionOffsets {
    /// Records before this offset are replayed.
    replay_end: Option<u64>,
    /// The first offset read.
    first: Option<u64>,
    /// The offset after the last record read.
    read: Option<u64>,
    /// The reader's position on the bus: beyond `read` if only transaction markers or records of
    /// aborted transactions follow it.
    passed: Option<u64>,
    /// The partition was reset to the beginning and nothing was read since: the reader's position
    /// may still be the old one.
    is_reset: bool,
    /// The offset after the last record delivered.
    delivered: Option<u64>,
    /// The offset before which all work is done.
    done: Option<u64>,
    /// The offset committed on the bus.
    on_bus: Option<u64>,
    /// The first available offset, and the end of the partition.
    low: Option<u64>,
    end: Option<u64>,
}

impl PartitionOffsets {
    fn lag(&self) -> u64 {
        let end = self.end.max(self.read).max(self.passed).unwrap_or(0);
        let from = self
            .all_done()
            .max(self.on_bus)
            .or(self.first)
            .max(self.low)
            .unwrap_or(0);
        end.saturating_sub(from)
    }

    /// The offset before which no work is left. If every record is done, that is the reader's
    /// position.
    fn all_done(&self) -> Option<u64> {
        if self.done >= self.read {
            self.done.max(self.passed)
        } else {
            self.done
        }
    }
}

/// The queue of a subscription.
pub(super) struct Inbox {
    limits: Limits,
    items: VecDeque<Item>,
    records: usize,
    bytes: usize,
    assigned: BTreeMap<u32, PartitionOffsets>,
    /// A revocation was delivered and is not handled yet.
    is_revocation_unhandled: bool,
}

impl Inbox {
    pub(super) fn new(limits: Limits) -> Inbox {
        Inbox {
            limits,
            items: VecDeque::new(),
            records: 0,
            bytes: 0,
            assigned: BTreeMap::new(),
            is_revocation_unhandled: false,
        }
    }

    pub(super) fn assign(&mut self, partitions: &[u32]) {
        self.assigned.extend(
            partitions
                .iter()
                .map(|partition| (*partition, PartitionOffsets::default())),
        );
    }

    /// The reader starts before the group's position in this partition.
    pub(super) fn replay_until(&mut self, partition: u32, position: u64) {
        if let Some(offsets) = self.assigned.get_mut(&partition) {
            offsets.replay_end = Some(position);
            offsets.on_bus = Some(position);
        }
    }

    /// Adds a record. A record of a partition that is not assigned is dropped.
    pub(super) fn push(&mut self, record: Record) {
        let Some(known) = self.assigned.get(&record.partition) else {
            return;
        };
        if known.read.is_some_and(|read| record.offset < read) {
            self.restart_partition(record.partition);
        }
        let offsets = self.assigned.entry(record.partition).or_default();
        offsets.first.get_or_insert(record.offset);
        offsets.read = Some(record.offset + 1);
        offsets.is_reset = false;
        let is_replayed = offsets.replay_end > Some(record.offset);
        self.records += 1;
        self.bytes += record.record.size();
        self.items.push_back(Item::Record {
            record,
            is_replayed,
            is_lost: false,
        });
    }

    pub(super) fn is_full(&self) -> bool {
        self.records >= self.limits.records || self.bytes >= self.limits.bytes
    }

    /// Whether the queue is at most half full, so that paused partitions can resume.
    pub(super) fn has_room(&self) -> bool {
        self.records <= self.limits.records / 2 && self.bytes <= self.limits.bytes / 2
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many records wait, up to `max`, before the next revocation. Either all of them are
    /// replayed, or none.
    pub(super) fn ready(&self, max: usize) -> usize {
        let kind = self.items.front().and_then(Item::is_replayed);
        self.items
            .iter()
            .take(max)
            .take_while(|item| kind.is_some() && item.is_replayed() == kind)
            .count()
    }

    /// Removes and returns the next records up to a revocation, or the revocation itself.
    pub(super) fn take(&mut self, max: usize) -> Option<ConsumerEvent> {
        if let Some(Item::Revoked { .. }) = self.items.front() {
            let Some(Item::Revoked {
                partitions,
                are_records_lost,
            }) = self.items.pop_front()
            else {
                return None;
            };
            self.is_revocation_unhandled = true;
            return Some(ConsumerEvent::Revoked {
                partitions,
                are_records_lost,
            });
        }
        let are_replayed = self.items.front().and_then(Item::is_replayed)?;
        let count = self.ready(max.max(1));
        let mut batch = Vec::with_capacity(count);
        for item in self.items.drain(..count) {
            let Item::Record {
                record, is_lost, ..
            } = item
            else {
                continue;
            };
            self.records -= 1;
            self.bytes -= record.record.size();
            if !are_replayed
                && !is_lost
                && let Some(offsets) = self.assigned.get_mut(&record.partition)
            {
                offsets.delivered = Some(record.offset + 1);
            }
            batch.push(record);
        }
        Some(if are_replayed {
            ConsumerEvent::Replayed(batch)
        } else {
            ConsumerEvent::Records(batch)
        })
    }

    /// Records completed work. Ignores partitions that are not assigned, and offsets delivered
    /// before a partition was reassigned or restarted.
    pub(super) fn commit(&mut self, done: &Position) {
        for (partition, next) in done.iter() {
            if let Some(offsets) = self.assigned.get_mut(&partition)
                && offsets.delivered.is_some_and(|delivered| next <= delivered)
            {
                offsets.done = offsets.done.max(Some(next));
            }
        }
    }

    /// Completed offsets that are not committed on the bus yet.
    pub(super) fn to_commit(&self, of: impl Fn(u32) -> bool) -> Vec<(u32, u64)> {
        let due = |(partition, offsets): (&u32, &PartitionOffsets)| {
            // Before the first record the reader's position may be from its previous assignment.
            let done = offsets.read.and_then(|_| offsets.all_done())?;
            (of(*partition) && offsets.on_bus.is_none_or(|on_bus| on_bus < done))
                .then_some((*partition, done))
        };
        self.assigned.iter().filter_map(due).collect()
    }

    /// Records that the bus has stored a commit.
    pub(super) fn committed(&mut self, partition: u32, offset: u64) {
        if let Some(offsets) = self.assigned.get_mut(&partition) {
            // A commit beyond the completed work was made before the partition was restarted.
            if offsets.all_done().is_some_and(|done| offset <= done) {
                offsets.on_bus = offsets.on_bus.max(Some(offset));
            }
        }
    }

    /// Records the reader's position. Every earlier record is already in the inbox.
    pub(super) fn passed(&mut self, partition: u32, position: u64) {
        if let Some(offsets) = self.assigned.get_mut(&partition)
            && !offsets.is_reset
            && offsets.read.is_none_or(|read| read <= position)
        {
            offsets.passed = offsets.passed.max(Some(position));
        }
    }

    /// Records the available offsets of a partition, and the group's position on the bus, as
    /// reported by librdkafka's statistics.
    pub(super) fn observe(
        &mut self,
        partition: u32,
        low: Option<u64>,
        end: Option<u64>,
        on_bus: Option<u64>,
    ) {
        if let Some(offsets) = self.assigned.get_mut(&partition) {
            offsets.low = low;
            offsets.end = end;
            if offsets.done.is_none() && offsets.first.is_none() {
                offsets.on_bus = on_bus;
            }
        }
    }

    /// Whether everything delivered from these partitions is done.
    pub(super) fn is_done(&self, partitions: &[u32]) -> bool {
        partitions
            .iter()
            .filter_map(|partition| self.assigned.get(partition))
            .all(|offsets| offsets.done >= offsets.delivered)
    }

    /// Restarts a partition at an earlier offset, because it was recreated or lost its end.
    fn restart_partition(&mut self, partition: u32) {
        self.mark_lost(&[partition]);
        self.items.push_back(Item::Revoked {
            partitions: vec![partition],
            are_records_lost: true,
        });
        self.assigned.insert(
            partition,
            PartitionOffsets {
                is_reset: true,
                ..PartitionOffsets::default()
            },
        );
    }

    /// Drops undelivered records of these partitions, except those that are lost on the bus.
    pub(super) fn drop_unread(&mut self, partitions: &[u32]) {
        let mut records = self.records;
        let mut bytes = self.bytes;
        self.items.retain(|item| match item {
            Item::Record {
                record,
                is_lost: false,
                ..
            } if partitions.contains(&record.partition) => {
                records -= 1;
                bytes -= record.record.size();
                false
            }
            _ => true,
        });
        self.records = records;
        self.bytes = bytes;
    }

    /// Removes partitions that belong to another member now. It reads their undelivered records
    /// again, unless they are lost on the bus.
    pub(super) fn revoke(&mut self, partitions: Vec<u32>, are_records_lost: bool) {
        if are_records_lost {
            self.mark_lost(&partitions);
        } else {
            self.drop_unread(&partitions);
        }
        for partition in &partitions {
            self.assigned.remove(partition);
        }
        if !partitions.is_empty() {
            self.items.push_back(Item::Revoked {
                partitions,
                are_records_lost,
            });
        }
    }

    fn mark_lost(&mut self, partitions: &[u32]) {
        for item in &mut self.items {
            if let Item::Record {
                record, is_lost, ..
            } = item
                && partitions.contains(&record.partition)
            {
                *is_lost = true;
            }
        }
    }

    /// The receiver of the last event has handled it.
    pub(super) fn mark_handled(&mut self) {
        self.is_revocation_unhandled = false;
    }

    /// Whether the receiver has handled every revocation.
    pub(super) fn has_handled_revocations(&self) -> bool {
        let is_queued = |item: &Item| matches!(item, Item::Revoked { .. });
        !self.is_revocation_unhandled && !self.items.iter().any(is_queued)
    }

    /// Restarts all partitions of a topic that was created again. The revocation makes the consumer
    /// discard its state, as if the partitions had moved.
    pub(super) fn restart(&mut self) {
        let partitions = self.assigned();
        self.revoke(partitions.clone(), true);
        self.assign(&partitions);
        self.assigned
            .values_mut()
            .for_each(|offsets| offsets.is_reset = true);
    }

    pub(super) fn assigned(&self) -> Vec<u32> {
        self.assigned.keys().copied().collect()
    }

    pub(super) fn lag(&self) -> u64 {
        self.assigned.values().map(PartitionOffsets::lag).sum()
    }
}

#[cfg(test)]
mod tests;
