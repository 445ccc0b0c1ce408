//! The whole decoder: recordings compared with an independent fold, and the protocol.

mod doubt;
mod results;

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::BetfairDecoder;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::supplier::betfair_fold::{fold, history_of};
use crate::supplier::testing::{SuspendAlone, settings};
use crate::supplier::{Decoded, Decoder, FrameFault};

const GREYHOUNDS: &str = include_str!("../../../tests/data/betfair/1.197931750.jsonl");
const HORSES: &str = include_str!("../../../tests/data/betfair/BASIC-1.132153978.jsonl");

fn decoder() -> BetfairDecoder {
    BetfairDecoder::new(&settings(&[]))
}

fn frame(decoder: &mut BetfairDecoder, json: &str) -> Decoded {
    decoder.on_frame(json.as_bytes()).unwrap()
}

/// The updates of a frame, as `event status time.version: id=price status …`.
fn shown(decoder: &mut BetfairDecoder, json: &str) -> Vec<String> {
    let decoded = frame(decoder, json);
    assert_eq!(decoded.refused, []);
    decoded.updates.iter().map(line).collect()
}

fn line(update: &OddsUpdate) -> String {
    let price = |price: Option<crate::domain::odds::price::Price>| {
        price.map_or("-".to_owned(), |price| price.to_string())
    };
    let selections: Vec<_> = update
        .selections
        .iter()
        .map(|s| format!("{}={} {}", s.id, price(s.price), s.status))
        .collect();
    let time = update.revision.updated_at.micros() / 1_000;
    format!(
        "{} {} {time}.{}: {}",
        update.event_id,
        update.status,
        update.revision.version,
        selections.join(" ")
    )
}

fn refusal(decoder: &mut BetfairDecoder, json: &str) -> (&'static str, String) {
    match decoder.on_frame(json.as_bytes()).unwrap_err() {
        FrameFault::Refused { reason, detail } => (reason, detail),
        FrameFault::Unreadable { reason, detail } => panic!("unreadable: {reason} {detail}"),
    }
}

fn definition(status: &str) -> String {
    format!(
        r#""marketDefinition":{{"status":"{status}","marketType":"WIN","runners":[{{"id":7,"status":"ACTIVE","sortPriority":1}}]}}"#
    )
}

/// A change of market `1.<market>`: its only runner was last traded at `price`.
fn change(market: u32, status: &str, price: &str) -> String {
    format!(
        r#"{{"id":"1.{market}",{},"rc":[{{"id":7,"ltp":{price}}}]}}"#,
        definition(status)
    )
}

fn mcm(pt: u32, fields: &str, changes: &[String]) -> String {
    format!(
        r#"{{"op":"mcm","id":2,"pt":{pt}{fields},"mc":[{}]}}"#,
        changes.join(",")
    )
}

const IMAGE: &str = r#","ct":"SUB_IMAGE","initialClk":"i","clk":"c0""#;

fn decode(recording: &str) -> Vec<OddsUpdate> {
    let mut decoder = decoder();
    recording
        .lines()
        .flat_map(|line| frame(&mut decoder, line).updates)
        .collect()
}

#[test]
fn recordings_agree_with_independent_fold() {
    for recording in [GREYHOUNDS, HORSES] {
        let json: Vec<_> = decode(recording).iter().map(OddsUpdate::to_json).collect();
        let history = history_of(json.iter().map(String::as_str));
        assert_eq!(history, fold(recording));
        let states: usize = history.values().map(Vec::len).sum();
        assert_eq!(states, json.len(), "every update shows something new");
        assert!(states > 100, "{states}");
    }
}

#[test]
fn recording_revisions_only_increase() {
    for recording in [GREYHOUNDS, HORSES] {
        let updates = decode(recording);
        assert!(
            updates
                .windows(2)
                .all(|pair| pair[0].revision < pair[1].revision)
        );
        assert_eq!(
            updates.last().unwrap().revision.version,
            updates.len() as i64
        );
        for update in &updates {
            assert_eq!(
                OddsUpdate::from_json(update.to_json().as_bytes()).unwrap(),
                *update
            );
        }
    }
}

