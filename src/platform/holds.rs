//! Holds: read by every process that shows prices or takes bets.

use std::sync::Arc;

use super::builder::PlatformBuilder;
use super::checks::check;
use super::odds::{OddsRuntime, ShownBooks};
use crate::actors::odds::hold_poller::HoldPoller;
use crate::http::health::Check;
use crate::runtime::clock::Clock;
use crate::store::holds::HoldStore;

/// Mailbox capacity of the hold poller, which receives no messages.
const POLLER_MAILBOX: usize = 1;

impl PlatformBuilder<'_> {
    /// Starts the poller of the holds on the markets of these books. Not ready while they cannot be
    /// read.
    pub(super) fn start_hold_poller(
        &mut self,
        odds: &OddsRuntime,
        store: &Arc<dyn HoldStore>,
        books: &ShownBooks,
    ) -> Check {
        let keeper = books.keeper.clone().recipient();
        let metrics = odds.metrics.clone();
        let poller = HoldPoller::new(store.clone(), keeper, Clock::system(), metrics);
        let health = poller.health();
        self.start("hold poller", &odds.thread, POLLER_MAILBOX, poller);
        check("holds", move || health.problem()).needed_at_start()
    }
}
