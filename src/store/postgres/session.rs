//! Settings of a connection, applied before its first use so that defaults of the database, the
//! role or the server cannot change the meaning of our statements.
//!
//! A direct connection is set up once. A connection pooler in transaction mode (PgBouncer) runs
//! each transaction on any free server connection: settings and prepared statements of a session
//! are missing for the next statement, and leak into other clients' sessions. With a pooler, each
//! piece of work is therefore a transaction with its own settings, and statements are not kept
//! prepared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::connection::{CacheSize, SimpleConnection};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Bool;

use super::address::PgAddress;
use super::{PgOptions, StoreError};

/// The server aborts a transaction whose process has stalled for this long. That releases its
/// locks, which the process that took over its events may be waiting for.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(15);
/// How long a migration waits for a table: all later statements on that table wait behind it.
const TABLE_LOCK: Duration = Duration::from_secs(1);
/// How long a migration that builds an index waits for transactions that use the table. Nobody waits
/// behind it.
const INDEX_LOCK: Duration = Duration::from_secs(30);
/// Why a migration that builds an index does not run behind a pooler.
const NEEDS_SESSION: &str = "a migration builds an index while the platform runs, for which a pooler is in the way: \
     run `sports-bet migrate` with the address of the server itself";
/// A custom parameter that marks new connections. It is missing if a pooler is in between.
const MARKER: &str = "sports_bet.direct";
/// How poolers reject parameters that they do not track.
const REFUSES_OPTIONS: [&str; 3] = [
    "unsupported startup parameter",
    "command-line options",
    "startup options",
];

/// The purpose of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// A single statement, which is its own transaction.
    Statement,
    /// Several statements.
    Transaction,
    /// Several statements that read from one snapshot.
    Snapshot,
    /// Schema changes, without a statement timeout.
    Migration,
    /// A schema change outside a transaction, without a statement timeout.
    ConcurrentMigration,
}

/// Opens connections.
pub(super) struct Sessions {
    address: PgAddress,
    /// `None` if the address has its own options.
    marked_address: Option<PgAddress>,
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    statement_timeout: Duration,
    lock_timeout: Duration,
    row_lock_timeout: Duration,
    only_reads: bool,
    is_pooled: AtomicBool,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sessions")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The properties of an open connection.
pub(super) struct Session {
    /// The server accepts no writes.
    pub(super) only_reads: bool,
    is_pooled: bool,
    settings: Arc<Settings>,
}

#[derive(QueryableByName)]
struct Facts {
    #[diesel(sql_type = Bool)]
    only_reads: bool,
    #[diesel(sql_type = Bool)]
    is_marked: bool,
}

impl Sessions {
    pub(super) fn new(address: PgAddress, options: &PgOptions, only_reads: bool) -> Sessions {
        let settings = Arc::new(Settings {
            statement_timeout: options.statement_timeout,
            lock_timeout: options.lock_timeout,
            row_lock_timeout: options.row_lock_timeout,
            only_reads,
            is_pooled: AtomicBool::new(false),
        });
        let address = if only_reads {
            address
        } else {
            address.writable()
        };
        let has_options = std::env::var_os("PGOPTIONS").is_some();
        let marked_address = if has_options {
            None
        } else {
            marked(&address, options.statement_timeout)
        };
        Sessions {
            address,
            marked_address,
            settings,
        }
    }

    /// Opens a connection that is ready for use. The error says why that failed.
    pub(super) fn connect(&self) -> Result<(PgConnection, Session), String> {
        let marked = self
            .marked_address
            .as_ref()
            .filter(|_| !self.settings.is_pooled());
        let Some(marked) = marked else {
            return self.set_up(self.address.connect()?, false);
        };
        match marked.connect() {
            Err(why) if REFUSES_OPTIONS.iter().any(|known| why.contains(known)) => {
                self.settings.found_pooler();
                self.set_up(self.address.connect()?, false)
            }
            connected => self.set_up(connected?, true),
        }
    }

    fn set_up(
        &self,
        mut connection: PgConnection,
        wants_mark: bool,
    ) -> Result<(PgConnection, Session), String> {
        let facts = format!(
            "SELECT current_setting('transaction_read_only')::boolean OR pg_is_in_recovery() AS only_reads,
            COALESCE(current_setting('{MARKER}', true), '') = 'on' AS is_marked"
        );
        // In a transaction, because only within one does a pooler keep to one server connection.
        let facts: QueryResult<Facts> = connection
            .build_transaction()
            .read_committed()
            .run(|connection| sql_query(facts).get_result(connection));
        let facts = facts.map_err(|error| self.address.redacted(&error))?;
        if wants_mark && !facts.is_marked {
            self.settings.found_pooler();
        }
        let is_pooled = self.settings.is_pooled();
        if is_pooled {
            connection.set_prepared_statement_cache_size(CacheSize::Disabled);
        } else {
            connection
                .batch_execute(&self.settings.session_settings())
                .map_err(|error| self.address.redacted(&error))?;
        }
        let session = Session {
            only_reads: facts.only_reads,
            is_pooled,
            settings: self.settings.clone(),
        };
        Ok((connection, session))
    }
}

/// The address with our marker, and with a statement timeout that is in force before the first
/// statement. `None` if the address has its own options.
fn marked(address: &PgAddress, statement_timeout: Duration) -> Option<PgAddress> {
    address.with_options(&format!(
        "-c {MARKER}=on -c statement_timeout={}",
        millis(statement_timeout)
    ))
}

impl Settings {
    fn is_pooled(&self) -> bool {
        self.is_pooled.load(Ordering::Relaxed)
    }

