//! How often changes were encoded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts encodings. The frames share it, because a frame is encoded in other forms when a client
/// first needs them.
#[derive(Clone, Debug, Default)]
pub struct EncodingCount(Arc<AtomicU64>);

impl EncodingCount {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The encodings since the last call.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}
