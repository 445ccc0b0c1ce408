//! Whether the books are told of every change, for whoever shows what they hold.

use std::sync::{Mutex, PoisonError};

use prometheus::IntGauge;

/// How the feed of the books stands: live, or lost and why.
#[derive(Debug)]
pub struct FeedState {
    lost: Mutex<Option<String>>,
    gauge: IntGauge,
}

impl FeedState {
    /// Books that are fed by a bus within their process: always live. `gauge` shows it.
    pub fn in_process(gauge: IntGauge) -> FeedState {
        gauge.set(1);
        FeedState { lost: Mutex::new(None), gauge }
    }

    /// Books that are fed by broadcasts: lost until they are heard. `gauge` shows it.
    pub fn not_heard_yet(gauge: IntGauge) -> FeedState {
        FeedState::lost(gauge, "broadcasts are not heard yet")
    }

    /// Books that are fed by a bus that may be away: lost until it answers. `gauge` shows it.
    pub fn not_followed_yet(gauge: IntGauge) -> FeedState {
        FeedState::lost(gauge, "the bus has not answered yet")
    }

    fn lost(gauge: IntGauge, why: &str) -> FeedState {
        gauge.set(0);
        FeedState { lost: Mutex::new(Some(why.to_owned())), gauge }
    }

    /// Whether every change arrives.
    pub fn is_live(&self) -> bool {
        self.gauge.get() == 1
    }

    /// What is in the way, for readiness; none while live.
    pub fn problem(&self) -> Option<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_live(&self) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.gauge.set(1);
    }

    pub(super) fn set_lost(&self, why: &str) {
        self.gauge.set(0);
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }
}
