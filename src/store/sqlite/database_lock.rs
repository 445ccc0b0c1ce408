//! The lock that reserves a database file for one process.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::StoreError;
use super::address::private;

/// Reserves a database for one process, until the lock is dropped or the process ends in any way.
/// SQLite itself supports several processes, but the embedded bus, cache and books exist within
/// one: two processes would number the changes of an event independently, and clients of one would
/// not see the updates received by the other.
#[derive(Debug)]
pub struct DatabaseLock {
    /// Keeps the lock. `None` if the file system does not support locks.
    _file: Option<File>,
}

impl DatabaseLock {
    /// Locks the database at `path` through a separate `.lock` file, because SQLite uses locks on
    /// the database file itself.
    pub fn of(path: &Path) -> Result<DatabaseLock, StoreError> {
        if path.is_dir() {
            return Err(StoreError::Unavailable(
                "it is a directory, not a file".to_owned(),
            ));
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".lock");
        let options = private().create(true).open(&beside);
        let file = options.map_err(|error| {
            StoreError::Unavailable(format!(
                "cannot create {}: {error}",
                Path::new(&beside).display()
            ))
        })?;
        match file.try_lock() {
            Ok(()) => Ok(DatabaseLock { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Unavailable(
                "another process uses it; stop that process, or configure another file".to_owned(),
            )),
            Err(TryLockError::Error(error)) => {
                log::warn!(
                    "database lock unavailable for {}, a second process could open the database: {error}",
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
    fn database_is_locked_by_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odds.db");
        let lock = DatabaseLock::of(&path).unwrap();
        let error = DatabaseLock::of(&path).unwrap_err().to_string();
        assert!(error.contains("another process uses it"), "{error}");
        assert!(DatabaseLock::of(&folder.path().join("other.db")).is_ok());
        drop(lock);
        assert!(DatabaseLock::of(&path).is_ok());
        assert!(
            DatabaseLock::of(folder.path())
                .unwrap_err()
                .to_string()
                .contains("it is a directory")
        );
    }
}
