//! Why a piece of work on a database failed, and what that means for the caller.

use diesel::result::{DatabaseErrorKind, Error};

use super::StoreError;

/// Why a piece of work failed.
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

/// Classifies the failures of one database by their texts: diesel passes on a few error kinds and
/// otherwise only the text, not the code.
pub(super) struct Classifier {
    /// Texts of transient errors, and of errors that an operator resolves, with nothing wrong in
    /// the statement.
    pub(super) transient: &'static [&'static str],
    /// Texts of damaged data.
    pub(super) damaged: &'static [&'static str],
}

impl Classifier {
    /// Classifies a failure.
    pub(super) fn failure(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Database(error) => self.error(error),
            Failure::Store(error) => error,
        }
    }

    /// Classifies an error of diesel.
    pub(super) fn error(&self, error: Error) -> StoreError {
        use DatabaseErrorKind::{
            ClosedConnection, ReadOnlyTransaction, SerializationFailure, UnableToSendCommand,
            Unknown,
        };
        let text = one_line(&error.to_string());
        match error {
            Error::DatabaseError(
                ClosedConnection | ReadOnlyTransaction | SerializationFailure | UnableToSendCommand,
                _,
            ) => StoreError::Unavailable(text),
            Error::DatabaseError(Unknown, _) => self.text(text),
            Error::DatabaseError(..) => StoreError::Refused(text),
            Error::DeserializationError(error) => StoreError::Unreadable(with_sources(&*error)),
            // The pool replaces a connection with a broken transaction.
            Error::BrokenTransactionManager | Error::RollbackErrorOnCommit { .. } => {
                StoreError::Unavailable(text)
            }
            _ => self.text(text),
        }
    }

    /// Classifies an error text.
    pub(super) fn text(&self, text: String) -> StoreError {
        let contains_any = |known: &[&str]| known.iter().any(|known| text.contains(known));
        if contains_any(self.transient) {
            StoreError::Unavailable(text)
        } else if contains_any(self.damaged) {
            StoreError::Unreadable(text)
        } else {
            StoreError::Refused(text)
        }
    }
}

/// Joins the lines of a text: libpq reports each address that it tried on a separate line.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        "no reason was given".to_owned()
    } else {
        lines.join("; ")
    }
}

/// The text of an error and of its causes: diesel's text names only the column.
fn with_sources(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(|error| one_line(&error.to_string())).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSIFIER: Classifier = Classifier {
        transient: &["is busy"],
        damaged: &["malformed"],
    };

    #[test]
    fn text_decides_only_for_unknown_kinds() {
        let of_kind = |kind, text: &str| {
            CLASSIFIER.error(Error::DatabaseError(kind, Box::new(text.to_owned())))
        };
        let unknown = |text| of_kind(DatabaseErrorKind::Unknown, text);
        assert_eq!(
            unknown("it is busy"),
            StoreError::Unavailable("it is busy".to_owned())
        );
        assert_eq!(
            unknown("malformed page"),
            StoreError::Unreadable("malformed page".to_owned())
        );
        assert_eq!(
            unknown("no such table"),
            StoreError::Refused("no such table".to_owned())
        );
        assert_eq!(
            of_kind(DatabaseErrorKind::CheckViolation, "is busy"),
            StoreError::Refused("is busy".to_owned())
        );
        assert_eq!(
            of_kind(DatabaseErrorKind::ClosedConnection, "gone"),
            StoreError::Unavailable("gone".to_owned())
        );
    }

    #[test]
    fn several_lines_become_one() {
        assert_eq!(
            one_line("connection to ::1 failed\n\tis it running?\n"),
            "connection to ::1 failed; is it running?"
        );
    }
}