    fn found_pooler(&self) {
        if !self.is_pooled.swap(true, Ordering::Relaxed) {
            log::info!(
                "connection pooler detected in front of the database: each call is a transaction with its own settings, \
                 and statements are not kept prepared"
            );
        }
    }

    /// The settings of a direct connection, applied once.
    fn session_settings(&self) -> String {
        let mut settings = format!(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED;
            SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {};",
            millis(self.statement_timeout),
            millis(self.row_lock_timeout),
            millis(IDLE_IN_TRANSACTION)
        );
        if self.only_reads {
            settings.push_str(" SET default_transaction_read_only = on;");
        }
        settings
    }
}

impl Session {
    /// Records that a prepared statement was lost, which reveals a pooler. New connections are set
    /// up for it.
    pub(super) fn found_pooler(&self) {
        self.settings.found_pooler();
    }

    /// The settings of a session that changes the schema outside a transaction. Fails behind a
    /// pooler, which may run each statement in another session.
    pub(super) fn concurrent_migration(&self) -> Result<String, StoreError> {
        if self.is_pooled {
            return Err(StoreError::Refused(NEEDS_SESSION.to_owned()));
        }
        let lock_timeout = millis(INDEX_LOCK);
        Ok(format!(
            "SET statement_timeout = 0; SET lock_timeout = {lock_timeout}"
        ))
    }

    /// The statements that begin a transaction of this scope, sent as one message. `None` if no
    /// explicit transaction is needed.
    pub(super) fn begin(&self, scope: Scope) -> Option<String> {
        if scope == Scope::Statement && !self.is_pooled {
            return None;
        }
        let settings = &self.settings;
        let isolation = if scope == Scope::Snapshot {
            "REPEATABLE READ READ ONLY"
        } else {
            "READ COMMITTED"
        };
        let mut begin = format!("BEGIN ISOLATION LEVEL {isolation}");
        if self.is_pooled && settings.only_reads && scope != Scope::Snapshot {
            begin.push_str(" READ ONLY");
        }
        let mut set = |name, value: u128| begin.push_str(&format!("; SET LOCAL {name} = {value}"));
        set(
            "lock_timeout",
            millis(match scope {
                Scope::Statement => settings.row_lock_timeout,
                Scope::Transaction | Scope::Snapshot => settings.lock_timeout,
                Scope::Migration => TABLE_LOCK,
                Scope::ConcurrentMigration => INDEX_LOCK,
            }),
        );
        // 0 disables the limit.
        match scope {
            Scope::Migration | Scope::ConcurrentMigration => {
                set("statement_timeout", 0);
                set("idle_in_transaction_session_timeout", 0);
            }
            _ if self.is_pooled => {
                set("statement_timeout", millis(settings.statement_timeout));
                set(
                    "idle_in_transaction_session_timeout",
                    millis(IDLE_IN_TRANSACTION),
                );
            }
            _ => {}
        }
        Some(begin)
    }
}

/// At least 1, since 0 disables the limit.
fn millis(time: Duration) -> u128 {
    time.as_millis().clamp(1, 2_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(is_pooled: bool, only_reads: bool) -> Session {
        let sessions = Sessions::new(
            PgAddress::parse(&"host=x".to_owned().into(), "test").unwrap(),
            &PgOptions::default(),
            only_reads,
        );
        Session {
            only_reads: false,
            is_pooled,
            settings: sessions.settings,
        }
    }

    #[test]
    fn every_transaction_sets_its_isolation() {
        for is_pooled in [false, true] {
            let begin = |scope| session(is_pooled, false).begin(scope);
            for scope in [Scope::Transaction, Scope::Migration] {
                assert!(
                    begin(scope)
                        .unwrap()
                        .starts_with("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL")
                );
            }
            let snapshot = begin(Scope::Snapshot).unwrap();
            assert!(
                snapshot.starts_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"),
                "{snapshot}"
            );
            assert_eq!(begin(Scope::Statement).is_some(), is_pooled);
        }
        assert!(
            session(false, false)
                .settings
                .session_settings()
                .contains("ISOLATION LEVEL READ COMMITTED")
        );
    }

    #[test]
    fn pooled_transactions_bring_their_settings() {
        let begin = session(true, true).begin(Scope::Statement).unwrap();
        assert_eq!(
            begin,
            "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL lock_timeout = 1000; SET LOCAL \
             statement_timeout = 30000; SET LOCAL idle_in_transaction_session_timeout = 15000"
        );
        let migration = session(true, false).begin(Scope::Migration).unwrap();
        assert!(
            migration.contains("lock_timeout = 1000;")
                && migration.contains("statement_timeout = 0"),
            "{migration}"
        );
    }
}
