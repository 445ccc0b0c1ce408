//! Migrates the schema to this version.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::connections::Share;
use super::error::ERRORS;
use super::{StoreError, Yes, is};
use crate::store::failure::Failure;

/// The migrations embedded in this binary.
pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// The lock that admits one migrating process at a time; `diesel_migrations` takes none. The number is
/// "oddsmigr" in ASCII. Nobody waits for it within a statement: building an index concurrently would
/// wait for that statement's snapshot.
const LOCK: &str = "8026650882800707442";
/// Pause between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(100);
/// Pause after a table could not be locked. Statements that waited behind the migration run meanwhile.
const TABLE_PAUSE: Duration = Duration::from_secs(4);
/// How long a call makes no progress before it returns. Short, because a process that stops waits for
/// the call.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(QueryableByName)]
struct TextRow {
    #[diesel(sql_type = Text)]
    text: String,
}

/// The result of an attempt to migrate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attempt {
    /// Another process migrates.
    OtherProcess,
    /// Another transaction uses a table. The text is the server's.
    TableInUse(String),
    /// The next migration must run outside a transaction.
    ConcurrentNext,
    /// No migration is pending.
    Complete,
}

/// Whether the schema is up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Migrated {
    /// It is.
    Complete,
    /// It is not, because something is in the way that ends by itself. The text says what.
    Waiting(String),
}

/// Runs the pending migrations in their order. Those in a row that run in a transaction share one. One
/// that builds an index while others write runs by itself, and the migrations before it stay. `readers`
/// may lead to a read-only server if no migration is pending there. Returns after some seconds without
/// progress.
pub(super) fn run(readers: &Share, writers: &Share) -> Result<Migrated, StoreError> {
    let mut progress = Instant::now();
    // A role without the right to create tables can still start if the tables are up to date.
    while !readers.transaction(is_up_to_date)? {
        let obstacle = match attempt(writers)? {
            Attempt::ConcurrentNext | Attempt::Complete => {
                progress = Instant::now();
                continue;
            }
            Attempt::OtherProcess => {
                std::thread::sleep(LOCK_RETRY);
                "another process is migrating the tables".to_owned()
            }
            Attempt::TableInUse(text) => {
                format!("another transaction uses a table that is to be migrated: {text}")
            }
        };
        if progress.elapsed() >= PATIENCE {
            return Ok(Migrated::Waiting(obstacle));
        }
    }
    Ok(Migrated::Complete)
}

fn attempt(writers: &Share) -> Result<Attempt, StoreError> {
    match writers.migration(in_transaction)? {
        Attempt::ConcurrentNext => writers.concurrent_migration(concurrently),
        other => Ok(other),
    }
}

/// Runs the pending migrations up to the first that must run outside a transaction. If a table is in
/// use, nothing is changed, and the lock is kept for a pause, so that no other process waits for the
/// table meanwhile.
fn in_transaction(connection: &mut PgConnection) -> Result<Attempt, Failure> {
    let lock = format!("SELECT pg_try_advisory_xact_lock({LOCK}) AS yes");
    if !is(connection, &lock)? {
        return Ok(Attempt::OtherProcess);
    }
    match connection.transaction(apply_in_transaction) {
        Err(failure) if failure.is_lock_timeout() => {
            std::thread::sleep(TABLE_PAUSE);
            Ok(Attempt::TableInUse(ERRORS.failure(failure).to_string()))
        }
        other => other,
    }
}

fn apply_in_transaction(connection: &mut PgConnection) -> Result<Attempt, Failure> {
    for migration in connection.pending_migrations(MIGRATIONS).map_err(failure)? {
        if !migration.metadata().run_in_transaction() {
            return Ok(Attempt::ConcurrentNext);
        }
        apply(connection, &*migration)?;
    }
    Ok(Attempt::Complete)
}

