//! Bringing the tables to this version.

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
use super::error::{Failure, meaning_of_text};

/// The migrations in this binary.
pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Holds one migrating process at a time, until its transaction ends. `diesel_migrations` takes no
/// lock of its own: whoever comes first runs all that is missing, and whoever comes later finds
/// nothing left to do. Its number says "odds" and "migr" in ASCII.
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

/// Runs what has not run yet, all of it or nothing. `readers` may lead to a server that takes no
/// writes, as long as nothing is missing there.
pub(super) fn run(readers: &Share, writers: &Share) -> Result<(), StoreError> {
    // A role without the right to make tables may still start on tables that stand.
    if readers.transaction(is_up_to_date)? {
        return Ok(());
    }
    writers.migration(|connection| {
        connection.batch_execute(LOCK)?;
        let ran = connection
            .run_pending_migrations(MIGRATIONS)
            .map_err(failure)?;
        for version in ran {
            log::debug!("database: migration {version} done");
        }
        Ok(())
    })
}

/// Why a database cannot be ours, where it holds the original's table of the same name. Migrations
/// would fail on it one by one, and reads and writes would find other columns.
pub(super) fn strangers_tables(connection: &mut PgConnection) -> QueryResult<Option<&'static str>> {
    let is_strange = "
        SELECT to_regclass('odds_current') IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = to_regclass('odds_current') AND attname = 'selections' AND NOT attisdropped) AS yes";
    let strange = sql_query(is_strange).get_result::<Yes>(connection)?.yes;
    Ok(strange.then_some(
        "its table odds_current is of another program; take a database (or a schema) of our own",
    ))
}

/// Another encoding would refuse the first name that it has no letters for, and hold up everything
/// behind it.
fn check_encoding(connection: &mut PgConnection) -> QueryResult<()> {
    let encoding: Word =
        sql_query("SELECT current_setting('server_encoding') AS text").get_result(connection)?;
    if encoding.text == "UTF8" {
        return Ok(());
    }
    let text = format!(
        "its encoding is {}; make one with ENCODING 'UTF8'",
        encoding.text
    );
    Err(diesel::result::Error::QueryBuilderError(text.into()))
}

/// Whether every migration of this binary has run, asked without taking a lock or making a table.
fn is_up_to_date(connection: &mut PgConnection) -> Result<bool, Failure> {
    check_encoding(connection)?;
    let stands = "SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL AS yes";
    if sql_query(stands).get_result::<Yes>(connection)?.yes {
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
    match strangers_tables(connection)? {
        Some(why) => Err(StoreError::Unavailable(why.to_owned()).into()),
        None => Ok(false),
    }
}

/// Says what helps if the login may not change the tables.
fn named_if_not_owner(text: &str) -> String {
    if text.contains("permission denied") || text.contains("must be owner") {
        format!("{text}; run `sports-bet migrate` as the login that owns the tables")
    } else {
        text.to_owned()
    }
}

fn failure(error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    let error = match error.downcast::<diesel::result::Error>() {
        Ok(database) => Failure::from(*database),
        Err(other) => meaning_of_text(other.to_string()).into(),
    };
    // Its connection may be of no use, and another one may do better.
    if error.is_lost() {
        return error;
    }
    match StoreError::from(error) {
        StoreError::Refused(text) => {
            StoreError::Refused(format!("a migration: {}", named_if_not_owner(&text))).into()
        }
        other => other.into(),
    }
}
