//! What a reader knows about the identity of its topic: whether it was deleted or recreated.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The identity of a topic. A recreated topic has the old name and a new id.
#[derive(Default)]
pub(super) struct TopicIdentity {
    /// The topic id, as far as known.
    id: Mutex<Option<String>>,
    /// The id has changed since the partitions were set to their beginning.
    is_recreated: AtomicBool,
    is_missing: AtomicBool,
}

impl TopicIdentity {
    /// Records the topic's id. Returns whether the topic was recreated.
    pub(super) fn observe_id(&self, id: &str) -> bool {
        let before = self.id.lock().replace(id.to_owned());
        let is_recreated = before.is_some_and(|before| before != id);
        if is_recreated {
            self.set_recreated(true);
        }
        is_recreated
    }

    /// Whether the topic was recreated, and its partitions are not set to their beginning yet.
    pub(super) fn is_recreated(&self) -> bool {
        self.is_recreated.load(Ordering::Relaxed)
    }

    pub(super) fn set_recreated(&self, is_recreated: bool) {
        self.is_recreated.store(is_recreated, Ordering::Relaxed);
    }

    /// Whether the topic is missing.
    pub(super) fn is_missing(&self) -> bool {
        self.is_missing.load(Ordering::Relaxed)
    }

    pub(super) fn set_missing(&self, is_missing: bool) {
        self.is_missing.store(is_missing, Ordering::Relaxed);
    }

    /// Whether the records read so far are lost: the topic is missing, or it was recreated and the
    /// partitions are not set to their beginning yet. No position may be committed meanwhile: an old
    /// one could be taken as a position in the recreated topic.
    pub(super) fn are_records_lost(&self) -> bool {
        self.is_missing() || self.is_recreated()
    }
}

/// Whether a new assignment contains every partition that is assigned already.
pub(super) fn covers_all(assigned: &[u32], added: &[u32]) -> bool {
    assigned.iter().all(|partition| added.contains(partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_partitions_preserve_recreated_flag() {
        assert!(covers_all(&[], &[]) && covers_all(&[], &[1]) && covers_all(&[0, 1], &[1, 0, 2]));
        assert!(!covers_all(&[0, 1], &[1, 2]) && !covers_all(&[0], &[]));
    }

    #[test]
    fn changed_id_stops_commits() {
        let identity = TopicIdentity::default();
        assert!(!identity.observe_id("a") && !identity.observe_id("a"));
        assert!(!identity.is_recreated() && !identity.are_records_lost());
        assert!(identity.observe_id("b") && identity.is_recreated());
        assert!(!identity.observe_id("b") && identity.is_recreated());
        assert!(identity.are_records_lost());
        identity.set_recreated(false);
        assert!(!identity.are_records_lost());
        identity.set_missing(true);
        assert!(identity.are_records_lost());
    }
}
