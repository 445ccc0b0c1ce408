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
/// How long a process waits for another one that migrates, before the caller tries again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(100);

#[derive(QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    text: String,
}

/// How far a round of migrations came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Another process migrates.
    Busy,
    /// The next migration must run outside a transaction.
    ConcurrentNext,
    /// No migration is pending.
    Complete,
}

/// Runs the pending migrations in their order. Those in a row that run in a transaction share one. One
/// that builds an index while others write runs by itself, and the migrations before it stay. `readers`
/// may lead to a read-only server if no migration is pending there.
pub(super) fn run(readers: &Share, writers: &Share) -> Result<(), StoreError> {
    let started = Instant::now();
    // A role without the right to create tables can still start if the tables are up to date.
    while !readers.transaction(is_up_to_date)? {
        let mut round = writers.migration(in_transaction)?;
        if round == Round::ConcurrentNext {
            round = writers.concurrent_migration(concurrently)?;
        }
        if round == Round::Busy {
            if started.elapsed() >= LOCK_TIMEOUT {
                let why = "another process is migrating the tables";
                return Err(StoreError::Unavailable(why.to_owned()));
            }
            std::thread::sleep(LOCK_RETRY);
        }
    }
    Ok(())
}

/// Runs the pending migrations up to the first that must run outside a transaction.
fn in_transaction(connection: &mut PgConnection) -> Result<Round, Failure> {
    let lock = format!("SELECT pg_try_advisory_xact_lock({LOCK}) AS yes");
    if !is(connection, &lock)? {
        return Ok(Round::Busy);
    }
    for migration in connection.pending_migrations(MIGRATIONS).map_err(failure)? {
        if !migration.metadata().run_in_transaction() {
            return Ok(Round::ConcurrentNext);
        }
        apply(connection, &*migration)?;
    }
    Ok(Round::Complete)
}

/// Runs the next migration if it must run outside a transaction. The lock ends with the session, which
/// is not used for anything else.
fn concurrently(connection: &mut PgConnection) -> Result<Round, Failure> {
    let lock = format!("SELECT pg_try_advisory_lock({LOCK}) AS yes");
    if !is(connection, &lock)? {
        return Ok(Round::Busy);
    }
    let pending = connection.pending_migrations(MIGRATIONS).map_err(failure)?;
    match pending.first() {
        Some(migration) if !migration.metadata().run_in_transaction() => {
            drop_invalid_indexes(connection)?;
            apply(connection, &**migration)?;
            Ok(Round::ConcurrentNext)
        }
        _ => Ok(Round::Complete),
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
    for index in sql_query(invalid).load::<Word>(connection)? {
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
    let encoding: Word =
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
        let done: Vec<Word> = sql_query(versions).load(connection)?;
        let done: HashSet<_> = done.into_iter().map(|word| word.text).collect();
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
