//! The store in a PostgreSQL server: for production, with any number of processes on one database.

mod address;
mod connections;
mod error;
mod migrate;
mod money;
mod read;
#[cfg(test)]
mod real_engines;
mod statement;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::pg::PgConnection;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Bool;
use secrecy::SecretString;

use self::address::PgAddress;
use self::connections::{Connections, Tries};
use super::{BatchReport, EventSummary, HistoryEntry, HistoryQuery, PruneReport, Store, StoreError, StoredDeadLetter};
use crate::address::AddressError;
use crate::domain::book::MarketState;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::ids::EventId;
use crate::domain::price::Line;
use crate::domain::timestamp::Timestamp;
use crate::domain::update::PositionedUpdate;

/// Connections that write: one batch of updates, one of dead letters, and one step of removing what is old.
const WRITERS: u32 = 3;
/// A transaction whose process stands still is ended by the server after so long, and with it its locks, on which the
/// process that took over its events may be waiting.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(15);

/// How a [`PgStore`] talks to its server.
#[derive(Clone, Debug)]
pub struct PgOptions {
    /// The most connections that read. Those that write are three more, made only when something is written.
    pub readers: u32,
    /// The most connections that move money, made only when some is moved.
    pub money: u32,
    /// How long a caller waits for a connection.
    pub connection_timeout: Duration,
    /// How long the server works on one statement. Migrations take the time that they need.
    pub statement_timeout: Duration,
    /// How long a statement waits for a lock that another transaction holds.
    pub lock_timeout: Duration,
    /// How the server's list of connections names this program, where the address does not.
    pub application_name: String,
}

impl Default for PgOptions {
    fn default() -> PgOptions {
        PgOptions {
            readers: 4,
            money: 4,
            connection_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            application_name: "sports-bet".to_owned(),
        }
    }
}

/// A store in a PostgreSQL server. Any number of stores, in one process or many, may work on one database.
pub struct PgStore {
    readers: Connections,
    /// None in a store that only reads.
    writers: Option<Connections>,
    /// Those that move money: short transactions, many at once. None in a store that only reads.
    money: Option<Connections>,
    /// Whether this store has brought the tables to this version, or found them so.
    is_migrated: AtomicBool,
}

impl PgStore {
    /// A store at `address`: a URL (`postgres://user:password@host:5432/database`) or libpq's keywords (`host=… user=…`).
    /// Fails where the address is none. It does not connect before the first call, so the server may come up later.
    pub fn open(address: &SecretString, options: &PgOptions) -> Result<PgStore, StoreError> {
        PgStore::with(address, options, true)
    }

    /// A store that only reads, from a replica for instance. [`Store::migrate`] leaves the tables to a store that
    /// writes, and [`Store::ping`] says so while they are not there.
    pub fn reader(address: &SecretString, options: &PgOptions) -> Result<PgStore, StoreError> {
        PgStore::with(address, options, false)
    }

    fn with(address: &SecretString, options: &PgOptions, writes: bool) -> Result<PgStore, StoreError> {
        let address = PgAddress::parse(address, &options.application_name)?;
        let tries = Arc::new(Tries::default());
        let pool = |size, reads| Connections::to(address.clone(), size, setup(options, reads), options, &tries);
        Ok(PgStore {
            readers: pool(options.readers, true),
            writers: writes.then(|| pool(WRITERS, false)),
            money: writes.then(|| pool(options.money, false)),
            is_migrated: AtomicBool::new(false),
        })
    }

    /// Whether `address` is meant for PostgreSQL, right or wrong.
    pub fn is_address(address: &str) -> bool {
        address::is_postgres(address)
    }

    /// Whether [`PgStore::open`] takes `address`. The error repeats no part of it.
    pub fn check_address(address: &str) -> Result<(), AddressError> {
        address::check(address)
    }

    /// `address` for people, without its secrets; none where it cannot be parsed.
    pub fn shown_address(address: &str) -> Option<String> {
        address::shown(address)
    }

    fn writers(&self) -> Result<&Connections, StoreError> {
        self.writers.as_ref().ok_or_else(only_reads)
    }

    fn money(&self) -> Result<&Connections, StoreError> {
        self.money.as_ref().ok_or_else(only_reads)
    }
}

