//! Decides which books publish their states again, without actors, clock and I/O.
//!
//! One run at a time: what changes during a run is published by the next one. Every change of a
//! restriction is followed by a run that starts later and covers it, so each client sees the latest
//! restrictions in the end, whatever it was sent in between.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::ids::EventId;
use crate::domain::odds::restriction_change::RestrictionChange;

/// A run: followed books publish the states that a change affects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The events; `None` for all that clients follow.
    pub only: Option<BTreeSet<EventId>>,
    /// What changed.
    pub change: Arc<RestrictionChange>,
}

/// What follows the end of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Every book has published its states.
    Nothing,
    /// Start this run now.
    Run(Run),
    /// Call [`Restatements::retry_due`] after a delay.
    RetryLater,
}

/// Which states have to be published again.
#[derive(Debug, Default)]
pub(super) struct Restatements {
    /// The change of the run in flight.
    running: Option<Arc<RestrictionChange>>,
    /// What changed since it started.
    pending: RestrictionChange,
    /// The events whose books failed, and the change that they have not published.
    failed: BTreeSet<EventId>,
    failed_change: RestrictionChange,
}

impl Restatements {
    /// The restrictions changed. Returns the run to start now.
    pub(super) fn changed(&mut self, change: RestrictionChange) -> Option<Run> {
        if change.is_empty() {
            return None;
        }
        self.pending.extend(change);
        self.running.is_none().then(|| self.start_for_all())
    }

    /// The run in flight has ended; the books of these events have not published their states.
    pub(super) fn finished(&mut self, failed: BTreeSet<EventId>) -> Next {
        let change = self.running.take();
        if let Some(change) = change.filter(|_| !failed.is_empty()) {
            self.failed_change = Arc::unwrap_or_clone(change);
            self.failed = failed;
        }
        if !self.pending.is_empty() {
            Next::Run(self.start_for_all())
        } else if self.failed.is_empty() {
            Next::Nothing
        } else {
            Next::RetryLater
        }
    }

    /// The delay after a failed run is over. Returns the run to start now.
    pub(super) fn retry_due(&mut self) -> Option<Run> {
        // A run that started in the meantime covers the failed events.
        if self.running.is_some() || self.failed.is_empty() {
            return None;
        }
        let only = Some(std::mem::take(&mut self.failed));
        let change = std::mem::take(&mut self.failed_change);
        Some(self.start(only, change))
    }

    /// Starts a run of all followed books. It covers those that failed.
    fn start_for_all(&mut self) -> Run {
        self.failed.clear();
        let mut change = std::mem::take(&mut self.failed_change);
        change.extend(std::mem::take(&mut self.pending));
        self.start(None, change)
    }

    fn start(&mut self, only: Option<BTreeSet<EventId>>, change: RestrictionChange) -> Run {
        let change = Arc::new(change);
        self.running = Some(change.clone());
        Run { only, change }
    }
}

#[cfg(test)]
mod tests;
