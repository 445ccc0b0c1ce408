//! Delivers changes to the subscribed sessions, and handles slow clients.
//!
//! Nothing waits for a client that cannot accept a delivery: from then on only the latest change of
//! each market is kept for it and offered again. A client that accepts nothing for too long is
//! evicted. The memory for a client is bounded by the markets it subscribed to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use indexmap::IndexSet;

use super::protocol::{FeedStatus, UpdateFrame};
use crate::domain::ids::{EventId, MarketKey};

/// A session id, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Changes for one session, in the order of their sequence numbers.
#[derive(Clone, Debug)]
pub struct Delivery {
    changes: Arc<Changes>,
    /// Whether earlier changes may have been left out.
    pub conflated: bool,
    /// The feed status to send after the changes.
    pub feed: Option<FeedStatus>,
    /// Whether the session measures the age of the changes when it sends them. Set only for the
    /// last session that a change goes to, so that a change is measured once and not once per
    /// session.
    pub measured: bool,
}

/// The part that all sessions share.
#[derive(Debug)]
struct Changes {
    frames: Vec<Arc<UpdateFrame>>,
    joined: Option<Bytes>,
}

impl Delivery {
    /// A delivery of changes only.
    pub fn of(frames: Vec<Arc<UpdateFrame>>, conflated: bool) -> Delivery {
        let joined = join(&frames, conflated);
        Delivery {
            changes: Arc::new(Changes { frames, joined }),
            conflated,
            feed: None,
            measured: false,
        }
    }

    fn feed(status: FeedStatus) -> Delivery {
        Delivery {
            feed: Some(status),
            ..Delivery::of(Vec::new(), false)
        }
    }

    /// The changes.
    pub fn frames(&self) -> &[Arc<UpdateFrame>] {
        &self.changes.frames
    }

    /// The encoded frames of all changes in one buffer, if the changes belong to one event. A
    /// client that has none of them yet gets them with one write.
    pub fn joined(&self) -> Option<&Bytes> {
        self.changes.joined.as_ref()
    }
}

fn join(frames: &[Arc<UpdateFrame>], conflated: bool) -> Option<Bytes> {
    let (first, rest) = frames.split_first()?;
    if rest.is_empty() {
        return Some(first.wire(conflated).clone());
    }
    let is_of_one_event = rest.iter().all(|frame| frame.event_id == first.event_id);
    is_of_one_event.then(|| {
        let mut joined =
            BytesMut::with_capacity(frames.iter().map(|frame| frame.wire(conflated).len()).sum());
        frames
            .iter()
            .for_each(|frame| joined.extend_from_slice(frame.wire(conflated)));
        joined.freeze()
    })
}

/// Why a session did not accept a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// It has not taken the previous ones yet.
    Full,
    /// It has ended.
    Gone,
}

/// The destination of the deliveries to one session.
pub trait DeliverySink {
    /// Hands a delivery over without waiting.
    fn push(&self, delivery: Delivery) -> Result<(), PushError>;
}

struct Entry<O> {
    sink: O,
    subscriptions: HashSet<EventId, Hasher>,
    /// Changes still to be delivered, if the session is slow. Most sessions never are.
    pending: Option<Box<Pending>>,
}

struct Pending {
    since: Instant,
    changes: BTreeMap<(EventId, MarketKey), Arc<UpdateFrame>>,
    feed: Option<FeedStatus>,
}

impl Pending {
    fn since(now: Instant) -> Box<Pending> {
        Box::new(Pending {
            since: now,
            changes: BTreeMap::new(),
            feed: None,
        })
    }
}

/// The fast hasher is safe: the server assigns session ids, so clients cannot choose colliding
/// ones, and a session has at most a few hundred events.
type Hasher = foldhash::fast::RandomState;

/// The sessions, their subscriptions, and the pending changes of slow sessions.
pub struct Fanout<O> {
    sessions: HashMap<SessionId, Entry<O>, Hasher>,
    /// In order of subscription; the last entry takes the place of a removed one. This is roughly
    /// the order of their memory, so that a write to thousands of sessions finds the next one
    /// nearby.
    subscribers: HashMap<EventId, IndexSet<SessionId, Hasher>>,
    stalled: HashSet<SessionId, Hasher>,
    subscriptions: usize,
}

/// The result of [`Fanout::publish`] and [`Fanout::offer_again`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Changes delivered.
    pub delivered: usize,
    /// Changes replaced by a later one of the same market before the client took them.
    pub conflated: usize,
    /// Sessions that have ended and were removed.
    pub gone: Vec<SessionId>,
}

impl<O: DeliverySink> Default for Fanout<O> {
    fn default() -> Fanout<O> {
        Fanout {
            sessions: HashMap::default(),
            subscribers: HashMap::new(),
            stalled: HashSet::default(),
            subscriptions: 0,
        }
    }
}

impl<O: DeliverySink> Fanout<O> {
    /// Adds a session.
    pub fn connect(&mut self, id: SessionId, sink: O) {
        self.sessions.insert(
            id,
            Entry {
                sink,
                subscriptions: HashSet::default(),
                pending: None,
            },
        );
    }

    /// Removes a session and returns its sink.
    pub fn disconnect(&mut self, id: SessionId) -> Option<O> {
        let entry = self.sessions.remove(&id)?;
        self.stalled.remove(&id);
        self.subscriptions -= entry.subscriptions.len();
        for event_id in &entry.subscriptions {
            self.leave(id, event_id);
        }
        Some(entry.sink)
    }

