//! Records of markets whose published state could not be loaded yet.

use std::collections::{BTreeMap, VecDeque};

use super::market::SourceUpdate;
use crate::domain::ids::EventId;

/// The records that wait, in the order of each event.
#[derive(Debug, Default)]
pub(super) struct HeldRecords {
    events: BTreeMap<EventId, VecDeque<SourceUpdate>>,
    count: usize,
}

impl HeldRecords {
    /// Adds a record.
    pub(super) fn push(&mut self, record: SourceUpdate) {
        let event = record.update.event_id.clone();
        self.events.entry(event).or_default().push_back(record);
        self.count += 1;
    }

    /// Removes and returns the records of an event.
    pub(super) fn take(&mut self, event: &EventId) -> VecDeque<SourceUpdate> {
        let records = self.events.remove(event).unwrap_or_default();
        self.count -= records.len();
        records
    }

    /// Drops the records of these partitions, which another process reads now.
    pub(super) fn forget(&mut self, partitions: &[u32]) {
        for records in self.events.values_mut() {
            records.retain(|record| !partitions.contains(&record.partition));
        }
        self.events.retain(|_, records| !records.is_empty());
        self.count = self.events.values().map(VecDeque::len).sum();
    }

    /// The events with records that wait, with the partition of each.
    pub(super) fn events(&self) -> impl Iterator<Item = (&EventId, u32)> {
        self.events.iter().filter_map(|(event, records)| {
            let first = records.front()?;
            Some((event, first.partition))
        })
    }

    /// The number of records.
    pub(super) fn len(&self) -> usize {
        self.count
    }
}
