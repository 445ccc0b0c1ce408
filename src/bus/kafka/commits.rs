//! Commits the positions of completed work.

use std::time::Instant;

use log::{debug, info};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::member_state::MemberState;
use super::reader_events::ReaderEvents;

impl MemberState {
    /// The offsets to commit of the selected partitions.
    fn due(&self, is_selected: impl Fn(u32) -> bool) -> Option<TopicPartitionList> {
        if self.identity.are_records_lost() {
            return None;
        }
        let due = self.inbox().to_commit(is_selected);
        let offsets = due
            .into_iter()
            .map(|(partition, offset)| (partition, Offset::Offset(offset as i64)));
        let list = self.list(offsets);
        (list.count() > 0).then_some(list)
    }

    /// Records the reader's positions. Must be called on the reading thread between polls, when
    /// every record it has passed is in the inbox. Not while the consumer closes: it keeps polling
    /// until it is closed, and the records of those polls are dropped.
    pub(super) fn record_positions(&self, consumer: &BaseConsumer<ReaderEvents>) {
        if self.identity.is_recreated() || self.is_closing() {
            return;
        }
        let Ok(positions) = consumer.position() else {
            return;
        };
        let mut inbox = self.inbox();
        for element in positions.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset())
                && let (Ok(partition), Ok(offset)) =
                    (u32::try_from(element.partition()), u64::try_from(offset))
            {
                inbox.passed(partition, offset);
            }
        }
    }

    /// Records that Kafka has stored these offsets.
    pub(super) fn record_commit(&self, list: &TopicPartitionList) {
        let mut inbox = self.inbox();
        for element in list.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                inbox.committed(element.partition() as u32, offset.max(0) as u64);
            }
        }
    }

    /// Commits completed work without waiting for the answer, unless a commit is in flight.
    pub(super) fn commit(&self, consumer: &BaseConsumer<ReaderEvents>, now: Instant) {
        if self.commit_in_flight.is_waiting(now) {
            return;
        }
        let Some(list) = self.due(|_| true) else {
            return;
        };
        self.commit_in_flight.begin(now);
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            self.commit_in_flight.end();
            debug!(group = self.group.as_str(); "commit failed: {error}");
        }
    }

    /// Commits completed work of these partitions and waits for the answer, if Kafka can be
    /// reached.
    pub(super) fn commit_now(&self, consumer: &BaseConsumer<ReaderEvents>, partitions: &[u32]) {
        self.record_positions(consumer);
        let Some(list) = self.due(|partition| partitions.contains(&partition)) else {
            return;
        };
        let group = self.group.as_str();
        if !consumer.context().can_reach_topic() {
            info!(group; "final positions not committed, kafka is unavailable; some records will be read again");
            return;
        }
        match consumer.commit(&list, CommitMode::Sync) {
            Ok(()) => self.record_commit(&list),
            Err(error) => {
                info!(group; "final positions not committed, some records will be read again: {error}")
            }
        }
    }
}