#[test]
fn greyhound_race_ends_settled() {
    let last = decode(GREYHOUNDS).pop().unwrap();
    insta::assert_snapshot!(last.to_json(), @r#"{"event_id":"1.197931750","home_team":"Sheffield 19th Apr","away_team":"","sport":"greyhound racing","start_time":"2022-04-19T18:26:00Z","market":"win","selections":[{"id":"44331354","name":"1. Paradise Mission","price":85,"status":"loser"},{"id":"37947503","name":"2. Sandwood Jet","price":25,"status":"winner"},{"id":"36276560","name":"3. Kirabilly Kathy","price":6.8,"status":"loser"},{"id":"42930960","name":"4. Gurtnacrehyblake","price":9.8,"status":"loser"},{"id":"40095374","name":"5. Castlehill Jil","price":17,"status":"loser"},{"id":"39823721","name":"6. Coolavanny Galiv","price":1.56,"status":"loser"}],"status":"settled","updated_at":"2022-04-19T18:29:56.470Z","source":"betfair","version":120}"#);
}

#[test]
fn removed_runners_have_no_price() {
    let updates = decode(HORSES);
    let last = updates.last().unwrap();
    insta::assert_snapshot!(line(last), @"1.132153978 settled 1497466782073.479: 11198538=- removed 9606433=- removed 12115648=1.01 winner 10299545=1000 loser 7330488=1000 loser 4090765=1000 loser 8504171=1000 loser 11313015=1000 loser 8873527=1000 loser 11267360=1000 loser 12321972=1000 loser 11695059=1000 loser 8560724=1000 loser 12314194=1000 loser");
    let in_play: Vec<_> = updates
        .iter()
        .filter(|update| update.in_play)
        .map(|update| update.status.as_str())
        .collect();
    assert_eq!(
        (in_play.first(), in_play.last()),
        (Some(&"open"), Some(&"settled"))
    );
}

#[test]
fn suspension_is_published_with_its_message() {
    for recording in [GREYHOUNDS, HORSES] {
        let mut decoder = decoder();
        let suspended = recording
            .lines()
            .find(|line| line.contains(r#""status":"SUSPENDED""#))
            .unwrap();
        for line in recording.lines().take_while(|line| *line != suspended) {
            assert!(
                frame(&mut decoder, line)
                    .updates
                    .iter()
                    .all(|update| update.status.as_str() == "open")
            );
        }
        let updates = frame(&mut decoder, suspended).updates;
        assert_eq!(
            updates
                .iter()
                .map(|update| update.status.as_str())
                .collect::<Vec<_>>(),
            ["suspended"]
        );
    }
}

#[test]
fn connection_sends_authentication_then_subscription() {
    let arguments = [
        "--betfair-app-key",
        "key",
        "--betfair-session-token",
        "token",
        "--betfair-market-ids",
        "1.1, 1.2,",
    ];
    let mut decoder = BetfairDecoder::new(&settings(&arguments));
    assert!(decoder.on_connected().is_empty());
    let requests = frame(
        &mut decoder,
        r#"{"op":"connection","connectionId":"206-1"}"#,
    )
    .send;
    insta::assert_snapshot!(requests.join("\n"), @r#"{"op":"authentication","id":1,"appKey":"key","session":"token"}"#);
    let requests = frame(
        &mut decoder,
        r#"{"op":"status","id":1,"statusCode":"SUCCESS","connectionClosed":false}"#,
    )
    .send;
    insta::assert_snapshot!(requests.join("\n"), @r#"{"op":"marketSubscription","id":2,"marketFilter":{"marketIds":["1.1","1.2"]},"marketDataFilter":{"fields":["EX_BEST_OFFERS","EX_LTP","EX_MARKET_DEF"],"ladderLevels":1},"heartbeatMs":1333,"conflateMs":0,"segmentationEnabled":true}"#);
    assert!(
        frame(
            &mut decoder,
            r#"{"op":"status","id":2,"statusCode":"SUCCESS"}"#
        )
        .send
        .is_empty()
    );
    assert_eq!(
        shown(&mut decoder, &mcm(1, IMAGE, &[change(1, "OPEN", "2.5")])).len(),
        1
    );
    let heartbeat = frame(
        &mut decoder,
        r#"{"op":"mcm","id":2,"pt":9,"clk":"c1","ct":"HEARTBEAT"}"#,
    );
    assert!(
        heartbeat.updates.is_empty() && heartbeat.refused.is_empty() && heartbeat.send.is_empty()
    );
    assert!(decoder.on_connected().is_empty());
    let requests = frame(
        &mut decoder,
        r#"{"op":"status","id":1,"statusCode":"SUCCESS"}"#,
    )
    .send;
    assert!(
        requests[0].ends_with(r#""initialClk":"i","clk":"c1"}"#),
        "{requests:?}"
    );
}

/// Without a filter and a key, empty ones are sent; heartbeats are more frequent than the read
/// timeout.
#[test]
fn defaults_send_empty_filter_and_key() {
    let mut decoder = BetfairDecoder::new(&settings(&["--supplier-read-timeout", "3s"]));
    let requests = frame(&mut decoder, r#"{"op":"connection"}"#).send;
    assert_eq!(
        requests,
        [r#"{"op":"authentication","id":1,"appKey":"","session":""}"#]
    );
    let requests = frame(
        &mut decoder,
        r#"{"op":"status","id":1,"statusCode":"SUCCESS"}"#,
    )
    .send;
    assert!(
        requests[0].contains(r#""marketFilter":{}"#)
            && requests[0].contains(r#""heartbeatMs":1000"#),
        "{requests:?}"
    );
}

#[test]
fn failure_reconnects_and_hides_secrets() {
    let arguments = [
        "--betfair-app-key",
        "thekey",
        "--betfair-session-token",
        "thetoken",
    ];
    let mut decoder = BetfairDecoder::new(&settings(&arguments));
    let status = r#"{"op":"status","id":1,"statusCode":"FAILURE","errorCode":"INVALID_SESSION_INFORMATION","errorMessage":"session thetoken of thekey","connectionClosed":true}"#;
    let (reason, detail) = refusal(&mut decoder, status);
    assert_eq!(reason, "invalid_session");
    assert_eq!(
        detail,
        "FAILURE INVALID_SESSION_INFORMATION session *** of ***"
    );
    let (reason, _) = refusal(
        &mut decoder,
        r#"{"op":"status","statusCode":"FAILURE","errorCode":"SOMETHING_NEW"}"#,
    );
    assert_eq!(reason, "refused");
}

#[test]
fn invalid_clock_is_discarded() {
    let mut decoder = decoder();
    shown(&mut decoder, &mcm(1, IMAGE, &[change(1, "OPEN", "2.5")]));
    let subscribe = r#"{"op":"status","id":1,"statusCode":"SUCCESS"}"#;
    assert!(frame(&mut decoder, subscribe).send[0].contains("clk"));
    let status = r#"{"op":"status","id":2,"statusCode":"FAILURE","errorCode":"INVALID_CLOCK","connectionClosed":true}"#;
    assert_eq!(refusal(&mut decoder, status).0, "invalid_clock");
    assert!(
        !frame(&mut decoder, subscribe).send[0]
            .to_lowercase()
            .contains("clk")
    );
}

#[test]
fn image_suspends_missing_markets() {
    let mut decoder = decoder();
    let first = [
        change(1, "OPEN", "2.5"),
        change(2, "OPEN", "3.5"),
        change(3, "CLOSED", "4"),
    ];
    assert_eq!(shown(&mut decoder, &mcm(10, IMAGE, &first)).len(), 3);
    shown(
        &mut decoder,
        &mcm(
            20,
            "",
            &[r#"{"id":"1.1","rc":[{"id":7,"batb":[[0,9.8,1]]}]}"#.to_owned()],
        ),
    );
    decoder.on_connected();
    // The stream's time goes back, our revisions do not.
    let seen = shown(&mut decoder, &mcm(15, IMAGE, &[change(1, "OPEN", "2.6")]));
    assert_eq!(
        seen,
        [
            "1.1 open 20.3: 7=2.6 active",
            "1.2 suspended 15.2: 7=3.5 active"
        ]
    );
    let seen = shown(
        &mut decoder,
        &mcm(
            16,
            "",
            &[change(2, "OPEN", "3.5").replacen('{', r#"{"img":true,"#, 1)],
        ),
    );
    assert_eq!(seen, ["1.2 open 16.3: 7=3.5 active"]);
    // An empty image: nothing is subscribed any more.
    let seen = shown(
        &mut decoder,
        r#"{"op":"mcm","pt":30,"ct":"SUB_IMAGE","initialClk":"i","clk":"c"}"#,
    );
    assert_eq!(
        seen,
        [
            "1.1 suspended 30.4: 7=2.6 active",
            "1.2 suspended 30.4: 7=3.5 active"
        ]
    );
}

#[test]
fn changes_with_equal_pt_keep_order() {
    let mut decoder = decoder();
    shown(&mut decoder, &mcm(10, IMAGE, &[change(1, "OPEN", "2.5")]));
    assert_eq!(
        shown(&mut decoder, &mcm(10, "", &[change(1, "OPEN", "2.6")])),
        ["1.1 open 10.2: 7=2.6 active"]
    );
    assert_eq!(
        shown(&mut decoder, &mcm(10, "", &[change(1, "OPEN", "2.60")])),
        [""; 0]
    );
    assert_eq!(
        shown(&mut decoder, &mcm(9, "", &[change(1, "OPEN", "2.5")])),
        ["1.1 open 10.3: 7=2.5 active"]
    );
}

#[test]
fn unreliable_data_suspends_markets() {
    let mut decoder = decoder();
    let first = [
        change(1, "OPEN", "2.5"),
        change(2, "OPEN", "3.5"),
        change(3, "CLOSED", "4"),
    ];
    shown(&mut decoder, &mcm(10, IMAGE, &first));
    let late = mcm(20, r#","status":503"#, &[change(2, "OPEN", "3.6")]);
    assert_eq!(
        shown(&mut decoder, &late),
        [
            "1.2 suspended 20.2: 7=3.6 active",
            "1.1 suspended 20.2: 7=2.5 active"
        ]
    );
    assert_eq!(
        shown(
            &mut decoder,
            r#"{"op":"mcm","pt":21,"ct":"HEARTBEAT","status":503}"#
        ),
        [""; 0]
    );
    let restored = shown(&mut decoder, r#"{"op":"mcm","pt":22,"ct":"HEARTBEAT"}"#);
    assert_eq!(
        restored,
        ["1.1 open 22.3: 7=2.5 active", "1.2 open 22.3: 7=3.6 active"]
    );
    let suspended = shown(
        &mut decoder,
        r#"{"op":"mcm","ct":"HEARTBEAT","status":503}"#,
    );
    assert_eq!(suspended.len(), 2, "{suspended:?}");
}

/// A selector gets exactly the open markets again, as they were published last.
#[test]
fn confirmed_markets_are_the_open_ones() {
    let mut decoder = decoder();
    let source = super::source().unwrap();
    let confirmed = |decoder: &BetfairDecoder| {
        let open = decoder.confirmed_open(&source);
        open.iter().map(line).collect::<Vec<_>>()
    };
    let first = [
        change(1, "OPEN", "2.5"),
        change(2, "OPEN", "3.5"),
        change(3, "SUSPENDED", "4"),
        change(4, "CLOSED", "4"),
    ];
    shown(&mut decoder, &mcm(10, IMAGE, &first));
    let opened = ["1.1 open 10.1: 7=2.5 active", "1.2 open 10.1: 7=3.5 active"];
    assert_eq!(confirmed(&decoder), opened);
    // An unreadable change puts a market in doubt.
    let unreadable = r#"{"id":"1.2","rc":[{"id":7,"batb":[[0,2.0]]}]}"#.to_owned();
    frame(&mut decoder, &mcm(11, "", &[unreadable]));
    assert_eq!(confirmed(&decoder), opened[..1]);
    // What is suspended for the silence of the stream is not confirmed before its next message.
    decoder.record_silence();
    decoder.suspend_unconfirmed(&|_| false);
    assert_eq!(confirmed(&decoder), [""; 0]);
    frame(&mut decoder, r#"{"op":"mcm","pt":22,"ct":"HEARTBEAT"}"#);
    assert_eq!(confirmed(&decoder), ["1.1 open 22.3: 7=2.5 active"]);
}

#[test]
fn segments_are_applied_as_one() {
    let mut decoder = decoder();
    let start = r#","ct":"SUB_IMAGE","initialClk":"i","segmentType":"SEG_START""#;
    let end = r#","ct":"SUB_IMAGE","clk":"c","segmentType":"SEG_END""#;
    assert_eq!(
        shown(&mut decoder, &mcm(10, start, &[change(1, "OPEN", "2.5")])),
        [""; 0]
    );
    let held = mcm(10, r#","segmentType":"SEG""#, &[change(2, "OPEN", "3.5")]);
    assert_eq!(shown(&mut decoder, &held), [""; 0]);
    assert_eq!(
        shown(
            &mut decoder,
            r#"{"op":"mcm","pt":11,"clk":"h","ct":"HEARTBEAT"}"#
        ),
        [""; 0]
    );
    let seen = shown(
        &mut decoder,
        &mcm(12, end, &[change(1, "OPEN", "2.6"), change(3, "OPEN", "4")]),
    );
    assert_eq!(
        seen,
        [
            "1.1 open 12.1: 7=2.6 active",
            "1.2 open 10.1: 7=3.5 active",
            "1.3 open 12.1: 7=4 active"
        ]
    );
    // Interrupted by a lost connection: the position is that of the last complete message.
    shown(
        &mut decoder,
        &mcm(
            13,
            r#","clk":"d","segmentType":"SEG_START""#,
            &[change(1, "SUSPENDED", "2.6")],
        ),
    );
    decoder.on_connected();
    let requests = frame(
        &mut decoder,
        r#"{"op":"status","id":1,"statusCode":"SUCCESS"}"#,
    )
    .send;
    assert!(
        requests[0].ends_with(r#""initialClk":"i","clk":"c"}"#),
        "{requests:?}"
    );
    assert_eq!(
        refusal(&mut decoder, &mcm(13, r#","segmentType":"SEG_END""#, &[])).0,
        "broken_segments"
    );
}

#[test]
fn invalid_parts_are_rejected_rest_is_applied() {
    let mut decoder = decoder();
    let bad_price = change(1, "OPEN", "2.5").replace(
        r#""rc":["#,
        r#""rc":[{"id":8,"ltp":1001},{"id":"x"},[7,null,9],"#,
    );
    let changes = [
        bad_price,
        r#"{"id":""}"#.to_owned(),
        "7".to_owned(),
        r#"["1.2",true,null,null]"#.to_owned(),
        r#"{"id":"1.9","rc":[]}"#.to_owned(),
        change(2, "OPEN", "3"),
    ];
    let decoded = frame(
        &mut decoder,
        &mcm(10, IMAGE, &changes).replace(r#""SUB_IMAGE""#, r#""RESUB_DELTA""#),
    );
    let reasons: Vec<_> = decoded
        .refused
        .iter()
        .map(|refused| refused.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            "bad_price",
            "bad_runner",
            "bad_runner",
            "bad_market",
            "bad_market",
            "bad_market",
            "unknown_market"
        ]
    );
    assert_eq!(
        decoded.refused[0].detail,
        "market 1.1, runner 8: 1001 is outside the range 1.001 to 1000.000"
    );
    let seen: Vec<_> = decoded.updates.iter().map(line).collect();
    assert_eq!(
        seen,
        [
            "1.1 suspended 10.1: 7=2.5 active",
            "1.2 suspended 10.1: 7=3 active"
        ]
    );
}

#[test]
fn unreadable_definition_suspends_market() {
    let mut decoder = decoder();
    shown(&mut decoder, &mcm(10, IMAGE, &[change(1, "OPEN", "2.5")]));
    let decoded = frame(&mut decoder, &mcm(11, "", &[change(1, "ASLEEP", "2.6")]));
    assert_eq!(
        decoded.refused[0].detail,
        "market 1.1: `ASLEEP` is not a market status"
    );
    assert_eq!(
        decoded.updates.iter().map(line).collect::<Vec<_>>(),
        ["1.1 suspended 11.2: 7=2.6 active"]
    );
    assert_eq!(
        shown(&mut decoder, &mcm(12, "", &[change(1, "OPEN", "2.6")])),
        ["1.1 open 12.3: 7=2.6 active"]
    );
}

#[test]
fn unsupported_market_is_reported_once() {
    let mut decoder = decoder();
    let line = change(1, "OPEN", "250.5")
        .replace(r#""marketType""#, r#""bettingType":"LINE","marketType""#);
    let decoded = frame(&mut decoder, &mcm(10, IMAGE, std::slice::from_ref(&line)));
    assert_eq!(
        (decoded.updates.len(), decoded.refused[0].reason),
        (0, "unsupported_betting_type")
    );
    assert_eq!(shown(&mut decoder, &mcm(11, "", &[line])), [""; 0]);
    assert_eq!(
        shown(
            &mut decoder,
            &mcm(
                12,
                "",
                &[r#"{"id":"1.1","rc":[{"id":7,"ltp":2000}]}"#.to_owned()]
            )
        ),
        [""; 0]
    );
}

#[test]
fn garbage_does_not_stop_next_line() {
    let mut decoder = decoder();
    let cases: [(&[u8], &str); 9] = [
        (br#"["mcm"]"#, "malformed"),
        (br#"{"op":"mcm","op":"status"}"#, "malformed"),
        (b"garbage", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[]", "malformed"),
        (b"{}", "malformed"),
        (br#"{"op":"ocm"}"#, "unknown_op"),
        (br#"{"op":"mcm","mc":7}"#, "malformed"),
        (br#"{"op":"mcm","pt":9223372036854775807}"#, "bad_time"),
    ];
    for (bytes, reason) in cases {
        match decoder.on_frame(bytes) {
            Err(FrameFault::Unreadable { reason: got, .. }) => assert_eq!(got, reason),
            other => panic!("{other:?}"),
        }
    }
    assert!(frame(&mut decoder, " ").updates.is_empty());
    assert_eq!(
        shown(&mut decoder, &mcm(10, IMAGE, &[change(1, "OPEN", "2.5")])).len(),
        1
    );
}

#[test]
fn resumed_stream_equals_uninterrupted_stream() {
    let lines: Vec<_> = GREYHOUNDS.lines().collect();
    for cut in [1, 40, 120, 164] {
        let mut decoder = decoder();
        let mut json = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            if index == cut {
                decoder.on_connected();
            }
            let line = if index == cut {
                line.replacen('{', r#"{"ct":"RESUB_DELTA","#, 1)
            } else {
                (*line).to_owned()
            };
            json.extend(
                frame(&mut decoder, &line)
                    .updates
                    .iter()
                    .map(OddsUpdate::to_json),
            );
        }
        assert_eq!(
            history_of(json.iter().map(String::as_str)),
            fold(GREYHOUNDS)
        );
    }
}

#[test]
fn old_ended_markets_are_removed() {
    let mut decoder = decoder();
    for market in 0..3_000 {
        let seen = shown(
            &mut decoder,
            &mcm(10 + market, "", &[change(market, "CLOSED", "2.5")]),
        );
        assert_eq!(seen.len(), 1);
    }
    assert!(
        decoder.held_markets() <= 1_000,
        "{}",
        decoder.held_markets()
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decoder().on_frame(&bytes);
    }

    #[test]
    fn altered_recording_never_panics(
        line in 0usize..166, at in any::<proptest::sample::Index>(), byte in any::<u8>()
    ) {
        let mut decoder = decoder();
        frame(&mut decoder, GREYHOUNDS.lines().next().unwrap());
        let mut bytes = GREYHOUNDS.lines().nth(line).unwrap().as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decoder.on_frame(&bytes);
        bytes.truncate(at);
        let _ = decoder.on_frame(&bytes);
    }

    /// For any order of images, changes, losses and repeats, revisions only increase.
    #[test]
    fn revisions_never_decrease(
        steps in proptest::collection::vec((0u32..3, 0u32..50, 0usize..3, 0usize..4, any::<bool>()), 1..60)
    ) {
        let mut decoder = decoder();
        let mut last = std::collections::HashMap::new();
        for (market, pt, status, kind, reconnect) in steps {
            if reconnect { decoder.on_connected(); }
            let status = ["OPEN", "SUSPENDED", "CLOSED"][status];
            let fields = ["", IMAGE, r#","ct":"RESUB_DELTA""#, r#","status":503"#][kind];
            let price = format!("{}.5", 1 + pt % 4);
            let decoded = frame(&mut decoder, &mcm(pt, fields, &[change(market, status, &price)]));
            for update in decoded.updates {
                let before = last.insert(update.event_id.clone(), update.clone());
                if let Some(before) = before {
                    prop_assert!(before.revision < update.revision);
                    prop_assert!(!before.shows_the_same_as(&update));
                }
            }
        }
    }
}

fn state(decoder: &BetfairDecoder) -> SourceState {
    decoder.sources()[0].1
}

#[test]
fn source_is_live_with_complete_image() {
    let mut decoder = decoder();
    decoder.on_connected();
    assert_eq!(state(&decoder), SourceState::Recovering);
    let segment = r#","ct":"SUB_IMAGE","initialClk":"i","clk":"c0","segmentType":"SEG_START""#;
    frame(&mut decoder, &mcm(1, segment, &[change(1, "OPEN", "2.5")]));
    assert_eq!(state(&decoder), SourceState::Recovering);
    let end = r#","ct":"SUB_IMAGE","segmentType":"SEG_END""#;
    frame(&mut decoder, &mcm(1, end, &[change(2, "OPEN", "2.5")]));
    assert_eq!(state(&decoder), SourceState::Live);
    frame(&mut decoder, &mcm(2, r#","status":503"#, &[]));
    assert_eq!(state(&decoder), SourceState::Stale);
    frame(&mut decoder, &mcm(3, "", &[]));
    assert_eq!(state(&decoder), SourceState::Live);
    decoder.on_connected();
    assert_eq!(state(&decoder), SourceState::Recovering);
    frame(&mut decoder, &mcm(4, r#","ct":"RESUB_DELTA""#, &[]));
    assert_eq!(state(&decoder), SourceState::Live);
    decoder.on_unpublished();
    assert_eq!(state(&decoder), SourceState::Recovering);
}

/// What an earlier process left open and the image does not contain must not stay open.
#[test]
fn stored_market_absent_from_image_is_suspended() {
    let mut earlier = decoder();
    let image = mcm(
        1_000,
        IMAGE,
        &[change(200, "OPEN", "3"), change(201, "OPEN", "3")],
    );
    let stored = frame(&mut earlier, &image).updates;
    let mut decoder = decoder();
    frame(
        &mut decoder,
        &mcm(2_000, IMAGE, &[change(201, "OPEN", "3")]),
    );
    assert_eq!(decoder.add_stored(stored.clone()).unsent, 1);
    decoder.forget_stored(&|_| true);
    assert!(
        decoder.suspend_unconfirmed(&|_| false).is_empty(),
        "another connection sends it"
    );
    assert_eq!(decoder.add_stored(stored.clone()).unsent, 1);
    assert!(decoder.suspend_unconfirmed(&|_| true).is_empty());
    let suspended = decoder.suspend_unconfirmed(&|_| false);
    let seen: Vec<_> = suspended
        .iter()
        .map(|update| (update.event_id.as_str(), update.status))
        .collect();
    assert_eq!(seen, [("1.200", MarketStatus::Suspended)]);
    assert!(suspended[0].revision > stored[0].revision);
    assert!(decoder.suspend_unconfirmed(&|_| false).is_empty());
    let again = frame(&mut decoder, &mcm(3_000, "", &[change(200, "OPEN", "4")])).updates;
    assert_eq!(again[0].status, MarketStatus::Open);
    assert!(again[0].revision > suspended[0].revision);
}

/// Another process has the stream live, so this one does not suspend what it cannot see.
#[test]
fn spared_stream_is_suspended_later_or_not_at_all() {
    let mut decoder = decoder();
    frame(&mut decoder, &mcm(1, IMAGE, &[change(1, "OPEN", "3")]));
    decoder.record_silence();
    assert!(decoder.suspend_unconfirmed(&|_| true).is_empty());
    assert_eq!(state(&decoder), SourceState::Stale);
    frame(&mut decoder, &mcm(2, r#","ct":"HEARTBEAT""#, &[]));
    assert!(decoder.suspend_unconfirmed(&|_| false).is_empty());
    decoder.record_loss(true);
    assert!(decoder.suspend_unconfirmed(&|_| true).is_empty());
    assert_eq!(decoder.suspend_unconfirmed(&|_| false).len(), 1);
}
