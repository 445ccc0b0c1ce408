//! The error texts of PostgreSQL, and what can be done about a failure.

use diesel::result::{DatabaseErrorKind, Error};

use crate::store::failure::{Classifier, Failure};

/// Classifies errors of PostgreSQL. On a server whose messages are not in English, transient errors
/// count as refused, which is retried all the same.
pub(super) const ERRORS: Classifier = Classifier {
    transient: &TRANSIENT,
    damaged: &DAMAGED,
};

const TRANSIENT: [&str; 25] = [
    "deadlock detected",
    "could not serialize access",
    "canceling statement due to",
    "terminating connection",
    "the database system is",
    "too many clients",
    "too many connections",
    "connection slots",
    "read-only transaction",
    "during recovery",
    "No space left on device",
    "could not extend file",
    "could not write",
    "disk full",
    "prepared statement",
    "bind message supplies",
    "current transaction is aborted",
    "cached plan must not change",
    "server conn crashed",
    "query_wait_timeout",
    "out of memory",
    "out of shared memory",
    "server closed the connection",
    "could not receive data",
    "could not send data",
];

/// Texts of a connection that is open but useless, so that a new one may work: it leads to a server
/// that became a standby, waits to be terminated, or belongs to a pooler that ran the next
/// statement on another server connection.
const USELESS_CONNECTION: [&str; 8] = [
    "terminating connection",
    "read-only transaction",
    "during recovery",
    "the database system is",
    "current transaction is aborted",
    "cached plan must not change result type",
    "server conn crashed",
    "server closed the connection",
];

const DAMAGED: [&str; 4] = [
    "invalid page in block",
    "could not read block",
    "missing chunk number",
    "found toasted",
];

/// Reported for a server that accepts no writes.
pub(super) const ONLY_READS: &str = "cannot write in a read-only transaction: the server only reads (it is a standby, or \
                                     default_transaction_read_only is on)";

/// The constraint that fails if the key was answered concurrently: a rejection is stored without a
/// wallet lock, since the wallet may not exist.
const FIRST_ANSWERS: &str = "bet_requests_pkey";