impl Store for PgStore {
    fn migrate(&self) -> Result<(), StoreError> {
        if let Some(writers) = &self.writers {
            migrate::run(writers)?;
            self.is_migrated.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn ping(&self) -> Result<(), StoreError> {
        let is = |connection: &mut PgConnection, sql: &str| Ok(sql_query(sql).get_result::<Yes>(connection)?.yes);
        let lacking = |what: &str| Err(StoreError::Unavailable(what.to_owned()));
        if let Some(writers) = &self.writers {
            let only_reads = "SELECT current_setting('transaction_read_only')::boolean AS yes";
            if writers.run(|connection| is(connection, only_reads))? {
                return lacking("it only reads (a standby, or default_transaction_read_only is on)");
            }
            if let Some(why) = writers.run(|connection| Ok(migrate::strangers_tables(connection)?))? {
                return lacking(why);
            }
            if !self.is_migrated.load(Ordering::Relaxed) {
                return lacking("its tables are not brought to this version yet");
            }
            return Ok(());
        }
        let has_tables = "SELECT to_regclass('odds_current') IS NOT NULL AS yes";
        if !self.readers.run(|connection| is(connection, has_tables))? {
            return lacking("it has no tables yet; the role processor makes them when it starts");
        }
        if let Some(why) = self.readers.run(|connection| Ok(migrate::strangers_tables(connection)?))? {
            return lacking(why);
        }
        Ok(())
    }

    fn write_updates(&self, updates: &[PositionedUpdate]) -> Result<BatchReport, StoreError> {
        if updates.is_empty() {
            return Ok(BatchReport::default());
        }
        self.writers()?.transaction(|connection| write::updates(connection, updates, Timestamp::now()))
    }

    fn load_event(&self, event_id: &EventId) -> Result<Vec<Arc<MarketState>>, StoreError> {
        self.readers.run(|connection| read::event(connection, event_id))
    }

    fn list_events(&self, after: Option<&EventId>, limit: usize) -> Result<Vec<EventSummary>, StoreError> {
        self.readers.run(|connection| read::events(connection, after, limit))
    }

    fn history(&self, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, StoreError> {
        self.readers.run(|connection| read::history(connection, query))
    }

    /// Should an answer get lost and the letters be written again, one may stand twice, but none is lost.
    fn write_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        if letters.is_empty() {
            return Ok(());
        }
        self.writers()?.transaction(|connection| write::dead_letters(connection, letters))
    }

    fn list_dead_letters(&self, limit: usize) -> Result<Vec<StoredDeadLetter>, StoreError> {
        self.readers.run(|connection| read::dead_letters(connection, limit))
    }

    /// The age of a row of the history is counted from when it was recorded, as in SQLite.
    fn prune(&self, history_before: Timestamp, dead_letters_before: Timestamp) -> Result<PruneReport, StoreError> {
        self.writers()?.transaction(|connection| {
            // At the first start of all the tables may still be in the making: nothing is old in what is not there.
            let are_there = "SELECT to_regclass('odds_history') IS NOT NULL AS yes";
            if !sql_query(are_there).get_result::<Yes>(connection)?.yes {
                return Ok(PruneReport::default());
            }
            write::prune(connection, history_before, dead_letters_before)
        })
    }
}

#[derive(QueryableByName)]
struct Yes {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

fn only_reads() -> StoreError {
    StoreError::Refused("this store only reads".to_owned())
}

/// What a connection begins with.
fn setup(options: &PgOptions, only_reads: bool) -> String {
    // Zero would mean no limit.
    let millis = |time: Duration| time.as_millis().clamp(1, 2_000_000_000);
    let mut setup = format!(
        "SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {};",
        millis(options.statement_timeout),
        millis(options.lock_timeout),
        millis(IDLE_IN_TRANSACTION)
    );
    if only_reads {
        setup.push_str(" SET default_transaction_read_only = on;");
    }
    setup
}

/// PostgreSQL counts microseconds from 2000-01-01; this is then.
const EPOCH: i64 = 946_684_800_000_000;

/// A time as its column holds it.
fn stamp(time: Timestamp) -> PgTimestamp {
    // Years 0 to 9999 are far from the ends.
    PgTimestamp(time.micros().saturating_sub(EPOCH))
}

/// A time out of its column.
fn time(PgTimestamp(stamp): PgTimestamp) -> Result<Timestamp, StoreError> {
    let time = stamp.checked_add(EPOCH).and_then(Timestamp::from_micros);
    time.ok_or_else(|| unreadable("time", stamp))
}

/// The line as its column holds it: the shortest decimal text, empty for none.
fn line_text(line: Option<Line>) -> String {
    line.map(|line| line.to_string()).unwrap_or_default()
}

/// A column whose value makes no sense.
fn unreadable(column: &str, value: impl std::fmt::Display) -> StoreError {
    StoreError::Unreadable(format!("{column} {value}"))
}
