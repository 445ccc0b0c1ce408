//! The in-process bus: bounded, in memory, with the guarantees of a Kafka topic except that its
//! records end with the process.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::commit_wait::CommitWait;
use super::health::SubscriptionHealth;
use super::{BusError, ConsumerEvent, NewRecord, Position, Record, Subscription, Topic};

/// The maximum bytes in a topic, whatever its capacity in records.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// Interval between two looks at what a group has committed.
const COMMIT_POLL: Duration = Duration::from_millis(20);

/// A topic in memory. A record is kept until every group has committed it.
#[derive(Clone)]
pub(crate) struct EmbeddedTopic {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    capacity: usize,
    state: Mutex<State>,
    published: Notify,
    freed: Notify,
}

struct State {
    partitions: Vec<Partition>,
    groups: HashMap<String, Group>,
    records: usize,
    bytes: usize,
}

struct Partition {
    base: u64,
    records: VecDeque<NewRecord>,
}

struct Group {
    delivered: Vec<u64>,
    committed: Vec<u64>,
}

impl Partition {
    fn end(&self) -> u64 {
        self.base + self.records.len() as u64
    }
}

impl EmbeddedTopic {
    /// Creates a topic with `partitions` partitions that holds at most `capacity` records.
    pub(crate) fn new(name: &str, partitions: u32, capacity: usize) -> EmbeddedTopic {
        EmbeddedTopic::starting_at(name, 0, partitions, capacity)
    }

    /// Creates a topic whose offsets start at `first`, as if that many records had been there
    /// before.
    pub(crate) fn starting_at(
        name: &str,
        first: u64,
        partitions: u32,
        capacity: usize,
    ) -> EmbeddedTopic {
        let partition = |_| Partition {
            base: first,
            records: VecDeque::new(),
        };
        let partitions = (0..partitions.max(1)).map(partition).collect();
        let state = State {
            partitions,
            groups: HashMap::new(),
            records: 0,
            bytes: 0,
        };
        EmbeddedTopic {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                capacity: capacity.max(1),
                state: Mutex::new(state),
                published: Notify::new(),
                freed: Notify::new(),
            }),
        }
    }
}

#[cfg(test)]
impl EmbeddedTopic {
    /// Records that have not been delivered to a group.
    pub(crate) fn unread(&self, group: &str) -> u64 {
        self.shared.records_after(group, |group| &group.delivered)
    }
}

impl Shared {
    /// Records after the offsets that `read` returns for a group.
    fn records_after(&self, group: &str, read: impl Fn(&Group) -> &[u64]) -> u64 {
        let state = self.state();
        let ends = state.partitions.iter().map(Partition::end);
        let read = state
            .groups
            .get(group)
            .map(|group| read(group).to_vec())
            .unwrap_or_default();
        ends.zip(read).map(|(end, read)| end - read).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// The end of each partition.
    fn ends(&self) -> BTreeMap<u32, u64> {
        (0..)
            .zip(self.partitions.iter().map(Partition::end))
            .collect()
    }

    /// What the group has committed of each partition. A group without members so far starts at the
    /// first record: of a partition that is empty, or whose records the other groups have committed,
    /// it has nothing to commit.
    fn committed(&self, group: &str) -> BTreeMap<u32, u64> {
        match self.groups.get(group) {
            Some(group) => (0..).zip(group.committed.iter().copied()).collect(),
            None => (0..)
                .zip(self.partitions.iter().map(|it| it.base))
                .collect(),
        }
    }

    fn is_full(&self, capacity: usize) -> bool {
        self.records >= capacity || self.bytes >= MAX_BYTES
    }

    fn push(&mut self, record: NewRecord) {
        let mut hasher = DefaultHasher::new();
        record.key.hash(&mut hasher);
        let index = (hasher.finish() % self.partitions.len() as u64) as usize;
        self.records += 1;
        self.bytes += record.size();
        self.partitions[index].records.push_back(record);
    }

    /// Drops records that every group has committed. Returns whether any were dropped.
    fn trim(&mut self) -> bool {
        let mut trimmed = false;
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let Some(done) = self
                .groups
                .values()
                .map(|group| group.committed[index])
                .min()
            else {
                return false;
            };
            while partition.base < done {
                let Some(record) = partition.records.pop_front() else {
                    break;
                };
                partition.base += 1;
                self.records -= 1;
                self.bytes -= record.size();
                trimmed = true;
            }
        }
        trimmed
    }

    fn take(&mut self, group: &str, first_partition: usize, room: usize, batch: &mut Vec<Record>) {
        let Some(group) = self.groups.get_mut(group) else {
            return;
        };
        let count = self.partitions.len();
        for step in 0..count {
            let index = (first_partition + step) % count;
            let partition = &self.partitions[index];
            let from = (group.delivered[index] - partition.base) as usize;
            let wanted = room.saturating_sub(batch.len());
            for record in partition.records.iter().skip(from).take(wanted) {
                // No publish time: in one process a record does not wait long enough for its age to
                // matter.
                batch.push(Record {
                    partition: index as u32,
                    offset: group.delivered[index],
                    published_at: None,
                    record: record.clone(),
                });
                group.delivered[index] += 1;
            }
        }
    }
}

