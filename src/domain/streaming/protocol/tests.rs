use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::odds::book::{Book, MarketState};
use crate::domain::odds::restrictions::Restrictions;
use crate::domain::odds::source_status::{SourceState, SourceStatus};
use crate::domain::odds::update::testing::*;

#[test]
fn reads_messages_of_original_client() {
    let subscribe =
        ClientMessage::parse(r#"{ "type": "subscribe", "eventId": "MATCH_002" }"#).unwrap();
    assert_eq!(
        subscribe,
        ClientMessage::Subscribe(EventId::new("MATCH_002").unwrap())
    );
    assert_eq!(
        ClientMessage::parse(r#"{"type":"ping"}"#).unwrap(),
        ClientMessage::Ping
    );
    let later =
        ClientMessage::parse(r#"{"type":"subscribe","eventId":"A","sinse":7,"token":["x"]}"#)
            .unwrap();
    assert_eq!(
        later,
        ClientMessage::Subscribe(EventId::new("A").unwrap()),
        "fields of later versions"
    );
}

#[test]
fn credential_is_never_shown() {
    let parsed = ClientMessage::parse(r#"{"type":"auth","token":"eyJhbGciOi"}"#).unwrap();
    assert!(!format!("{parsed:?}").contains("eyJ"), "{parsed:?}");
    let ClientMessage::Authenticate(credential) = parsed else {
        panic!("{parsed:?}");
    };
    assert_eq!(credential.expose(), "eyJhbGciOi");
}

#[test]
fn authentication_wire_format() {
    let at = Timestamp::from_micros(1_700_000_000_000_000);
    insta::assert_snapshot!(authenticated_message(at), @r#"{"type":"authenticated","expiresAt":"2023-11-14T22:13:20Z"}"#);
    insta::assert_snapshot!(authenticated_message(None), @r#"{"type":"authenticated"}"#);
    insta::assert_snapshot!(error_message(&Refusal::Unauthenticated), @r#"{"type":"error","code":"UNAUTHENTICATED","message":"authenticate first: send an `auth` message with a token or an API key"}"#);
    insta::assert_snapshot!(error_message(&Refusal::ScopeRequired), @r#"{"type":"error","code":"SCOPE_REQUIRED","message":"the scope `odds:read` is required"}"#);
}

fn extended(text: &str) -> SubscribeRequest {
    match ClientMessage::parse(text).unwrap() {
        ClientMessage::SubscribeExtended(request) => *request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_extended_subscribe() {
    let request = extended(
        r#"{"type":"subscribe","eventId":"E","since":812,"epoch":"3f9c","conflateMs":240,"heartbeatMs":500}"#,
    );
    let resume = ResumePoint {
        since: 812,
        epoch: Some("3f9c".to_owned()),
    };
    let event = |id| EventId::new(id).unwrap();
    assert_eq!(request.events, [(event("E"), Some(resume.clone()))].into());
    assert_eq!(request.conflation.unwrap().millis(), 250);
    assert_eq!(request.heartbeat.unwrap().as_millis(), 500);
    let many = extended(
        r#"{"type":"subscribe","eventIds":["E","F","E"],"since":{"E":812,"X":1},"epoch":"3f9c","conflateMs":0}"#,
    );
    let expected = [(event("E"), Some(resume)), (event("F"), None)];
    assert_eq!(many.events, expected.into());
    assert_eq!((many.conflation, many.heartbeat), (None, None));
}

#[test]
fn each_refusal_has_its_code() {
    let code = |text: &str| ClientMessage::parse(text).unwrap_err().code();
    assert_eq!(code("hello"), "BAD_JSON");
    assert_eq!(code("[]"), "BAD_JSON");
    assert_eq!(code(r#"["subscribe","A"]"#), "BAD_JSON");
    assert_eq!(code(r#"["ping"]"#), "BAD_JSON");
    assert_eq!(
        code(r#"{"type":"subscribe","eventId":"A","eventId":"B"}"#),
        "BAD_JSON"
    );
    assert_eq!(code(r#"{"eventId":"A"}"#), "BAD_JSON");
    assert_eq!(
        code(r#"{"type":"Subscribe","eventId":"A"}"#),
        "UNKNOWN_TYPE"
    );
    assert_eq!(code(r#"{"type":"subscribe"}"#), "BAD_EVENT_ID");
    assert_eq!(code(r#"{"type":"subscribe","eventId":""}"#), "BAD_EVENT_ID");
    assert_eq!(code(r#"{"type":"subscribe","eventId":7}"#), "BAD_EVENT_ID");
    assert_eq!(
        code(r#"{"type":"unsubscribe","eventId":null}"#),
        "BAD_EVENT_ID"
    );
    for text in [
        r#"{"type":"auth"}"#,
        r#"{"type":"auth","token":null}"#,
        r#"{"type":"auth","token":7}"#,
        r#"{"type":"auth","token":""}"#,
    ] {
        assert_eq!(code(text), "BAD_TOKEN", "{text}");
    }
    assert_eq!(
        code(r#"{"type":"auth","token":"a","token":"b"}"#),
        "BAD_JSON"
    );
    let long_epoch = format!(r#""since":1,"epoch":"{}""#, "x".repeat(65));
    for (field, expected) in [
        (r#""conflateMs":-1"#, "BAD_CONFLATE_MS"),
        (r#""conflateMs":120001"#, "BAD_CONFLATE_MS"),
        (r#""conflateMs":"250""#, "BAD_CONFLATE_MS"),
        (r#""heartbeatMs":499"#, "BAD_HEARTBEAT_MS"),
        (r#""heartbeatMs":30001"#, "BAD_HEARTBEAT_MS"),
        (r#""heartbeatMs":true"#, "BAD_HEARTBEAT_MS"),
        (r#""since":-1"#, "BAD_SINCE"),
        (r#""since":{"E":1}"#, "BAD_SINCE"),
        (r#""since":1,"epoch":7"#, "BAD_SINCE"),
        (&long_epoch, "BAD_SINCE"),
        (r#""eventIds":["F"]"#, "BAD_EVENT_ID"),
        (r#""since":1,"since":2"#, "BAD_JSON"),
    ] {
        let text = format!(r#"{{"type":"subscribe","eventId":"E",{field}}}"#);
        assert_eq!(code(&text), expected, "{text}");
    }
    for (field, expected) in [
        (r#""eventIds":[]"#, "BAD_EVENT_ID"),
        (r#""eventIds":"E""#, "BAD_EVENT_ID"),
        (r#""eventIds":["E",7]"#, "BAD_EVENT_ID"),
        (r#""eventIds":["E"],"since":7"#, "BAD_SINCE"),
        (r#""eventIds":["E"],"since":{"E":"7"}"#, "BAD_SINCE"),
        (r#""since":7"#, "BAD_EVENT_ID"),
    ] {
        let text = format!(r#"{{"type":"subscribe",{field}}}"#);
        assert_eq!(code(&text), expected, "{text}");
    }
}

fn market(name: &str, time: i64) -> crate::domain::odds::update::OddsUpdate {
    market_update("MATCH_001", name, None, time, 1)
}

/// Five markets with the numbers 1 to 5.
fn five() -> Book {
    let mut book = Book::new(EventId::new("MATCH_001").unwrap());
    for (position, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        book.apply(market(name, 1), position as u64).unwrap();
    }
    book
}

fn view_of(since: u64, epoch: &str, restrictions: Restrictions) -> SnapshotView<'static> {
    let extension = SnapshotExtension {
        epoch: Some("3f9c"),
        resume: Some(ResumePoint {
            since,
            epoch: Some(epoch.to_owned()),
        }),
        conflate_ms: 250,
        heartbeat_ms: Some(5_000),
    };
    SnapshotView {
        is_stale: false,
        restrictions: Arc::new(restrictions),
        extension: Some(extension),
    }
}

fn resumed(book: &Book, since: u64, epoch: &str, restrictions: Restrictions) -> Value {
    let view = view_of(since, epoch, restrictions);
    serde_json::from_str(&snapshot_message(&book.snapshot(), &view)).unwrap()
}

/// Numbers of another epoch say nothing about this book, and a book that is stale may stay behind.
#[test]
fn only_same_epoch_puts_client_ahead() {
    let snapshot = five().snapshot();
    let is_ahead = |since, epoch: &str, is_stale| {
        let view = SnapshotView {
            is_stale,
            ..view_of(since, epoch, Restrictions::default())
        };
        view.catch_up_delay(&snapshot, 0).is_some()
    };
    assert!(is_ahead(6, "3f9c", false));
    assert!(!is_ahead(5, "3f9c", false));
    assert!(!is_ahead(6, "other", false));
    assert!(!is_ahead(6, "3f9c", true));
    assert_eq!(SnapshotView::default().catch_up_delay(&snapshot, 0), None);
    let view = view_of(6, "3f9c", Restrictions::default());
    let delays = (0..10).map_while(|tries| view.catch_up_delay(&snapshot, tries));
    let all: Duration = delays.sum();
    assert_eq!(all, Duration::from_millis(1_260));
}

fn seqs(snapshot: &Value) -> Vec<u64> {
    let markets = snapshot["markets"].as_array().unwrap();
    markets
        .iter()
        .map(|it| it["seq"].as_u64().unwrap())
        .collect()
}

/// R1, R2, R5.
#[test]
fn resumed_snapshot_holds_only_missed_changes() {
    let mut book = five();
    let head = resumed(&book, 5, "3f9c", Restrictions::default());
    let expected = json!({"type": "snapshot", "eventId": "MATCH_001", "seq": 5, "epoch": "3f9c",
        "recovered": true, "conflateMs": 250, "heartbeatMs": 5000, "markets": []});
    assert_eq!(head, expected);
    book.apply(market("b", 2), 10).unwrap();
    book.apply(market("d", 2), 11).unwrap();
    book.apply(market("d", 3), 12).unwrap();
    let two = resumed(&book, 5, "3f9c", Restrictions::default());
    assert_eq!(
        (two["recovered"].clone(), seqs(&two)),
        (json!(true), vec![11, 13])
    );
    for market in two["markets"].as_array().unwrap() {
        assert_eq!(
            (&market["conflated"], &market["why"]),
            (&json!(true), &json!("resume"))
        );
    }
    for (since, epoch) in [(14, "3f9c"), (5, "77aa"), (7, "")] {
        let all = resumed(&book, since, epoch, Restrictions::default());
        assert_eq!(all["recovered"], false);
        assert_eq!(all["epoch"], "3f9c");
        assert_eq!(seqs(&all), [1, 11, 3, 13, 5]);
        assert!(all["markets"][0].get("conflated").is_none());
    }
}

/// Restrictions have no sequence number, so nobody resumes while a market is restricted.
#[test]
fn restricted_book_is_not_resumed() {
    let book = five();
    let at = Timestamp::from_micros(1_700_000_000_000_000);
    let source = Source::new("test").unwrap();
    let state = SourceState::Stale;
    let lost = Restrictions {
        sources: [(source, SourceStatus { state, at })].into(),
        ..Restrictions::default()
    };
    let snapshot = resumed(&book, 5, "3f9c", lost.clone());
    assert_eq!(
        (&snapshot["recovered"], snapshot.get("epoch")),
        (&json!(false), None)
    );
    let market = &snapshot["markets"][0];
    assert_eq!(
        (&market["stale"], &market["asOf"]),
        (&json!(true), &json!("2023-11-14T22:13:20Z"))
    );
    assert_eq!(market["payload"]["status"], "suspended");
    assert_eq!(snapshot["payload"]["status"], "suspended");
    let view = SnapshotView {
        restrictions: Arc::new(lost),
        ..SnapshotView::default()
    };
    let old: Value = serde_json::from_str(&snapshot_message(&book.snapshot(), &view)).unwrap();
    let fields: Vec<_> = old["markets"][0].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["payload", "seq", "stale"]);
    assert!(old.get("epoch").is_none() && old.get("recovered").is_none());
}

#[test]
fn extended_forms_say_why() {
    let update = market("a", 1);
    let state = Arc::new(MarketState { update, seq: 7 });
    let payload = state.update.to_json();
    let text = |frame: &UpdateFrame, form| frame.text(form).replace(&payload, "P");
    let plain = UpdateFrame::new(&state);
    insta::assert_snapshot!(text(&plain, Form::Extended), @r#"{"type":"update","eventId":"MATCH_001","seq":7,"payload":P}"#);
    insta::assert_snapshot!(text(&plain, Form::Slow), @r#"{"type":"update","eventId":"MATCH_001","seq":7,"conflated":true,"why":"slow","payload":P}"#);
    insta::assert_snapshot!(text(&plain, Form::Requested), @r#"{"type":"update","eventId":"MATCH_001","seq":7,"conflated":true,"why":"requested","payload":P}"#);
    let restated = UpdateFrame::restricted(&state, &Restrictions::default(), false, Some(9));
    insta::assert_snapshot!(text(&restated, Form::Plain), @r#"{"type":"update","eventId":"MATCH_001","seq":7,"stale":false,"payload":P}"#);
    insta::assert_snapshot!(text(&restated, Form::Extended), @r#"{"type":"update","eventId":"MATCH_001","seq":7,"stale":false,"resumable":false,"payload":P}"#);
    insta::assert_snapshot!(text(&restated, Form::Conflated), @r#"{"type":"update","eventId":"MATCH_001","seq":7,"conflated":true,"stale":false,"payload":P}"#);
    let event = EventId::new("E").unwrap();
    let source = Source::new("a").unwrap();
    insta::assert_snapshot!(source_message(FeedStatus::Stale, &source, &event), @r#"{"type":"feed","status":"stale","source":"a","events":["E"]}"#);
    let at = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    insta::assert_snapshot!(heartbeat_message(at), @r#"{"type":"heartbeat","asOf":"2023-11-14T22:13:20Z"}"#);
}

#[test]
fn message_wire_format() {
    let mut book = Book::new(EventId::new("MATCH_001").unwrap());
    insta::assert_snapshot!(snapshot_message(&book.snapshot(), &SnapshotView::default()), @r#"{"type":"snapshot","eventId":"MATCH_001","seq":0,"markets":[]}"#);
    let state = book.apply(update(1, 1, 1), 41).unwrap();
    let frame = UpdateFrame::new(&state);
    let payload = state.update.to_json();
    assert_eq!(
        frame.text(Form::Plain),
        &format!(r#"{{"type":"update","eventId":"MATCH_001","seq":42,"payload":{payload}}}"#)
    );
    assert_eq!(
        frame.text(Form::Conflated),
        &format!(
            r#"{{"type":"update","eventId":"MATCH_001","seq":42,"conflated":true,"payload":{payload}}}"#
        )
    );
    let text = frame.text(Form::Plain).as_bytes();
    let head = [0x81, 126]
        .into_iter()
        .chain((text.len() as u16).to_be_bytes());
    assert_eq!(
        frame.wire(Form::Plain)[..],
        head.chain(text.iter().copied()).collect::<Vec<_>>()[..]
    );
    assert_eq!(
        snapshot_message(&book.snapshot(), &SnapshotView::default()),
        format!(
            r#"{{"type":"snapshot","eventId":"MATCH_001","seq":42,"markets":[{{"seq":42,"payload":{payload}}}],"payload":{payload}}}"#
        )
    );
    assert_eq!(pong_message(), r#"{"type":"pong"}"#);
    assert_eq!(
        feed_message(FeedStatus::Stale),
        r#"{"type":"feed","status":"stale"}"#
    );
    assert_eq!(
        feed_message(FeedStatus::Live),
        r#"{"type":"feed","status":"live"}"#
    );
    let empty = Book::new(EventId::new("E").unwrap()).snapshot();
    let stale = SnapshotView {
        is_stale: true,
        ..SnapshotView::default()
    };
    let marked = r#"{"type":"snapshot","eventId":"E","seq":0,"stale":true,"markets":[]}"#;
    assert_eq!(snapshot_message(&empty, &stale), marked);
    let event = EventId::new("E").unwrap();
    assert_eq!(
        unsubscribed_message(&event),
        r#"{"type":"unsubscribed","eventId":"E"}"#
    );
    insta::assert_snapshot!(error_message(&Refusal::SnapshotUnavailable(event)), @r#"{"type":"error","code":"SNAPSHOT_UNAVAILABLE","message":"the odds of `E` are currently unavailable; subscribe again","eventId":"E"}"#);
    insta::assert_snapshot!(error_message(&Refusal::TooManySubscriptions(200)), @r#"{"type":"error","code":"TOO_MANY_SUBSCRIPTIONS","message":"a session may have at most 200 subscriptions"}"#);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,80}") {
        let _ = ClientMessage::parse(&text);
    }
}
