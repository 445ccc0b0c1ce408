//! The store on a PostgreSQL server, for production: any number of processes can share one
//! database.

mod access;
mod address;
mod connections;
mod error;
mod gate;
mod holds;
mod migrate;
mod money;
mod read;
#[cfg(test)]
mod real_engines;
mod session;
mod statement;
mod tables;
mod write;

use std::sync::Arc;
use std::time::Duration;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Bool;
use secrecy::SecretString;

use self::address::PgAddress;
use self::connections::{Connections, Share};
pub use self::migrate::Migrated;
use self::tables::Tables;
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

/// Connections for writing: one for a batch of updates, one for dead letters, and one for pruning.
const WRITERS: u32 = 3;

/// Connection settings of a [`PgStore`].
#[derive(Clone, Debug)]
pub struct PgOptions {
    /// Maximum number of connections for reading. Writing uses three more, opened only when needed.
    pub readers: u32,
    /// Maximum number of connections for money operations, opened only when needed.
    pub money: u32,
    /// How long a caller waits for a connection.
    pub connection_timeout: Duration,
    /// Statement timeout of the server. Migrations have none.
    pub statement_timeout: Duration,
    /// How long a statement within a transaction waits for another transaction's lock.
    pub lock_timeout: Duration,
    /// The same for single-statement transactions, such as money operations. Short, because a
    /// waiting statement occupies a connection; it is retried.
    pub row_lock_timeout: Duration,
    /// The name of this program in the server's list of connections, unless the address sets one.
    pub application_name: String,
    /// Stored states beyond these limits, which an earlier version accepted, are replaced by any
    /// update.
    pub limits: Plausibility,
}

impl Default for PgOptions {
    fn default() -> PgOptions {
        PgOptions {
            readers: 4,
            money: 4,
            connection_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            row_lock_timeout: Duration::from_secs(1),
            application_name: "sports-bet".to_owned(),
            limits: Plausibility::any_time(),
        }
    }
}

/// A store on a PostgreSQL server. Any number of stores, in one or several processes, can share a
/// database.
pub struct PgStore {
    readers: Share,
    /// `None` in a read-only store.
    writers: Option<Share>,
    /// For money operations: many short transactions at once. `None` in a read-only store.
    money: Option<Share>,
    /// Whether the schema is migrated to this version.
    tables: Arc<Tables>,
    limits: Plausibility,
}

impl PgStore {
    /// A store at `address`: a URL (`postgres://user:password@host:5432/database`) or libpq's
    /// keywords (`host=… user=…`). Fails if the address is invalid. Connects on the first call, so
    /// the server may start later.
    pub fn open(address: &SecretString, options: &PgOptions) -> Result<PgStore, StoreError> {
        PgStore::with(address, options, true)
    }

    /// A read-only store, for example on a replica. [`Store::migrate`] leaves the tables to a store
    /// that writes, and [`Store::ping`] fails while they do not exist.
    pub fn reader(address: &SecretString, options: &PgOptions) -> Result<PgStore, StoreError> {
        PgStore::with(address, options, false)
    }

    fn with(
        address: &SecretString,
        options: &PgOptions,
        writes: bool,
    ) -> Result<PgStore, StoreError> {
        let address = PgAddress::parse(address, &options.application_name)?;
        let size = if writes {
            options.readers + WRITERS + options.money
        } else {
            options.readers
        };
        let connections = Connections::to(address, size, options, !writes);
        let share = |size, writes| Share::of(&connections, size, writes);
        Ok(PgStore {
            readers: share(options.readers, false),
            writers: writes.then(|| share(WRITERS, true)),
            money: writes.then(|| share(options.money, true)),
            tables: Arc::default(),
            limits: options.limits,
        })
    }

    /// Makes calls of this store and of `reader` wait until [`Store::migrate`] of this store has
    /// run.
    pub fn expect_migration(&self, reader: &mut PgStore) {
        self.tables.expect();
        reader.tables = self.tables.clone();
    }

    fn readers(&self) -> Result<&Share, StoreError> {
        self.tables.wait()?;
        Ok(&self.readers)
    }

    fn writers(&self) -> Result<&Share, StoreError> {
        self.tables.wait()?;
        self.writers.as_ref().ok_or_else(only_reads)
    }

    fn money(&self) -> Result<&Share, StoreError> {
        self.tables.wait()?;
        self.money.as_ref().ok_or_else(only_reads)
    }

    fn write_batch(&self, batch: &Batch<'_>) -> Result<BatchReport, StoreError> {
        if batch.updates().is_empty() {
            return Ok(BatchReport::default());
        }
        let now = Timestamp::now();
        let latest = self.limits.latest(now);
        self.writers()?
            .transaction(|connection| write::batch(connection, batch, now, latest))
    }
}

impl Store for PgStore {
    fn migrate(&self) -> Result<(), StoreError> {
        match self.try_migrate()? {
            Migrated::Complete => Ok(()),
            Migrated::Waiting(obstacle) => Err(StoreError::Unavailable(obstacle)),
        }
    }

