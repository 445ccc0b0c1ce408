//! What keeps an actor from its work: known to a check of readiness, and logged once a cause,
//! however often it occurs. A fault that comes and goes is logged in growing intervals, with the
//! number of times it occurred between.

use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{error, info};

use crate::telemetry::log_limit::FaultLog;

/// One kind of trouble of one actor.
pub struct HealthCell {
    what: &'static str,
    cause: Mutex<Option<String>>,
    log: FaultLog,
}

impl HealthCell {
    /// None yet. `what` is what cannot be done then, as `bets cannot be decided`.
    pub const fn new(what: &'static str) -> HealthCell {
        HealthCell {
            what,
            cause: Mutex::new(None),
            log: FaultLog::new(),
        }
    }

    /// It was tried, and failed.
    pub fn met(&self, cause: &dyn std::fmt::Display) {
        let cause = cause.to_string();
        let mut known = self.lock();
        if known.as_ref() == Some(&cause) {
            return;
        }
        if let Some(repeated) = self.log.failed(&cause) {
            error!(repeated; "{}, it is tried again: {cause}", self.what);
        }
        *known = Some(cause);
    }

    /// It was done.
    pub fn over(&self) {
        *self.lock() = None;
        if self.log.recovered() {
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
