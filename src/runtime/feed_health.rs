//! Whether the books receive every change, for readers of the books.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::IntGauge;

use super::backlog::Backlog;
use super::health::HealthCell;

/// The state of the books' feed: live, or lost with a cause.
#[derive(Debug)]
pub struct FeedState {
    connection: HealthCell,
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
    pub fn awaiting_broadcasts(gauge: IntGauge) -> FeedState {
        FeedState::new(gauge, Some("not subscribed to broadcasts yet"))
    }

    /// For books fed by an external bus: lost until it responds. The state is exported to `gauge`.
    pub fn awaiting_bus(gauge: IntGauge) -> FeedState {
        FeedState::new(gauge, Some("the bus has not responded yet"))
    }

    fn new(gauge: IntGauge, lost: Option<&str>) -> FeedState {
        let state = FeedState {
            connection: HealthCell::default(),
            backlog: OnceLock::new(),
            gauge,
        };
        match lost {
            None => state.set_live(),
            Some(why) => state.set_lost(why),
        }
        state
    }

    /// Also judges the feed by the age of unapplied updates: prices are stale once a record waits
    /// for `limit`.
    pub(crate) fn follow(&self, backlog: Arc<Backlog>, limit: Duration) {
        // Called once per process; later calls have no effect.
        let _ = self.backlog.set((backlog, limit));
    }

    /// How long the oldest unapplied update has been waiting; zero if everything is applied.
    pub fn waiting(&self) -> Duration {
        let backlog = self.backlog.get();
        backlog.map_or(Duration::ZERO, |(backlog, _)| backlog.age())
    }

    /// Why prices may be stale although the bus responds.
    pub fn backlog_problem(&self) -> Option<String> {
        let (backlog, limit) = self.backlog.get()?;
        let age = backlog.age();
        (age >= *limit).then(|| format!("an update has not been applied for {} s", age.as_secs()))
    }

    /// Whether every change arrives.
    pub fn is_live(&self) -> bool {
        self.problem().is_none()
    }

    /// Why the feed is not live, for the readiness check; `None` if it is live.
    pub fn problem(&self) -> Option<String> {
        self.connection.problem().or_else(|| self.backlog_problem())
    }

    /// Marks the feed as live. The gauge only mirrors this state; it is never read.
    pub fn set_live(&self) {
        self.connection.record_success();
        self.gauge.set(1);
    }

    /// Marks the feed as lost, with the cause.
    pub fn set_lost(&self, why: &str) {
        self.connection.record_failure(&why);
        self.gauge.set(0);
    }
}
