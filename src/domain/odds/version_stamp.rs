//! Shows whether a copy of changing state is still current, without a request to its owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Held by the owner of the state: counts its changes.
#[derive(Debug, Default)]
pub(crate) struct VersionCounter(Arc<AtomicU64>);

impl VersionCounter {
    /// Invalidates all stamps given out so far. Returns the number of changes until now.
    pub(crate) fn changed(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Release) + 1
    }

    /// A stamp for a copy of the current state.
    pub(crate) fn stamp(&self) -> VersionStamp {
        VersionStamp {
            counter: self.0.clone(),
            version: self.0.load(Ordering::Acquire),
        }
    }
}

/// When the owner is dropped, no copy is current.
impl Drop for VersionCounter {
    fn drop(&mut self) {
        self.changed();
    }
}

/// Held by a copy of the state. The default stamp belongs to no owner and is never current.
#[derive(Clone, Debug)]
pub struct VersionStamp {
    counter: Arc<AtomicU64>,
    version: u64,
}

impl VersionStamp {
    /// Whether nothing has changed since.
    pub fn is_current(&self) -> bool {
        self.counter.load(Ordering::Acquire) == self.version
    }
}

impl Default for VersionStamp {
    fn default() -> VersionStamp {
        VersionCounter::default().stamp()
    }
}

/// Copies are compared by their content, not by whether they are current.
impl PartialEq for VersionStamp {
    fn eq(&self, _: &VersionStamp) -> bool {
        true
    }
}

impl Eq for VersionStamp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_is_current_until_change_or_drop() {
        let counter = VersionCounter::default();
        let first = counter.stamp();
        let second = counter.stamp();
        assert!(first.is_current() && second.is_current());
        counter.changed();
        let third = counter.stamp();
        assert!(!first.is_current() && !second.is_current() && third.is_current());
        drop(counter);
        assert!(!third.is_current());
        assert!(!VersionStamp::default().is_current());
    }
}
