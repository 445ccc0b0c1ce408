//! The state of a group member, shared by its reading thread and its subscription.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{info, warn};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;

use super::commit_in_flight::CommitInFlight;
use super::inbox::{Inbox, Limits};
use super::topic_identity::TopicIdentity;
use crate::bus::health::SubscriptionHealth;
use crate::telemetry::log_limit::FaultLog;

/// The maximum that waits in the inbox.
const LIMITS: Limits = Limits {
    records: 10_000,
    bytes: 32 * 1024 * 1024,
};
/// How long to wait for inbox space before pausing partitions. Pausing discards the messages
/// librdkafka has prefetched, so pausing early stalls a backlog for longer than processing the
/// inbox takes.
const SPACE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a revoked partition waits for the work on its delivered records, and for the receiver of
/// the revocation if its records are lost.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of a group member.
pub(super) struct MemberState {
    pub(super) topic: String,
    pub(super) group: String,
    /// What was published this long before the group's position is read again.
    pub(super) replay: Option<Duration>,
    /// Whether records may wait for others, so that the broker answers fewer requests.
    pub(super) is_bulk: bool,
    pub(super) health: SubscriptionHealth,
    inbox: Mutex<Inbox>,
    /// Notified when an event was put into the inbox.
    pub(super) filled: Notify,
    /// Notified when records were delivered or committed, or a revocation was handled.
    moved: Condvar,
    closing: AtomicBool,
    pub(super) log: FaultLog,
    pub(super) identity: TopicIdentity,
    pub(super) commit_in_flight: CommitInFlight,
}

impl MemberState {
    pub(super) fn new(topic: &str, group: &str, replay: Option<Duration>) -> MemberState {
        MemberState {
            topic: topic.to_owned(),
            group: group.to_owned(),
            replay,
            is_bulk: false,
            health: SubscriptionHealth::joining(group),
            inbox: Mutex::new(Inbox::new(LIMITS)),
            filled: Notify::new(),
            moved: Condvar::new(),
            closing: AtomicBool::new(false),
            log: FaultLog::new(),
            identity: TopicIdentity::default(),
            commit_in_flight: CommitInFlight::default(),
        }
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock()
    }

    /// Wakes the thread if it waits for space or for work to finish.
    pub(super) fn notify_moved(&self) {
        self.moved.notify_all();
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.moved.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The group assigned a share, or a record arrived.
    pub(super) fn mark_reading(&self) {
        if self.health.join() && self.log.recovered() {
            info!(group = self.group.as_str(); "kafka consumer recovered, reading again");
        }
    }

    /// Waits up to [`SPACE_TIMEOUT`] for inbox space. Returns whether there is any.
    pub(super) fn wait_for_room(&self) -> bool {
        let mut inbox = self.inbox();
        self.moved.wait_while_for(
            &mut inbox,
            |inbox| inbox.is_full() && !self.is_closing(),
            SPACE_TIMEOUT,
        );
        !inbox.is_full()
    }

    /// Waits up to [`REVOKE_TIMEOUT`] for the work on the delivered records of these partitions.
    pub(super) fn wait_for_work(&self, partitions: &[u32]) {
        let deadline = Instant::now() + REVOKE_TIMEOUT;
        let mut inbox = self.inbox();
        while !inbox.is_done(partitions) && !self.is_closing() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let group = self.group.as_str();
                warn!(group, partitions:? = partitions; "partitions revoked before their work is done; the next owner repeats it");
                return;
            }
            self.moved.wait_for(&mut inbox, left);
        }
    }

    /// Waits up to [`REVOKE_TIMEOUT`] until the receiver has handled the revocations.
    pub(super) fn wait_for_revocations(&self) {
        let mut inbox = self.inbox();
        let waited = self.moved.wait_while_for(
            &mut inbox,
            |inbox| !inbox.has_handled_revocations() && !self.is_closing(),
            REVOKE_TIMEOUT,
        );
        if waited.timed_out() {
            warn!(group = self.group.as_str(); "partitions released before the work on their last records is done");
        }
    }

    /// Partitions of the topic with offsets, as librdkafka expects them.
    pub(super) fn list(
        &self,
        offsets: impl IntoIterator<Item = (u32, Offset)>,
    ) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            // Fails only for special offsets without a number; none is used here.
            let _ = list.add_partition_offset(&self.topic, partition as i32, offset);
        }
        list
    }

    /// The same offset for each partition.
    pub(super) fn list_at<'a>(
        &self,
        partitions: impl IntoIterator<Item = &'a u32>,
        offset: Offset,
    ) -> TopicPartitionList {
        let offsets = partitions.into_iter().map(|partition| (*partition, offset));
        self.list(offsets)
    }
}
