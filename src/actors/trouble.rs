//! What keeps an actor from its work: logged once a cause, however often and by however many it is met, and known to a
//! check of readiness.

use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{error, info};

/// One kind of trouble of one actor.
pub struct Trouble {
    what: &'static str,
    cause: Mutex<Option<String>>,
}

impl Trouble {
    /// None yet. `what` is what cannot be done then, as `bets cannot be decided`.
    pub fn new(what: &'static str) -> Trouble {
        Trouble { what, cause: Mutex::new(None) }
    }

    /// It was tried, and failed.
    pub fn met(&self, cause: &dyn std::fmt::Display) {
        let cause = cause.to_string();
        let mut known = self.lock();
        if known.as_ref() != Some(&cause) {
            error!("{}, it is tried again: {cause}", self.what);
            *known = Some(cause);
        }
    }

    /// It was done.
    pub fn over(&self) {
        if self.lock().take().is_some() {
            info!("no longer: {}", self.what);
        }
    }

    /// What cannot be done now. The cause is in the log: it may name hosts and tables.
    pub fn problem(&self) -> Option<String> {
        self.lock().as_ref().map(|_| self.what.to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // Nothing panics while it holds the lock.
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