impl Failure {
    /// The row of a concurrent transaction was not yet visible to the first statement, but was to
    /// the last.
    pub(super) fn conflict() -> Failure {
        let why = Box::new("gave up after repeated conflicts with other transactions".to_owned());
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, why).into()
    }

    /// Whether the connection is lost or useless, so that a new one may work.
    pub(super) fn is_lost(&self) -> bool {
        use DatabaseErrorKind::{ClosedConnection, UnableToSendCommand};
        match self {
            Failure::Database(Error::DatabaseError(ClosedConnection | UnableToSendCommand, _)) => {
                true
            }
            Failure::Database(
                Error::BrokenTransactionManager | Error::RollbackErrorOnCommit { .. },
            ) => true,
            Failure::Database(Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _)) => {
                true
            }
            Failure::Database(error) => {
                let text = error.to_string();
                self.is_pooler_failure()
                    || USELESS_CONNECTION.iter().any(|known| text.contains(known))
            }
            Failure::Store(_) => false,
        }
    }

    /// Whether a pooler in transaction mode ran a statement on a server connection other than the
    /// one that it was prepared on.
    pub(super) fn is_pooler_failure(&self) -> bool {
        let Failure::Database(error) = self else {
            return false;
        };
        let text = error.to_string();
        let has_end = |end: &str| text.contains("prepared statement") && text.contains(end);
        has_end("does not exist")
            || has_end("already exists")
            || text.contains("bind message supplies")
    }

    /// The server accepts no writes.
    pub(super) fn only_reads() -> Failure {
        Error::DatabaseError(
            DatabaseErrorKind::ReadOnlyTransaction,
            Box::new(ONLY_READS.to_owned()),
        )
        .into()
    }

    /// Whether the lock timeout expired.
    pub(super) fn is_lock_timeout(&self) -> bool {
        const TEXT: &str = "due to lock timeout";
        match self {
            Failure::Database(error) => error.to_string().contains(TEXT),
            Failure::Store(error) => error.to_string().contains(TEXT),
        }
    }

    /// Whether the work conflicted with another transaction and may be retried at once.
    pub(super) fn is_collision(&self) -> bool {
        match self {
            Failure::Database(Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)) => {
                true
            }
            Failure::Database(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, about)) => {
                about.constraint_name() == Some(FIRST_ANSWERS)
            }
            Failure::Database(error) => error.to_string().contains("deadlock detected"),
            Failure::Store(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::store::StoreError;

    fn of_kind(kind: DatabaseErrorKind, text: &str) -> Error {
        Error::DatabaseError(kind, Box::new(text.to_owned()))
    }

    #[rstest]
    #[case("could not extend file \"base/5/16396\": No space left on device")]
    #[case("canceling statement due to statement timeout")]
    #[case("canceling statement due to lock timeout")]
    #[case("cannot execute INSERT in a read-only transaction")]
    #[case("cannot set transaction read-write mode during recovery")]
    #[case("the database system is shutting down")]
    #[case("sorry, too many clients already")]
    fn transient_errors_are_unavailable(#[case] text: &str) {
        assert_eq!(
            ERRORS.error(of_kind(DatabaseErrorKind::Unknown, text)),
            StoreError::Unavailable(text.to_owned())
        );
    }

    #[test]
    fn bad_statement_is_refused_damage_is_unreadable() {
        let missing = "relation \"odds_current\" does not exist";
        assert_eq!(
            ERRORS.error(of_kind(DatabaseErrorKind::Unknown, missing)),
            StoreError::Refused(missing.to_owned())
        );
        let check = of_kind(
            DatabaseErrorKind::CheckViolation,
            "violates: could not write",
        );
        assert!(matches!(ERRORS.error(check), StoreError::Refused(_)));
        let damaged = of_kind(
            DatabaseErrorKind::Unknown,
            "invalid page in block 7 of relation base/5/16396",
        );
        assert!(matches!(ERRORS.error(damaged), StoreError::Unreadable(_)));
    }

    #[test]
    fn retryable_failures_are_recognised() {
        let failure = |kind, text| Failure::from(of_kind(kind, text));
        assert!(failure(DatabaseErrorKind::UnableToSendCommand, "").is_lost());
        assert!(
            failure(
                DatabaseErrorKind::Unknown,
                "terminating connection due to administrator command"
            )
            .is_lost()
        );
        assert!(
            !failure(
                DatabaseErrorKind::Unknown,
                "canceling statement due to lock timeout"
            )
            .is_lost()
        );
        for useless in [
            "cannot execute INSERT in a read-only transaction",
            "cannot set transaction read-write mode during recovery",
            "prepared statement \"__diesel_stmt_3\" does not exist",
            "unnamed prepared statement does not exist",
            "prepared statement \"__diesel_stmt_0\" already exists",
            "cached plan must not change result type",
            "current transaction is aborted, commands ignored until end of transaction block",
        ] {
            assert!(
                failure(DatabaseErrorKind::Unknown, useless).is_lost(),
                "{useless}"
            );
            assert!(matches!(
                ERRORS.error(of_kind(DatabaseErrorKind::Unknown, useless)),
                StoreError::Unavailable(_)
            ));
        }
        assert!(
            failure(DatabaseErrorKind::ReadOnlyTransaction, "").is_lost()
                && Failure::only_reads().is_lost()
        );
        assert!(failure(DatabaseErrorKind::Unknown, "deadlock detected").is_collision());
        assert!(failure(DatabaseErrorKind::SerializationFailure, "").is_collision());
        assert!(Failure::conflict().is_collision());
        assert!(!failure(DatabaseErrorKind::CheckViolation, "").is_collision());
        assert!(
            !failure(DatabaseErrorKind::UniqueViolation, "of another constraint").is_collision()
        );
    }
}
