//! Classifies SQLite errors for the caller.

use diesel::result::{DatabaseErrorKind, Error};

use super::StoreError;

/// Why a transaction failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database or diesel failed.
    Database(Error),
    /// Our own code failed.
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

/// Texts of transient errors, and of errors that an operator resolves, with nothing wrong in the
/// statement. Diesel passes on the text and not the code; the texts are part of SQLite's interface
/// (`sqlite3_errstr`).
const TRANSIENT: [&str; 9] = [
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

/// Texts for a file that is damaged or is not a database.
const DAMAGED: [&str; 2] = ["malformed", "file is not a database"];

/// Classifies an error of diesel.
pub(super) fn meaning(error: Error) -> StoreError {
    let text = error.to_string();
    match error {
        Error::DatabaseError(DatabaseErrorKind::Unknown, _) => meaning_of_text(text),
        Error::DatabaseError(..) => StoreError::Refused(text),
        Error::DeserializationError(_) => StoreError::Unreadable(text),
        // The pool replaces a connection with a broken transaction.
        Error::BrokenTransactionManager | Error::RollbackErrorOnCommit { .. } => {
            StoreError::Unavailable(text)
        }
        _ => meaning_of_text(text),
    }
}

/// Classifies an error text of SQLite.
pub(super) fn meaning_of_text(text: String) -> StoreError {
    let is_one_of = |known: &[&str]| known.iter().any(|known| text.contains(known));
    if is_one_of(&TRANSIENT) {
        StoreError::Unavailable(text)
    } else if is_one_of(&DAMAGED) {
        StoreError::Unreadable(text)
    } else {
        StoreError::Refused(text)
    }
}
