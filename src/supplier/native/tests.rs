mod restart;
mod results;
mod selected;
mod sources;

use proptest::prelude::Strategy as _;

use super::*;
use crate::domain::ids::EventId;
use crate::domain::odds::book::{Book, Rejection};
use crate::domain::odds::update::Revision;
use crate::domain::odds::update::testing::{market_update, update};
use crate::supplier::testing::SuspendAlone;

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
    assert_eq!(names(decoder.suspend_after_refusals(3)), ["A"]);
    assert_eq!(names(decoder.suspend_after_refusals(3)), [""; 0], "once");
    let repeated = read(&mut decoder, &market_update("A", "1x2", None, 10, 1));
    assert_eq!(
        repeated.revision.updated_at,
        update(1, 10, 1).revision.updated_at,
        "the same update opens nothing"
    );
    decoder.on_frame(b"{garbage").unwrap();
    assert_eq!(names(decoder.suspend_after_refusals(4)), ["B"]);
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

fn message(decoder: &mut NativeDecoder, json: &str) -> Decoded {
    let decoded = decoder.on_frame(json.as_bytes()).unwrap();
    assert_eq!(decoded.refused, [], "{json}");
    decoded
}

fn statuses(updates: &[OddsUpdate]) -> Vec<(&str, MarketStatus)> {
    let mut statuses: Vec<_> = updates
        .iter()
        .map(|update| (update.market.name.as_str(), update.status))
        .collect();
    statuses.sort();
    statuses
}

fn market(name: &str, time: i64) -> OddsUpdate {
    market_update("MATCH_001", name, None, time, 1)
}

const OPEN: MarketStatus = MarketStatus::Open;
const SUSPENDED: MarketStatus = MarketStatus::Suspended;

/// TCP loses nothing: when the supplier speaks again, quiet markets open too.
#[test]
fn silence_on_one_connection_loses_nothing() {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &market("a", 10));
    read(&mut decoder, &market("b", 10));
    let unreadable = json(
        &market("b", 11),
        r#""status":"open""#,
        r#""status":"halted""#,
    );
    decoder.on_frame(unreadable.as_bytes()).unwrap();
    let suspended = decoder.on_stale();
    assert_eq!(statuses(&suspended), [("a", SUSPENDED)]);
    let opened = decoder.on_resumed();
    assert_eq!(statuses(&opened), [("a", OPEN)], "b is in doubt");
    assert!(opened[0].revision > suspended[0].revision);
    assert!(decoder.on_resumed().is_empty());
}

#[test]
fn new_connection_opens_market_by_market() {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &market("a", 10));
    read(&mut decoder, &market("b", 10));
    assert_eq!(decoder.on_stale().len(), 2);
    decoder.on_connected();
    assert!(decoder.on_resumed().is_empty());
    assert_eq!(read(&mut decoder, &market("a", 10)).status, OPEN);
    // Silence on the new connection does not make up for what was missed between the two.
    assert_eq!(statuses(&decoder.on_stale()), [("a", SUSPENDED)]);
    assert_eq!(statuses(&decoder.on_resumed()), [("a", OPEN)]);
}

