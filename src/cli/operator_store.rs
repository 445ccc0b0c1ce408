//! The database of the commands of operators.

use std::sync::Arc;

use crate::config::engines::StoreEngine;
use crate::store::access::AccessStore;
use crate::store::holds::HoldStore;
use crate::store::money::{ReportStore, SettlementStore};
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};

/// What operators read and change.
pub(super) trait OperatorStore:
    HoldStore + AccessStore + SettlementStore + ReportStore + Store
{
}

impl<S> OperatorStore for S where S: HoldStore + AccessStore + SettlementStore + ReportStore + Store {}

/// Opens the database; `name` is that of the command in the server's list of connections.
pub(super) fn open(engine: &StoreEngine, name: &str) -> Result<Arc<dyn OperatorStore>, StoreError> {
    Ok(match engine {
        StoreEngine::Sqlite(path) => Arc::new(SqliteStore::open_existing(&path.to_string_lossy())?),
        StoreEngine::Postgres { url, .. } => {
            let options = PgOptions {
                readers: 1,
                money: 1,
                application_name: name.to_owned(),
                ..PgOptions::default()
            };
            Arc::new(PgStore::open(url, &options)?)
        }
    })
}

/// Why a command cannot use the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The schema is of an earlier version.
    #[error(
        "DATABASE_URL: the tables are of an earlier version: start this version, or run `sports-bet migrate`"
    )]
    NotMigrated,
    /// The database failed.
    #[error("DATABASE_URL: {0}")]
    Store(StoreError),
}

impl DatabaseError {
    /// The failure of a command that needs these tables.
    pub(super) fn of(error: StoreError, tables: &[&str]) -> DatabaseError {
        if lacks_table(&error, tables) {
            DatabaseError::NotMigrated
        } else {
            DatabaseError::Store(error)
        }
    }
}

/// Whether the database lacks one of these tables, because its schema is of an earlier version.
fn lacks_table(error: &StoreError, tables: &[&str]) -> bool {
    let text = error.to_string();
    tables.iter().any(|table| {
        let sqlite = format!("no such table: {table}");
        let postgres = format!("\"{table}\" does not exist");
        text.contains(&sqlite) || text.contains(&postgres)
    })
}
