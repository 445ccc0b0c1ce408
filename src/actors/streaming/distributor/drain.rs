//! Ends the sessions of a process that stops, a few at a time.

use std::time::{Duration, Instant};

use actix::prelude::*;

use super::Distributor;
use crate::domain::streaming::drain_plan::DrainPlan;
use crate::domain::streaming::protocol::CloseReason;

/// How often sessions are notified and closed.
const INTERVAL: Duration = Duration::from_millis(50);

impl Distributor {
    /// Notifies all sessions that they should reconnect, and closes each after the notice, all within
    /// `spread`.
    pub(super) fn start_drain(
        &mut self,
        reason: CloseReason,
        spread: Duration,
        context: &mut Context<Self>,
    ) {
        let sessions = self.fanout.ids().collect();
        let plan = DrainPlan::new(sessions, Instant::now(), spread);
        self.continue_drain(plan, reason, context);
    }

    fn continue_drain(
        &mut self,
        mut plan: DrainPlan,
        reason: CloseReason,
        context: &mut Context<Self>,
    ) {
        let now = Instant::now();
        let notice = plan.notice();
        // A session that has ended in the meantime has no handle.
        let handle = |id: &_| self.fanout.sink(*id);
        let notified = plan.take_to_notify(now).iter().filter_map(handle);
        notified.for_each(|handle| handle.reconnect(notice));
        let closed = plan.take_to_close(now).iter().filter_map(handle);
        closed.for_each(|handle| handle.end(reason));
        if !plan.is_done() {
            context.run_later(INTERVAL, move |distributor, context| {
                distributor.continue_drain(plan, reason, context);
            });
        }
    }
}
