//! Whether a copy of something that changes is still current, to be known without asking its keeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The keeper's side: counts the changes.
#[derive(Debug, Default)]
pub struct Generation(Arc<AtomicU64>);

impl Generation {
    /// Whatever was handed out before is not current any more.
    pub fn changed(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// For a copy of what is kept now.
    pub fn validity(&self) -> Validity {
        Validity { generation: self.0.clone(), of: self.0.load(Ordering::Acquire) }
    }
}

/// A keeper that ended keeps nothing current.
impl Drop for Generation {
    fn drop(&mut self) {
        self.changed();
    }
}

/// The copy's side. One that no keeper has given is not current.
#[derive(Clone, Debug)]
pub struct Validity {
    generation: Arc<AtomicU64>,
    of: u64,
}

impl Validity {
    /// Whether nothing has changed since.
    pub fn holds(&self) -> bool {
        self.generation.load(Ordering::Acquire) == self.of
    }
}

impl Default for Validity {
    fn default() -> Validity {
        Generation::default().validity()
    }
}

/// Two copies are equal by what they hold, not by whether they still do.
impl PartialEq for Validity {
    fn eq(&self, _: &Validity) -> bool {
        true
    }
}

impl Eq for Validity {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_current_until_something_changes_or_its_keeper_ends() {
        let generation = Generation::default();
        let (first, second) = (generation.validity(), generation.validity());
        assert!(first.holds() && second.holds());
        generation.changed();
        let third = generation.validity();
        assert!(!first.holds() && !second.holds() && third.holds());
        drop(generation);
        assert!(!third.holds());
        assert!(!Validity::default().holds());
    }
}
