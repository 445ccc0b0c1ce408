//! The callbacks of a consumer: rebalances, statistics, commits and errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::{debug, warn};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};

use super::events::{self, BrokerVisibility, LastError};
use super::member_state::MemberState;
use super::topic_identity::covers_all;
use super::topics::TopicState;
use crate::domain::timestamp::Timestamp;

/// Timeout for each request that finds the start of a replay. The member reads nothing meanwhile.
const REWIND_TIMEOUT: Duration = Duration::from_secs(2);

/// The consumer context. All callbacks run on the reading thread, within a poll.
pub(super) struct ReaderEvents {
    member: Arc<MemberState>,
    topic: Arc<TopicState>,
    last_error: Arc<LastError>,
    brokers: BrokerVisibility,
    /// The consumer was discarded and another one reads now.
    is_discarded: AtomicBool,
}

impl ReaderEvents {
    pub(super) fn new(
        member: Arc<MemberState>,
        topic: Arc<TopicState>,
        last_error: Arc<LastError>,
    ) -> ReaderEvents {
        ReaderEvents {
            member,
            topic,
            last_error,
            brokers: BrokerVisibility::default(),
            is_discarded: AtomicBool::new(false),
        }
    }

    /// Whether the client cannot recover without being recreated.
    pub(super) fn has_lost_brokers(&self) -> bool {
        self.brokers.has_lost_brokers()
    }

    /// Whether Kafka answered and had the topic at the last probe.
    pub(super) fn can_reach_topic(&self) -> bool {
        self.topic.exists()
    }

    /// Ignores further events: another consumer reads now.
    pub(super) fn discard(&self) {
        self.is_discarded.store(true, Ordering::Relaxed);
    }

    fn is_discarded(&self) -> bool {
        self.is_discarded.load(Ordering::Relaxed)
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        let member = &self.member;
        let partitions = partitions_of(list);
        member.identity.set_missing(false);
        let is_recreated = member.identity.is_recreated();
        if is_recreated {
            self.assign_from_beginning(&partitions, list);
        }
        member.inbox().assign(&partitions);
        if let Some(window) = member
            .replay
            .filter(|_| !is_recreated && !partitions.is_empty())
            && let Err(error) = self.rewind(consumer, window, list)
        {
            warn!(group = member.group.as_str(); "cannot read recent records again: {error}");
        }
        debug!(group = member.group.as_str(), partitions:?; "partitions assigned");
        if let Err(error) = consumer.incremental_assign(list) {
            warn!(group = member.group.as_str(); "cannot take over partitions: {error}");
        }
        member.mark_reading();
    }

    /// Starts reading with what was published in the last `window` before the group's position.
    fn rewind(
        &self,
        consumer: &BaseConsumer<Self>,
        window: Duration,
        list: &mut TopicPartitionList,
    ) -> KafkaResult<()> {
        let member = &self.member;
        let committed = consumer.committed_offsets(list.clone(), REWIND_TIMEOUT)?;
        let since = Timestamp::now().earlier_by(window).micros() / 1_000;
        let since = member.list_at(&partitions_of(list), Offset::Offset(since));
        let starts = consumer.offsets_for_times(since, REWIND_TIMEOUT)?;
        for element in committed.elements() {
            let partition = element.partition();
            let start = starts.find_partition(&member.topic, partition);
            if let Offset::Offset(position) = element.offset()
                && let Some(Offset::Offset(start)) = start.map(|start| start.offset())
                && start < position
            {
                list.set_partition_offset(&member.topic, partition, Offset::Offset(start))?;
                let mut inbox = member.inbox();
                inbox.replay_until(partition as u32, position.unsigned_abs());
            }
        }
        Ok(())
    }

