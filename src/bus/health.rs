//! The health of a group member, readable while its subscription is busy elsewhere.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// The state of a group member. A handle: all clones share the same state.
#[derive(Clone, Debug)]
pub struct SubscriptionHealth {
    group: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    joined: bool,
    /// The last failure since the group last assigned a share, which may be empty.
    failure: Option<String>,
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
        let mut state = self.lock();
        state.joined = true;
        state.failure.take().is_some()
    }

    /// Records what keeps the member from reading. Returns whether the failure is new.
    pub fn fail(&self, failure: String) -> bool {
        let mut state = self.lock();
        let is_new = state.failure.as_ref() != Some(&failure);
        state.failure = Some(failure);
        is_new
    }

    /// Why the member does not read, if so. A rebalance is not a problem.
    pub fn problem(&self) -> Option<String> {
        let (state, group) = (self.lock(), &self.group);
        match (state.joined, &state.failure) {
            (true, None) => None,
            (true, Some(failure)) => Some(format!("the group {group}: {failure}")),
            (false, None) => Some(format!("joining the group {group}")),
            (false, Some(failure)) => Some(format!("joining the group {group}: {failure}")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_is_healthy_while_joined() {
        let health = SubscriptionHealth::joining("g");
        assert_eq!(health.problem().as_deref(), Some("joining the group g"));
        assert!(health.fail("no".to_owned()) && !health.fail("no".to_owned()));
        assert_eq!(health.problem().as_deref(), Some("joining the group g: no"));
        assert!(health.join() && !health.join());
        assert_eq!(health.problem(), None);
        assert!(health.clone().fail("not any more".to_owned()));
        assert_eq!(
            health.problem().as_deref(),
            Some("the group g: not any more")
        );
    }
}
