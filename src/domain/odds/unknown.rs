//! Event ids that were looked up and do not exist, cached for a short time so that a repeated
//! request costs no read.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::domain::ids::EventId;

/// Ids of events that do not exist: bounded, first in first out. Each entry expires on its own.
#[derive(Debug)]
pub(crate) struct UnknownEvents {
    ttl: Duration,
    capacity: usize,
    until: HashMap<EventId, Instant>,
    /// The ids in insertion order, each with its expiry at insertion.
    order: VecDeque<(EventId, Instant)>,
}

impl UnknownEvents {
    /// Keeps each id for `ttl`, and at most `capacity` ids.
    pub(crate) fn new(ttl: Duration, capacity: usize) -> UnknownEvents {
        UnknownEvents {
            ttl,
            capacity: capacity.max(1),
            until: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Remembers that an event does not exist, for at most `limit`.
    pub(crate) fn insert(&mut self, event_id: &EventId, limit: Duration, now: Instant) {
        while let Some((oldest, until)) = self.order.front() {
            if *until > now && self.order.len() < self.capacity {
                break;
            }
            if self.until.get(oldest) == Some(until) {
                self.until.remove(oldest);
            }
            self.order.pop_front();
        }
        let until = now + self.ttl.min(limit);
        self.until.insert(event_id.clone(), until);
        self.order.push_back((event_id.clone(), until));
    }

    /// Whether an event is known not to exist.
    pub(crate) fn contains(&self, event_id: &EventId, now: Instant) -> bool {
        self.until.get(event_id).is_some_and(|until| *until > now)
    }

    /// Removes an event that exists now.
    pub(crate) fn remove(&mut self, event_id: &EventId) {
        // Its entry in `order` is dropped when it expires.
        self.until.remove(event_id);
    }

    /// Removes all ids: any event may exist now.
    pub(crate) fn clear(&mut self) {
        self.until.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    fn id(n: usize) -> EventId {
        EventId::new(&format!("E{n}")).unwrap()
    }

    #[test]
    fn unknown_ids_expire_and_are_bounded() {
        let start = Instant::now();
        let mut unknown = UnknownEvents::new(TTL, 3);
        (0..4).for_each(|n| unknown.insert(&id(n), TTL, start));
        let held: Vec<_> = (0..4).map(|n| unknown.contains(&id(n), start)).collect();
        assert_eq!(held, [false, true, true, true]);
        assert!(!unknown.contains(&id(3), start + TTL));
        unknown.insert(&id(9), Duration::from_secs(1), start);
        assert!(!unknown.contains(&id(9), start + Duration::from_secs(1)));
        (0..1_000).for_each(|n| unknown.insert(&id(n), TTL, start + TTL));
        assert!(unknown.until.len() <= 3 && unknown.order.len() <= 3);
    }

    #[test]
    fn removed_id_can_be_inserted_again() {
        let start = Instant::now();
        let mut unknown = UnknownEvents::new(TTL, 10);
        unknown.insert(&id(1), TTL, start);
        unknown.remove(&id(1));
        assert!(!unknown.contains(&id(1), start));
        let later = start + TTL / 2;
        unknown.insert(&id(1), TTL, later);
        // The first entry expires; the second one stays.
        unknown.insert(&id(2), TTL, start + TTL);
        assert!(unknown.contains(&id(1), start + TTL));
        unknown.clear();
        assert!(!unknown.contains(&id(1), later));
    }
}
