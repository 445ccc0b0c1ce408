//! The state of one client session: inputs in, effects out. The socket, the timers and the registry
//! are elsewhere.

mod authentication;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;

pub use self::authentication::{AuthResult, BadCredential};
use super::by_event::ByEvent;
use super::conflation_step::ConflationStep;
use super::credential_watch::SessionCaller;
use super::fanout::Delivery;
use super::protocol::{
    ClientMessage, CloseReason, Credential, Form, Refusal, ResumePoint, SnapshotExtension,
    SubscribeRequest, UpdateFrame, pong_message, unsubscribed_message,
};
use super::shown_at::ShownAt;
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
    /// Send this change in this form.
    SendUpdate(Arc<UpdateFrame>, Form),
    /// Send a heartbeat after this much silence, from now on.
    Heartbeat(Duration),
    /// Register a subscription whose changes may be held back, then get a snapshot and pass it to
    /// [`SessionState::on_snapshot`] with this attempt.
    Subscribe(EventId, Attempt, Option<ConflationStep>),
    /// Remove a subscription.
    Unsubscribe(EventId),
    /// Check this credential and pass the result to [`SessionState::on_credential`].
    Authenticate(Credential),
    /// Watch the expiry and the revocation of this caller's credential, from now on.
    WatchCaller(Arc<SessionCaller>),
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
    /// What the snapshot shows.
    pub shown_at: ShownAt,
    /// The encoded message.
    pub text: ByteString,
}

#[derive(Debug)]
enum Subscription {
    /// The snapshot is pending. Changes that arrive before it are held, the latest per market.
    Awaiting(Box<Awaiting>),
    /// The client has everything up to `last_seq`.
    Live { last_seq: u64, snapshot: ShownAt },
}

#[derive(Debug)]
struct Awaiting {
    attempt: Attempt,
    resume: Option<ResumePoint>,
    conflation: Option<ConflationStep>,
    held: BTreeMap<MarketKey, Held>,
}

#[derive(Debug)]
struct Held {
    frame: Arc<UpdateFrame>,
    form: Form,
}

/// What only a session of the extended protocol has.
#[derive(Debug, Default)]
struct Extension {
    heartbeat: Option<Duration>,
}

/// The state of one session.
#[derive(Debug)]
pub struct SessionState {
    limits: SessionLimits,
    subscriptions: ByEvent<Subscription>,
    next_attempt: u64,
    window_start: Instant,
    window_messages: u32,
    last_activity: Instant,
    /// Bytes of snapshots that were sent, less the allowance since then. As of `snapshots_at`.
    snapshot_bytes: u64,
    snapshots_at: Instant,
    /// `None` for most sessions: a client that never used the extended protocol.
    extension: Option<Box<Extension>>,
    /// Whether anonymous callers may read odds.
    is_odds_public: bool,
    /// `None` for anonymous callers that need not authenticate.
    caller: Option<Arc<SessionCaller>>,
}

impl SessionState {
    /// A session of anybody that starts `now`.
    pub fn new(limits: SessionLimits, now: Instant) -> SessionState {
        SessionState {
            limits,
            subscriptions: ByEvent::default(),
            next_attempt: 0,
            window_start: now,
            window_messages: 0,
            last_activity: now,
            snapshot_bytes: 0,
            snapshots_at: now,
            extension: None,
            is_odds_public: true,
            caller: None,
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
            Ok(ClientMessage::Authenticate(credential)) => self.present(credential),
            Ok(_) if !self.may_read() => vec![Effect::Refuse(Refusal::Unauthenticated)],
            Ok(ClientMessage::Subscribe(event_id)) => self.subscribe(event_id, now),
            Ok(ClientMessage::SubscribeExtended(request)) => self.subscribe_extended(*request, now),
            Ok(ClientMessage::Unsubscribe(event_id)) => self.unsubscribe(event_id),
            Ok(ClientMessage::Ping) => vec![Effect::Send(pong_message())],
            Err(refusal) => vec![Effect::Refuse(refusal)],
        }
    }

