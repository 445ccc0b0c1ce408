//! The database of the commands of operators: `hold`, `key` and `user`.

use std::sync::Arc;

use crate::config::engines::StoreEngine;
use crate::store::StoreError;
use crate::store::access::AccessStore;
use crate::store::holds::HoldStore;
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::SqliteStore;

/// What operators change.
pub(super) trait OperatorStore: HoldStore + AccessStore {}

impl<S: HoldStore + AccessStore> OperatorStore for S {}

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

/// Whether the database lacks one of these tables, because its schema is of an earlier version.
pub(super) fn lacks_table(error: &StoreError, tables: &[&str]) -> bool {
    let text = error.to_string();
    tables.iter().any(|table| {
        let sqlite = format!("no such table: {table}");
        let postgres = format!("\"{table}\" does not exist");
        text.contains(&sqlite) || text.contains(&postgres)
    })
}
