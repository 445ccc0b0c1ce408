//! Delivers changes to the subscribed sessions, and handles slow clients.
//!
//! Nothing waits for a client that cannot accept a delivery: from then on only the latest change of
//! each market is kept for it and offered again. A client that accepts nothing for too long is
//! evicted. The memory for a client is bounded by the markets it subscribed to.
//!
//! A client may also request that changes are held back (see `conflation`).

mod conflation;
mod delivery;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indexmap::IndexSet;

use self::conflation::Conflation;
pub use self::delivery::{Delivery, DeliveryTrace, SourceNotice};
use super::by_event::ByEvent;
use super::conflation_step::ConflationStep;
use super::protocol::{FeedStatus, UpdateFrame};
use crate::domain::ids::{EventId, MarketKey, Source};

/// A session id, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

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
    subscriptions: ByEvent<()>,
    /// Changes still to be delivered, if the session is slow. Most sessions never are.
    pending: Option<Box<Pending>>,
}

struct Pending {
    since: Instant,
    changes: BTreeMap<(EventId, MarketKey), Arc<UpdateFrame>>,
    /// The latest notice of each source of each event.
    notices: BTreeMap<(EventId, Source), SourceNotice>,
    feed: Option<FeedStatus>,
}

impl Pending {
    fn since(now: Instant) -> Box<Pending> {
        Box::new(Pending {
            since: now,
            changes: BTreeMap::new(),
            notices: BTreeMap::new(),
            feed: None,
        })
    }

    /// Keeps a delivery. Returns how many changes it has replaced.
    fn keep(&mut self, delivery: &Delivery) -> usize {
        for notice in delivery.notices() {
            let key = (notice.event_id.clone(), notice.source.clone());
            self.notices.insert(key, notice.clone());
        }
        let mut replaced = 0;
        for frame in delivery.frames() {
            let key = (frame.event_id.clone(), frame.market.clone());
            replaced += usize::from(self.changes.insert(key, frame.clone()).is_some());
        }
        replaced
    }

