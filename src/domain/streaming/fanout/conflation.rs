//! Subscriptions whose changes are held back because the client requested it.
//!
//! All sessions that follow an event with the same step form a group. They get the same messages at
//! the same time, so the cost of a change does not grow with their number.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexSet;

use super::super::conflation_step::ConflationStep;
use super::super::protocol::{Openness, UpdateFrame};
use super::{Delivery, Hasher, SessionId};
use crate::domain::ids::{EventId, MarketKey};

/// The groups of all events.
#[derive(Default)]
pub(super) struct Conflation {
    events: HashMap<EventId, Event>,
    /// The groups that hold changes back.
    holding: BTreeMap<ConflationStep, HashSet<EventId>>,
    /// The start of all intervals, and until when they were flushed.
    clock: Option<(Instant, Instant)>,
}

#[derive(Default)]
struct Event {
    groups: BTreeMap<ConflationStep, Group>,
    /// What the last change of each market left open.
    openness: HashMap<MarketKey, Openness>,
}

#[derive(Default)]
struct Group {
    members: IndexSet<SessionId, Hasher>,
    held: BTreeMap<MarketKey, Held>,
    /// When the first of the held changes arrived.
    held_since: Option<Instant>,
}

struct Held {
    frame: Arc<UpdateFrame>,
    replaced: bool,
}

/// Changes that are due, and the sessions that get them.
pub(super) struct Flush {
    pub delivery: Delivery,
    pub members: Vec<SessionId>,
}

impl Conflation {
    /// Adds a session to a group of an event.
    pub(super) fn join(&mut self, id: SessionId, event_id: &EventId, step: ConflationStep) {
        let event = self.events.entry(event_id.clone()).or_default();
        event.groups.entry(step).or_default().members.insert(id);
    }

    /// Removes a session from the groups of an event.
    pub(super) fn leave(&mut self, id: SessionId, event_id: &EventId) {
        let Some(event) = self.events.get_mut(event_id) else {
            return;
        };
        event.groups.retain(|_, group| {
            group.members.swap_remove(&id);
            !group.members.is_empty()
        });
        if event.groups.is_empty() {
            self.events.remove(event_id);
        }
    }

    /// Whether an event has subscribers here.
    pub(super) fn has(&self, event_id: &EventId) -> bool {
        self.events.contains_key(event_id)
    }

    /// The subscribers of an event.
    pub(super) fn members(&self, event_id: &EventId) -> Vec<SessionId> {
        let groups = self.events.get(event_id).map(|event| event.groups.values());
        groups
            .into_iter()
            .flatten()
            .flat_map(|group| group.members.iter().copied())
            .collect()
    }

    /// Whether changes are held back.
    pub(super) fn is_holding(&self) -> bool {
        !self.holding.is_empty()
    }

    /// Since when a change of an event is held back for a session.
    pub(super) fn held_since(&self, id: SessionId, event_id: &EventId) -> Option<Instant> {
        let groups = self.events.get(event_id)?.groups.values();
        let of_session = groups.filter(|group| group.members.contains(&id));
        of_session.filter_map(|group| group.held_since).min()
    }

    /// Holds changes of an event back. If a market or a selection stops being offered, they are due
    /// at once, with everything that was held back before.
    pub(super) fn hold(
        &mut self,
        event_id: &EventId,
        delivery: &Delivery,
        now: Instant,
    ) -> Vec<Flush> {
        let Some(event) = self.events.get_mut(event_id) else {
            return Vec::new();
        };
        self.clock.get_or_insert((now, now));
        let mut is_urgent = false;
        for frame in delivery.frames() {
            let openness = frame.openness();
            let before = event.openness.get(&frame.market);
            is_urgent |= openness.is_less_than(before);
            event.openness.insert(frame.market.clone(), openness);
        }
        let mut due = Vec::new();
        for (step, group) in &mut event.groups {
            let was_holding = group.held_since.is_some();
            group.hold(delivery, now);
            if is_urgent {
                due.extend(group.flush());
            } else if !was_holding {
                let holding = self.holding.entry(*step).or_default();
                holding.insert(event_id.clone());
            }
        }
        due
    }

    /// Everything that is held back.
    pub(super) fn take_all(&mut self) -> Vec<Flush> {
        self.holding.clear();
        let groups = self.events.values_mut();
        let groups = groups.flat_map(|event| event.groups.values_mut());
        groups.filter_map(Group::flush).collect()
    }

    /// The changes whose interval has ended.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Flush> {
        let Some((start, flushed)) = &mut self.clock else {
            return Vec::new();
        };
        let (before, after) = (*flushed - *start, now.saturating_duration_since(*start));
        *flushed = now.max(*flushed);
        let has_ended = |step: &ConflationStep| step.interval(before) < step.interval(after);
        let mut due = Vec::new();
        let events = &mut self.events;
        self.holding.retain(|step, holding| {
            if !has_ended(step) {
                return true;
            }
            for event_id in holding.drain() {
                let group = events
                    .get_mut(&event_id)
                    .and_then(|event| event.groups.get_mut(step));
                due.extend(group.and_then(Group::flush));
            }
            false
        });
        due
    }
}

impl Group {
    fn hold(&mut self, delivery: &Delivery, now: Instant) {
        for frame in delivery.frames() {
            let replaced = self.held.contains_key(&frame.market) || delivery.conflated;
            let frame = frame.clone();
            let held = Held { frame, replaced };
            self.held.insert(held.frame.market.clone(), held);
        }
        self.held_since.get_or_insert(now);
    }

    fn flush(&mut self) -> Option<Flush> {
        self.held_since = None;
        let mut held: Vec<_> = std::mem::take(&mut self.held).into_values().collect();
        if held.is_empty() {
            return None;
        }
        held.sort_by_key(|held| held.frame.seq);
        let replaced = held.iter().map(|held| held.replaced).collect();
        let frames = held.into_iter().map(|held| held.frame).collect();
        Some(Flush {
            delivery: Delivery::held_back(frames, replaced),
            members: self.members.iter().copied().collect(),
        })
    }
}
