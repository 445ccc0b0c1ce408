//! The state of one client session: inputs in, effects out. The socket, the timers and the registry
//! are elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;

use super::fanout::Delivery;
use super::protocol::{
    ClientMessage, CloseReason, Refusal, UpdateFrame, pong_message, unsubscribed_message,
};
use crate::domain::ids::{EventId, MarketKey};

/// The limits of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Maximum number of subscriptions at a time.
    pub max_subscriptions: usize,
    /// Maximum number of messages within a second. Further ones are refused; ten times as many end
    /// the session.
    pub max_messages_per_second: u32,
    /// Bytes of snapshots per second, after a burst of eight times as many.
    pub max_snapshot_bytes_per_second: u64,
    /// How long a client may send nothing, not even a pong.
    pub silence_limit: Duration,
}

/// The burst allowance, in seconds of the snapshot rate: a client subscribes to everything it shows
/// when it starts.
const SNAPSHOT_BURST: u64 = 8;

/// What the caller must do after an input.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send this text.
    Send(ByteString),
    /// Send this refusal as an `error` message.
    Refuse(Refusal),
    /// Send this change.
    SendUpdate(Arc<UpdateFrame>, bool),
    /// Register a subscription, then get a snapshot and pass it to [`SessionState::on_snapshot`]
    /// with this attempt.
    Subscribe(EventId, Attempt),
    /// Remove a subscription.
    Unsubscribe(EventId),
    /// Send a ping.
    Ping,
    /// Close the session.
    Close(CloseReason),
}

/// Distinguishes the snapshot of one `subscribe` from that of another for the same event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(u64);

/// A snapshot in the form in which it is sent.
#[derive(Clone, Debug)]
pub struct SnapshotFrame {
    /// The event's last sequence number in the snapshot.
    pub seq: u64,
    /// The encoded message.
    pub text: ByteString,
}

#[derive(Debug)]
enum Subscription {
    /// The snapshot is pending. Changes that arrive before it are held, the latest per market.
    Awaiting(Box<Awaiting>),
    /// The client has everything up to this sequence number.
    Live { last_seq: u64 },
}

#[derive(Debug)]
struct Awaiting {
    attempt: Attempt,
    held: BTreeMap<MarketKey, Held>,
}

#[derive(Debug)]
struct Held {
    frame: Arc<UpdateFrame>,
    conflated: bool,
}

/// The state of one session.
#[derive(Debug)]
pub struct SessionState {
    limits: SessionLimits,
    /// At most a few hundred, chosen by one client: collisions would affect only that client.
    subscriptions: HashMap<EventId, Subscription, foldhash::fast::RandomState>,
    next_attempt: u64,
    window_start: Instant,
    window_messages: u32,
    last_activity: Instant,
    /// Bytes of snapshots that were sent, less the allowance since then. As of `snapshots_at`.
    snapshot_bytes: u64,
    snapshots_at: Instant,
}

impl SessionState {
    /// A session that starts `now`.
    pub fn new(limits: SessionLimits, now: Instant) -> SessionState {
        SessionState {
            limits,
            subscriptions: HashMap::default(),
            next_attempt: 0,
            window_start: now,
            window_messages: 0,
            last_activity: now,
            snapshot_bytes: 0,
            snapshots_at: now,
        }
    }

    /// How many subscriptions the session holds.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Records that the client sent something, including a pong.
    pub fn on_activity(&mut self, now: Instant) {
        self.last_activity = now;
    }

