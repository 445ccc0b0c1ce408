//! The claim of one process to a file.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::StoreError;
use super::address::private;

/// Holds a database for one process, until it is dropped or the process ends, however it ends. The
/// file itself would bear several, but the embedded bus, cache and books are within one process:
/// two of them would each number the changes of an event on their own, and neither's clients would
/// see what the other one takes.
#[derive(Debug)]
pub struct DatabaseLock {
    /// Held for its lock. Nothing when the file system knows no locks.
    _file: Option<File>,
}

impl DatabaseLock {
    /// Claims the database at `path`, by a lock on a file beside it: SQLite has locks of its own on
    /// the file itself.
    pub fn of(path: &Path) -> Result<DatabaseLock, StoreError> {
        if path.is_dir() {
            return Err(StoreError::Unavailable(
                "it is a directory, and a file is wanted".to_owned(),
            ));
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".lock");
        let options = private().create(true).open(&beside);
        let file = options.map_err(|error| {
            StoreError::Unavailable(format!(
                "cannot make {}: {error}",
                Path::new(&beside).display()
            ))
        })?;
        match file.try_lock() {
            Ok(()) => Ok(DatabaseLock { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Unavailable(
                "another process uses it; stop that one, or give this one a file of its own"
                    .to_owned(),
            )),
            Err(TryLockError::Error(error)) => {
                log::warn!(
                    "no lock on {}, so nothing keeps a second process off the database: {error}",
                    path.display()
                );
                Ok(DatabaseLock { _file: None })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_claimed_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odds.db");
        let claim = DatabaseLock::of(&path).unwrap();
        let error = DatabaseLock::of(&path).unwrap_err().to_string();
        assert!(error.contains("another process uses it"), "{error}");
        assert!(DatabaseLock::of(&folder.path().join("other.db")).is_ok());
        drop(claim);
        assert!(DatabaseLock::of(&path).is_ok());
        assert!(
            DatabaseLock::of(folder.path())
                .unwrap_err()
                .to_string()
                .contains("it is a directory")
        );
    }
}