/// Runs the next migration if it must run outside a transaction. The lock ends with the session, which
/// is not used for anything else.
fn concurrently(connection: &mut PgConnection) -> Result<Attempt, Failure> {
    let lock = format!("SELECT pg_try_advisory_lock({LOCK}) AS yes");
    if !is(connection, &lock)? {
        return Ok(Attempt::OtherProcess);
    }
    let pending = connection.pending_migrations(MIGRATIONS).map_err(failure)?;
    match pending.first() {
        Some(migration) if !migration.metadata().run_in_transaction() => {
            drop_invalid_indexes(connection)?;
            apply(connection, &**migration)?;
            Ok(Attempt::ConcurrentNext)
        }
        _ => Ok(Attempt::Complete),
    }
}

/// Drops the indexes that an interrupted migration left, and that nobody is building: they are not used,
/// and their names are taken.
fn drop_invalid_indexes(connection: &mut PgConnection) -> Result<(), Failure> {
    let invalid = "
        SELECT quote_ident(index.relname) AS text FROM pg_index
        JOIN pg_class AS index ON index.oid = indexrelid
        WHERE NOT indisvalid AND index.relnamespace = current_schema()::regnamespace
            AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE index_relid = indexrelid)";
    for index in sql_query(invalid).load::<TextRow>(connection)? {
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", index.text);
        connection.batch_execute(&drop)?;
    }
    Ok(())
}

fn apply(connection: &mut PgConnection, migration: &dyn Migration<Pg>) -> Result<(), Failure> {
    let version = connection.run_migration(migration).map_err(failure)?;
    log::debug!("database migration {version} applied");
    Ok(())
}

/// Detects the original's table of the same name, and returns why this database cannot be used.
/// Migrations would fail on it one by one, and reads and writes would find other columns.
pub(super) fn find_foreign_table(
    connection: &mut PgConnection,
) -> QueryResult<Option<&'static str>> {
    let foreign_table = "
        SELECT to_regclass('odds_current') IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = to_regclass('odds_current') AND attname = 'selections' AND NOT attisdropped) AS yes";
    let is_foreign = sql_query(foreign_table).get_result::<Yes>(connection)?.yes;
    Ok(is_foreign.then_some(
        "its table odds_current is of another program; use a separate database or schema",
    ))
}

/// Another encoding would reject the first name with an unsupported letter, which would block
/// everything queued after it.
fn check_encoding(connection: &mut PgConnection) -> QueryResult<()> {
    let encoding: TextRow =
        sql_query("SELECT current_setting('server_encoding') AS text").get_result(connection)?;
    if encoding.text == "UTF8" {
        return Ok(());
    }
    let text = format!(
        "its encoding is {}; create a database with ENCODING 'UTF8'",
        encoding.text
    );
    Err(diesel::result::Error::QueryBuilderError(text.into()))
}

/// Whether all migrations of this binary have run, checked without a lock and without creating a
/// table.
fn is_up_to_date(connection: &mut PgConnection) -> Result<bool, Failure> {
    check_encoding(connection)?;
    let migrations_exist = "SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL AS yes";
    if sql_query(migrations_exist)
        .get_result::<Yes>(connection)?
        .yes
    {
        let versions = "SELECT version::text AS text FROM __diesel_schema_migrations";
        let done: Vec<TextRow> = sql_query(versions).load(connection)?;
        let done: HashSet<_> = done.into_iter().map(|row| row.text).collect();
        let all: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().map_err(failure)?;
        if all
            .iter()
            .all(|one| done.contains(&one.name().version().to_string()))
        {
            return Ok(true);
        }
    }
    match find_foreign_table(connection)? {
        Some(why) => Err(StoreError::Unavailable(why.to_owned()).into()),
        None => Ok(false),
    }
}

/// Adds a hint if the login may not change the tables.
fn with_owner_hint(text: &str) -> String {
    if text.contains("permission denied") || text.contains("must be owner") {
        format!("{text}; run `sports-bet migrate` as the login that owns the tables")
    } else {
        text.to_owned()
    }
}

fn failure(error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    let error = match error.downcast::<diesel::result::Error>() {
        Ok(database) => Failure::from(*database),
        Err(other) => ERRORS.text(other.to_string()).into(),
    };
    // The connection may be useless, and a new one may work.
    if error.is_lost() {
        return error;
    }
    match ERRORS.failure(error) {
        StoreError::Refused(text) => {
            StoreError::Refused(format!("migration failed: {}", with_owner_hint(&text))).into()
        }
        other => other.into(),
    }
}
