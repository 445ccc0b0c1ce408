//! Whether a member of a group reads, for whoever asks while the subscription is at work elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a member of a group stands. A handle: every clone tells of the same member.
#[derive(Clone, Debug)]
pub struct SubscriptionHealth {
    group: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    joined: bool,
    /// What went wrong since the last time that the group gave it a share, which may be an empty
    /// one.
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

    /// A member that reads.
    pub fn joined(group: &str) -> SubscriptionHealth {
        let health = SubscriptionHealth::joining(group);
        health.join();
        health
    }

    /// The group gave it a share, be it an empty one. Says whether something was wrong before.
    pub fn join(&self) -> bool {
        let mut state = self.lock();
        state.joined = true;
        state.failure.take().is_some()
    }

    /// Something keeps it from reading. Says whether that is news.
    pub fn fail(&self, failure: String) -> bool {
        let mut state = self.lock();
        let is_news = state.failure.as_ref() != Some(&failure);
        state.failure = Some(failure);
        is_news
    }

    /// Why it does not read, where it does not. A group that shares its partitions out anew is no
    /// problem.
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
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_well_from_when_it_has_joined_until_something_fails() {
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
