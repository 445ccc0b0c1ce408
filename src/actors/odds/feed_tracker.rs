//! Decides whether the books receive every broadcast, without actors, without I/O and without a
//! clock.
//!
//! The feed is live while the channel is subscribed, a processor sends heartbeats, and the books
//! have reloaded what they may have missed. Each loss starts a new epoch: results of work that
//! started in an earlier one say nothing about the present.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::messages::ApplyError;
use crate::cache::{Broadcast, BroadcastEvent};
use crate::domain::ids::EventId;

/// Batches that may be in flight before the next one is received: a slow batch of one event does
/// not block others.
pub(super) const MAX_BATCHES: usize = 16;
/// Maximum number of events whose books are reloaded together. Rejected broadcasts of further
/// events have no effect.
const MAX_SUSPECTS: usize = 64;

/// A reload of these books, or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reload {
    epoch: u64,
    /// The events of the books; `None` for all.
    pub events: Option<Vec<EventId>>,
}

/// A batch of changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The epoch in which it was received.
    pub epoch: u64,
    /// The changes.
    pub changes: Vec<Broadcast>,
}

/// What the actor does, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Receive the next event, until a deadline if there is one; then call
    /// [`FeedTracker::received`] or [`FeedTracker::receive_timed_out`].
    Receive(Option<Instant>),
    /// Apply a batch to the books; then call [`FeedTracker::applied`].
    Apply(Batch),
    /// Reload books; then call [`FeedTracker::reloaded`].
    Reload(Reload),
    /// Call [`FeedTracker::reload_due`] after a delay.
    ScheduleReload(Reload),
    /// Reload the books of rejected broadcasts. The result does not matter.
    ReloadSuspects(Vec<EventId>),
    /// Call [`FeedTracker::suspects_due`] after a pause.
    ScheduleSuspects,
    /// Prices may be stale from now on, for this reason. Notify the clients; then call
    /// [`FeedTracker::loss_notified`].
    Lose(String),
    /// The feed is still not live, now for this reason.
    SetProblem(String),
    /// Prices are up to date. Notify the clients.
    GoLive,
    /// The subscription has ended for this reason. Stop the actor.
    Stop(String),
}

/// Whether the books are up to date with the broadcasts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hydration {
    /// They may have missed changes.
    Stale,
    /// They are reloading the state that they may have missed.
    Loading,
    /// They have reloaded and receive every later change.
    Current,
}

/// The state of the feed.
pub(super) struct FeedTracker {
    /// If no heartbeat arrives for this long, prices may be stale.
    stale_after: Duration,
    /// Number of losses and recoveries.
    epoch: u64,
    /// Whether the channel is subscribed.
    is_listening: bool,
    is_receiving: bool,
    /// Notifications of losses in flight. No receive starts until then, and the feed does not
    /// become live, so that every loss is published before the recovery.
    notifications: usize,
    is_live: bool,
    /// When the last heartbeat arrived; `None` if none has since the last loss.
    last_heartbeat: Option<Instant>,
    /// Whether a heartbeat of our own deployment was ever received. From then on only those count:
    /// a message that names no deployment may come from another one.
    has_own: bool,
    hydration: Hydration,
    /// Events of rejected broadcasts, whose books are to be reloaded.
    suspects: BTreeSet<EventId>,
    batches_in_flight: usize,
}

impl FeedTracker {
    /// Nothing is received yet.
    pub(super) fn new(stale_after: Duration) -> FeedTracker {
        FeedTracker {
            stale_after,
            epoch: 0,
            is_listening: false,
            is_receiving: false,
            notifications: 0,
            is_live: false,
            last_heartbeat: None,
            has_own: false,
            hydration: Hydration::Stale,
            suspects: BTreeSet::new(),
            batches_in_flight: 0,
        }
    }

    /// Starts to receive. If the clients have to be notified first that prices are stale, the caller
    /// does so and then calls [`FeedTracker::loss_notified`].
    pub(super) fn started(&mut self, is_notifying: bool) -> Vec<Effect> {
        self.notifications = usize::from(is_notifying);
        self.continued(Vec::new())
    }

    /// An event was received.
    pub(super) fn received(&mut self, event: BroadcastEvent, now: Instant) -> Vec<Effect> {
        self.is_receiving = false;
        let effects = match event {
            BroadcastEvent::Changes(changes) => self.changed(changes, now),
            BroadcastEvent::Alive { is_own, .. } => {
                self.has_own |= is_own;
                if is_own || !self.has_own {
                    self.heartbeat(now)
                } else {
                    Vec::new()
                }
            }
            BroadcastEvent::Unreadable(_) => Vec::new(),
            BroadcastEvent::Refused(refused) => self.suspect(refused.events),
            BroadcastEvent::Lost(why) => {
                self.is_listening = false;
                self.lose(why)
            }
            BroadcastEvent::Ended(why) => return vec![Effect::Stop(why)],
            BroadcastEvent::Listening => {
                self.epoch += 1;
                self.is_listening = true;
                // Changes received in the meantime reach each book after the reload request.
                self.reload(None)
            }
        };
        self.continued(effects)
    }

    /// No event was received until the deadline.
    pub(super) fn receive_timed_out(&mut self, now: Instant) -> Vec<Effect> {
        self.is_receiving = false;
        let is_silent = self.last_heartbeat.is_some() && !self.has_heartbeat(now);
        let effects = if is_silent {
            let limit = humantime::format_duration(self.stale_after);
            self.lose(format!("no processor has been heard for {limit}"))
        } else {
            // The feed was lost in the meantime.
            Vec::new()
        };
        self.continued(effects)
    }

