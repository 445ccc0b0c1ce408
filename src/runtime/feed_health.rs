//! Whether the books receive every change, for readers of the books.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::runtime::backlog::Backlog;

/// The state of the books' feed: live, or lost with a cause.
#[derive(Debug)]
pub struct FeedState {
    lost: Mutex<Option<String>>,
    /// Updates that this process received but has not applied, and their maximum age.
    backlog: OnceLock<(Arc<Backlog>, Duration)>,
    gauge: IntGauge,
}

impl FeedState {
    /// For books fed by a bus within the process: always live. The state is exported to `gauge`.
    pub fn in_process(gauge: IntGauge) -> FeedState {
        FeedState::new(gauge, None)
    }

    /// For books fed by broadcasts: lost until subscribed. The state is exported to `gauge`.
    pub fn not_heard_yet(gauge: IntGauge) -> FeedState {
        FeedState::new(gauge, Some("not subscribed to broadcasts yet"))
    }

    /// For books fed by an external bus: lost until it responds. The state is exported to `gauge`.
    pub fn not_followed_yet(gauge: IntGauge) -> FeedState {
        FeedState::new(gauge, Some("the bus has not responded yet"))
    }

    fn new(gauge: IntGauge, lost: Option<&str>) -> FeedState {
        let state = FeedState {
            lost: Mutex::default(),
            backlog: OnceLock::new(),
            gauge,
        };
        state.set(lost);
        state
    }

    /// The gauge only mirrors this state; it is never read.
    fn set(&self, why: Option<&str>) {
        let mut lost = self.lost.lock();
        *lost = why.map(str::to_owned);
        self.gauge.set(i64::from(lost.is_none()));
    }

    /// Also judges the feed by the age of unapplied updates: prices are stale once a record waits
    /// for `limit`.
    pub(crate) fn follow(&self, backlog: Arc<Backlog>, limit: Duration) {
        // Called once per process; later calls have no effect.
        let _ = self.backlog.set((backlog, limit));
    }

    /// Why prices may be stale although the bus responds.
    pub fn behind(&self) -> Option<String> {
        let (backlog, limit) = self.backlog.get()?;
        let age = backlog.age();
        (age >= *limit).then(|| format!("an update has not been applied for {} s", age.as_secs()))
    }

    /// Whether every change arrives.
    pub fn is_live(&self) -> bool {
        self.lost.lock().is_none() && self.behind().is_none()
    }

    /// Why the feed is not live, for the readiness check; `None` if it is live.
    pub fn problem(&self) -> Option<String> {
        self.lost.lock().clone().or_else(|| self.behind())
    }

    /// Marks the feed as live.
    pub fn set_live(&self) {
        self.set(None);
    }

    /// Marks the feed as lost, with the cause.
    pub fn set_lost(&self, why: &str) {
        self.set(Some(why));
    }
}
