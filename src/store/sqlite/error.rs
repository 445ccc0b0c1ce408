//! The error texts of SQLite, which are part of its interface (`sqlite3_errstr`).

use crate::store::failure::Classifier;

/// Classifies errors of SQLite.
pub(super) const ERRORS: Classifier = Classifier {
    transient: &[
        "is locked",
        "is full",
        "disk I/O error",
        "unable to open",
        "readonly database",
        "out of memory",
        "interrupted",
        "locking protocol",
        "no transaction is active",
    ],
    // The file is damaged, or it is not a database.
    damaged: &["malformed", "file is not a database"],
};