#[test]
fn recovery_opens_unchanged_markets() {
    let mut decoder = NativeDecoder::new(true, false);
    assert_eq!(
        decoder.on_connected(),
        [r#"{"request":"r1","type":"recover"}"#]
    );
    for name in ["a", "b", "c"] {
        read(&mut decoder, &market(name, 10));
    }
    let source = update(1, 1, 1).source;
    assert_eq!(decoder.sources(), [(source.clone(), SourceState::Live)]);
    assert!(message(&mut decoder, r#"{"type":"recovered","request":"r1"}"#).is_recovered);
    decoder.on_stale();
    let request = decoder.on_connected().remove(0);
    let after = update(1, 10, 1)
        .revision
        .updated_at
        .earlier_by(RECOVERY_OVERLAP);
    assert_eq!(request, messages::recover("r2", Some(after)));
    assert_eq!(
        decoder.sources(),
        [(source.clone(), SourceState::Recovering)]
    );
    // Two changes were missed: a price of `a`, and that `b` is suspended.
    assert_eq!(read(&mut decoder, &market("a", 20)).status, OPEN);
    let suspended = OddsUpdate {
        status: SUSPENDED,
        ..market("b", 20)
    };
    read(&mut decoder, &suspended);
    let older = message(&mut decoder, r#"{"type":"recovered","request":"r1"}"#);
    assert!(
        older.updates.is_empty() && !older.is_recovered,
        "an older request"
    );
    let recovered = message(&mut decoder, r#"{"type":"recovered","request":"r2"}"#);
    assert_eq!(statuses(&recovered.updates), [("c", OPEN)]);
    assert_eq!(decoder.sources(), [(source, SourceState::Live)]);
    assert!(
        message(&mut decoder, r#"{"type":"recovered","request":"r2"}"#)
            .updates
            .is_empty()
    );
}

/// A source that stops answering is treated like one that never did.
#[test]
fn unanswered_recovery_ends_market_by_market() {
    let mut decoder = NativeDecoder::new(true, false);
    decoder.on_connected();
    assert!(!decoder.give_up_recovery(), "it may know no recovery");
    message(&mut decoder, r#"{"type":"recovered","request":"r1"}"#);
    read(&mut decoder, &market("a", 10));
    read(&mut decoder, &market("b", 10));
    decoder.on_connected();
    read(&mut decoder, &market("a", 10));
    assert!(decoder.give_up_recovery());
    assert_eq!(decoder.sources()[0].1, SourceState::Live);
    assert_eq!(
        statuses(&decoder.suspend_unconfirmed(&|_| false)),
        [("b", SUSPENDED)]
    );
    let late = message(&mut decoder, r#"{"type":"recovered","request":"r2"}"#);
    assert_eq!(statuses(&late.updates), [("b", OPEN)]);
}

#[test]
fn spared_markets_are_suspended_later() {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &market("a", 10));
    read(&mut decoder, &market("b", 10));
    decoder.record_silence();
    assert!(decoder.suspend_unconfirmed(&|_| true).is_empty());
    decoder.on_connected();
    read(&mut decoder, &market("a", 11));
    assert!(decoder.suspend_unconfirmed(&|_| true).is_empty());
    assert_eq!(
        statuses(&decoder.suspend_unconfirmed(&|_| false)),
        [("b", SUSPENDED)]
    );
    assert!(decoder.suspend_unconfirmed(&|_| false).is_empty(), "once");
}

/// What an earlier process left open is suspended unless the supplier sends it, and the supplier's
/// next message about it opens it, also if it repeats the last one.
#[test]
fn stored_markets_wait_for_supplier() {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &market("sent", 10));
    // The revision in the database is our own: an earlier process had suspended and opened it.
    let mut quiet = market("quiet", 10);
    quiet.revision = next_revision(next_revision(quiet.revision));
    let stored = vec![market("sent", 9), quiet.clone()];
    assert_eq!(decoder.add_stored(stored.clone()).unsent, 1);
    let suspended = decoder.suspend_unconfirmed(&|_| false);
    assert_eq!(statuses(&suspended), [("quiet", SUSPENDED)]);
    assert!(suspended[0].revision > quiet.revision);
    assert_eq!(
        decoder.add_stored(stored),
        AddedMarkets::default(),
        "the database lags behind"
    );
    let late = decoder
        .on_frame(market("quiet", 9).to_json().as_bytes())
        .unwrap();
    assert_eq!(
        (late.late, late.updates[0].revision),
        (1, market("quiet", 9).revision)
    );
    let opened = read(&mut decoder, &market("quiet", 10));
    assert_eq!(opened.status, OPEN);
    assert!(opened.revision > suspended[0].revision);
    assert_eq!(decoder.on_stale().len(), 2);
}

#[test]
fn alive_changes_nothing_but_names_source() {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    let alive = message(
        &mut decoder,
        r#"{"type":"alive","at":"2026-01-01T00:00:00Z","source":"x"}"#,
    );
    assert!(alive.updates.is_empty() && !alive.is_unreadable);
    assert_eq!(decoder.sources()[0].0.as_str(), "x");
    message(
        &mut decoder,
        r#"{"type":"alive","at":"2026-01-01T00:00:00Z"}"#,
    );
    let malformed = decoder.on_frame(br#"{"type":"alive","at":7}"#).unwrap();
    assert_eq!(malformed.refused[0].reason, "malformed");
    assert!(malformed.is_unreadable);
}

#[test]
fn bet_stop_suspends_open_markets_of_event() {
    let stop = |fields: &str| {
        let mut decoder = NativeDecoder::default();
        decoder.on_connected();
        for name in ["a", "b"] {
            read(&mut decoder, &market(name, 10));
        }
        read(&mut decoder, &market("later", 30));
        read(&mut decoder, &market_update("MATCH_002", "a", None, 10, 1));
        let at = serde_json::to_string(&update(1, 20, 1).revision.updated_at).unwrap();
        let frame = format!(
            r#"{{"type":"bet_stop","event_id":"MATCH_001","updated_at":{at},"version":5{fields}}}"#
        );
        let updates = message(&mut decoder, &frame).updates;
        (decoder, updates)
    };
    let (mut decoder, all) = stop(r#","status":"suspended""#);
    assert_eq!(statuses(&all), [("a", SUSPENDED), ("b", SUSPENDED)]);
    assert_eq!(
        all[0].revision,
        Revision {
            version: 5,
            ..update(1, 20, 1).revision
        }
    );
    let old = read(&mut decoder, &market("a", 19));
    assert!(
        old.revision < all[0].revision,
        "an earlier update opens nothing"
    );
    assert_eq!(read(&mut decoder, &market("a", 21)), market("a", 21));
    assert_eq!(
        statuses(&stop(r#","markets":["b","later"]"#).1),
        [("b", SUSPENDED)]
    );
    assert_eq!(stop(r#","source":"other""#).1, []);
}

/// It may have meant any market of its event.
#[test]
fn malformed_bet_stop_suspends_event() {
    for frame in [
        r#"{"type":"bet_stop","event_id":"MATCH_001"}"#,
        r#"{"type":"bet_stop","event_id":"MATCH_001","updated_at":"2026-01-01T00:00:00Z","status":"open"}"#,
        r#"{"type":"bet_stop","event_id":"MATCH_001","updated_at":"2026-01-01T00:00:00Z","markets":"a"}"#,
    ] {
        let mut decoder = NativeDecoder::default();
        read(&mut decoder, &market("a", 10));
        let decoded = decoder.on_frame(frame.as_bytes()).unwrap();
        assert_eq!(decoded.refused[0].reason, "malformed", "{frame}");
        assert_eq!(statuses(&decoded.updates), [("a", SUSPENDED)], "{frame}");
    }
    let mut decoder = NativeDecoder::default();
    decoder
        .on_frame(br#"{"type":"bet_stop","event_id":7}"#)
        .unwrap();
    assert_eq!(decoder.unnamed_refusals(), 1);
}

#[test]
fn handed_over_market_is_suspended_and_marked() {
    let mut decoder = NativeDecoder::default();
    read(&mut decoder, &market("a", 10));
    let frame = json(
        &market("a", 11),
        r#""status":"open""#,
        r#""status": "handed_over""#,
    );
    let decoded = message(&mut decoder, &frame);
    let suspended = OddsUpdate {
        status: SUSPENDED,
        ..market("a", 11)
    };
    assert_eq!(decoded.updates, std::slice::from_ref(&suspended));
    assert_eq!(
        decoded.handed_over,
        [super::super::MarketRevision::of(&suspended)]
    );
    let malformed = json(
        &market("a", 12),
        r#""status":"open""#,
        r#""status":"handed_over","version":"x""#,
    );
    assert_eq!(
        decoder
            .on_frame(malformed.as_bytes())
            .unwrap()
            .refused
            .len(),
        1
    );
}

/// A step of the property below.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The supplier sends a market, with a new revision or the last one.
    Send(usize, bool),
    Silence,
    Resume,
    Reconnect,
    Recovered,
    Spare(bool),
}

proptest::proptest! {
    /// For any order of messages, silences, reconnects and recoveries, the state that readers see
    /// of a market is open only if nothing about it can have been missed, or it is spared.
    #[test]
    fn open_market_is_confirmed(
        steps in proptest::collection::vec(proptest::prop_oneof![
            (0_usize..3, proptest::bool::ANY).prop_map(|(market, new)| Step::Send(market, new)),
            proptest::strategy::Just(Step::Silence),
            proptest::strategy::Just(Step::Resume),
            proptest::strategy::Just(Step::Reconnect),
            proptest::strategy::Just(Step::Recovered),
            proptest::bool::ANY.prop_map(Step::Spare),
        ], 1..60)
    ) {
        let mut decoder = NativeDecoder::new(true, false);
        decoder.on_connected();
        let mut book = Book::new(EventId::new("MATCH_001").unwrap());
        let (mut position, mut connection, mut time) = (0, 1, 10);
        let mut last = [None; 3];
        // Silent since the last message, or missed; spared markets are left alone.
        let mut doubted = [false; 3];
        let mut missed = [false; 3];
        let mut is_spared = false;
        let mut asked_for_changes = Some(false);
        for step in steps {
            let mut updates = Vec::new();
            match step {
                Step::Send(index, is_new) => {
                    time += 1;
                    let at = last[index].filter(|_| !is_new).unwrap_or(time);
                    last[index] = Some(at);
                    updates.push(read(&mut decoder, &market(["a", "b", "c"][index], at)));
                    (doubted[index], missed[index]) = (false, false);
                }
                Step::Silence => {
                    decoder.record_silence();
                    doubted = [true; 3];
                }
                Step::Resume => {
                    updates = decoder.on_resumed();
                    for index in 0..3 {
                        doubted[index] &= missed[index];
                    }
                }
                Step::Reconnect => {
                    connection += 1;
                    decoder.on_connected();
                    asked_for_changes = Some(last.iter().any(Option::is_some));
                    missed = [true; 3];
                }
                Step::Recovered => {
                    let frame = format!(r#"{{"type":"recovered","request":"r{connection}"}}"#);
                    updates = message(&mut decoder, &frame).updates;
                    updates.extend(decoder.on_resumed());
                    for index in 0..3 {
                        doubted[index] &= missed[index];
                    }
                    if asked_for_changes.take() == Some(true) {
                        (doubted, missed) = ([false; 3], [false; 3]);
                    }
                }
                Step::Spare(spared) => is_spared = spared,
            }
            updates.extend(decoder.suspend_unconfirmed(&|_| is_spared));
            for update in updates {
                position += 1;
                let _ = book.apply(update, position);
            }
            for state in &book.snapshot().markets {
                let index = ["a", "b", "c"].iter().position(|name| *name == state.update.market.name.as_str()).unwrap();
                let is_open = state.update.status == OPEN;
                proptest::prop_assert!(!is_open || !doubted[index] || is_spared, "{:?}", state.update);
                proptest::prop_assert!(is_open || doubted[index], "{:?}", state.update);
            }
        }
    }
}
