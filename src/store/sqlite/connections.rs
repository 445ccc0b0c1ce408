//! The connections to the file: one that writes, a few that read.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::r2d2::{
    ConnectionManager, CustomizeConnection, NopErrorHandler, Pool, PooledConnection,
};
use diesel::sqlite::SqliteConnection;

use super::StoreError;
use super::error::Failure;

/// How long a caller waits for a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// How many read at once. Readers of a WAL file wait for nobody, and the writer not for them.
const READERS: u32 = 4;

/// A connection out of a pool.
pub(super) type Connection = PooledConnection<ConnectionManager<SqliteConnection>>;

/// The writer and the readers. SQLite takes one writer at a time: with one connection for it they
/// queue here, in order, where SQLite would have them poll for the lock.
pub(super) struct Connections {
    writer: Pool<ConnectionManager<SqliteConnection>>,
    readers: Pool<ConnectionManager<SqliteConnection>>,
}

impl Connections {
    /// Pools to the file at `path`. They connect in the background and try again until they can, so
    /// this never fails.
    pub(super) fn to(path: &str) -> Connections {
        Connections {
            writer: pool(path, 1, Pragmas::Writer),
            readers: pool(path, READERS, Pragmas::Reader),
        }
    }

    /// The connection that writes. Where another caller had it all the time, that is a lock like
    /// any other.
    pub(super) fn writer(&self) -> Result<Connection, StoreError> {
        connection(&self.writer).map_err(|error| match self.writer.state().connections {
            0 => error,
            _ => StoreError::Unavailable(
                "the database is locked by this process: other writes take too long".to_owned(),
            ),
        })
    }

    /// A connection that reads.
    pub(super) fn reader(&self) -> Result<Connection, StoreError> {
        connection(&self.readers)
    }

    /// Does `work` in one transaction that holds the write lock from its beginning, so that what it
    /// reads stays true until it has written.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut connection = self.writer()?;
        let mut cause = None;
        let done: Result<T, Failure> = connection.immediate_transaction(|connection| {
            work(connection).map_err(|failure| {
                cause = Some(StoreError::from(failure));
                Failure::Database(diesel::result::Error::RollbackTransaction)
            })
        });
        // SQLite rolls back by itself on a full disk and the like, and diesel's own rollback then
        // fails: the reason that counts is the first one.
        done.map_err(|failure| cause.unwrap_or_else(|| failure.into()))
    }
}

fn pool(path: &str, size: u32, pragmas: Pragmas) -> Pool<ConnectionManager<SqliteConnection>> {
    Pool::builder()
        .max_size(size)
        .connection_timeout(CONNECTION_TIMEOUT)
        // A connection to a file does not go stale, and needs no question whether it still lives.
        .max_lifetime(None)
        .idle_timeout(None)
        .test_on_check_out(false)
        // Whoever asks for a connection is told the error; it is logged there, once.
        .error_handler(Box::new(NopErrorHandler))
        .connection_customizer(Box::new(pragmas))
        .build_unchecked(ConnectionManager::new(path))
}

fn connection(pool: &Pool<ConnectionManager<SqliteConnection>>) -> Result<Connection, StoreError> {
    pool.get()
        .map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// How a new connection is set up.
#[derive(Debug)]
enum Pragmas {
    Writer,
    Reader,
}

impl Pragmas {
    /// `busy_timeout` stands first: the others may find the file locked.
    ///
    /// `synchronous = NORMAL` in a WAL file: a commit is in the operating system's hands before it
    /// is answered, so a process that is killed, even by SIGKILL, loses nothing it has committed. A
    /// machine that loses power may lose the last commits since a checkpoint, never the file's
    /// integrity. `FULL` would wait for the disk on every batch, and the embedded bus in front of
    /// this store would lose more in that moment anyway; PostgreSQL is the choice where power
    /// matters.
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
