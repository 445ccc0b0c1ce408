use super::*;
use crate::domain::odds::book::{Book, Rejection};
use crate::domain::odds::update::testing::{market_update, update};

fn read(decoder: &mut NativeDecoder, update: &OddsUpdate) -> OddsUpdate {
    decoder
        .on_frame(update.to_json().as_bytes())
        .unwrap()
        .updates
        .remove(0)
}

#[test]
fn frame_is_decoded_as_update() {
    let sent = update(1, 10, 5);
    let mut decoder = NativeDecoder::default();
    assert!(decoder.on_connected().is_empty());
    assert_eq!(read(&mut decoder, &sent), sent);
}

#[test]
fn bad_frame_is_rejected_with_reason() {
    let mut decoder = NativeDecoder::default();
    for frame in [&b"hello"[..], b"\xff"] {
        let decoded = decoder.on_frame(frame).unwrap();
        assert_eq!(
            (decoded.updates.len(), decoded.refused[0].reason),
            (0, "malformed")
        );
    }
}

#[test]
fn frame_from_future_is_rejected() {
    let mut decoder = NativeDecoder::default();
    read(&mut decoder, &update(1, 10, 5));
    decoder.refuse_after(update(1, 20, 1).revision.updated_at);
    let future = decoder
        .on_frame(update(1, 21, 1).to_json().as_bytes())
        .unwrap();
    assert_eq!(future.refused[0].reason, "future");
    assert_eq!(
        future.updates[0].status,
        MarketStatus::Suspended,
        "it may have been a suspension"
    );
    assert_eq!(
        read(&mut decoder, &update(1, 11, 1)),
        update(1, 11, 1),
        "the correct update is accepted"
    );
    assert!(
        decoder.on_stale()[0].revision < update(1, 12, 1).revision,
        "based on the accepted update, not the rejected one"
    );
}

/// A lost supplier leaves no market open, and its next update of a market opens that market
/// again.
#[test]
fn lost_supplier_suspends_until_next_update() {
    let mut decoder = NativeDecoder::default();
    let mut book = Book::new(EventId::new("MATCH_001").unwrap());
    let mut position = 0;
    let mut status = |book: &mut Book, update: OddsUpdate| {
        position += 1;
        book.apply(update, position)
            .map(|state| state.update.status)
    };
    let same = update(1, 10, 5);
    let changed = market_update("MATCH_001", "btts", None, 10, 5);
    let closed = OddsUpdate {
        status: MarketStatus::Closed,
        ..market_update("MATCH_001", "over", None, 10, 5)
    };
    for sent in [&same, &changed, &closed] {
        status(&mut book, read(&mut decoder, sent)).unwrap();
    }
    for round in 0..3 {
        let suspended = decoder.on_stale();
        assert_eq!(
            suspended.len(),
            2,
            "round {round}: a closed market is unchanged"
        );
        for update in suspended {
            assert_eq!(status(&mut book, update), Ok(MarketStatus::Suspended));
        }
        assert!(decoder.on_stale().is_empty(), "once per loss");
        assert!(
            status(&mut book, read(&mut decoder, &update(1, 9, 9))).is_err(),
            "an old update opens nothing"
        );
        assert_eq!(
            status(&mut book, read(&mut decoder, &same)),
            Ok(MarketStatus::Open),
            "the same update again"
        );
        assert_eq!(
            status(&mut book, read(&mut decoder, &same)),
            Err(Rejection::Older),
            "only once"
        );
        let next = market_update("MATCH_001", "btts", None, 11 + round, 1);
        assert_eq!(
            status(&mut book, read(&mut decoder, &next)),
            Ok(MarketStatus::Open),
            "a new update"
        );
    }
}

fn json(update: &OddsUpdate, from: &str, to: &str) -> String {
    let json = update.to_json();
    assert!(json.contains(from), "{json}");
    json.replace(from, to)
}

