//! Decides when sessions send a heartbeat: when they have sent nothing else for as long as their
//! client requested.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::fanout::SessionId;

/// When a session last sent a message. Written by the session, read by its distributor.
#[derive(Debug)]
pub struct LastSent {
    start: Instant,
    millis: AtomicU64,
}

impl LastSent {
    /// A session that sends something now.
    pub fn new(now: Instant) -> LastSent {
        LastSent {
            start: now,
            millis: AtomicU64::new(0),
        }
    }

    /// Records that the session sends something.
    pub fn record(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.start);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    fn at(&self) -> Instant {
        self.start + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

struct Entry {
    interval: Duration,
    last_sent: Arc<LastSent>,
    due: Instant,
}

/// The sessions that send heartbeats, in the order in which they are due.
#[derive(Default)]
pub struct Heartbeats {
    sessions: HashMap<SessionId, Entry, foldhash::fast::RandomState>,
    due: BTreeSet<(Instant, SessionId)>,
}

impl Heartbeats {
    /// Sets the interval of a session.
    pub fn set(&mut self, id: SessionId, interval: Duration, last_sent: Arc<LastSent>) {
        self.remove(id);
        let due = last_sent.at() + interval;
        self.due.insert((due, id));
        let entry = Entry {
            interval,
            last_sent,
            due,
        };
        self.sessions.insert(id, entry);
    }

    /// Removes a session.
    pub fn remove(&mut self, id: SessionId) {
        if let Some(entry) = self.sessions.remove(&id) {
            self.due.remove(&(entry.due, id));
        }
    }

    /// When the next session is due; it may have sent something since.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The sessions that have sent nothing for their interval. Each is due again an interval later.
    pub fn take_due(&mut self, now: Instant) -> Vec<SessionId> {
        let mut silent = Vec::new();
        while let Some((due, id)) = self.due.pop_first() {
            if due > now {
                self.due.insert((due, id));
                break;
            }
            let Some(entry) = self.sessions.get_mut(&id) else {
                continue;
            };
            entry.due = entry.last_sent.at() + entry.interval;
            if entry.due <= now {
                silent.push(id);
                entry.due = now + entry.interval;
            }
            self.due.insert((entry.due, id));
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silent_sessions_are_due() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut heartbeats = Heartbeats::default();
        let quiet = Arc::new(LastSent::new(start));
        let busy = Arc::new(LastSent::new(start));
        heartbeats.set(SessionId(1), Duration::from_millis(500), quiet.clone());
        heartbeats.set(SessionId(2), Duration::from_millis(500), busy.clone());
        let mut counts = [0, 0];
        for millis in (0..=5_000).step_by(100) {
            busy.record(at(millis));
            for id in heartbeats.take_due(at(millis)) {
                counts[id.0 as usize - 1] += 1;
                quiet.record(at(millis));
            }
        }
        assert_eq!(counts, [10, 0]);
        // The busy one falls silent.
        assert!(heartbeats.take_due(at(5_499)).is_empty());
        assert_eq!(heartbeats.next_due(), Some(at(5_500)));
        assert_eq!(heartbeats.take_due(at(5_500)).len(), 2);
        heartbeats.remove(SessionId(1));
        heartbeats.set(SessionId(2), Duration::from_millis(1_000), busy);
        assert_eq!(heartbeats.next_due(), Some(at(6_000)));
        heartbeats.remove(SessionId(2));
        assert_eq!(heartbeats.next_due(), None);
    }
}
