//! Migrates the schema to this version.

use std::collections::HashSet;

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Bool, Text};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::StoreError;
use super::connections::Share;
use super::error::ERRORS;
use crate::store::failure::Failure;

/// The migrations embedded in this binary.
pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Admits one migrating process at a time, until its transaction ends. `diesel_migrations` takes no
/// lock itself: the first process runs all pending migrations, and later ones find nothing to do.
/// The number is "oddsmigr" in ASCII.
const LOCK: &str = "SELECT pg_advisory_xact_lock(8026650882800707442)";

#[derive(QueryableByName)]
struct Yes {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

#[derive(QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    text: String,
}

/// Runs the pending migrations, all or none. `readers` may lead to a read-only server if no
/// migration is pending there.
pub(super) fn run(readers: &Share, writers: &Share) -> Result<(), StoreError> {
    // A role without the right to create tables can still start if the tables are up to date.
    if readers.transaction(is_up_to_date)? {
        return Ok(());
    }
    writers.migration(|connection| {
        connection.batch_execute(LOCK)?;
        let ran = connection
            .run_pending_migrations(MIGRATIONS)
            .map_err(failure)?;
        for version in ran {
            log::debug!("database migration {version} applied");
        }
        Ok(())
    })
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
