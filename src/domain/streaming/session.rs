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
    last_heard: Instant,
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
            last_heard: now,
            snapshot_bytes: 0,
            snapshots_at: now,
        }
    }

    /// How many subscriptions the session holds.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Records that the client sent something, including a pong.
    pub fn on_heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// Handles a text message.
    pub fn on_text(&mut self, text: &str, now: Instant) -> Vec<Effect> {
        self.on_heard(now);
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
        if now.duration_since(self.last_heard) < self.limits.silence_limit {
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::odds::book::{Book, MarketState};
    use crate::domain::odds::update::testing::*;
    use crate::domain::streaming::protocol::snapshot_message;

    const LIMITS: SessionLimits = SessionLimits {
        max_subscriptions: 2,
        max_messages_per_second: 5,
        max_snapshot_bytes_per_second: 1_000,
        silence_limit: Duration::from_secs(30),
    };

    fn frame(seq: u64, market: &str) -> Arc<UpdateFrame> {
        let update = market_update("MATCH_001", market, None, seq as i64, 1);
        Arc::new(UpdateFrame::new(&MarketState { update, seq }))
    }

    fn snapshot(seq: u64) -> Option<SnapshotFrame> {
        Some(SnapshotFrame {
            seq,
            text: format!("snapshot {seq}").into(),
        })
    }

    fn subscribe(session: &mut SessionState, event: &str, now: Instant) -> Vec<Effect> {
        session.on_text(
            &format!(r#"{{"type":"subscribe","eventId":"{event}"}}"#),
            now,
        )
    }

    fn attempt(effects: &[Effect]) -> Attempt {
        match effects {
            [Effect::Subscribe(_, attempt)] => *attempt,
            other => panic!("no subscription: {other:?}"),
        }
    }

    /// The effects that the client sees, in short form.
    fn sent(effects: impl IntoIterator<Item = Effect>) -> Vec<String> {
        effects
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Send(text) => Some(text.to_string()),
                Effect::Refuse(refusal) => Some(refusal.code().to_owned()),
                Effect::SendUpdate(frame, conflated) => Some(format!(
                    "{} {}{}",
                    frame.market,
                    frame.seq,
                    if conflated { " conflated" } else { "" }
                )),
                _ => None,
            })
            .collect()
    }

    fn event() -> EventId {
        EventId::new("MATCH_001").unwrap()
    }

    /// Changes that arrive before the snapshot follow it, without a gap or a repeat.
    #[test]
    fn held_changes_follow_snapshot_exactly_once() {
        let now = Instant::now();
        let mut session = SessionState::new(LIMITS, now);
        let attempt = attempt(&subscribe(&mut session, "MATCH_001", now));
        for early in [
            frame(4, "a"),
            frame(5, "b"),
            frame(6, "c"),
            frame(7, "b"),
            frame(8, "b"),
        ] {
            assert!(session.on_update(&early, false).is_none());
        }
        let effects = session.on_snapshot(event(), attempt, snapshot(5));
        assert_eq!(sent(effects), ["snapshot 5", "c 6", "b 8 conflated"]);
        assert_eq!(sent(session.on_update(&frame(9, "a"), false)), ["a 9"]);
        assert_eq!(sent(session.on_update(&frame(9, "a"), false)), [""; 0]);
    }

    /// Each change is still sent once.
    #[test]
    fn second_subscribe_sends_new_snapshot() {
        let now = Instant::now();
        let mut session = SessionState::new(LIMITS, now);
        let first = attempt(&subscribe(&mut session, "MATCH_001", now));
        assert!(
            subscribe(&mut session, "MATCH_001", now).is_empty(),
            "the snapshot is pending"
        );
        session.on_snapshot(event(), first, snapshot(5));
        let second = attempt(&subscribe(&mut session, "MATCH_001", now));
        assert_eq!(session.subscriptions(), 1);
        assert_eq!(
            sent(session.on_snapshot(event(), first, snapshot(5))),
            [""; 0],
            "an outdated snapshot"
        );
        assert_eq!(
            sent(session.on_snapshot(event(), second, snapshot(6))),
            ["snapshot 6"]
        );
        assert_eq!(sent(session.on_update(&frame(7, "a"), false)), ["a 7"]);
    }

    /// The snapshot of an ended subscription is not used for the next one.
    #[test]
    fn outdated_snapshot_is_ignored() {
        let now = Instant::now();
        let mut session = SessionState::new(LIMITS, now);
        let first = attempt(&subscribe(&mut session, "MATCH_001", now));
        let unsubscribe = session.on_text(r#"{"type":"unsubscribe","eventId":"MATCH_001"}"#, now);
        assert!(
            matches!(&unsubscribe[..], [Effect::Unsubscribe(_), Effect::Send(_)]),
            "{unsubscribe:?}"
        );
        assert!(session.on_update(&frame(6, "a"), false).is_none());
        let second = attempt(&subscribe(&mut session, "MATCH_001", now));
        assert!(session.on_snapshot(event(), first, snapshot(5)).is_empty());
        assert_eq!(
            sent(session.on_snapshot(event(), second, snapshot(6))),
            ["snapshot 6"]
        );
    }

    #[test]
    fn failed_snapshot_ends_subscription() {
        let now = Instant::now();
        let mut session = SessionState::new(LIMITS, now);
        let attempt = attempt(&subscribe(&mut session, "MATCH_001", now));
        let effects = session.on_snapshot(event(), attempt, None);
        assert!(matches!(&effects[0], Effect::Unsubscribe(_)));
        assert!(sent(effects)[0].contains("SNAPSHOT_UNAVAILABLE"));
        assert_eq!(session.subscriptions(), 0);
    }

    /// Exceeding a limit is a refusal.
    #[test]
    fn only_flood_ends_session() {
        let now = Instant::now();
        let mut session = SessionState::new(LIMITS, now);
        subscribe(&mut session, "A", now);
        subscribe(&mut session, "B", now);
        assert!(sent(subscribe(&mut session, "C", now))[0].contains("TOO_MANY_SUBSCRIPTIONS"));
        session.on_text(r#"{"type":"ping"}"#, now);
        session.on_text(r#"{"type":"ping"}"#, now);
        assert!(sent(session.on_text(r#"{"type":"ping"}"#, now))[0].contains("RATE_LIMITED"));
        let later = now + Duration::from_secs(1);
        assert_eq!(
            sent(session.on_text(r#"{"type":"ping"}"#, later)),
            [r#"{"type":"pong"}"#]
        );
        let mut flood = Vec::new();
        for _ in 0..50 {
            flood = session.on_text("x", later);
        }
        assert!(
            matches!(flood[..], [Effect::Close(CloseReason::TooManyMessages)]),
            "{flood:?}"
        );
    }

    #[test]
    fn snapshots_are_limited_by_size() {
        let start = Instant::now();
        let mut session = SessionState::new(
            SessionLimits {
                max_messages_per_second: 1_000,
                ..LIMITS
            },
            start,
        );
        let mut again = |now| match &subscribe(&mut session, "MATCH_001", now)[..] {
            [Effect::Subscribe(event_id, attempt)] => {
                let text = ByteString::from("x".repeat(1_000));
                session.on_snapshot(
                    event_id.clone(),
                    *attempt,
                    Some(SnapshotFrame { seq: 1, text }),
                );
                true
            }
            refused => {
                assert!(sent(refused.to_vec())[0].contains("RATE_LIMITED"));
                false
            }
        };
        // A burst of 8,000 bytes, then 1,000 a second.
        assert_eq!((0..100).filter(|_| again(start)).count(), 8);
        assert_eq!(
            (1..=50)
                .filter(|tenth| again(start + Duration::from_millis(100 * tenth)))
                .count(),
            5
        );
        assert_eq!(
            (0..100)
                .filter(|_| again(start + Duration::from_secs(60)))
                .count(),
            8
        );
    }

    #[test]
    fn invalid_message_keeps_session_open() {
        let now = Instant::now();
        let mut session = SessionState::new(LIMITS, now);
        assert!(sent(session.on_text("{}", now))[0].contains("BAD_JSON"));
        assert_eq!(
            sent(session.on_text(r#"{"type":"ping"}"#, now)),
            [r#"{"type":"pong"}"#]
        );
        let never = session.on_text(r#"{"type":"unsubscribe","eventId":"NEVER"}"#, now);
        assert_eq!(
            sent(never),
            [r#"{"type":"unsubscribed","eventId":"NEVER"}"#]
        );
    }

    #[test]
    fn pings_then_closes_after_silence() {
        let start = Instant::now();
        let mut session = SessionState::new(LIMITS, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(matches!(session.on_ping_due(at(10)), Effect::Ping));
        session.on_heard(at(12));
        assert!(matches!(session.on_ping_due(at(40)), Effect::Ping));
        assert!(matches!(
            session.on_ping_due(at(42)),
            Effect::Close(CloseReason::NoAnswer)
        ));
    }

    /// A session that has everything up to this number.
    fn live_at(seq: u64, now: Instant) -> SessionState {
        let mut session = SessionState::new(LIMITS, now);
        let attempt = attempt(&subscribe(&mut session, "MATCH_001", now));
        session.on_snapshot(event(), attempt, snapshot(seq));
        session
    }

    proptest! {
        /// Changes that arrive together are sent as if each had arrived alone, whatever the client
        /// has already.
        #[test]
        fn delivery_equals_its_changes(at in 0_u64..8, first in 1_u64..6, many in 1_u64..5, conflated: bool) {
            let now = Instant::now();
            let (mut session, mut alone) = (live_at(at, now), live_at(at, now));
            let frames: Vec<_> = (first..first + many).map(|seq| frame(seq, "a")).collect();
            let mut sent = Vec::new();
            session.on_delivery(&Delivery::of(frames.clone(), conflated), |frames| sent.extend_from_slice(&frames));
            let one_by_one = frames.iter().filter_map(|frame| match alone.on_update(frame, conflated) {
                Some(Effect::SendUpdate(frame, conflated)) => Some(frame.wire(conflated).to_vec()),
                _ => None,
            });
            prop_assert_eq!(sent, one_by_one.collect::<Vec<_>>().concat());
            for seq in 1..12 {
                prop_assert_eq!(session.on_update(&frame(seq, "a"), false).is_some(), alone.on_update(&frame(seq, "a"), false).is_some());
            }
        }

        /// However deliveries, snapshots and subscribes interleave, the client ends with the state
        /// of the book.
        #[test]
        fn client_ends_with_book_state(steps in proptest::collection::vec((0u8..3, 0u8..3), 1..60)) {
            let now = Instant::now();
            let limits = SessionLimits { max_messages_per_second: 1_000, ..LIMITS };
            let mut session = SessionState::new(limits, now);
            let mut book = Book::new(event());
            let mut client: BTreeMap<String, u64> = BTreeMap::new();
            let mut awaited: Option<Attempt> = None;
            let mut subscribed = false;
            let mut client_seq = 0;
            let mut see = |effects: Vec<Effect>, book: &Book| {
                for effect in effects {
                    match effect {
                        Effect::Send(text) if text.contains("snapshot") => {
                            client = book.snapshot().markets.iter()
                                .map(|state| (state.update.market.to_string(), state.seq)).collect();
                            client_seq = book.snapshot().seq;
                        }
                        Effect::SendUpdate(frame, _) => {
                            assert!(frame.seq > client_seq);
                            client_seq = frame.seq;
                            client.insert(frame.market.to_string(), frame.seq);
                        }
                        _ => {}
                    }
                }
            };
            let mut position = 0;
            for (what, market) in steps {
                match what {
                    0 => {
                        position += 1;
                        let update = market_update("MATCH_001", &format!("m{market}"), None, position, 1);
                        let state = book.apply(update, position as u64).unwrap();
                        if subscribed {
                            let effect = session.on_update(&Arc::new(UpdateFrame::new(&state)), false);
                            see(effect.into_iter().collect(), &book);
                        }
                    }
                    1 => for effect in subscribe(&mut session, "MATCH_001", now) {
                        if let Effect::Subscribe(_, attempt) = effect { awaited = Some(attempt); subscribed = true; }
                    },
                    _ => if let Some(attempt) = awaited.take() {
                        let snapshot = book.snapshot();
                        let text = snapshot_message(&snapshot, false);
                        let effects = session.on_snapshot(event(), attempt, Some(SnapshotFrame { seq: snapshot.seq, text }));
                        see(effects, &book);
                    },
                }
            }
            if subscribed && awaited.is_none() {
                let held: BTreeMap<_, _> = book.snapshot().markets.iter()
                    .map(|state| (state.update.market.to_string(), state.seq)).collect();
                prop_assert_eq!(client, held);
            }
        }
    }
}
