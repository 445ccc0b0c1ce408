//! The connections to the file: one for writing, a few for reading.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::r2d2::{
    ConnectionManager, CustomizeConnection, NopErrorHandler, Pool, PooledConnection,
};
use diesel::sqlite::SqliteConnection;

use super::StoreError;
use super::error::ERRORS;
use crate::store::failure::Failure;

/// How long a caller waits for a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of concurrent readers. In WAL mode, readers and the writer do not wait for each other.
const READERS: u32 = 4;

/// A pooled connection.
pub(super) type Connection = PooledConnection<ConnectionManager<SqliteConnection>>;

/// The writer and the readers. SQLite allows one writer at a time. With a single writer connection,
/// writers queue here in order; otherwise SQLite would have them poll for the lock.
pub(super) struct Connections {
    writer: Pool<ConnectionManager<SqliteConnection>>,
    readers: Pool<ConnectionManager<SqliteConnection>>,
}

impl Connections {
    /// Pools of connections to the file at `path`. They connect in the background and retry until
    /// they succeed, so this never fails.
    pub(super) fn to(path: &str) -> Connections {
        Connections {
            writer: pool(path, 1, Pragmas::Writer),
            readers: pool(path, READERS, Pragmas::Reader),
        }
    }

    /// The connection for writing. If another caller holds it for the whole timeout, the error
    /// counts as a lock timeout.
    pub(super) fn writer(&self) -> Result<Connection, StoreError> {
        connection(&self.writer).map_err(|error| match self.writer.state().connections {
            0 => error,
            _ => StoreError::Unavailable(
                "the database is locked by this process: other writes take too long".to_owned(),
            ),
        })
    }

    /// A connection for reading.
    pub(super) fn reader(&self) -> Result<Connection, StoreError> {
        connection(&self.readers)
    }

    /// Runs `work` in one transaction that holds the write lock from the start, so that everything
    /// it reads stays valid until it has written.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut connection = self.writer()?;
        let mut cause = None;
        let done: Result<T, Failure> = connection.immediate_transaction(|connection| {
            work(connection).map_err(|failure| {
                cause = Some(ERRORS.failure(failure));
                Failure::Database(diesel::result::Error::RollbackTransaction)
            })
        });
        // SQLite itself rolls back on a full disk and similar errors, so that diesel's rollback
        // then fails; report the first error.
        done.map_err(|failure| cause.unwrap_or_else(|| ERRORS.failure(failure)))
    }
}

fn pool(path: &str, size: u32, pragmas: Pragmas) -> Pool<ConnectionManager<SqliteConnection>> {
    Pool::builder()
        .max_size(size)
        .connection_timeout(CONNECTION_TIMEOUT)
        // A connection to a file does not go stale, so it needs no check.
        .max_lifetime(None)
        .idle_timeout(None)
        .test_on_check_out(false)
        // The caller gets the error and logs it once.
        .error_handler(Box::new(NopErrorHandler))
        .connection_customizer(Box::new(pragmas))
        .build_unchecked(ConnectionManager::new(path))
}

fn connection(pool: &Pool<ConnectionManager<SqliteConnection>>) -> Result<Connection, StoreError> {
    pool.get()
        .map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// The setup of a new connection.
#[derive(Debug)]
enum Pragmas {
    Writer,
    Reader,
}

impl Pragmas {
    /// `busy_timeout` comes first, because the other pragmas may find the file locked.
    ///
    /// `synchronous = NORMAL` in WAL mode: the operating system has a commit before it is
    /// acknowledged, so a process that is killed, even by SIGKILL, loses no committed data. A power
    /// failure may lose the commits since the last checkpoint, but never corrupts the file. `FULL`
    /// would wait for the disk on every batch, and on a power failure the embedded bus in front of
    /// this store would lose more anyway; use PostgreSQL if power failures matter.
    fn sql(&self) -> &'static str {
        match self {
            Pragmas::Writer => {
                "PRAGMA busy_timeout = 2000;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = NORMAL;
                 PRAGMA foreign_keys = ON;
                 PRAGMA journal_size_limit = 67108864;
                 PRAGMA cache_size = -16384;"
            }
            Pragmas::Reader => {
                "PRAGMA busy_timeout = 2000;
                 PRAGMA query_only = ON;"
            }
        }
    }
}

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for Pragmas {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        connection
            .batch_execute(self.sql())
            .map_err(diesel::r2d2::Error::QueryError)
    }
}
