//! What an error of SQLite means for the caller.

use diesel::result::{DatabaseErrorKind, Error};

use super::StoreError;

/// Why a transaction was not done: the database's reason, or ours.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database's.
    Database(Error),
    /// Ours.
    Store(StoreError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Database(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Store(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Database(error) => meaning(error),
            Failure::Store(error) => error,
        }
    }
}

/// Texts of SQLite for what passes, or what an operator puts right, with nothing wrong in the
/// statement. Diesel hands on the text and not the code; the texts are part of SQLite's interface
/// (`sqlite3_errstr`).
const PASSING: [&str; 9] = [
    "is locked",
    "is full",
    "disk I/O error",
    "unable to open",
    "readonly database",
    "out of memory",
    "interrupted",
    "locking protocol",
    "no transaction is active",
];

/// Texts of SQLite for a file that is damaged or is no database.
const DAMAGED: [&str; 2] = ["malformed", "file is not a database"];

/// What an error of diesel means for the caller.
pub(super) fn meaning(error: Error) -> StoreError {
    let text = error.to_string();
    match error {
        Error::DatabaseError(DatabaseErrorKind::Unknown, _) => meaning_of_text(text),
        Error::DatabaseError(..) => StoreError::Refused(text),
        Error::DeserializationError(_) => StoreError::Unreadable(text),
        // The pool replaces a connection whose transaction broke.
        Error::BrokenTransactionManager | Error::RollbackErrorOnCommit { .. } => {
            StoreError::Unavailable(text)
        }
        _ => meaning_of_text(text),
    }
}

/// What a text of SQLite means for the caller.
pub(super) fn meaning_of_text(text: String) -> StoreError {
    let is_one_of = |known: &[&str]| known.iter().any(|known| text.contains(known));
    if is_one_of(&PASSING) {
        StoreError::Unavailable(text)
    } else if is_one_of(&DAMAGED) {
        StoreError::Unreadable(text)
    } else {
        StoreError::Refused(text)
    }
}
