//! Whether the tables are there, for calls that come before they are made.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::StoreError;

/// How long a call waits for the first migration. On an empty database it takes a fraction of that.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// The state of the tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nobody says that they are about to be made.
    #[default]
    Unknown,
    /// They are about to be made.
    Expected,
    /// That failed. It is tried again; until then a call would find no tables, or those of another
    /// version.
    Failed(StoreError),
    /// They are of this version.
    There,
}

impl Tables {
    pub(super) fn expect(&self) {
        *self.lock() = State::Expected;
    }

    pub(super) fn tried(&self, result: &Result<(), StoreError>) {
        let mut state = self.lock();
        match result {
            Ok(()) => *state = State::There,
            Err(failure) if matches!(*state, State::Expected | State::Failed(_)) => {
                *state = State::Failed(failure.clone());
            }
            Err(_) => {}
        }
        self.changed.notify_all();
    }

    pub(super) fn are_there(&self) -> bool {
        *self.lock() == State::There
    }

    /// Waits while they are about to be made.
    pub(super) fn wait(&self) -> Result<(), StoreError> {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), WAIT_LIMIT, |state| *state == State::Expected);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Unknown | State::There => Ok(()),
            State::Expected => Err(not_yet()),
            State::Failed(failure) => Err(failure.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tables are still being made.
pub(super) fn not_yet() -> StoreError {
    StoreError::Unavailable("its tables are not brought to this version yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_wait_for_the_first_migration() {
        let tables = Tables::default();
        assert_eq!(tables.wait(), Ok(()), "nobody makes them");
        tables.expect();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| tables.wait());
            tables.tried(&Ok(()));
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        assert!(tables.are_there());
    }

    #[test]
    fn failed_migration_is_the_answer() {
        let (tables, away) = (
            Tables::default(),
            StoreError::Unavailable("away".to_owned()),
        );
        tables.expect();
        tables.tried(&Err(away.clone()));
        assert_eq!(tables.wait(), Err(away.clone()));
        tables.tried(&Ok(()));
        assert_eq!(tables.wait(), Ok(()));
        // A later failure does not take them away.
        tables.tried(&Err(away));
        assert_eq!(tables.wait(), Ok(()));
    }
}
