//! The database of the commands `key` and `user`, and why they fail.

use std::sync::Arc;

use super::exit;
use crate::config::engines::StoreEngine;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;
use crate::store::access::AccessStore;
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::SqliteStore;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AccessCommandError {
    /// No key has this number.
    #[error("key {0} does not exist")]
    UnknownKey(i64),
    /// The key is revoked.
    #[error("key {id} was already revoked at {at} by {by}")]
    AlreadyRevoked {
        /// Its number.
        id: i64,
        /// When it was revoked.
        at: Timestamp,
        /// Who revoked it.
        by: String,
    },
    /// The database has no keys.
    #[error(
        "DATABASE_URL: the tables are of an earlier version: start this version, or run `sports-bet migrate`"
    )]
    NotMigrated,
    /// The database failed.
    #[error("DATABASE_URL: {0}")]
    Store(StoreError),
    /// The system has no random numbers.
    #[error("the operating system provides no random numbers")]
    NoRandomNumbers,
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
}

impl From<StoreError> for AccessCommandError {
    fn from(error: StoreError) -> AccessCommandError {
        let text = error.to_string();
        let missing = ["api_keys", "revoked_users"].iter().any(|table| {
            let sqlite = format!("no such table: {table}");
            let postgres = format!("\"{table}\" does not exist");
            text.contains(&sqlite) || text.contains(&postgres)
        });
        if missing {
            AccessCommandError::NotMigrated
        } else {
            AccessCommandError::Store(error)
        }
    }
}

impl AccessCommandError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            AccessCommandError::UnknownKey(_)
            | AccessCommandError::AlreadyRevoked { .. }
            | AccessCommandError::NoRandomNumbers => exit::FAILED,
            AccessCommandError::NotMigrated | AccessCommandError::Store(_) => exit::UNAVAILABLE,
            AccessCommandError::Output(_) => exit::OUTPUT,
        }
    }
}

/// Opens the database; `name` is that of the command in the server's list of connections.
pub(super) fn open(engine: &StoreEngine, name: &str) -> Result<Arc<dyn AccessStore>, StoreError> {
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
