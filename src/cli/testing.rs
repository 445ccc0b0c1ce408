//! What the tests of several commands use.

use std::io::{ErrorKind, Write};

use tempfile::TempDir;

use crate::config::engines::StoreEngine;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

/// A migrated database, and the folder that holds it.
pub(super) fn migrated_database() -> (TempDir, StoreEngine) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let store = SqliteStore::open(&path.to_string_lossy()).unwrap();
    store.migrate().unwrap();
    (folder, StoreEngine::Sqlite(path))
}

/// An output that cannot be written.
pub(super) struct Failing(pub(super) ErrorKind);

impl Write for Failing {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
