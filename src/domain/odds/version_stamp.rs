//! Whether a copy of something that changes is still current, to be known without asking its
//! keeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The keeper's side: counts the changes.
#[derive(Debug, Default)]
pub struct VersionCounter(Arc<AtomicU64>);

impl VersionCounter {
    /// Whatever was handed out before is not current any more.
    pub fn changed(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// For a copy of what is kept now.
    pub fn stamp(&self) -> VersionStamp {
        VersionStamp {
            generation: self.0.clone(),
            of: self.0.load(Ordering::Acquire),
        }
    }
}

/// A keeper that ended keeps nothing current.
impl Drop for VersionCounter {
    fn drop(&mut self) {
        self.changed();
    }
}

/// The copy's side. One that no keeper has given is not current.
#[derive(Clone, Debug)]
pub struct VersionStamp {
    generation: Arc<AtomicU64>,
    of: u64,
}

impl VersionStamp {
    /// Whether nothing has changed since.
    pub fn is_current(&self) -> bool {
        self.generation.load(Ordering::Acquire) == self.of
    }
}

impl Default for VersionStamp {
    fn default() -> VersionStamp {
        VersionCounter::default().stamp()
    }
}

/// Two copies are equal by what they hold, not by whether they still do.
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
    fn a_copy_is_current_until_something_changes_or_its_keeper_ends() {
        let generation = VersionCounter::default();
        let (first, second) = (generation.stamp(), generation.stamp());
        assert!(first.is_current() && second.is_current());
        generation.changed();
        let third = generation.stamp();
        assert!(!first.is_current() && !second.is_current() && third.is_current());
        drop(generation);
        assert!(!third.is_current());
        assert!(!VersionStamp::default().is_current());
    }
}
