use proptest::prelude::*;

use super::*;

fn read_broadcast(message: &[u8]) -> Result<Broadcast, String> {
    Envelope::open(message)?.read()
}

const ORIGINAL: &str = r#"{"eventId":"MATCH_001","payload":{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.528,"draw":2.574,"away":3.144},"updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":978}}"#;

#[test]
fn both_broadcast_formats_are_read() {
    let broadcast = read_broadcast(ORIGINAL.as_bytes()).unwrap();
    assert_eq!(
        (broadcast.seq, broadcast.update.revision.version),
        (None, 978)
    );
    let ours = format!("{},\"seq\":42}}", &ORIGINAL[..ORIGINAL.len() - 1]);
    assert_eq!(read_broadcast(ours.as_bytes()).unwrap().seq, Some(42));
}

/// Captured from the original's processor; the README next to the files describes how.
#[test]
fn captured_original_messages_are_read() {
    let broadcast = read_broadcast(include_bytes!(
        "../../../../tests/data/original/redis-broadcast.json"
    ))
    .unwrap();
    let event = EventId::new("MATCH_002").unwrap();
    let kept = include_bytes!("../../../../tests/data/original/redis-odds-current.json");
    let kept = read_current(&event, kept).unwrap();
    assert_eq!((broadcast.seq, &broadcast.update), (None, &kept.update));
    // The time of the change in milliseconds: the same in every process, and larger for a later
    // change.
    assert_eq!(kept.seq, 1_795_392_219_563);
    assert_eq!(
        kept.update
            .price_of("home")
            .map(|price| price.thousandths()),
        Some(2_345)
    );
}

#[test]
fn contradictory_messages_are_rejected() {
    assert!(read_broadcast(ORIGINAL.replacen("MATCH_001", "MATCH_002", 1).as_bytes()).is_err());
    let event = EventId::new("MATCH_001").unwrap();
    let payload = &ORIGINAL[33..ORIGINAL.len() - 1];
    let state = format!(r#"{{"order":"0","seq":7,"payload":{payload}}}"#);
    assert_eq!(read_state(&event, b"1x2", state.as_bytes()).unwrap().seq, 7);
    assert!(read_state(&event, b"btts", state.as_bytes()).is_err());
    assert!(read_state(&event, b"1x2", format!("[7,{payload}]").as_bytes()).is_err());
    assert!(read_broadcast(format!(r#"["MATCH_001",{payload},8,false]"#).as_bytes()).is_err());
    assert!(read_current(&event, b"[null]").is_err());
}

/// A market whose name contains the delimiter has its own field; the field of an earlier
/// version is read as well.
#[test]
fn field_belongs_to_one_market() {
    let event = EventId::new("E").unwrap();
    let state = |market: &str, line: Option<&str>| {
        let update = crate::domain::odds::update::testing::market_update("E", market, line, 1, 1);
        format!(r#"{{"order":"0","seq":7,"payload":{}}}"#, update.to_json())
    };
    let named = state("total@2.5", None);
    let lined = state("total", Some("2.5"));
    let read =
        |field: &str, state: &str| read_state(&event, field.as_bytes(), state.as_bytes()).is_ok();
    assert!(read("total%402.5", &named) && read("total@2.5", &lined));
    assert!(read("total@2.5", &named), "the field of an earlier version");
    assert!(!read("total%402.5", &lined) && !read("total", &named) && !read("total", &lined));
}

#[test]
fn only_original_current_entries_are_read() {
    let event = EventId::new("MATCH_001").unwrap();
    let original = &ORIGINAL[33..ORIGINAL.len() - 1];
    let read = read_current(&event, original.as_bytes()).unwrap();
    assert!(read_current(&event, read.update.to_json().as_bytes()).is_err());
}

/// A damaged trace costs the trace, never the change.
#[test]
fn trace_is_read_if_it_can_be() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let read = |field: &str| {
        let message = format!(
            r#"{},"traceparent":{field}}}"#,
            &ORIGINAL[..ORIGINAL.len() - 1]
        );
        let trace = read_broadcast(message.as_bytes()).unwrap().trace;
        trace.map(|trace| trace.to_string())
    };
    assert_eq!(read(&format!("\"{good}\"")).as_deref(), Some(good));
    for damaged in [
        "\"\"",
        "\"00-1-2-01\"",
        "7",
        "null",
        "{\"a\":[1]}",
        "\"\\u0000\"",
    ] {
        assert_eq!(read(damaged), None, "{damaged}");
    }
}

/// Readers recognise copies by the end of a message, so the trace is not the last field.
#[test]
fn trace_of_change_is_broadcast() {
    let update = crate::domain::odds::update::testing::market_update("E", "1x2", None, 1, 1);
    let channels = Channels::new("c", "db0", false);
    let writing = Writing {
        hash: "",
        ttl_millis: 1,
        channels: &channels,
        latest: Timestamp::now(),
        largest_seq: 1,
    };
    let sent = |trace: Option<&str>| {
        let change = Change {
            state: std::sync::Arc::new(MarketState {
                update: update.clone(),
                seq: 1,
            }),
            conflated: true,
            trace: trace.map(|text| text.parse().unwrap()),
        };
        let packed = write_command(&change, &writing).get_packed_command();
        String::from_utf8_lossy(&packed).into_owned()
    };
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let ending = format!(r#","conflated":true,"traceparent":"{parent}","deployment":"db0"}}"#);
    assert!(sent(Some(parent)).contains(&ending));
    assert!(!sent(None).contains("traceparent"));
}

proptest! {
    #[test]
    fn orders_compare_like_revisions(one in (0i64..9_000_000_000_000_000, any::<i64>()), other in (0i64..9_000_000_000_000_000, any::<i64>())) {
        let revision = |(micros, version)| Revision {
            updated_at: crate::domain::timestamp::Timestamp::from_micros(micros).unwrap(),
            version,
        };
        let one = revision(one);
        let other = revision(other);
        prop_assert_eq!(order(one).cmp(&order(other)), one.cmp(&other));
        prop_assert_eq!(order(one).len(), 40);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let event = EventId::new("E").unwrap();
        let _ = (read_broadcast(&bytes), read_state(&event, b"1x2", &bytes), read_current(&event, &bytes));
    }
}