    /// What the snapshot of a subscription holds in addition, for a session of the extended
    /// protocol. Without the epoch, which the session does not know.
    pub fn snapshot_extension(
        &self,
        event_id: &EventId,
        attempt: Attempt,
    ) -> Option<SnapshotExtension<'static>> {
        let extension = self.extension.as_ref()?;
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        match self.subscriptions.get(event_id)? {
            Subscription::Awaiting(awaiting) if awaiting.attempt == attempt => {
                Some(SnapshotExtension {
                    epoch: None,
                    resume: awaiting.resume.clone(),
                    conflate_ms: awaiting.conflation.map_or(0, ConflationStep::millis),
                    heartbeat_ms: extension.heartbeat.map(millis),
                })
            }
            _ => None,
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
                last_seq: snapshot.shown_at.seq(),
                snapshot: snapshot.shown_at,
            },
        );
        let mut held: Vec<Held> = held.into_values().collect();
        held.sort_by_key(|held| held.frame.seq);
        let mut effects = vec![Effect::Send(snapshot.text)];
        effects.extend(
            held.into_iter()
                .flat_map(|held| self.on_update(&held.frame, held.form)),
        );
        effects
    }

    /// Handles changes of subscribed events. Passes the frames to send to `send`, in order.
    pub fn on_delivery(&mut self, delivery: &Delivery, mut send: impl FnMut(Bytes)) {
        let is_extended = self.extension.is_some();
        self.notices(delivery)
            .for_each(|notice| send(notice.wire.clone()));
        if let (Some(joined), [first, rest @ ..]) =
            (delivery.joined(is_extended), delivery.frames())
            && let Some(Subscription::Live { last_seq, .. }) =
                self.subscriptions.get_mut(&first.event_id)
            && *last_seq < first.seq
        {
            *last_seq = rest.last().unwrap_or(first).seq;
            return send(joined.clone());
        }
        for (index, frame) in delivery.frames().iter().enumerate() {
            let form = delivery.form(index, is_extended);
            if let Some(Effect::SendUpdate(frame, form)) = self.on_update(frame, form) {
                send(frame.wire(form).clone());
            }
        }
    }

    /// Handles a change of a subscribed event. Returns at most one effect.
    pub fn on_update(&mut self, frame: &Arc<UpdateFrame>, form: Form) -> Option<Effect> {
        match self.subscriptions.get_mut(&frame.event_id)? {
            Subscription::Live { last_seq, snapshot } => {
                match frame.restated_at() {
                    // It is from before the subscription. What followed it was dropped.
                    Some(at) if at <= *snapshot => return None,
                    Some(_) => {}
                    None if frame.seq <= *last_seq => return None,
                    None => *last_seq = frame.seq,
                }
                Some(Effect::SendUpdate(frame.clone(), form))
            }
            Subscription::Awaiting(awaiting) => {
                let held = &mut awaiting.held;
                let replaces = held.contains_key(&frame.market);
                let form = if replaces {
                    form.after_replacing()
                } else {
                    form
                };
                let frame = frame.clone();
                held.insert(frame.market.clone(), Held { frame, form });
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

    /// Counts each event of an accepted `subscribe` as a message, because each costs a snapshot.
    /// They use up the allowance of this second, but never end the session.
    fn count_events(&mut self, events: usize) {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let counted = self
            .window_messages
            .saturating_add(events.saturating_sub(1));
        let limit = self.limits.max_messages_per_second;
        self.window_messages = self.window_messages.max(counted.min(limit));
    }

    /// How long the session waits before it requests the next snapshot, because it has used up its
    /// allowance of snapshot bytes. A snapshot's size is known only once it is sent, so the last
    /// one may exceed the limit.
    pub fn snapshot_delay(&mut self, now: Instant) -> Option<Duration> {
        let rate = self.limits.max_snapshot_bytes_per_second.max(1);
        let elapsed = now.duration_since(self.snapshots_at).as_millis();
        let allowed =
            u64::try_from(elapsed.saturating_mul(u128::from(rate)) / 1_000).unwrap_or(u64::MAX);
        if allowed > 0 {
            self.snapshot_bytes = self.snapshot_bytes.saturating_sub(allowed);
            self.snapshots_at = now;
        }
        let burst = rate.saturating_mul(SNAPSHOT_BURST);
        let excess = self.snapshot_bytes.saturating_add(1).checked_sub(burst)?;
        (excess > 0).then(|| Duration::from_millis(excess.saturating_mul(1_000).div_ceil(rate)))
    }

    /// Counts a snapshot whose text is not sent, because the client has another message format.
    pub fn charge_snapshot(&mut self, bytes: u64) {
        self.snapshot_bytes = self.snapshot_bytes.saturating_add(bytes);
    }

    /// Whether the snapshot of this attempt is still wanted: the subscription was neither ended nor
    /// requested again.
    pub fn is_awaited(&self, event_id: &EventId, attempt: Attempt) -> bool {
        match self.subscriptions.get(event_id) {
            Some(Subscription::Awaiting(awaiting)) => awaiting.attempt == attempt,
            _ => false,
        }
    }

    fn subscribe(&mut self, event_id: EventId, now: Instant) -> Vec<Effect> {
        // A client of the original has no other settings, so its pending snapshot serves it.
        if self.extension.is_none() && self.is_awaiting(&event_id) {
            return Vec::new();
        }
        match self.check_subscribe([&event_id].into_iter(), now) {
            Ok(()) => vec![self.await_snapshot(event_id, None, None)],
            Err(refusal) => vec![Effect::Refuse(refusal)],
        }
    }

    fn subscribe_extended(&mut self, request: SubscribeRequest, now: Instant) -> Vec<Effect> {
        if let Err(refusal) = self.check_subscribe(request.events.keys(), now) {
            return vec![Effect::Refuse(refusal)];
        }
        self.count_events(request.events.len());
        let extension = self.extension.get_or_insert_default();
        let mut effects = Vec::with_capacity(request.events.len() + 1);
        if let Some(heartbeat) = request.heartbeat {
            extension.heartbeat = Some(heartbeat);
            effects.push(Effect::Heartbeat(heartbeat));
        }
        for (event_id, resume) in request.events {
            effects.push(self.await_snapshot(event_id, resume, request.conflation));
        }
        effects
    }

    fn is_awaiting(&self, event_id: &EventId) -> bool {
        matches!(
            self.subscriptions.get(event_id),
            Some(Subscription::Awaiting(_))
        )
    }

    /// Whether all of these events can be subscribed to.
    fn check_subscribe<'a>(
        &mut self,
        mut events: impl Iterator<Item = &'a EventId> + Clone,
        now: Instant,
    ) -> Result<(), Refusal> {
        let new = events
            .clone()
            .filter(|event_id| !self.subscriptions.contains(event_id))
            .count();
        let most = self.limits.max_subscriptions;
        if new > 0 && self.subscriptions.len() + new > most {
            return Err(Refusal::TooManySubscriptions(most));
        }
        if self.snapshot_delay(now).is_some()
            && let Some(event) = events.next()
        {
            return Err(Refusal::SnapshotsLimited {
                event: event.clone(),
                bytes: self.limits.max_snapshot_bytes_per_second,
            });
        }
        Ok(())
    }

    fn await_snapshot(
        &mut self,
        event_id: EventId,
        resume: Option<ResumePoint>,
        conflation: Option<ConflationStep>,
    ) -> Effect {
        self.next_attempt += 1;
        let attempt = Attempt(self.next_attempt);
        let awaiting = Box::new(Awaiting {
            attempt,
            resume,
            conflation,
            held: BTreeMap::new(),
        });
        self.subscriptions
            .insert(event_id.clone(), Subscription::Awaiting(awaiting));
        Effect::Subscribe(event_id, attempt, conflation)
    }

    fn unsubscribe(&mut self, event_id: EventId) -> Vec<Effect> {
        let message = Effect::Send(unsubscribed_message(&event_id));
        if self.subscriptions.remove(&event_id) {
            vec![Effect::Unsubscribe(event_id), message]
        } else {
            vec![message]
        }
    }
}

#[cfg(test)]
mod tests;
