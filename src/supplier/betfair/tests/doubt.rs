//! After a rejected or old part, no earlier price stays on offer.

use pretty_assertions::assert_eq;

use super::*;
use crate::domain::timestamp::Timestamp;

/// Market 1.1 with runner 11 at 3.0 and runner 12 at 5.0.
fn two_runners(status: &str, version: Option<u32>, price: &str) -> String {
    let version = version
        .map(|version| format!(r#""version":{version},"#))
        .unwrap_or_default();
    format!(
        r#"{{"id":"1.1","img":true,"marketDefinition":{{{version}"status":"{status}","marketType":"WIN","runners":[{{"id":11,"status":"ACTIVE"}},{{"id":12,"status":"ACTIVE"}}]}},"rc":[{{"id":11,"batb":[[0,{price},10]]}},{{"id":12,"ltp":5.0}}]}}"#
    )
}

fn after_an_image(pt: u32) -> BetfairDecoder {
    let mut decoder = decoder();
    let seen = shown(
        &mut decoder,
        &mcm(
            pt,
            IMAGE,
            &[two_runners("OPEN", None, "3.0"), change(2, "OPEN", "2.5")],
        ),
    );
    assert_eq!(seen[0], format!("1.1 open {pt}.1: 11=3 active 12=5 active"));
    decoder
}

/// The event and status of each update.
fn statuses(updates: &[OddsUpdate]) -> Vec<String> {
    updates
        .iter()
        .map(|update| format!("{} {}", update.event_id, update.status))
        .collect()
}

fn requests_image(decoded: &Decoded) -> bool {
    let is_requested = decoded
        .send
        .iter()
        .any(|text| text.contains("marketSubscription"));
    assert!(
        !is_requested || !decoded.send[0].contains("initialClk"),
        "{:?}",
        decoded.send
    );
    is_requested
}

#[test]
fn refused_delta_suspends_its_market() {
    let runner = |fields: &str| format!(r#"{{"id":"1.1","rc":[{{{fields}}}]}}"#);
    let market = |fields: &str| format!(r#"{{"id":"1.1",{fields}}}"#);
    let deltas = [
        runner(r#""id":11,"batb":[[],[0,2.0,10]]"#),
        runner(r#""id":11,"batb":[[0,2.0]]"#),
        runner(r#""id":11,"batb":[[0,2.0,null]]"#),
        runner(r#""id":11,"batb":[[0,2.0,"10"]]"#),
        runner(r#""id":11,"batb":[[0,"2.0",10]]"#),
        runner(r#""id":11,"batb":[[0,2.0,-10]]"#),
        runner(r#""id":11,"batb":[[0,1001,10]]"#),
        runner(r#""id":11,"batb":[[0,1.0,10]]"#),
        runner(r#""id":11,"batb":[[0,1e999,10]]"#),
        runner(r#""id":11,"batb":[[0,2.0,1e999]]"#),
        runner(r#""id":11,"batb":[["0",2.0,10]]"#),
        runner(r#""id":11,"batb":[[0.5,2.0,10]]"#),
        runner(r#""id":11,"batb":[[0,2.0,10,1]]"#),
        runner(r#""id":11,"batb":{"0":[2.0,10]}"#),
        runner(r#""id":11,"batb":[7]"#),
        runner(r#""id":11,"atb":[[2.0]]"#),
        runner(r#""id":11,"ltp":"2.0""#),
        runner(r#""id":11,"ltp":-2"#),
        runner(r#""id":11,"ltp":[2]"#),
        runner(r#""id":11,"hc":"-","batb":[[0,2.0,10]]"#),
        runner(r#""id":11,"hc":[],"batb":[[0,2.0,10]]"#),
        runner(r#""id":"11","batb":[[0,2.0,10]]"#),
        runner(r#""id":11,"id":12,"batb":[[0,2.0,10]]"#),
        runner(r#""batb":[[0,2.0,10]]"#),
        market(r#""rc":[7]"#),
        market(r#""rc":[null]"#),
        market(r#""rc":{"id":11}"#),
        market(r#""rc":7"#),
        market(r#""img":"yes","rc":[]"#),
        market(r#""marketDefinition":{}"#),
        market(r#""marketDefinition":[]"#),
        market(r#""marketDefinition":{"status":"SUSPENDED","runners":[]}"#),
        market(
            r#""marketDefinition":{"status":"SUSPENDED","version":"7","runners":[{"id":11,"status":"ACTIVE"}]}"#,
        ),
        market(r#""marketDefinition":{"status":"ASLEEP","runners":[{"id":11,"status":"ACTIVE"}]}"#),
        market(r#""marketDefinition":{"status":"OPEN","runners":[{"id":11,"status":"ASLEEP"}]}"#),
        market(
            r#""marketDefinition":{"status":"OPEN","runners":[{"id":11,"hc":"-","status":"ACTIVE"}]}"#,
        ),
        market(r#""marketDefinition":{"status":"OPEN","runners":[{"status":"ACTIVE"}]}"#),
    ];
    for delta in deltas {
        let mut decoder = after_an_image(10);
        let decoded = frame(
            &mut decoder,
            &mcm(11, r#","clk":"c1""#, std::slice::from_ref(&delta)),
        );
        assert_eq!(statuses(&decoded.updates), ["1.1 suspended"], "{delta}");
        assert_eq!(decoded.refused.len(), 1, "{delta}");
        assert!(requests_image(&decoded), "{delta}");
        // A valid price of the same runner does not replace the lost part.
        let decoded = frame(
            &mut decoder,
            &mcm(
                12,
                "",
                &[r#"{"id":"1.1","rc":[{"id":12,"ltp":5.5}]}"#.to_owned()],
            ),
        );
        assert!(
            statuses(&decoded.updates)
                .iter()
                .all(|status| status == "1.1 suspended"),
            "{delta}"
        );
        let image = mcm(
            13,
            IMAGE,
            &[two_runners("OPEN", None, "2.0"), change(2, "OPEN", "2.5")],
        );
        let seen = frame(&mut decoder, &image);
        assert_eq!(
            (statuses(&seen.updates), requests_image(&seen)),
            (vec!["1.1 open".to_owned()], false),
            "{delta}"
        );
        assert_eq!(
            seen.updates[0]
                .price_of("11")
                .map(|price| price.thousandths()),
            Some(2_000)
        );
    }
}

#[test]
fn delta_without_a_time_suspends_its_market() {
    let mut decoder = after_an_image(10);
    let decoded = frame(
        &mut decoder,
        r#"{"op":"mcm","mc":[{"id":"1.1","rc":[{"id":11,"batb":[[0,2.0,10]]}]}]}"#,
    );
    assert_eq!(
        (statuses(&decoded.updates), decoded.refused[0].reason),
        (vec!["1.1 suspended".to_owned()], "no_time")
    );
}

#[test]
fn change_of_no_market_suspends_all() {
    let changes = [
        "7",
        "{}",
        "null",
        r#"{"id":7}"#,
        r#"{"id":""}"#,
        r#"{"rc":[{"id":11,"batb":[[0,2.0,10]]}]}"#,
    ];
    for change_of_none in changes {
        let mut decoder = after_an_image(10);
        let decoded = frame(
            &mut decoder,
            &mcm(11, r#","clk":"c1""#, &[change_of_none.to_owned()]),
        );
        assert_eq!(
            statuses(&decoded.updates),
            ["1.1 suspended", "1.2 suspended"],
            "{change_of_none}"
        );
        assert!(requests_image(&decoded), "{change_of_none}");
        let heartbeat = frame(
            &mut decoder,
            r#"{"op":"mcm","pt":12,"ct":"HEARTBEAT","clk":"c2"}"#,
        );
        assert!(heartbeat.updates.is_empty(), "{change_of_none}");
        // A resumed stream would not repeat it.
        decoder.on_connected();
        let requests = frame(
            &mut decoder,
            r#"{"op":"status","id":1,"statusCode":"SUCCESS"}"#,
        )
        .send;
        assert!(!requests[0].contains("initialClk"), "{requests:?}");
        let image = mcm(
            13,
            IMAGE,
            &[two_runners("OPEN", None, "2.0"), change(2, "OPEN", "2.5")],
        );
        assert_eq!(
            statuses(&frame(&mut decoder, &image).updates),
            ["1.1 open", "1.2 open"],
            "{change_of_none}"
        );
    }
}

#[test]
fn bad_image_entry_does_not_affect_others() {
    let mut decoder = decoder();
    let image = [
        "7".to_owned(),
        r#"{"id":"1.3","rc":7}"#.to_owned(),
        two_runners("OPEN", None, "3.0"),
        change(3, "OPEN", "4"),
        change(2, "OPEN", "2.5").replace("2.5", "1001"),
    ];
    let decoded = frame(&mut decoder, &mcm(10, IMAGE, &image));
    assert_eq!(
        statuses(&decoded.updates),
        ["1.1 open", "1.3 suspended", "1.2 suspended"]
    );
    assert!(requests_image(&decoded));
}

#[test]
fn lost_message_suspends_all_until_an_image() {
    let lost: [&[u8]; 6] = [
        b"garbage",
        br#"{"op":"mcm","mc":7}"#,
        br#"{"op":"mcm","pt":1e99}"#,
        b"\xff",
        b"{}",
        br#"{"op":"mcm","pt":12,"mc":[{"#,
    ];
    for bytes in lost {
        let mut decoder = after_an_image(10);
        decoder.on_frame(bytes).unwrap_err();
        assert_eq!(
            statuses(&decoder.on_lost(false)),
            ["1.1 suspended", "1.2 suspended"]
        );
        assert!(decoder.on_lost(false).is_empty());
        decoder.on_connected();
        let requests = frame(
            &mut decoder,
            r#"{"op":"status","id":1,"statusCode":"SUCCESS"}"#,
        )
        .send;
        assert!(!requests[0].contains("initialClk"), "{requests:?}");
        let image = mcm(
            13,
            IMAGE,
            &[two_runners("OPEN", None, "2.0"), change(2, "OPEN", "2.5")],
        );
        assert_eq!(
            statuses(&frame(&mut decoder, &image).updates),
            ["1.1 open", "1.2 open"]
        );
    }
    let mut decoder = after_an_image(10);
    assert!(decoder.on_lost(false).is_empty(), "nothing is missing");
    assert_eq!(decoder.on_lost(true).len(), 2, "a frame that was too large");
}

#[test]
fn future_message_suspends_until_repeated() {
    let mut decoder = after_an_image(10);
    decoder.refuse_after(Timestamp::from_millis(20).unwrap());
    assert_eq!(
        refusal(
            &mut decoder,
            &mcm(21, r#","clk":"c1""#, &[change(2, "SUSPENDED", "2.5")])
        )
        .0,
        "future"
    );
    assert_eq!(decoder.on_lost(false).len(), 2);
    decoder.on_connected();
    let requests = frame(
        &mut decoder,
        r#"{"op":"status","id":1,"statusCode":"SUCCESS"}"#,
    )
    .send;
    assert!(requests[0].ends_with(r#""clk":"c0"}"#), "{requests:?}");
    let resumed = mcm(
        19,
        r#","ct":"RESUB_DELTA""#,
        &[change(2, "SUSPENDED", "2.5")],
    );
    assert_eq!(
        statuses(&frame(&mut decoder, &resumed).updates),
        ["1.1 open"]
    );
}

#[test]
fn lost_segment_suspends_until_repeated() {
    let start = r#","clk":"d","segmentType":"SEG_START""#;
    for again in [r#","ct":"RESUB_DELTA""#, IMAGE] {
        let mut decoder = after_an_image(10);
        assert_eq!(
            shown(
                &mut decoder,
                &mcm(11, start, &[change(2, "SUSPENDED", "2.5")])
            ),
            [""; 0]
        );
        assert_eq!(
            statuses(&decoder.on_lost(false)),
            ["1.1 suspended", "1.2 suspended"]
        );
        decoder.on_connected();
        let changes = [
            change(2, "SUSPENDED", "2.5"),
            two_runners("OPEN", None, "3.0"),
        ];
        assert_eq!(
            statuses(&frame(&mut decoder, &mcm(12, again, &changes)).updates),
            ["1.1 open"]
        );
    }
}

#[test]
fn requested_image_discards_unfinished_segments() {
    let mut decoder = after_an_image(10);
    let bad = r#"{"id":"1.1","rc":[7]}"#.to_owned();
    assert!(requests_image(&frame(&mut decoder, &mcm(11, "", &[bad]))));
    let old = mcm(
        12,
        r#","segmentType":"SEG_START""#,
        &[change(2, "SUSPENDED", "2.5")],
    );
    assert_eq!(shown(&mut decoder, &old), [""; 0]);
    let image = mcm(
        13,
        IMAGE,
        &[two_runners("OPEN", None, "2.0"), change(2, "OPEN", "2.5")],
    );
    assert_eq!(statuses(&frame(&mut decoder, &image).updates), ["1.1 open"]);
}

#[test]
fn image_requests_back_off() {
    let mut decoder = after_an_image(10);
    let mut asked_at = Vec::new();
    let bad_image = mcm(11, IMAGE, &[two_runners("OPEN", None, "1001")]);
    for second in 1..3_000 {
        decoder.refuse_after(Timestamp::from_millis(second * 1_000).unwrap());
        if requests_image(&frame(&mut decoder, &bad_image)) {
            asked_at.push(second);
        }
    }
    let waits: Vec<_> = asked_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(
        (asked_at[0], &waits[..]),
        (1, &[20, 640, 640, 640, 640][..])
    );
    frame(
        &mut decoder,
        &mcm(12, IMAGE, &[two_runners("OPEN", None, "3.0")]),
    );
    let bad = mcm(13, "", &[r#"{"id":"1.1","rc":[7]}"#.to_owned()]);
    decoder.refuse_after(Timestamp::from_millis(4_000_000).unwrap());
    assert!(
        requests_image(&frame(&mut decoder, &bad)),
        "immediately after a good image"
    );
    decoder.refuse_after(Timestamp::from_millis(4_009_999).unwrap());
    assert!(!requests_image(&frame(&mut decoder, &bad)));
    decoder.refuse_after(Timestamp::from_millis(4_010_000).unwrap());
    assert!(
        requests_image(&frame(
            &mut decoder,
            r#"{"op":"mcm","pt":14,"ct":"HEARTBEAT"}"#
        )),
        "a heartbeat is enough"
    );
}

/// betcode-org/betfair#295: after a market moved to another event, an image contains both copies.
#[test]
fn higher_version_wins_in_any_order() {
    let new = two_runners("SUSPENDED", Some(3_179_930_626), "3.0");
    let old = two_runners("OPEN", Some(3_179_830_612), "9.0");
    let without_img = |change: &String| change.replace(r#""img":true,"#, "");
    for image in [[new.clone(), old.clone()], [old.clone(), new.clone()]] {
        for image in [image.clone(), image.each_ref().map(without_img)] {
            let decoded = frame(&mut decoder(), &mcm(10, IMAGE, &image));
            assert_eq!(
                decoded.updates.iter().map(line).collect::<Vec<_>>(),
                ["1.1 suspended 10.1: 11=3 active 12=5 active"]
            );
        }
    }
    let mut decoder = decoder();
    frame(&mut decoder, &mcm(10, IMAGE, std::slice::from_ref(&new)));
    for late in [old.clone(), without_img(&old)] {
        let decoded = frame(&mut decoder, &mcm(11, "", &[late]));
        assert_eq!(
            (decoded.updates.len(), decoded.refused[0].reason),
            (0, "old_version")
        );
        assert!(!requests_image(&decoded));
    }
    let changed = mcm(
        12,
        "",
        &[r#"{"id":"1.1","rc":[{"id":11,"batb":[[0,3.1,10]]}]}"#.to_owned()],
    );
    assert_eq!(
        shown(&mut decoder, &changed),
        ["1.1 suspended 12.2: 11=3.1 active 12=5 active"]
    );
    let opened = mcm(13, "", &[two_runners("OPEN", Some(3_179_930_626), "3.2")]);
    assert_eq!(
        shown(&mut decoder, &opened),
        ["1.1 open 13.3: 11=3.2 active 12=5 active"],
        "an equal version is accepted"
    );
}

/// A later connection's image may be older: its changes are followed, and clients keep the newer
/// state, suspended.
#[test]
fn older_image_suspends_until_caught_up() {
    let mut decoder = decoder();
    shown(
        &mut decoder,
        &mcm(10, IMAGE, &[two_runners("OPEN", Some(7), "3.0")]),
    );
    decoder.on_connected();
    let older = mcm(11, IMAGE, &[two_runners("OPEN", Some(5), "9.0")]);
    assert_eq!(
        shown(&mut decoder, &older),
        ["1.1 suspended 11.2: 11=3 active 12=5 active"]
    );
    let changed = mcm(
        12,
        "",
        &[r#"{"id":"1.1","rc":[{"id":12,"ltp":6.0}]}"#.to_owned()],
    );
    assert_eq!(shown(&mut decoder, &changed), [""; 0]);
    let status = |status: &str, version| {
        mcm(
            13,
            "",
            &[two_runners(status, Some(version), "9.0").replace(r#""img":true,"#, "")],
        )
    };
    assert_eq!(shown(&mut decoder, &status("OPEN", 6)), [""; 0]);
    let caught_up = status("OPEN", 7).replace(
        r#","rc":[{"id":11,"batb":[[0,9.0,10]]},{"id":12,"ltp":5.0}]"#,
        "",
    );
    assert_eq!(
        shown(&mut decoder, &caught_up),
        ["1.1 open 13.3: 11=9 active 12=5 active"]
    );
}

proptest! {
    /// The entry with the highest version counts, in any order and segmentation of an image.
    #[test]
    fn version_order_does_not_matter(
        versions in proptest::sample::subsequence((1u32..9).collect::<Vec<_>>(), 1..8).prop_shuffle(),
        img in any::<bool>(),
        segments in 1usize..4,
    ) {
        let highest = *versions.iter().max().unwrap();
        let entry = |version: u32| {
            let status = if version.is_multiple_of(2) { "OPEN" } else { "SUSPENDED" };
            let entry = two_runners(status, Some(version), &format!("{}.5", version + 1));
            // Each entry has its own runner, which must not remain next to the others.
            let entry = entry.replace(r#"{"id":12,"ltp":5.0}"#, &format!(r#"{{"id":{},"ltp":5.0}}"#, 12 + version % 2));
            if img { entry } else { entry.replace(r#""img":true,"#, "") }
        };
        let entries: Vec<_> = versions.iter().map(|version| entry(*version)).collect();
        let mut decoder = decoder();
        let chunks: Vec<_> = entries.chunks(entries.len().div_ceil(segments)).collect();
        let mut updates = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let segment = match index {
                _ if chunks.len() == 1 => "",
                0 => r#","segmentType":"SEG_START""#,
                index if index + 1 == chunks.len() => r#","segmentType":"SEG_END""#,
                _ => r#","segmentType":"SEG""#,
            };
            updates.extend(frame(&mut decoder, &mcm(10, &format!("{IMAGE}{segment}"), chunk)).updates);
        }
        let mut alone = self::decoder();
        let expected = frame(&mut alone, &mcm(10, IMAGE, &[entry(highest)])).updates;
        prop_assert_eq!(updates, expected);
    }

    /// If anything replaces a valid delta, the earlier price is not on offer after a rejection.
    #[test]
    fn damaged_delta_leaves_no_refused_market_open(at in any::<proptest::sample::Index>(), byte in 0x20u8..0x7f) {
        let mut bytes = mcm(11, "", &[r#"{"id":"1.1","rc":[{"id":11,"hc":0,"batb":[[0,2.0,10]],"ltp":2.5}]}"#.to_owned()]).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut decoder = after_an_image(10);
        let updates = match decoder.on_frame(&bytes) {
            Ok(decoded) if decoded.refused.is_empty() => return Ok(()),
            Ok(decoded) if decoded.refused.iter().all(|refused| refused.reason == "unknown_market") => return Ok(()),
            Ok(decoded) => decoded.updates,
            Err(FrameFault::Unreadable { reason: "unknown_op", .. }) => return Ok(()),
            Err(_) => decoder.on_lost(false),
        };
        prop_assert!(statuses(&updates).contains(&"1.1 suspended".to_owned()) , "{:?} {}", updates, String::from_utf8_lossy(&bytes));
    }
}
