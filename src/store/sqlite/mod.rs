//! The store in an SQLite file: the embedded default, which requires no installation.

mod access;
mod address;
mod connections;
mod database_lock;
mod error;
mod holds;
mod migrate;
mod money;
mod read;
pub(in crate::store) mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use diesel::prelude::*;

use self::connections::Connections;
pub use self::database_lock::DatabaseLock;
use self::error::ERRORS;
use super::events::{EventPage, EventQuery};
use super::{
    BatchReport, HistoryEntry, HistoryQuery, MarketsOfSourceQuery, PruneReport, Store, StoreError,
    StoredDeadLetter,
};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::{EventId, Source};
use crate::domain::odds::book::MarketState;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate};
use crate::domain::timestamp::Timestamp;
use crate::store::batch::{Batch, positioned};
use crate::store::failure::Failure;

/// A store in an SQLite file. Several stores, in one or several processes, can open the same file.
pub struct SqliteStore {
    connections: Connections,
    path: PathBuf,
    /// Device and inode of the file when it was first checked.
    file: OnceLock<(u64, u64)>,
    limits: Plausibility,
}

impl SqliteStore {
    /// A store in the file at `path_or_url`: a path, optionally prefixed by `sqlite://` or
    /// `sqlite:`. Creates the directory of the file. Whether the file can be opened shows on the
    /// first call.
    pub fn open(path_or_url: &str) -> Result<SqliteStore, StoreError> {
        let path = address::path_of(path_or_url)?;
        address::create_directory(path)?;
        address::restrict_access(path);
        let connections = Connections::to(path);
        Ok(SqliteStore {
            connections,
            path: path.into(),
            file: OnceLock::new(),
            limits: Plausibility::any_time(),
        })
    }

    /// Sets the limits of plausible times. Stored states beyond them, which an earlier version
    /// accepted, are replaced by any update.
    pub fn within(self, limits: Plausibility) -> SqliteStore {
        SqliteStore { limits, ..self }
    }

    /// Opens a store in an existing file; fails if the file does not exist.
    pub fn open_existing(path_or_url: &str) -> Result<SqliteStore, StoreError> {
        let path = address::path_of(path_or_url)?;
        if !std::path::Path::new(path).is_file() {
            return Err(StoreError::Unavailable(format!("there is no file {path}")));
        }
        SqliteStore::open(path_or_url)
    }

    /// Checks that the path still leads to the open file. A file that was moved or removed accepts
    /// all reads and writes, but its data is lost when the process ends.
    fn check_file(&self) -> Result<(), StoreError> {
        let unavailable = |what: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("the file {} {what}; restart", self.path.display()))
        };
        let found = std::fs::metadata(&self.path)
            .map_err(|error| unavailable(&format_args!("is gone ({error})")))?;
        let found = (found.dev(), found.ino());
        if *self.file.get_or_init(|| found) == found {
            Ok(())
        } else {
            Err(unavailable(&"was replaced by another"))
        }
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        work(&mut *self.connections.reader()?).map_err(|failure| ERRORS.failure(failure))
    }

    fn write_batch(&self, batch: &Batch<'_>) -> Result<BatchReport, StoreError> {
        if batch.updates().is_empty() {
            return Ok(BatchReport::default());
        }
        let now = Timestamp::now();
        let latest = self.limits.latest(now);
        self.connections
            .write(|connection| write::batch(connection, batch, now, latest))
    }
}

impl Store for SqliteStore {
    fn migrate(&self) -> Result<(), StoreError> {
        migrate::run(&self.connections)?;
        self.check_file()
    }

    fn ping(&self) -> Result<(), StoreError> {
        // A query that SQLite cannot answer without reading the file.
        let query = |connection: &mut SqliteConnection| {
            diesel::sql_query("SELECT count(*) FROM sqlite_schema").execute(connection)?;
            Ok(())
        };
        self.read(query)?;
        self.check_file()
    }

    fn stream_epoch(&self) -> Result<String, StoreError> {
        self.read(read::stream_epoch)
    }

    fn write_updates(&self, updates: &[PositionedUpdate]) -> Result<BatchReport, StoreError> {
        self.write_batch(&Batch::of(updates))
    }

    fn write_states(&self, states: &[Arc<MarketState>]) -> Result<BatchReport, StoreError> {
        self.write_batch(&Batch::of_states(&positioned(states)))
    }

    fn load_event(&self, event_id: &EventId) -> Result<Vec<Arc<MarketState>>, StoreError> {
        self.read(|connection| read::event(connection, event_id))
    }

    fn unfinished_markets(
        &self,
        query: &MarketsOfSourceQuery,
    ) -> Result<Vec<OddsUpdate>, StoreError> {
        self.read(|connection| read::unfinished_markets(connection, query))
    }

    fn sources_of_unfinished_markets(&self) -> Result<Vec<Source>, StoreError> {
        self.read(read::sources_of_unfinished_markets)
    }

    fn list_events(&self, query: &EventQuery) -> Result<EventPage, StoreError> {
        self.read(|connection| read::events(connection, query))
    }

    fn history(&self, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError> {
        self.read(|connection| read::history(connection, query))
    }

    fn write_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        if letters.is_empty() {
            return Ok(());
        }
        self.connections
            .write(|connection| write::dead_letters(connection, letters))
    }

    fn list_dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
        self.read(|connection| read::dead_letters(connection, limit))
    }

    /// The age of a history row counts from when it was recorded, not from the supplier's time. A
    /// replayed recording from years ago is thus kept as long as other data recorded today, and a
    /// wrong clock of a supplier neither removes its history at once nor keeps it forever.
    fn prune(
        &self,
        history_before: Timestamp,
        dead_letters_before: Timestamp,
    ) -> Result<PruneReport, StoreError> {
        self.connections
            .write(|connection| write::prune(connection, history_before, dead_letters_before))
    }
}
