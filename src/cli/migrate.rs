//! `sports-bet migrate`: brings the tables to this version and ends, so that the roles can run as a
//! login that owns no table and cannot change one.

use clap::Args;

use crate::config::engines::StoreEngine;
use crate::config::settings::StoreSettings;
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::{DatabaseLock, SqliteStore};
use crate::store::{Store, StoreError};

/// Brings the database's tables to this version, and ends
///
/// Runs every migration that is missing, under a lock in the database. Use it with the login that
/// owns the tables, before roles start whose login may only read and write rows. Exits with 0 if
/// nothing is missing any more.
#[derive(Args, Clone, Debug)]
pub struct MigrateArgs {
    /// The database.
    #[command(flatten)]
    pub store: StoreSettings,
}

/// Why the tables are not up to date.
#[derive(Debug, thiserror::Error)]
#[error("DATABASE_URL: {0}")]
pub struct MigrateError(#[from] StoreError);

/// Migrates this database. A SQLite file that a server uses is refused: the server has migrated it.
pub fn run(engine: &StoreEngine) -> Result<(), MigrateError> {
    match engine {
        StoreEngine::Sqlite(path) => {
            let path = path.to_string_lossy();
            let store = SqliteStore::open(&path)?;
            let _claim = DatabaseLock::of(std::path::Path::new(path.as_ref()))?;
            store.migrate()?;
        }
        StoreEngine::Postgres { url, .. } => {
            let options = PgOptions {
                application_name: "sports-bet-migrate".to_owned(),
                ..PgOptions::default()
            };
            PgStore::open(url, &options)?.migrate()?;
        }
    }
    log::info!("the database is up to date");
    Ok(())
}
