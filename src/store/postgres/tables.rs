//! Tracks whether the tables exist, for calls that arrive before the first migration.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::StoreError;

/// How long a call waits for the first migration, which takes a fraction of this on an empty
/// database.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// Whether the tables are migrated.
#[derive(Debug, Default)]
pub(super) struct Tables {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// No migration was announced.
    #[default]
    Unknown,
    /// A migration is about to run.
    Expected,
    /// The migration failed and will be retried. Until then, a call would find no tables, or those
    /// of another version.
    Failed(StoreError),
    /// The tables are of this version.
    Migrated,
}

impl Tables {
    pub(super) fn expect(&self) {
        *self.state.lock() = State::Expected;
    }

    pub(super) fn record_migration(&self, result: &Result<(), StoreError>) {
        let mut state = self.state.lock();
        match result {
            Ok(()) => *state = State::Migrated,
            Err(failure) if matches!(*state, State::Expected | State::Failed(_)) => {
                *state = State::Failed(failure.clone());
            }
            Err(_) => {}
        }
        self.changed.notify_all();
    }

    pub(super) fn are_migrated(&self) -> bool {
        *self.state.lock() == State::Migrated
    }

    /// Waits while a migration is pending.
    pub(super) fn wait(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        self.changed
            .wait_while_for(&mut state, |state| *state == State::Expected, WAIT_LIMIT);
        match &*state {
            State::Unknown | State::Migrated => Ok(()),
            State::Expected => Err(not_migrated()),
            State::Failed(failure) => Err(failure.clone()),
        }
    }
}

/// The error while the tables are not migrated.
pub(super) fn not_migrated() -> StoreError {
    StoreError::Unavailable("its tables are not migrated to this version yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_wait_for_the_first_migration() {
        let tables = Tables::default();
        assert_eq!(tables.wait(), Ok(()), "no migration is expected");
        tables.expect();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| tables.wait());
            tables.record_migration(&Ok(()));
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        assert!(tables.are_migrated());
    }

    #[test]
    fn calls_get_the_migration_failure() {
        let tables = Tables::default();
        let away = StoreError::Unavailable("away".to_owned());
        tables.expect();
        tables.record_migration(&Err(away.clone()));
        assert_eq!(tables.wait(), Err(away.clone()));
        tables.record_migration(&Ok(()));
        assert_eq!(tables.wait(), Ok(()));
        // A later failure does not invalidate existing tables.
        tables.record_migration(&Err(away));
        assert_eq!(tables.wait(), Ok(()));
    }
}