/// The later update may have been a suspension, so no bet may use the price before it.
#[test]
fn unreadable_update_suspends_its_market() {
    let next = update(1, 11, 1);
    let unreadable = [
        json(&next, r#""status":"open""#, r#""status":"halted""#),
        json(&next, r#""status":"active""#, r#""status":"napping""#),
        json(&next, r#""price":3.2"#, r#""price":"3.2""#),
        json(&next, r#""price":3.2"#, r#""price":0"#),
        json(&next, r#""price":3.2"#, r#""price":-3.2"#),
        json(&next, r#""price":3.2"#, r#""price":1e999"#),
        json(&next, r#""price":3.2"#, r#""price":[]"#),
        json(&next, r#""version":1"#, r#""version":"1""#),
        json(&next, r#""version":1"#, r#""version":1,"in_play":"yes""#),
        json(&next, r#""source":"test""#, r#""sauce":"test""#),
        json(&next, r#""updated_at":""#, r#""updated_at":"at "#),
        json(&next, "Z\"", "\""),
        json(&next, r#""selections":["#, r#""selections":[7,"#),
        json(&next, r#""home_team":"Flamengo""#, r#""home_team":7"#),
        r#"{"event_id":"MATCH_001","market":"1x2"}"#.to_owned(),
        r#"{"event_id":"MATCH_001"}"#.to_owned(),
        json(&next, r#""market":"1x2""#, r#""market":7"#),
        json(
            &next,
            r#""market":"1x2""#,
            r#""market":"1x2","line":"none""#,
        ),
    ];
    for frame in unreadable {
        let mut decoder = NativeDecoder::default();
        read(&mut decoder, &update(1, 10, 5));
        read(&mut decoder, &update(2, 10, 5));
        let decoded = decoder.on_frame(frame.as_bytes()).unwrap();
        assert_eq!(decoded.refused.len(), 1, "{frame}");
        let shown: Vec<_> = decoded
            .updates
            .iter()
            .map(|u| (u.event_id.as_str(), u.status))
            .collect();
        assert_eq!(shown, [("MATCH_001", MarketStatus::Suspended)], "{frame}");
        assert!(decoded.updates[0].revision > update(1, 10, 5).revision);
        assert!(
            decoder
                .on_frame(frame.as_bytes())
                .unwrap()
                .updates
                .is_empty(),
            "once: {frame}"
        );
        let repeated = read(&mut decoder, &update(1, 10, 5));
        assert!(
            repeated.revision < decoded.updates[0].revision,
            "an earlier update opens nothing: {frame}"
        );
        assert_eq!(
            read(&mut decoder, &next),
            next,
            "a later update opens it: {frame}"
        );
    }
}

#[test]
fn unreadable_line_suspends_every_line() {
    let mut decoder = NativeDecoder::default();
    for (market, line) in [
        ("total", Some("1.5")),
        ("total", Some("2.5")),
        ("total", None),
        ("btts", None),
    ] {
        read(&mut decoder, &market_update("E", market, line, 10, 5));
    }
    let suspended = |decoder: &mut NativeDecoder, frame: &str| {
        let updates = decoder.on_frame(frame.as_bytes()).unwrap().updates;
        let mut keys: Vec<_> = updates
            .iter()
            .map(|update| update.market.to_string())
            .collect();
        keys.sort();
        keys
    };
    assert_eq!(
        suspended(
            &mut decoder,
            r#"{"event_id":"E","market":"total","line":2.5}"#
        ),
        ["total@2.5"]
    );
    assert_eq!(
        suspended(
            &mut decoder,
            r#"{"event_id":"E","market":"total","line":"x"}"#
        ),
        ["total", "total@1.5"]
    );
    assert_eq!(suspended(&mut decoder, r#"{"event_id":"F"}"#), [""; 0]);
    assert_eq!(suspended(&mut decoder, r#"{"event_id":"E"}"#), ["btts"]);
}

/// An unreadable frame without an event may concern any market until the market's next update.
#[test]
fn unnamed_refusal_suspends_unconfirmed_markets() {
    let mut decoder = NativeDecoder::default();
    let names = |updates: Vec<OddsUpdate>| {
        let mut names: Vec<_> = updates
            .iter()
            .map(|update| update.event_id.as_str().to_owned())
            .collect();
        names.sort();
        names
    };
    for event in ["A", "B"] {
        read(&mut decoder, &market_update(event, "1x2", None, 10, 1));
    }
    // A message of another type is not an update.
    assert_eq!(
        decoder
            .on_frame(br#"{"type":"heartbeat"}"#)
            .unwrap()
            .refused[0]
            .reason,
        "unknown_type"
    );
    assert_eq!(decoder.unnamed_refusals(), 0);
    for frame in [
        "{garbage",
        r#"{"market":"1x2"}"#,
        r#"{"event_id":7,"market":"1x2"}"#,
    ] {
        assert_eq!(decoder.on_frame(frame.as_bytes()).unwrap().refused.len(), 1);
    }
    assert_eq!(decoder.unnamed_refusals(), 3);
    read(&mut decoder, &market_update("B", "1x2", None, 11, 1));
    assert_eq!(names(decoder.suspend_unconfirmed(3)), ["A"]);
    assert_eq!(names(decoder.suspend_unconfirmed(3)), [""; 0], "once");
    let repeated = read(&mut decoder, &market_update("A", "1x2", None, 10, 1));
    assert_eq!(
        repeated.revision.updated_at,
        update(1, 10, 1).revision.updated_at,
        "the same update opens nothing"
    );
    decoder.on_frame(b"{garbage").unwrap();
    assert_eq!(names(decoder.suspend_unconfirmed(4)), ["B"]);
}

#[test]
fn unpublished_updates_leave_no_market_open() {
    let mut decoder = NativeDecoder::default();
    read(&mut decoder, &update(1, 10, 5));
    let suspended = decoder.on_unpublished();
    assert_eq!(suspended[0].status, MarketStatus::Suspended);
    // The bus did not accept the suspension either.
    assert_eq!(decoder.on_unpublished(), suspended);
    let next = update(1, 11, 1);
    assert_eq!(read(&mut decoder, &next), next);
    assert_eq!(decoder.on_stale().len(), 1, "it is still tracked");
}
