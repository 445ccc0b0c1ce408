//! Why the commands `key` and `user` fail.

use super::exit;
use super::operator_store::DatabaseError;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;

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
    /// The database cannot be used.
    #[error(transparent)]
    Database(DatabaseError),
    /// The system has no random numbers.
    #[error("the operating system provides no random numbers")]
    NoRandomNumbers,
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
}

impl From<StoreError> for AccessCommandError {
    fn from(error: StoreError) -> AccessCommandError {
        AccessCommandError::Database(DatabaseError::of(error, &["api_keys", "revoked_users"]))
    }
}

impl AccessCommandError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            AccessCommandError::UnknownKey(_)
            | AccessCommandError::AlreadyRevoked { .. }
            | AccessCommandError::NoRandomNumbers => exit::FAILED,
            AccessCommandError::Database(_) => exit::UNAVAILABLE,
            AccessCommandError::Output(_) => exit::OUTPUT,
        }
    }
}
