//! Health of an actor: read by readiness checks, and logged once per cause however often it occurs.
//! A recurring fault is logged at growing intervals, with the number of occurrences in between.

use log::{error, info};
use parking_lot::{Mutex, MutexGuard};

use crate::telemetry::log_limit::FaultLog;

/// One kind of failure of one actor.
pub struct HealthCell {
    what: &'static str,
    cause: Mutex<Option<String>>,
    log: FaultLog,
}

impl HealthCell {
    /// A healthy cell. `what` names the effect of a failure, for example `bets cannot be decided`.
    pub const fn new(what: &'static str) -> HealthCell {
        HealthCell {
            what,
            cause: Mutex::new(None),
            log: FaultLog::new(),
        }
    }

    /// Records a failed attempt.
    pub fn met(&self, cause: &dyn std::fmt::Display) {
        let cause = cause.to_string();
        let mut known = self.lock();
        if known.as_ref() == Some(&cause) {
            return;
        }
        if let Some(repeated) = self.log.failed(&cause) {
            error!(repeated; "{}, retrying: {cause}", self.what);
        }
        *known = Some(cause);
    }

    /// Records a success.
    pub fn over(&self) {
        *self.lock() = None;
        if self.log.recovered() {
            info!("resolved: {}", self.what);
        }
    }

    /// The effect of the current failure. The cause is only logged, because it may name hosts and
    /// tables.
    pub fn problem(&self) -> Option<String> {
        self.lock().as_ref().map(|_| self.what.to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.cause.lock()
    }
}
