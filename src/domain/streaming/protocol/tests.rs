use proptest::prelude::*;

use super::*;
use crate::domain::odds::book::Book;
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
        ClientMessage::parse(r#"{"type":"subscribe","eventId":"A","since":7,"token":["x"]}"#)
            .unwrap();
    assert_eq!(
        later,
        ClientMessage::Subscribe(EventId::new("A").unwrap()),
        "fields of later versions"
    );
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
}

#[test]
fn message_wire_format() {
    let mut book = Book::new(EventId::new("MATCH_001").unwrap());
    insta::assert_snapshot!(snapshot_message(&book.snapshot(), false), @r#"{"type":"snapshot","eventId":"MATCH_001","seq":0,"markets":[]}"#);
    let state = book.apply(update(1, 1, 1), 41).unwrap();
    let frame = UpdateFrame::new(&state);
    let payload = state.update.to_json();
    assert_eq!(
        frame.text(false),
        &format!(r#"{{"type":"update","eventId":"MATCH_001","seq":42,"payload":{payload}}}"#)
    );
    assert_eq!(
        frame.text(true),
        &format!(
            r#"{{"type":"update","eventId":"MATCH_001","seq":42,"conflated":true,"payload":{payload}}}"#
        )
    );
    let text = frame.text(false).as_bytes();
    let head = [0x81, 126]
        .into_iter()
        .chain((text.len() as u16).to_be_bytes());
    assert_eq!(
        frame.wire(false)[..],
        head.chain(text.iter().copied()).collect::<Vec<_>>()[..]
    );
    assert_eq!(
        snapshot_message(&book.snapshot(), false),
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
    let marked = r#"{"type":"snapshot","eventId":"E","seq":0,"stale":true,"markets":[]}"#;
    assert_eq!(snapshot_message(&empty, true), marked);
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
