//! When each session ends while its process drains: evenly over a time, so that the clients do not
//! all connect elsewhere at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::fanout::SessionId;

/// The part of the whole time that a client gets to connect elsewhere before its session is closed.
const NOTICE_PART: u32 = 10;

/// The time that clients get to connect elsewhere, if all sessions end within `spread`.
pub fn notice_of(spread: Duration) -> Duration {
    spread / NOTICE_PART
}

/// The sessions of a thread that end, in order. Each is first notified that it should reconnect, and is
/// closed after the notice.
#[derive(Debug)]
pub struct DrainPlan {
    start: Instant,
    spread: Duration,
    sessions: Vec<SessionId>,
    /// When sessions were notified, and how many were by then, for those that are not closed.
    notifications: VecDeque<(Instant, usize)>,
    notified: usize,
    closed: usize,
}

impl DrainPlan {
    /// Ends these sessions from `start` on; the last is closed when `spread` has passed, or as much
    /// later as the plan is asked late.
    pub fn new(sessions: Vec<SessionId>, start: Instant, spread: Duration) -> DrainPlan {
        DrainPlan {
            start,
            spread,
            sessions,
            notifications: VecDeque::new(),
            notified: 0,
            closed: 0,
        }
    }

    /// The time between the message to a session and its close.
    pub fn notice(&self) -> Duration {
        notice_of(self.spread)
    }

    /// The sessions to notify until now that were not returned before.
    pub fn take_to_notify(&mut self, now: Instant) -> &[SessionId] {
        let to = self.notified.max(self.due(now));
        let from = std::mem::replace(&mut self.notified, to);
        if from < to {
            self.notifications.push_back((now, to));
        }
        &self.sessions[from..to]
    }

    /// The sessions to close until now that were not returned before. All of them were notified, the
    /// notice ago or earlier.
    pub fn take_to_close(&mut self, now: Instant) -> &[SessionId] {
        let from = self.closed;
        let notice = self.notice();
        while let Some((_, notified)) = self
            .notifications
            .pop_front_if(|(at, _)| *at + notice <= now)
        {
            self.closed = notified;
        }
        &self.sessions[from..self.closed]
    }

    /// Whether every session was closed.
    pub fn is_done(&self) -> bool {
        self.closed == self.sessions.len()
    }

    /// How many sessions are notified until `now`: the first at the start, the others evenly after it.
    fn due(&self, now: Instant) -> usize {
        let Some(elapsed) = now.checked_duration_since(self.start) else {
            return 0;
        };
        let notifying = self.spread.saturating_sub(self.notice());
        if elapsed >= notifying {
            return self.sessions.len();
        }
        let part = elapsed.as_secs_f64() / notifying.as_secs_f64();
        ((self.sessions.len() as f64 * part) as usize + 1).min(self.sessions.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(count: u64, spread: Duration) -> (DrainPlan, Instant) {
        let start = Instant::now();
        let sessions = (0..count).map(SessionId).collect();
        (DrainPlan::new(sessions, start, spread), start)
    }

    #[test]
    fn all_sessions_end_at_once_without_spread() {
        let (mut plan, start) = plan(3, Duration::ZERO);
        assert_eq!(plan.take_to_notify(start).len(), 3);
        assert_eq!(plan.take_to_close(start).len(), 3);
        assert!(plan.is_done());
    }

    #[test]
    fn plan_without_sessions_is_done() {
        let (plan, _) = plan(0, Duration::from_secs(20));
        assert!(plan.is_done());
    }

    #[test]
    fn sessions_get_notice_before_they_are_closed() {
        let (mut plan, start) = plan(1, Duration::from_secs(20));
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(plan.notice(), Duration::from_secs(2));
        assert_eq!(plan.take_to_notify(at(0)), [SessionId(0)]);
        assert!(plan.take_to_close(at(1_999)).is_empty());
        assert_eq!(plan.take_to_close(at(2_000)), [SessionId(0)]);
        assert!(plan.is_done());
    }

    proptest! {
        /// However irregularly the plan is asked, each session is notified and closed once, in order,
        /// not more than its share of the time allows, and never closed before its notice has passed.
        #[test]
        fn sessions_end_evenly_and_once(
            count in 0_u64..3_000,
            spread in 1_000_u64..60_000,
            steps in proptest::collection::vec(1_u64..2_000, 1..100),
        ) {
            let spread = Duration::from_millis(spread);
            let (mut plan, start) = plan(count, spread);
            let mut now = start;
            let (mut notified, mut closed) = (Vec::new(), Vec::new());
            let notice = plan.notice();
            let mut longest = 0;
            for step in steps.into_iter().chain([60_000, 60_000]) {
                now += Duration::from_millis(step);
                longest = longest.max(step);
                notified.extend(plan.take_to_notify(now).iter().map(|id| (*id, now)));
                closed.extend(plan.take_to_close(now).iter().map(|id| (*id, now)));
                let notifying = spread - notice;
                let part = ((now - start).as_secs_f64() / notifying.as_secs_f64()).min(1.0);
                prop_assert!(notified.len() as f64 <= count as f64 * part + 1.0);
                // The plan may be asked late for the last notice, and for the last close.
                if now - start >= spread + 2 * Duration::from_millis(longest) {
                    prop_assert!(plan.is_done());
                }
            }
            prop_assert!(plan.is_done());
            let all: Vec<_> = (0..count).map(SessionId).collect();
            let ids = |taken: &[(SessionId, Instant)]| taken.iter().map(|it| it.0).collect::<Vec<_>>();
            prop_assert_eq!(&ids(&notified), &all);
            prop_assert_eq!(&ids(&closed), &all);
            for ((_, notified), (_, closed)) in notified.iter().zip(&closed) {
                prop_assert!(*closed - *notified >= notice);
            }
        }
    }
}