    /// Subscribes a session to the changes of an event. Returns `false` if the session is unknown.
    pub fn subscribe(&mut self, id: SessionId, event_id: &EventId) -> bool {
        let Some(entry) = self.sessions.get_mut(&id) else {
            return false;
        };
        self.subscriptions += usize::from(entry.subscriptions.insert(event_id.clone()));
        self.subscribers
            .entry(event_id.clone())
            .or_default()
            .insert(id);
        true
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, id: SessionId, event_id: &EventId) {
        let Some(entry) = self.sessions.get_mut(&id) else {
            return;
        };
        if entry.subscriptions.remove(event_id) {
            self.subscriptions -= 1;
            if let Some(pending) = &mut entry.pending {
                pending.changes.retain(|(event, _), _| event != event_id);
            }
            self.leave(id, event_id);
        }
    }

    /// Offers changes of one event to each subscriber.
    pub fn publish(&mut self, event_id: &EventId, delivery: &Delivery, now: Instant) -> Report {
        let mut report = Report::default();
        let Some(subscribers) = self.subscribers.get(event_id) else {
            return report;
        };
        for (turn, id) in subscribers.iter().enumerate() {
            let Some(entry) = self.sessions.get_mut(id) else {
                continue;
            };
            if entry.pending.is_none() {
                let measured = turn + 1 == subscribers.len();
                match entry.sink.push(Delivery {
                    measured,
                    ..delivery.clone()
                }) {
                    Ok(()) => {
                        report.delivered += delivery.frames().len();
                        continue;
                    }
                    Err(PushError::Gone) => {
                        report.gone.push(*id);
                        continue;
                    }
                    Err(PushError::Full) => _ = self.stalled.insert(*id),
                }
            }
            let pending = entry.pending.get_or_insert_with(|| Pending::since(now));
            for frame in delivery.frames() {
                let key = (frame.event_id.clone(), frame.market.clone());
                report.conflated +=
                    usize::from(pending.changes.insert(key, frame.clone()).is_some());
            }
        }
        self.forget(&report.gone);
        report
    }

    /// Sends the feed status to one session, or to all. A slow session gets only the latest status,
    /// with the next delivery that it accepts.
    pub fn announce(&mut self, status: FeedStatus, only: Option<SessionId>, now: Instant) {
        let mut gone = Vec::new();
        let mut send = |id: SessionId, entry: &mut Entry<O>| {
            if entry.pending.is_none() {
                match entry.sink.push(Delivery::feed(status)) {
                    Ok(()) => return,
                    Err(PushError::Gone) => return gone.push(id),
                    Err(PushError::Full) => _ = self.stalled.insert(id),
                }
            }
            entry
                .pending
                .get_or_insert_with(|| Pending::since(now))
                .feed = Some(status);
        };
        match only {
            // For each session that connects while the feed is stale, without a pass over all
            // others.
            Some(id) => self
                .sessions
                .get_mut(&id)
                .into_iter()
                .for_each(|entry| send(id, entry)),
            None => self
                .sessions
                .iter_mut()
                .for_each(|(id, entry)| send(*id, entry)),
        }
        self.forget(&gone);
    }

    /// Offers slow sessions their pending changes again.
    pub fn offer_again(&mut self) -> Report {
        let mut report = Report::default();
        let mut caught_up = Vec::new();
        for id in &self.stalled {
            let Some(entry) = self.sessions.get_mut(id) else {
                continue;
            };
            let Some(pending) = &entry.pending else {
                continue;
            };
            let mut frames: Vec<_> = pending.changes.values().cloned().collect();
            frames.sort_by_key(|frame| frame.seq);
            let delivered = frames.len();
            let feed = pending.feed;
            match entry.sink.push(Delivery {
                feed,
                ..Delivery::of(frames, true)
            }) {
                Ok(()) => {
                    report.delivered += delivered;
                    entry.pending = None;
                    caught_up.push(*id);
                }
                Err(PushError::Full) => {}
                Err(PushError::Gone) => report.gone.push(*id),
            }
        }
        for id in caught_up {
            self.stalled.remove(&id);
        }
        self.forget(&report.gone);
        report
    }

    /// Removes the sessions that have accepted nothing for `limit`, and returns their sinks so
    /// that they can be closed.
    pub fn evict_stalled(&mut self, now: Instant, limit: Duration) -> Vec<(SessionId, O)> {
        let over = |id: &&SessionId| {
            let pending = self
                .sessions
                .get(id)
                .and_then(|entry| entry.pending.as_ref());
            pending.is_some_and(|pending| now.duration_since(pending.since) >= limit)
        };
        let evicted: Vec<SessionId> = self.stalled.iter().filter(over).copied().collect();
        evicted
            .into_iter()
            .filter_map(|id| Some((id, self.disconnect(id)?)))
            .collect()
    }

    /// Whether an event has subscribers.
    pub fn has_subscribers(&self, event_id: &EventId) -> bool {
        self.subscribers.contains_key(event_id)
    }

    /// The sink of a session.
    pub fn sink(&self, id: SessionId) -> Option<&O> {
        self.sessions.get(&id).map(|entry| &entry.sink)
    }

    /// The sinks of all sessions.
    pub fn sinks(&self) -> impl Iterator<Item = &O> {
        self.sessions.values().map(|entry| &entry.sink)
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many sessions have pending changes.
    pub fn stalled(&self) -> usize {
        self.stalled.len()
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    fn forget(&mut self, gone: &[SessionId]) {
        for id in gone {
            self.disconnect(*id);
        }
    }

    fn leave(&mut self, id: SessionId, event_id: &EventId) {
        if let Some(subscribers) = self.subscribers.get_mut(event_id) {
            subscribers.swap_remove(&id);
            if subscribers.is_empty() {
                self.subscribers.remove(event_id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
