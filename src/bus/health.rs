//! The health of a group member, readable while its subscription is busy elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::runtime::health::HealthCell;

/// The state of a group member. A handle: all clones share the same state.
#[derive(Clone, Debug)]
pub struct SubscriptionHealth {
    group: Arc<str>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    joined: AtomicBool,
    /// The last failure since the group last assigned a share, which may be empty.
    reading: HealthCell,
}

impl SubscriptionHealth {
    /// A member that has not joined yet.
    pub fn joining(group: &str) -> SubscriptionHealth {
        SubscriptionHealth {
            group: group.into(),
            state: Arc::default(),
        }
    }

    /// A member that has joined.
    pub fn joined(group: &str) -> SubscriptionHealth {
        let health = SubscriptionHealth::joining(group);
        health.join();
        health
    }

    /// Records that the group assigned a share, even an empty one. Returns whether there was a
    /// failure before.
    pub fn join(&self) -> bool {
        self.state.joined.store(true, Ordering::Relaxed);
        self.state.reading.record_success()
    }

    /// Records what keeps the member from reading. Returns whether the failure is new.
    pub fn fail(&self, failure: impl std::fmt::Display) -> bool {
        self.state.reading.record_failure(&failure)
    }

    /// Whether the group has assigned a share before.
    pub fn has_joined(&self) -> bool {
        self.state.joined.load(Ordering::Relaxed)
    }

    /// Why the member does not read, if so. A rebalance is not a problem.
    pub fn problem(&self) -> Option<String> {
        let group = &self.group;
        match (self.has_joined(), self.state.reading.problem()) {
            (true, None) => None,
            (true, Some(failure)) => Some(format!("the group {group}: {failure}")),
            (false, None) => Some(format!("joining the group {group}")),
            (false, Some(failure)) => Some(format!("joining the group {group}: {failure}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_is_healthy_while_joined() {
        let health = SubscriptionHealth::joining("g");
        assert_eq!(health.problem().as_deref(), Some("joining the group g"));
        assert!(health.fail("no") && !health.fail("no"));
        assert_eq!(health.problem().as_deref(), Some("joining the group g: no"));
        assert!(health.join() && !health.join());
        assert_eq!(health.problem(), None);
        assert!(health.clone().fail("not any more"));
        assert_eq!(
            health.problem().as_deref(),
            Some("the group g: not any more")
        );
    }
}
