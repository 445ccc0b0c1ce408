//! What keeps an actor from its work: known to a check of readiness, and logged once a cause, however often it occurs. A
//! fault that comes and goes is logged in growing intervals, with the number of times it occurred between.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::{error, info};

use crate::log_limit::LogLimit;

/// How soon a cause that was over and comes back is logged again, and how rarely at least.
const FIRST_REPEAT: Duration = Duration::from_secs(10);
const MAX_REPEAT: Duration = Duration::from_secs(600);

/// One kind of trouble of one actor.
pub struct Trouble {
    what: &'static str,
    state: Mutex<State>,
    limit: LogLimit,
}

#[derive(Default)]
struct State {
    cause: Option<String>,
    /// Whether a line told of it, so that another one tells of its end.
    is_logged: bool,
}

impl Trouble {
    /// None yet. `what` is what cannot be done then, as `bets cannot be decided`.
    pub fn new(what: &'static str) -> Trouble {
        Trouble { what, state: Mutex::default(), limit: LogLimit::growing(FIRST_REPEAT, MAX_REPEAT) }
    }

    /// It was tried, and failed.
    pub fn met(&self, cause: &dyn std::fmt::Display) {
        let cause = cause.to_string();
        let mut state = self.lock();
        if state.cause.as_ref() == Some(&cause) {
            return;
        }
        if let Some(repeated) = self.limit.check(&cause) {
            error!(repeated; "{}, it is tried again: {cause}", self.what);
            state.is_logged = true;
        }
        state.cause = Some(cause);
    }

    /// It was done.
    pub fn over(&self) {
        let mut state = self.lock();
        state.cause = None;
        if std::mem::take(&mut state.is_logged) {
            info!("no longer: {}", self.what);
        }
    }

    /// What is wrong now.
    pub fn problem(&self) -> Option<String> {
        self.lock().cause.as_ref().map(|cause| format!("{}: {cause}", self.what))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