    /// Everything that was kept.
    fn delivery(&self) -> Delivery {
        let mut frames: Vec<_> = self.changes.values().cloned().collect();
        frames.sort_by_key(|frame| frame.seq);
        let notices = self.notices.values().cloned().collect();
        Delivery {
            feed: self.feed,
            ..Delivery::with_notices(notices, frames, true)
        }
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
    /// The subscriptions whose changes are held back.
    conflation: Conflation,
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
            conflation: Conflation::default(),
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
                subscriptions: ByEvent::default(),
                pending: None,
            },
        );
    }

    /// Removes a session and returns its sink.
    pub fn disconnect(&mut self, id: SessionId) -> Option<O> {
        let entry = self.sessions.remove(&id)?;
        self.stalled.remove(&id);
        self.subscriptions -= entry.subscriptions.len();
        for event_id in entry.subscriptions.events() {
            self.leave(id, event_id);
        }
        Some(entry.sink)
    }

    /// Subscribes a session to the changes of an event, which are held back for this step. Replaces
    /// the setting of an existing subscription: its held changes are dropped, because a snapshot
    /// follows. Returns `false` if the session is unknown.
    pub fn subscribe(
        &mut self,
        id: SessionId,
        event_id: &EventId,
        conflation: Option<ConflationStep>,
    ) -> bool {
        let Some(entry) = self.sessions.get_mut(&id) else {
            return false;
        };
        let is_new = entry.subscriptions.insert(event_id.clone(), ());
        self.subscriptions += usize::from(is_new);
        // A subscriber that stays keeps its place in the order.
        if !is_new && (conflation.is_some() || self.conflation.has(event_id)) {
            self.leave(id, event_id);
        }
        match conflation {
            Some(step) => self.conflation.join(id, event_id, step),
            None => {
                let subscribers = self.subscribers.entry(event_id.clone()).or_default();
                subscribers.insert(id);
            }
        }
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
                pending.notices.retain(|(event, _), _| event != event_id);
            }
            self.leave(id, event_id);
        }
    }

    /// Offers changes of one event to each subscriber.
    pub fn publish(&mut self, event_id: &EventId, delivery: &Delivery, now: Instant) -> Report {
        let mut report = Report::default();
        if let Some(subscribers) = self.subscribers.get(event_id) {
            for (turn, id) in subscribers.iter().enumerate() {
                let measured = turn + 1 == subscribers.len();
                let offer = Offer {
                    sessions: &mut self.sessions,
                    stalled: &mut self.stalled,
                    report: &mut report,
                };
                offer.make(*id, delivery, measured, now);
            }
        }
        if self.conflation.has(event_id) {
            if let Some(notices) = delivery.only_notices() {
                let members = self.conflation.members(event_id);
                self.offer_to(&members, &notices, now, &mut report);
            }
            for flush in self.conflation.hold(event_id, delivery, now) {
                self.offer_to(&flush.members, &flush.delivery, now, &mut report);
            }
        }
        self.forget(&report.gone);
        report
    }

    /// Offers the changes whose time to be held back has ended.
    pub fn flush_due(&mut self, now: Instant) -> Report {
        let mut report = Report::default();
        for flush in self.conflation.take_due(now) {
            self.offer_to(&flush.members, &flush.delivery, now, &mut report);
        }
        self.forget(&report.gone);
        report
    }

    /// Offers everything that is held back: `live` says that everything missed has been sent.
    pub fn flush_all(&mut self, now: Instant) -> Report {
        let mut report = Report::default();
        for flush in self.conflation.take_all() {
            self.offer_to(&flush.members, &flush.delivery, now, &mut report);
        }
        self.forget(&report.gone);
        report
    }

    fn offer_to(
        &mut self,
        members: &[SessionId],
        delivery: &Delivery,
        now: Instant,
        report: &mut Report,
    ) {
        for id in members {
            let offer = Offer {
                sessions: &mut self.sessions,
                stalled: &mut self.stalled,
                report,
            };
            offer.make(*id, delivery, false, now);
        }
    }

    /// Whether changes are held back.
    pub fn is_holding(&self) -> bool {
        self.conflation.is_holding()
    }

    /// Until when a session was offered every change: now, or the time of the first change that is
    /// held back for it. `None` if it has not accepted some.
    pub fn complete_until(&self, id: SessionId, now: Instant) -> Option<Instant> {
        let entry = self.sessions.get(&id)?;
        if entry.pending.is_some() {
            return None;
        }
        if !self.conflation.is_holding() {
            return Some(now);
        }
        let held = entry
            .subscriptions
            .events()
            .filter_map(|event_id| self.conflation.held_since(id, event_id))
            .min();
        Some(held.unwrap_or(now))
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
            match entry.sink.push(pending.delivery()) {
                Ok(()) => {
                    report.delivered += pending.changes.len();
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
        self.subscribers.contains_key(event_id) || self.conflation.has(event_id)
    }

    /// The sink of a session.
    pub fn sink(&self, id: SessionId) -> Option<&O> {
        self.sessions.get(&id).map(|entry| &entry.sink)
    }

    /// The sinks of all sessions.
    pub fn sinks(&self) -> impl Iterator<Item = &O> {
        self.sessions.values().map(|entry| &entry.sink)
    }

    /// The ids of all sessions.
    pub fn ids(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
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
        self.conflation.leave(id, event_id);
        if let Some(subscribers) = self.subscribers.get_mut(event_id) {
            subscribers.swap_remove(&id);
            if subscribers.is_empty() {
                self.subscribers.remove(event_id);
            }
        }
    }
}

/// What an offer to one session needs of the fan-out.
struct Offer<'a, O> {
    sessions: &'a mut HashMap<SessionId, Entry<O>, Hasher>,
    stalled: &'a mut HashSet<SessionId, Hasher>,
    report: &'a mut Report,
}

impl<O: DeliverySink> Offer<'_, O> {
    /// Hands a delivery to a session, or keeps it for the session.
    fn make(self, id: SessionId, delivery: &Delivery, measured: bool, now: Instant) {
        let Some(entry) = self.sessions.get_mut(&id) else {
            return;
        };
        if entry.pending.is_none() {
            match entry.sink.push(Delivery {
                measured,
                ..delivery.clone()
            }) {
                Ok(()) => return self.report.delivered += delivery.frames().len(),
                Err(PushError::Gone) => return self.report.gone.push(id),
                Err(PushError::Full) => _ = self.stalled.insert(id),
            }
        }
        let pending = entry.pending.get_or_insert_with(|| Pending::since(now));
        self.report.conflated += pending.keep(delivery);
    }
}

#[cfg(test)]
mod tests;