    /// Handles a text message.
    pub fn on_text(&mut self, text: &str, now: Instant) -> Vec<Effect> {
        self.on_activity(now);
        if let Err(refused) = self.count_message(now) {
            return refused;
        }
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Subscribe(event_id)) => self.subscribe(event_id, now),
            Ok(ClientMessage::Unsubscribe(event_id)) => self.unsubscribe(event_id),
            Ok(ClientMessage::Ping) => vec![Effect::Send(pong_message())],
            Err(refusal) => vec![Effect::Refuse(refusal)],
        }
    }

    /// Handles the snapshot of a subscription; `None` if it could not be loaded.
    pub fn on_snapshot(
        &mut self,
        event_id: EventId,
        attempt: Attempt,
        snapshot: Option<SnapshotFrame>,
    ) -> Vec<Effect> {
        let held = match self.subscriptions.get_mut(&event_id) {
            Some(Subscription::Awaiting(awaiting)) if awaiting.attempt == attempt => {
                std::mem::take(&mut awaiting.held)
            }
            _ => return Vec::new(),
        };
        let Some(snapshot) = snapshot else {
            self.subscriptions.remove(&event_id);
            let refusal = Refusal::SnapshotUnavailable(event_id.clone());
            return vec![Effect::Unsubscribe(event_id), Effect::Refuse(refusal)];
        };
        self.snapshot_bytes = self
            .snapshot_bytes
            .saturating_add(snapshot.text.len() as u64);
        self.subscriptions.insert(
            event_id,
            Subscription::Live {
                last_seq: snapshot.seq,
            },
        );
        let mut held: Vec<Held> = held.into_values().collect();
        held.sort_by_key(|held| held.frame.seq);
        let mut effects = vec![Effect::Send(snapshot.text)];
        effects.extend(
            held.into_iter()
                .flat_map(|held| self.on_update(&held.frame, held.conflated)),
        );
        effects
    }

    /// Handles changes of subscribed events. Passes the frames to send to `send`, in order.
    pub fn on_delivery(&mut self, delivery: &Delivery, mut send: impl FnMut(Bytes)) {
        if let (Some(joined), [first, rest @ ..]) = (delivery.joined(), delivery.frames())
            && let Some(Subscription::Live { last_seq }) =
                self.subscriptions.get_mut(&first.event_id)
            && *last_seq < first.seq
        {
            *last_seq = rest.last().unwrap_or(first).seq;
            return send(joined.clone());
        }
        for frame in delivery.frames() {
            if let Some(Effect::SendUpdate(frame, conflated)) =
                self.on_update(frame, delivery.conflated)
            {
                send(frame.wire(conflated).clone());
            }
        }
    }

    /// Handles a change of a subscribed event. Returns at most one effect.
    pub fn on_update(&mut self, frame: &Arc<UpdateFrame>, conflated: bool) -> Option<Effect> {
        match self.subscriptions.get_mut(&frame.event_id)? {
            Subscription::Live { last_seq } if frame.seq <= *last_seq => None,
            Subscription::Live { last_seq } => {
                *last_seq = frame.seq;
                Some(Effect::SendUpdate(frame.clone(), conflated))
            }
            Subscription::Awaiting(awaiting) => {
                let held = &mut awaiting.held;
                let replaces = held.contains_key(&frame.market);
                let newest = Held {
                    frame: frame.clone(),
                    conflated: conflated || replaces,
                };
                held.insert(frame.market.clone(), newest);
                None
            }
        }
    }

    /// Handles the ping timer: pings the client, or closes the session if it was silent for too
    /// long.
    pub fn on_ping_due(&self, now: Instant) -> Effect {
        if now.duration_since(self.last_activity) < self.limits.silence_limit {
            Effect::Ping
        } else {
            Effect::Close(CloseReason::NoAnswer)
        }
    }

    fn count_message(&mut self, now: Instant) -> Result<(), Vec<Effect>> {
        if now.duration_since(self.window_start) >= Duration::from_secs(1) {
            self.window_start = now;
            self.window_messages = 0;
        }
        self.window_messages = self.window_messages.saturating_add(1);
        let limit = self.limits.max_messages_per_second;
        if self.window_messages <= limit {
            Ok(())
        } else if self.window_messages <= limit.saturating_mul(10) {
            Err(vec![Effect::Refuse(Refusal::RateLimited(limit))])
        } else {
            Err(vec![Effect::Close(CloseReason::TooManyMessages)])
        }
    }

    /// Whether the session has used up its allowance of snapshot bytes. A snapshot's size is known
    /// only once it is sent, so the last one may exceed the limit.
    fn is_over_snapshot_limit(&mut self, now: Instant) -> bool {
        let rate = self.limits.max_snapshot_bytes_per_second;
        let elapsed = now.duration_since(self.snapshots_at).as_millis();
        let allowed =
            u64::try_from(elapsed.saturating_mul(u128::from(rate)) / 1_000).unwrap_or(u64::MAX);
        if allowed > 0 {
            self.snapshot_bytes = self.snapshot_bytes.saturating_sub(allowed);
            self.snapshots_at = now;
        }
        self.snapshot_bytes >= rate.saturating_mul(SNAPSHOT_BURST)
    }

    fn subscribe(&mut self, event_id: EventId, now: Instant) -> Vec<Effect> {
        let held = self.subscriptions.get(&event_id);
        if let Some(Subscription::Awaiting(_)) = held {
            return Vec::new();
        }
        if held.is_none() && self.subscriptions.len() >= self.limits.max_subscriptions {
            let refusal = Refusal::TooManySubscriptions(self.limits.max_subscriptions);
            return vec![Effect::Refuse(refusal)];
        }
        if self.is_over_snapshot_limit(now) {
            let bytes = self.limits.max_snapshot_bytes_per_second;
            return vec![Effect::Refuse(Refusal::SnapshotsLimited {
                event: event_id,
                bytes,
            })];
        }
        self.next_attempt += 1;
        let attempt = Attempt(self.next_attempt);
        let awaiting = Box::new(Awaiting {
            attempt,
            held: BTreeMap::new(),
        });
        self.subscriptions
            .insert(event_id.clone(), Subscription::Awaiting(awaiting));
        vec![Effect::Subscribe(event_id, attempt)]
    }

    fn unsubscribe(&mut self, event_id: EventId) -> Vec<Effect> {
        let message = Effect::Send(unsubscribed_message(&event_id));
        match self.subscriptions.remove(&event_id) {
            Some(_) => vec![Effect::Unsubscribe(event_id), message],
            None => vec![message],
        }
    }
}

#[cfg(test)]
mod tests;
