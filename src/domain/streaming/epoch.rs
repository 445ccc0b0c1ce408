//! The identity of the sequence numbers that a process sends to clients.

use std::sync::OnceLock;

/// The epoch of the database, once it is known. Until then nobody resumes.
#[derive(Debug, Default)]
pub struct CurrentEpoch(OnceLock<String>);

impl CurrentEpoch {
    /// Sets the epoch; it never changes afterwards.
    pub fn set(&self, epoch: String) {
        // A second value would come from the same database.
        let _ = self.0.set(epoch);
    }

    /// The epoch, if it is known.
    pub fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}
