//! Follows the commits of a group until it has committed what its topic held, without I/O. Time is
//! an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::BusError;

/// What a group has not committed yet of the records that its topic held at the start.
#[derive(Debug)]
pub(super) struct CommitWait {
    topic: String,
    group: String,
    /// How long the group may commit nothing.
    patience: Duration,
    /// The end of each partition that the group has not committed.
    behind: BTreeMap<u32, u64>,
    /// What the group had committed of these partitions when it was last observed.
    committed: BTreeMap<u32, u64>,
    advanced_at: Instant,
}

impl CommitWait {
    /// Waits until `group` has committed every partition of `topic` up to these offsets.
    pub(super) fn new(
        topic: &str,
        group: &str,
        ends: BTreeMap<u32, u64>,
        patience: Duration,
        now: Instant,
    ) -> CommitWait {
        CommitWait {
            topic: topic.to_owned(),
            group: group.to_owned(),
            patience,
            behind: ends,
            committed: BTreeMap::new(),
            advanced_at: now,
        }
    }

    /// The partitions that the group has not committed.
    pub(super) fn behind(&self) -> impl Iterator<Item = u32> {
        self.behind.keys().copied()
    }

    /// Records the group's position in each partition. Returns whether it has committed everything.
    /// Fails if it has committed nothing for too long, however much it commits in the end: a group
    /// that lags and advances is waited for.
    pub(super) fn observe(
        &mut self,
        mut committed: BTreeMap<u32, u64>,
        now: Instant,
    ) -> Result<bool, BusError> {
        committed.retain(|partition, _| self.behind.contains_key(partition));
        let is_back = |(partition, earlier): (&u32, &u64)| {
            committed.get(partition).is_none_or(|done| done < earlier)
        };
        if self.committed.iter().any(is_back) {
            return Err(self.failed("its position went back, because the topic was created again"));
        }
        if committed != self.committed {
            self.advanced_at = now;
        }
        let is_done = |partition: &u32, end: &u64| {
            let done = committed.get(partition);
            done.is_some_and(|done| done >= end)
        };
        self.behind
            .retain(|partition, end| !is_done(partition, end));
        committed.retain(|partition, _| self.behind.contains_key(partition));
        self.committed = committed;
        if !self.behind.is_empty() && now.duration_since(self.advanced_at) >= self.patience {
            return Err(self.failed(&format!("it has committed nothing for {:?}", self.patience)));
        }
        Ok(self.behind.is_empty())
    }

    fn failed(&self, why: &str) -> BusError {
        let CommitWait { topic, group, .. } = self;
        BusError::Unavailable(format!(
            "the group {group} has not committed what the topic {topic} held: {why}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn wait(ends: &[(u32, u64)], now: Instant) -> CommitWait {
        CommitWait::new("t", "g", ends.iter().copied().collect(), PATIENCE, now)
    }

    fn observe(
        wait: &mut CommitWait,
        committed: &[(u32, u64)],
        now: Instant,
    ) -> Result<bool, BusError> {
        wait.observe(committed.iter().copied().collect(), now)
    }

    #[test]
    fn every_partition_is_awaited() {
        let now = Instant::now();
        assert_eq!(observe(&mut wait(&[], now), &[], now), Ok(true));
        let mut wait = wait(&[(0, 5), (1, 7)], now);
        assert_eq!(observe(&mut wait, &[], now), Ok(false));
        assert_eq!(observe(&mut wait, &[(0, 4), (1, 9)], now), Ok(false));
        assert_eq!(wait.behind().collect::<Vec<_>>(), [0]);
        assert_eq!(observe(&mut wait, &[(0, 5)], now), Ok(true));
    }

    #[test]
    fn only_stalled_group_fails() {
        let start = Instant::now();
        let mut wait = wait(&[(0, 100), (1, 100)], start);
        let mut now = start;
        for done in 0..20 {
            assert_eq!(observe(&mut wait, &[(0, done), (1, 3)], now), Ok(false));
            now += PATIENCE - Duration::from_millis(1);
        }
        let last = now - PATIENCE + Duration::from_millis(1);
        assert_eq!(observe(&mut wait, &[(0, 19), (1, 3)], now), Ok(false));
        let error = observe(&mut wait, &[(0, 19), (1, 3)], last + PATIENCE);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("nothing for 30s"), "{error}");
    }

    /// Other partitions of the topic do not count: the group may never commit the missing one.
    #[test]
    fn finished_partition_is_no_progress() {
        let start = Instant::now();
        let mut wait = wait(&[(0, 5), (1, 5)], start);
        assert_eq!(observe(&mut wait, &[(0, 5), (1, 1)], start), Ok(false));
        let later = start + PATIENCE;
        assert!(observe(&mut wait, &[(0, 900), (1, 1)], later).is_err());
    }

    /// The ends of the old topic may never be reached in the new one.
    #[test]
    fn recreated_topic_is_detected() {
        let now = Instant::now();
        for later in [&[(0, 3)][..], &[]] {
            let mut wait = wait(&[(0, 500)], now);
            assert_eq!(observe(&mut wait, &[(0, 400)], now), Ok(false));
            let error = observe(&mut wait, later, now).unwrap_err().to_string();
            assert!(error.contains("created again"), "{error}");
        }
    }
}
