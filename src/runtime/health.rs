//! The health of a component, for readiness checks.

use std::fmt::Display;

use log::{error, info};
use parking_lot::Mutex;

use crate::telemetry::log_limit::FaultLog;

/// The last failure of a component, until it succeeds again. By default nothing is logged.
#[derive(Debug, Default)]
pub(crate) struct HealthCell {
    cause: Mutex<Option<String>>,
    effect: Option<Effect>,
}

/// What a failure means, and which failures are logged.
#[derive(Debug)]
struct Effect {
    what: &'static str,
    log: FaultLog,
}

impl HealthCell {
    /// A healthy cell that logs each cause once, and a recurring one at growing intervals with the
    /// number of occurrences in between. `what` names the effect of a failure, for example `bets
    /// cannot be decided`.
    pub(crate) const fn new(what: &'static str) -> HealthCell {
        let log = FaultLog::new();
        HealthCell {
            cause: Mutex::new(None),
            effect: Some(Effect { what, log }),
        }
    }

    /// Records a failure. Returns whether it differs from the last one.
    pub(crate) fn record_failure(&self, cause: &dyn Display) -> bool {
        let cause = cause.to_string();
        let mut last = self.cause.lock();
        if last.as_ref() == Some(&cause) {
            return false;
        }
        if let Some(Effect { what, log }) = &self.effect
            && let Some(repeated) = log.failed(&cause)
        {
            error!(repeated; "{what}, retrying: {cause}");
        }
        *last = Some(cause);
        true
    }

    /// Records a success. Returns whether there was a failure before.
    pub(crate) fn record_success(&self) -> bool {
        let failed = self.cause.lock().take().is_some();
        if let Some(Effect { what, log }) = &self.effect
            && log.recovered()
        {
            info!("resolved: {what}");
        }
        failed
    }

    /// Records the end of an attempt.
    pub(crate) fn record<T, E: Display>(&self, result: &Result<T, E>) {
        match result {
            Ok(_) => self.record_success(),
            Err(error) => self.record_failure(error),
        };
    }

    /// What is wrong. That is the effect of a failure if there is one: the cause, which may name
    /// hosts and tables, is then only logged.
    pub(crate) fn problem(&self) -> Option<String> {
        let cause = self.cause.lock().clone()?;
        Some(match &self.effect {
            Some(effect) => effect.what.to_owned(),
            None => cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_is_cause_or_effect() {
        let cell = HealthCell::default();
        assert_eq!(cell.problem(), None);
        assert!(cell.record_failure(&"a") && !cell.record_failure(&"a"));
        assert_eq!(cell.problem().as_deref(), Some("a"));
        let cell = HealthCell::new("nothing works");
        assert!(cell.record_failure(&"a") && cell.record_failure(&"b"));
        assert_eq!(cell.problem().as_deref(), Some("nothing works"));
        assert!(cell.record_success() && !cell.record_success());
        assert_eq!(cell.problem(), None);
    }

    #[test]
    fn result_is_recorded() {
        let cell = HealthCell::default();
        cell.record(&Err::<(), _>("a"));
        assert_eq!(cell.problem().as_deref(), Some("a"));
        cell.record(&Ok::<_, String>(1));
        assert_eq!(cell.problem(), None);
    }
}