    /// Checks a money connection. If all are in use, they worked a moment ago, so a writer
    /// connection is checked instead.
    fn ping(&self) -> Result<(), StoreError> {
        let (Some(writers), Some(money)) = (&self.writers, &self.money) else {
            return self.ping_reader();
        };
        money
            .run_if_free(check_writes)
            .unwrap_or_else(|| writers.run(check_writes))?;
        if !self.tables.are_migrated() {
            return Err(tables::not_migrated());
        }
        Ok(())
    }

    fn stream_epoch(&self) -> Result<String, StoreError> {
        self.readers()?.run(read::stream_epoch)
    }

    fn write_updates(&self, updates: &[PositionedUpdate]) -> Result<BatchReport, StoreError> {
        self.write_batch(&Batch::of(updates))
    }

    fn write_states(&self, states: &[Arc<MarketState>]) -> Result<BatchReport, StoreError> {
        self.write_batch(&Batch::of_states(&positioned(states)))
    }

    fn load_event(&self, event_id: &EventId) -> Result<Vec<Arc<MarketState>>, StoreError> {
        self.readers()?
            .run(|connection| read::event(connection, event_id))
    }

    fn unfinished_markets(
        &self,
        query: &MarketsOfSourceQuery,
    ) -> Result<Vec<OddsUpdate>, StoreError> {
        self.readers()?
            .run(|connection| read::unfinished_markets(connection, query))
    }

    fn sources_of_unfinished_markets(&self) -> Result<Vec<Source>, StoreError> {
        self.readers()?.run(read::sources_of_unfinished_markets)
    }

    fn list_events(&self, query: &EventQuery) -> Result<EventPage, StoreError> {
        self.readers()?
            .run(|connection| read::events(connection, query))
    }

    fn history(&self, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError> {
        self.readers()?
            .run(|connection| read::history(connection, query))
    }

    /// If a reply is lost and the write is repeated, a letter may be stored twice, but none is
    /// lost.
    fn write_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        if letters.is_empty() {
            return Ok(());
        }
        self.writers()?
            .transaction(|connection| write::dead_letters(connection, letters))
    }

    fn list_dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
        self.readers()?
            .run(|connection| read::dead_letters(connection, limit))
    }

    /// The age of a history row counts from when it was recorded, as in SQLite.
    fn prune(
        &self,
        history_before: Timestamp,
        dead_letters_before: Timestamp,
    ) -> Result<PruneReport, StoreError> {
        self.writers()?.transaction(|connection| {
            // During the very first start the tables may not exist yet, so there is nothing to
            // prune.
            let tables_exist = "SELECT to_regclass('odds_history') IS NOT NULL AS yes";
            if !is(connection, tables_exist)? {
                return Ok(PruneReport::default());
            }
            write::prune(connection, history_before, dead_letters_before)
        })
    }
}

impl PgStore {
    /// Like [`Store::migrate`], but says if the migration only waits for others.
    pub fn try_migrate(&self) -> Result<Migrated, StoreError> {
        let Some(writers) = &self.writers else {
            return Ok(Migrated::Complete);
        };
        let migrated = migrate::run(&self.readers, writers);
        self.tables.record_migration(&match &migrated {
            Ok(Migrated::Complete) => Ok(()),
            Ok(Migrated::Waiting(obstacle)) => Err(StoreError::Unavailable(obstacle.clone())),
            Err(failure) => Err(failure.clone()),
        });
        migrated
    }

    fn ping_reader(&self) -> Result<(), StoreError> {
        self.readers.run(|connection| {
            let unavailable = |what: &str| Err(StoreError::Unavailable(what.to_owned()).into());
            if !is(
                connection,
                "SELECT to_regclass('odds_current') IS NOT NULL AS yes",
            )? {
                return unavailable(
                    "it has no tables yet; the role processor creates them when it starts",
                );
            }
            migrate::find_foreign_table(connection)?.map_or(Ok(()), unavailable)
        })
    }
}

/// Fails on a read-only server as if the connection were lost, because a new connection may lead to
/// a server that accepts writes.
fn check_writes(connection: &mut PgConnection) -> Result<(), Failure> {
    let only_reads =
        "SELECT current_setting('transaction_read_only')::boolean OR pg_is_in_recovery() AS yes";
    if is(connection, only_reads)? {
        return Err(Failure::only_reads());
    }
    let why = migrate::find_foreign_table(connection)?;
    why.map_or(Ok(()), |why| {
        Err(StoreError::Unavailable(why.to_owned()).into())
    })
}

fn is(connection: &mut PgConnection, sql: &str) -> Result<bool, Failure> {
    Ok(sql_query(sql).get_result::<Yes>(connection)?.yes)
}

#[derive(QueryableByName)]
struct Yes {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

fn only_reads() -> StoreError {
    StoreError::Refused("this store only reads".to_owned())
}
