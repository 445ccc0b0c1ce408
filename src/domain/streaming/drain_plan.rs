//! When each session ends while its process drains: evenly over a time, so that the clients do not
//! all connect elsewhere at once.

use std::time::{Duration, Instant};

use super::fanout::SessionId;

/// The part of the whole time that a client gets to connect elsewhere before its session is closed.
const NOTICE_PART: u32 = 10;

/// The time that clients get to connect elsewhere, if all sessions end within `spread`.
pub fn notice_of(spread: Duration) -> Duration {
    spread / NOTICE_PART
}

/// The sessions of a thread that end, in order. Each is first told to reconnect, and is closed after
/// the notice.
#[derive(Debug)]
pub struct DrainPlan {
    start: Instant,
    spread: Duration,
    sessions: Vec<SessionId>,
    told: usize,
    closed: usize,
}

impl DrainPlan {
    /// Ends these sessions from `start` on; the last is closed when `spread` has passed.
    pub fn new(sessions: Vec<SessionId>, start: Instant, spread: Duration) -> DrainPlan {
        DrainPlan {
            start,
            spread,
            sessions,
            told: 0,
            closed: 0,
        }
    }

    /// The time between the message to a session and its close.
    pub fn notice(&self) -> Duration {
        notice_of(self.spread)
    }

    /// The sessions to tell until now that were not returned before.
    pub fn take_to_tell(&mut self, now: Instant) -> &[SessionId] {
        let due = self.due(now);
        let to = self.told.max(due);
        let from = std::mem::replace(&mut self.told, to);
        &self.sessions[from..self.told]
    }

    /// The sessions to close until now that were not returned before. All of them were told.
    pub fn take_to_close(&mut self, now: Instant) -> &[SessionId] {
        let due = now
            .checked_sub(self.notice())
            .map_or(0, |earlier| self.due(earlier))
            .min(self.told);
        let to = self.closed.max(due);
        let from = std::mem::replace(&mut self.closed, to);
        &self.sessions[from..self.closed]
    }

    /// Whether every session was closed.
    pub fn is_done(&self) -> bool {
        self.closed == self.sessions.len()
    }

    /// How many sessions are told until `now`: the first at the start, the others evenly after it.
    fn due(&self, now: Instant) -> usize {
        let Some(elapsed) = now.checked_duration_since(self.start) else {
            return 0;
        };
        let telling = self.spread.saturating_sub(self.notice());
        if elapsed >= telling {
            return self.sessions.len();
        }
        let part = elapsed.as_secs_f64() / telling.as_secs_f64();
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
        assert_eq!(plan.take_to_tell(start).len(), 3);
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
        assert_eq!(plan.take_to_tell(at(0)), [SessionId(0)]);
        assert!(plan.take_to_close(at(1_999)).is_empty());
        assert_eq!(plan.take_to_close(at(2_000)), [SessionId(0)]);
        assert!(plan.is_done());
    }

    proptest! {
        /// However irregularly the plan is asked, each session is told and closed once, in order, not
        /// more than its share of the time allows, and all within the spread.
        #[test]
        fn sessions_end_evenly_and_once(
            count in 0_u64..3_000,
            spread in 1_000_u64..60_000,
            steps in proptest::collection::vec(1_u64..2_000, 1..100),
        ) {
            let spread = Duration::from_millis(spread);
            let (mut plan, start) = plan(count, spread);
            let mut now = start;
            let (mut told, mut closed) = (Vec::new(), Vec::new());
            for step in steps.into_iter().chain([60_000]) {
                now += Duration::from_millis(step);
                told.extend_from_slice(plan.take_to_tell(now));
                closed.extend_from_slice(plan.take_to_close(now));
                prop_assert!(closed.len() <= told.len());
                let telling = spread - plan.notice();
                let part = ((now - start).as_secs_f64() / telling.as_secs_f64()).min(1.0);
                prop_assert!(told.len() as f64 <= count as f64 * part + 1.0);
                if now - start >= spread {
                    prop_assert!(plan.is_done());
                }
            }
            let all: Vec<_> = (0..count).map(SessionId).collect();
            prop_assert_eq!(&told, &all);
            prop_assert_eq!(&closed, &all);
        }
    }
}
