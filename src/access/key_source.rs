//! The places that the keys for tokens come from. Each keeps the keys that it read last.

use std::sync::Arc;

use parking_lot::RwLock;

use super::key_set::KeySet;

/// A source of keys.
#[derive(Debug)]
pub struct KeySource {
    /// Its name in metrics and health checks.
    name: &'static str,
    keys: RwLock<Arc<KeySet>>,
}

impl KeySource {
    /// The name of the source that is the setting `AUTH_JWT_SECRET`.
    pub(crate) const SECRET: &'static str = "secret";
    /// The name of the source that is a file.
    pub const FILE: &'static str = "file";
    /// The name of the source that is a URL.
    pub(crate) const URL: &'static str = "url";
    /// The sources that are read again.
    pub(crate) const READ_AGAIN: [&'static str; 2] = [KeySource::FILE, KeySource::URL];

    /// A source with these keys; empty if they are read later.
    pub fn new(name: &'static str, keys: KeySet) -> Arc<KeySource> {
        Arc::new(KeySource {
            name,
            keys: RwLock::new(Arc::new(keys)),
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Its keys.
    pub(crate) fn keys(&self) -> Arc<KeySet> {
        self.keys.read().clone()
    }

    /// Replaces its keys.
    pub(crate) fn replace(&self, keys: KeySet) {
        *self.keys.write() = Arc::new(keys);
    }
}