    /// The books have applied a batch, or have not.
    pub(super) fn applied(&mut self, epoch: u64, result: Result<(), String>) -> Vec<Effect> {
        self.batches_in_flight = self.batches_in_flight.saturating_sub(1);
        let effects = match result {
            // The next heartbeat reloads the books.
            Err(why) if epoch == self.epoch => self.lose(why),
            // After a later loss, the reload covers this batch too.
            Ok(()) | Err(_) => Vec::new(),
        };
        self.continued(effects)
    }

    /// The books have published what they missed, except for the returned ones.
    pub(super) fn reloaded(
        &mut self,
        reload: Reload,
        result: Result<Vec<EventId>, ApplyError>,
        now: Instant,
    ) -> Vec<Effect> {
        if reload.epoch != self.epoch {
            return Vec::new();
        }
        let (events, error) = match result {
            Ok(failed) => match failed.first().cloned() {
                Some(first) => (Some(failed), ApplyError::NotLoaded(first)),
                None => return self.hydrated(now),
            },
            // The failed books are unknown, so the same ones are reloaded again.
            Err(error) => (reload.events, error),
        };
        vec![
            Effect::SetProblem(error.to_string()),
            Effect::ScheduleReload(Reload {
                epoch: self.epoch,
                events,
            }),
        ]
    }

    /// Books that could not be reloaded are reloaded again.
    pub(super) fn reload_due(&mut self, reload: Reload) -> Vec<Effect> {
        if reload.epoch == self.epoch {
            self.reload(reload.events)
        } else {
            Vec::new()
        }
    }

    /// The clients know of the loss.
    pub(super) fn loss_notified(&mut self, now: Instant) -> Vec<Effect> {
        self.notifications = self.notifications.saturating_sub(1);
        let effects = self.go_live(now);
        self.continued(effects)
    }

    /// The books of the rejected broadcasts are reloaded.
    pub(super) fn suspects_due(&mut self) -> Vec<Effect> {
        let suspects = std::mem::take(&mut self.suspects);
        vec![Effect::ReloadSuspects(suspects.into_iter().collect())]
    }

    /// Receives the next event as well, unless one is being received or has to wait.
    fn continued(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        let has_room = self.batches_in_flight < MAX_BATCHES;
        if has_room && !self.is_receiving && self.notifications == 0 {
            self.is_receiving = true;
            let deadline = self.last_heartbeat.map(|at| at + self.stale_after);
            effects.push(Effect::Receive(deadline));
        }
        effects
    }

    fn changed(&mut self, changes: Vec<Broadcast>, now: Instant) -> Vec<Effect> {
        // Our own processors send heartbeats while they keep up with the bus, and none if they lag.
        // A change of one event says nothing about the others. The original program sends only
        // changes.
        let is_heartbeat = !self.has_own && changes.iter().any(|change| change.seq.is_none());
        let mut effects = if is_heartbeat {
            self.heartbeat(now)
        } else {
            Vec::new()
        };
        self.batches_in_flight += 1;
        effects.push(Effect::Apply(Batch {
            epoch: self.epoch,
            changes,
        }));
        effects
    }

    /// A processor keeps up with the bus. The first heartbeat after a loss reloads the books, unless
    /// they are reloaded or reloading already.
    fn heartbeat(&mut self, now: Instant) -> Vec<Effect> {
        if !self.is_listening {
            return Vec::new();
        }
        self.last_heartbeat = Some(now);
        match self.hydration {
            Hydration::Stale => self.reload(None),
            Hydration::Loading => Vec::new(),
            Hydration::Current => self.go_live(now),
        }
    }

    /// Reloads these books, or all. When all have published the changes they missed and a heartbeat
    /// has arrived, the feed is live.
    fn reload(&mut self, events: Option<Vec<EventId>>) -> Vec<Effect> {
        self.hydration = Hydration::Loading;
        vec![Effect::Reload(Reload {
            epoch: self.epoch,
            events,
        })]
    }

    fn hydrated(&mut self, now: Instant) -> Vec<Effect> {
        self.hydration = Hydration::Current;
        if self.last_heartbeat.is_none() {
            let why = "no processor has been heard yet".to_owned();
            return vec![Effect::SetProblem(why)];
        }
        self.go_live(now)
    }

    fn go_live(&mut self, now: Instant) -> Vec<Effect> {
        let is_current = self.hydration == Hydration::Current && self.has_heartbeat(now);
        if !is_current || self.is_live || self.notifications > 0 {
            return Vec::new();
        }
        self.is_live = true;
        vec![Effect::GoLive]
    }

    /// Whether the last heartbeat arrived in time.
    fn has_heartbeat(&self, now: Instant) -> bool {
        self.last_heartbeat
            .is_some_and(|at| now.saturating_duration_since(at) < self.stale_after)
    }

    fn lose(&mut self, why: String) -> Vec<Effect> {
        self.epoch += 1;
        self.last_heartbeat = None;
        self.hydration = Hydration::Stale;
        self.is_live = false;
        self.notifications += 1;
        vec![Effect::Lose(why)]
    }

    /// Reloads the books of these events from the cache, all together and at most once per pause: a
    /// flood of rejected messages must not become a flood of reads.
    fn suspect(&mut self, events: BTreeSet<EventId>) -> Vec<Effect> {
        let is_first = self.suspects.is_empty();
        let room = MAX_SUSPECTS - self.suspects.len();
        let new = events
            .into_iter()
            .filter(|event| !self.suspects.contains(event));
        let new: Vec<EventId> = new.take(room).collect();
        self.suspects.extend(new);
        if is_first && !self.suspects.is_empty() {
            vec![Effect::ScheduleSuspects]
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests;
