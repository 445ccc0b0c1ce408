use proptest::prelude::*;

use super::*;
use crate::domain::ids::Source;
use crate::domain::odds::book::{Book, MarketState};
use crate::domain::odds::restrictions::Restrictions;
use crate::domain::odds::update::testing::*;
use crate::domain::streaming::fanout::SourceNotice;
use crate::domain::streaming::protocol::{FeedStatus, SnapshotView, snapshot_message};

const LIMITS: SessionLimits = SessionLimits {
    max_subscriptions: 2,
    max_messages_per_second: 5,
    max_snapshot_bytes_per_second: 1_000,
    silence_limit: Duration::from_secs(30),
};

fn frame(seq: u64, market: &str) -> Arc<UpdateFrame> {
    let update = market_update("MATCH_001", market, None, seq as i64, 1);
    Arc::new(UpdateFrame::new(&Arc::new(MarketState { update, seq })))
}

fn shown_at(seq: u64) -> ShownAt {
    ShownAt::new(seq, &Restrictions::default())
}

fn snapshot(seq: u64) -> Option<SnapshotFrame> {
    Some(SnapshotFrame {
        shown_at: shown_at(seq),
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
        [Effect::Subscribe(_, attempt, _)] => *attempt,
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
            Effect::SendUpdate(frame, form) => Some(format!(
                "{} {}{}",
                frame.market,
                frame.seq,
                if form == Form::Plain {
                    ""
                } else {
                    " conflated"
                }
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
        assert!(session.on_update(&early, Form::Plain).is_none());
    }
    let effects = session.on_snapshot(event(), attempt, snapshot(5));
    assert_eq!(sent(effects), ["snapshot 5", "c 6", "b 8 conflated"]);
    assert_eq!(
        sent(session.on_update(&frame(9, "a"), Form::Plain)),
        ["a 9"]
    );
    assert_eq!(
        sent(session.on_update(&frame(9, "a"), Form::Plain)),
        [""; 0]
    );
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
    assert_eq!(
        sent(session.on_update(&frame(7, "a"), Form::Plain)),
        ["a 7"]
    );
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
    assert!(session.on_update(&frame(6, "a"), Form::Plain).is_none());
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
        [Effect::Subscribe(event_id, attempt, _)] => {
            let text = ByteString::from("x".repeat(1_000));
            session.on_snapshot(
                event_id.clone(),
                *attempt,
                Some(SnapshotFrame {
                    shown_at: shown_at(1),
                    text,
                }),
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

/// The events of one message are all answered, at the allowed rate.
#[test]
fn snapshots_of_one_message_wait_for_allowance() {
    let start = Instant::now();
    let mut session = SessionState::new(LIMITS, start);
    let many = r#"{"type":"subscribe","eventIds":["A","B"]}"#;
    let effects = session.on_text(many, start);
    let mut attempts = effects.into_iter().map(|effect| match effect {
        Effect::Subscribe(event_id, attempt, _) => (event_id, attempt),
        other => panic!("no subscription: {other:?}"),
    });
    assert_eq!(session.snapshot_delay(start), None);
    let (event_id, attempt) = attempts.next().unwrap();
    assert!(session.is_awaited(&event_id, attempt));
    let text = ByteString::from("x".repeat(9_999));
    let large = Some(SnapshotFrame {
        shown_at: shown_at(1),
        text,
    });
    session.on_snapshot(event_id.clone(), attempt, large);
    assert!(!session.is_awaited(&event_id, attempt), "it was answered");
    // A burst of 8,000 bytes, then 1,000 a second.
    let delay = Duration::from_secs(2);
    assert_eq!(session.snapshot_delay(start), Some(delay));
    assert_eq!(session.snapshot_delay(start + delay), None);
    let (event_id, attempt) = attempts.next().unwrap();
    session.on_text(r#"{"type":"unsubscribe","eventId":"B"}"#, start + delay);
    assert!(!session.is_awaited(&event_id, attempt), "it was ended");
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
    session.on_activity(at(12));
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

/// A state that is shown again has no number of its own. The session may get it after the snapshot of
/// a later subscription, and what followed it is not sent to that subscription.
#[test]
fn nothing_from_before_the_snapshot_follows_it() {
    let now = Instant::now();
    let restrictions = |version| Restrictions {
        version,
        ..Restrictions::default()
    };
    let update = market_update("MATCH_001", "m", None, 5, 1);
    let state = Arc::new(MarketState { update, seq: 5 });
    let shown_again = |head, version| {
        let at = Some(head);
        Arc::new(UpdateFrame::restricted(
            &state,
            &restrictions(version),
            false,
            at,
        ))
    };
    let notice = |head, version| {
        let at = ShownAt::new(head, &restrictions(version));
        let source = Source::new("a").unwrap();
        let notice = SourceNotice::new(&event(), &source, FeedStatus::Stale, at);
        Delivery::with_notices(vec![notice], Vec::new(), false)
    };
    let mut session = SessionState::new(LIMITS, now);
    let attempt = attempt(&subscribe(&mut session, "MATCH_001", now));
    let snapshot = SnapshotFrame {
        shown_at: ShownAt::new(5, &restrictions(2)),
        text: "snapshot".into(),
    };
    session.on_snapshot(event(), attempt, Some(snapshot));
    for (head, version, is_sent) in [
        (4, 3, false),
        (5, 1, false),
        (5, 2, false),
        (5, 3, true),
        (6, 1, true),
    ] {
        let effect = session.on_update(&shown_again(head, version), Form::Plain);
        assert_eq!(effect.is_some(), is_sent, "state: {head}, {version}");
        let delivery = notice(head, version);
        let notices = session.notices(&delivery).count();
        assert_eq!(notices == 1, is_sent, "notice: {head}, {version}");
    }
}

#[test]
fn many_events_use_one_message() {
    let now = Instant::now();
    let mut session = SessionState::new(LIMITS, now);
    let many = r#"{"type":"subscribe","eventIds":["A","B"],"conflateMs":300,"heartbeatMs":5000}"#;
    let effects = session.on_text(many, now);
    let [
        Effect::Heartbeat(heartbeat),
        Effect::Subscribe(a, first, step),
        Effect::Subscribe(..),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert_eq!(*heartbeat, Duration::from_secs(5));
    assert_eq!(step.unwrap().millis(), 500);
    let extension = session.snapshot_extension(a, *first).unwrap();
    assert_eq!(extension.conflate_ms, 500);
    assert_eq!(extension.heartbeat_ms, Some(5_000));
    // All or none.
    let one_too_many = r#"{"type":"subscribe","eventIds":["A","C"]}"#;
    let refused = sent(session.on_text(one_too_many, now));
    assert!(refused[0].contains("TOO_MANY_SUBSCRIPTIONS"), "{refused:?}");
    assert_eq!(session.subscriptions(), 2);
    // A second subscribe changes the settings; only its own snapshot is sent.
    let again = session.on_text(r#"{"type":"subscribe","eventId":"A","conflateMs":0}"#, now);
    let [Effect::Subscribe(_, second, None)] = &again[..] else {
        panic!("{again:?}");
    };
    let event = EventId::new("A").unwrap();
    assert!(session.snapshot_extension(&event, *first).is_none());
    assert!(
        session
            .on_snapshot(event.clone(), *first, snapshot(1))
            .is_empty()
    );
    assert_eq!(
        sent(session.on_snapshot(event, *second, snapshot(1))),
        ["snapshot 1"]
    );
}

/// Each event costs a snapshot, so it counts as a message; the session does not end.
#[test]
fn events_of_one_message_are_counted() {
    let now = Instant::now();
    let limits = SessionLimits {
        max_subscriptions: 100,
        ..LIMITS
    };
    let mut session = SessionState::new(limits, now);
    let ids: Vec<_> = (0..90).map(|event| format!("\"{event}\"")).collect();
    let many = format!(r#"{{"type":"subscribe","eventIds":[{}]}}"#, ids.join(","));
    assert_eq!(session.on_text(&many, now).len(), 90);
    let refused = sent(session.on_text(&many, now));
    assert_eq!(refused, ["RATE_LIMITED"]);
    let later = now + Duration::from_secs(1);
    assert_eq!(session.on_text(&many, later).len(), 90);
}

/// A state that is shown in another way is sent again, unless the snapshot is later.
#[test]
fn restated_change_is_not_newer() {
    let now = Instant::now();
    let mut session = live_at(8, now);
    let restated = |head| {
        let update = market_update("MATCH_001", "a", None, 7, 1);
        let state = Arc::new(MarketState { update, seq: 7 });
        let later = Restrictions {
            version: 1,
            ..Restrictions::default()
        };
        Arc::new(UpdateFrame::restricted(&state, &later, false, Some(head)))
    };
    assert!(session.on_update(&restated(7), Form::Plain).is_none());
    assert!(session.on_update(&restated(8), Form::Plain).is_some());
    let mut frames = 0;
    session.on_delivery(&Delivery::of(vec![restated(8)], false), |_| frames += 1);
    assert_eq!(frames, 1);
    assert!(session.on_update(&frame(8, "b"), Form::Plain).is_none());
    assert!(session.on_update(&frame(9, "b"), Form::Plain).is_some());
}

proptest! {
    /// Changes that arrive together are sent as if each had arrived alone, whatever the client
    /// has already.
    #[test]
    fn delivery_equals_its_changes(at in 0_u64..8, first in 1_u64..6, many in 1_u64..5, conflated: bool) {
        let now = Instant::now();
        let mut session = live_at(at, now);
        let mut alone = live_at(at, now);
        let frames: Vec<_> = (first..first + many).map(|seq| frame(seq, "a")).collect();
        let mut sent = Vec::new();
        session.on_delivery(&Delivery::of(frames.clone(), conflated), |frames| sent.extend_from_slice(&frames));
        let one_by_one = frames.iter().filter_map(|frame| match alone.on_update(frame, Form::of(conflated, false)) {
            Some(Effect::SendUpdate(frame, conflated)) => Some(frame.wire(conflated).to_vec()),
            _ => None,
        });
        prop_assert_eq!(sent, one_by_one.collect::<Vec<_>>().concat());
        for seq in 1..12 {
            prop_assert_eq!(session.on_update(&frame(seq, "a"), Form::Plain).is_some(), alone.on_update(&frame(seq, "a"), Form::Plain).is_some());
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
                        let effect = session.on_update(&Arc::new(UpdateFrame::new(&state)), Form::Plain);
                        see(effect.into_iter().collect(), &book);
                    }
                }
                1 => for effect in subscribe(&mut session, "MATCH_001", now) {
                    if let Effect::Subscribe(_, attempt, _) = effect { awaited = Some(attempt); subscribed = true; }
                },
                _ => if let Some(attempt) = awaited.take() {
                    let snapshot = book.snapshot();
                    let text = snapshot_message(&snapshot, &SnapshotView::default());
                    let effects = session.on_snapshot(event(), attempt, Some(SnapshotFrame { shown_at: shown_at(snapshot.seq), text }));
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