    fn assign_from_beginning(&self, partitions: &[u32], list: &mut TopicPartitionList) {
        let member = &self.member;
        if list.set_all_offsets(Offset::Beginning).is_err() {
            warn!(group = member.group.as_str(); "cannot seek to the beginning of the recreated topic");
        }
        // Partitions that were already assigned are not in the list; the next check resets them.
        let is_complete = covers_all(&member.inbox().assigned(), partitions);
        member.identity.set_recreated(!is_complete);
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let member = &self.member;
        let partitions = partitions_of(list);
        debug!(group = member.group.as_str(), partitions:?; "partitions revoked");
        if member.identity.are_records_lost() {
            self.revoke_lost(partitions);
        } else {
            self.revoke_moved(consumer, partitions);
        }
        if let Err(error) = consumer.incremental_unassign(list) {
            warn!(group = member.group.as_str(); "cannot release partitions: {error}");
        }
    }

    /// Revokes partitions of a topic that is missing or was created again. Waits for the receiver:
    /// what it knows of these records has to be stored before another member begins.
    fn revoke_lost(&self, partitions: Vec<u32>) {
        let member = &self.member;
        member
            .health
            .fail("the topic is missing or was created again, rejoining".to_owned());
        member.inbox().revoke(partitions, true);
        member.filled.notify_one();
        member.wait_for_revocations();
    }

    /// Revokes partitions that another member reads next. Waits for the work on what was delivered.
    fn revoke_moved(&self, consumer: &BaseConsumer<Self>, partitions: Vec<u32>) {
        let member = &self.member;
        // Of a topic that was created again a moment ago.
        member.wait_for_revocations();
        member.inbox().drop_unread(&partitions);
        if consumer.assignment_lost() || self.has_lost_brokers() {
            // Nothing is read until the group accepts the member again. That may take a session
            // timeout after Kafka is back: a group that Kafka must first load from disk waits for
            // the previous incarnation of this member.
            member
                .health
                .fail("the session expired, rejoining".to_owned());
        } else {
            member.wait_for_work(&partitions);
            member.commit_now(consumer, &partitions);
        }
        member.inbox().revoke(partitions, false);
        member.filled.notify_one();
    }

    /// Updates the offsets of each partition. Returns whether the statistics include the topic.
    fn observe_offsets(&self, statistics: &Statistics) -> bool {
        let Some(topic) = statistics.topics.get(&self.member.topic) else {
            return false;
        };
        let known = |offset: i64| u64::try_from(offset).ok();
        let mut inbox = self.member.inbox();
        for (partition, found) in &topic.partitions {
            let Ok(partition) = u32::try_from(*partition) else {
                continue;
            };
            let low = known(found.lo_offset);
            let end = known(found.ls_offset);
            let on_bus = known(found.committed_offset);
            inbox.observe(partition, low, end, on_bus);
            if let Some(on_bus) = on_bus {
                inbox.committed(partition, on_bus);
            }
        }
        true
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<u32> {
    list.elements()
        .iter()
        .map(|element| element.partition() as u32)
        .collect()
}

impl ClientContext for ReaderEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.last_error.log_line(level, facility, line);
        let member = &self.member;
        let Some(id) = events::new_id(&member.topic, line) else {
            return;
        };
        if member.identity.observe_id(id) {
            warn!(topic = member.topic.as_str(), group = member.group.as_str(); "topic recreated, reading it from the beginning");
        }
    }

    fn stats(&self, statistics: Statistics) {
        if self.is_discarded() {
            return;
        }
        self.brokers.observe(&statistics);
        if self.observe_offsets(&statistics) {
            // librdkafka does not report the end of an asynchronous commit to clients that use
            // events instead of callbacks, as rdkafka does. The statistics are the only sign. A
            // commit that is still in flight is repeated, which is harmless.
            self.member.commit_in_flight.end();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.last_error.record(&error, reason);
    }
}

impl ConsumerContext for ReaderEvents {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            // The current consumer does not own the partitions of the discarded one.
            _ if self.is_discarded() => drop(consumer.incremental_unassign(list)),
            _ => self.revoke(consumer, list),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if self.is_discarded() {
            return;
        }
        self.member.commit_in_flight.end();
        match result {
            Ok(()) => self.member.record_commit(offsets),
            // The next commit includes these positions.
            Err(error) => {
                debug!(group = self.member.group.as_str(); "commit failed: {error}")
            }
        }
    }
}
