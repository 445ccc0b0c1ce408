//! Whether the books are told of every change, for whoever shows what they hold.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;

use crate::actors::odds::applying::Backlog;

/// How the feed of the books stands: live, or lost and why.
#[derive(Debug)]
pub struct FeedState {
    lost: Mutex<Option<String>>,
    /// What the bus of this process gave out and the books have not applied, and how old it may be.
    backlog: OnceLock<(Arc<Backlog>, Duration)>,
    gauge: IntGauge,
}

impl FeedState {
    /// Books that are fed by a bus within their process: always live. `gauge` shows it.
    pub fn in_process(gauge: IntGauge) -> FeedState {
        FeedState::new(gauge, None)
    }

    /// Books that are fed by broadcasts: lost until they are heard. `gauge` shows it.
    pub fn not_heard_yet(gauge: IntGauge) -> FeedState {
        FeedState::new(gauge, Some("broadcasts are not heard yet"))
    }

    /// Books that are fed by a bus that may be away: lost until it answers. `gauge` shows it.
    pub fn not_followed_yet(gauge: IntGauge) -> FeedState {
        FeedState::new(gauge, Some("the bus has not answered yet"))
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

    /// The gauge shows what is set here and is never asked.
    fn set(&self, why: Option<&str>) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost = why.map(str::to_owned);
        self.gauge.set(i64::from(lost.is_none()));
    }

    /// Judges the feed by the age of what is not applied, too: prices are old once a record waits
    /// for `limit`.
    pub(crate) fn follow(&self, backlog: Arc<Backlog>, limit: Duration) {
        // Once in a life.
        let _ = self.backlog.set((backlog, limit));
    }

    /// Why prices may be old though the bus answers.
    pub fn behind(&self) -> Option<String> {
        let (backlog, limit) = self.backlog.get()?;
        let age = backlog.age();
        (age >= *limit).then(|| format!("an update has not been applied for {} s", age.as_secs()))
    }

    /// Whether every change arrives.
    pub fn is_live(&self) -> bool {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
            && self.behind().is_none()
    }

    /// What is in the way, for readiness; none while live.
    pub fn problem(&self) -> Option<String> {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .or_else(|| self.behind())
    }

    /// What is shown is current.
    pub fn set_live(&self) {
        self.set(None);
    }

    /// What is shown may be stale, and why.
    pub fn set_lost(&self, why: &str) {
        self.set(Some(why));
    }
}
