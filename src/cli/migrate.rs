//! `sports-bet migrate`: migrates the schema to this version and exits, so that the roles can run
//! as a database user that owns no table and cannot alter one.

use std::time::{Duration, Instant};

use clap::Args;

use crate::config::engines::StoreEngine;
use crate::config::settings::StoreSettings;
use crate::store::postgres::{Migrated, PgOptions, PgStore};
use crate::store::sqlite::{DatabaseLock, SqliteStore};
use crate::store::{Store, StoreError};

/// Migrates the database schema to this version and exits
///
/// Runs every pending migration under a lock in the database. Use it with the database user that
/// owns the tables, before roles start whose user may only read and write rows. Exits with 0 if no
/// migration is pending any more.
#[derive(Args, Clone, Debug)]
pub struct MigrateArgs {
    /// The database to migrate.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// How long the command waits for transactions that use the tables, and for other processes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why the schema is not up to date.
#[derive(Debug, thiserror::Error)]
#[error("DATABASE_URL: {0}")]
pub struct MigrateError(#[from] StoreError);

/// Migrates a database in which others may use the tables, or migrate. Fails after `patience`.
fn migrate_within(store: &PgStore, patience: Duration) -> Result<(), StoreError> {
    let mut waiting_since = None;
    while let Migrated::Waiting(obstacle) = store.try_migrate()? {
        if waiting_since.is_none() {
            log::warn!("{obstacle}; waiting for at most {patience:?}");
        }
        if waiting_since.get_or_insert_with(Instant::now).elapsed() >= patience {
            return Err(StoreError::Unavailable(obstacle));
        }
    }
    Ok(())
}

/// Migrates this database. A SQLite file that a server uses is rejected: the server has already
/// migrated it.
pub fn run(engine: &StoreEngine) -> Result<(), MigrateError> {
    match engine {
        StoreEngine::Sqlite(path) => {
            let path = path.to_string_lossy();
            let store = SqliteStore::open(&path)?;
            let _lock = DatabaseLock::of(std::path::Path::new(path.as_ref()))?;
            store.migrate()?;
        }
        StoreEngine::Postgres { url, .. } => {
            let options = PgOptions {
                application_name: "sports-bet-migrate".to_owned(),
                ..PgOptions::default()
            };
            migrate_within(&PgStore::open(url, &options)?, PATIENCE)?;
        }
    }
    log::info!("database schema is up to date");
    Ok(())
}