impl Topic for EmbeddedTopic {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn publish(&self, records: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        let shared = self.shared.clone();
        async move {
            let mut records = records.into_iter().peekable();
            while records.peek().is_some() {
                // Created before the state is checked, so that a wake-up in between is not lost.
                let freed = shared.freed.notified();
                let mut pushed = false;
                {
                    let mut state = shared.state();
                    while !state.is_full(shared.capacity) {
                        let Some(record) = records.next() else { break };
                        state.push(record);
                        pushed = true;
                    }
                }
                if pushed {
                    shared.published.notify_waiters();
                }
                if records.peek().is_some() {
                    freed.await;
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn subscribe(&self, group: &str) -> Result<Box<dyn Subscription>, BusError> {
        let mut state = self.shared.state();
        let start: Vec<u64> = state
            .partitions
            .iter()
            .map(|partition| partition.base)
            .collect();
        let group_state = state
            .groups
            .entry(group.to_owned())
            .or_insert_with(|| Group {
                delivered: start.clone(),
                committed: start,
            });
        // Records delivered to an earlier reader and not committed are delivered again.
        group_state.delivered.clone_from(&group_state.committed);
        drop(state);
        Ok(Box::new(EmbeddedSubscription {
            shared: self.shared.clone(),
            group: group.to_owned(),
            first_partition: 0,
        }))
    }

    fn committed_by(
        &self,
        group: &str,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BusError>> {
        let shared = self.shared.clone();
        let group = group.to_owned();
        async move {
            let ends = shared.state().ends();
            let mut wait = CommitWait::new(&shared.name, &group, ends, patience, Instant::now());
            loop {
                let committed = shared.state().committed(&group);
                if wait.observe(committed, Instant::now())? {
                    return Ok(());
                }
                tokio::time::sleep(COMMIT_POLL).await;
            }
        }
        .boxed()
    }

    fn depth(&self) -> usize {
        self.shared.state().records
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// A topic without readers in this process. Published records are discarded; on a real bus other
/// programs read them.
pub(crate) struct UnreadTopic {
    name: String,
}

impl UnreadTopic {
    /// Creates a topic with this name.
    pub(crate) fn new(name: &str) -> UnreadTopic {
        UnreadTopic {
            name: name.to_owned(),
        }
    }
}

impl Topic for UnreadTopic {
    fn name(&self) -> &str {
        &self.name
    }

    fn publish(&self, _: Vec<NewRecord>) -> BoxFuture<'static, Result<(), BusError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn subscribe(&self, _: &str) -> Result<Box<dyn Subscription>, BusError> {
        Err(BusError::Refused(format!(
            "the topic {} stores no records and cannot be read",
            self.name
        )))
    }

    fn committed_by(&self, _: &str, _: Duration) -> BoxFuture<'static, Result<(), BusError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn depth(&self) -> usize {
        0
    }

    fn ping(&self) -> BoxFuture<'static, Result<(), BusError>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// The only reader of a group. All readers are in this process, so members need not share
/// partitions.
struct EmbeddedSubscription {
    shared: Arc<Shared>,
    group: String,
    first_partition: usize,
}

impl EmbeddedSubscription {
    fn take(&mut self, max: usize, batch: &mut Vec<Record>) {
        // A busy partition must not starve the others: each batch starts at the next partition.
        self.first_partition = self.first_partition.wrapping_add(1);
        self.shared
            .state()
            .take(&self.group, self.first_partition, max, batch);
    }

    fn undelivered(&self) -> u64 {
        self.shared
            .records_after(&self.group, |group| &group.delivered)
    }
}

impl Subscription for EmbeddedSubscription {
    fn next_batch(
        &mut self,
        max: usize,
        linger: Duration,
    ) -> BoxFuture<'_, Result<ConsumerEvent, BusError>> {
        async move {
            let shared = self.shared.clone();
            loop {
                let published = shared.published.notified();
                if self.undelivered() > 0 {
                    break;
                }
                published.await;
            }
            // Nothing is taken before the last await, so dropping the future loses nothing.
            if !linger.is_zero() && self.undelivered() < max as u64 {
                tokio::time::sleep(linger).await;
            }
            let mut batch = Vec::new();
            self.take(max, &mut batch);
            Ok(ConsumerEvent::Records(batch))
        }
        .boxed()
    }

    fn commit(&mut self, done: &Position) {
        let mut state = self.shared.state();
        if let Some(group) = state.groups.get_mut(&self.group) {
            for (partition, next) in done.iter() {
                let index = partition as usize;
                if let (Some(committed), Some(delivered)) =
                    (group.committed.get_mut(index), group.delivered.get(index))
                {
                    *committed = next.clamp(*committed, *delivered);
                }
            }
        }
        let trimmed = state.trim();
        drop(state);
        if trimmed {
            self.shared.freed.notify_waiters();
        }
    }

    fn lag(&self) -> u64 {
        self.shared
            .records_after(&self.group, |group| &group.committed)
    }

    fn health(&self) -> SubscriptionHealth {
        SubscriptionHealth::joined(&self.group)
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

#[cfg(test)]
mod tests;
