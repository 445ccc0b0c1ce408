use std::time::Duration;

use pretty_assertions::assert_eq;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn bet() -> Bet {
    let placed_at = "2026-11-09T21:07:45.123456Z".parse().unwrap();
    let id = "0192f0c1-7a9e-7000-8000-000000000001".parse().unwrap();
    Bet {
        id,
        ..testing::pending_bet(placed_at, Duration::from_secs(10))
    }
}

#[test]
fn placed_bet_wire_format() {
    let with_line = bet_placed(&bet());
    let market = MarketKey {
        name: MarketName::new("1x2").unwrap(),
        line: None,
    };
    let without = bet_placed(&Bet {
        market,
        selection: SelectionId::new("home").unwrap(),
        ..bet()
    });
    insta::assert_snapshot!(format!("{with_line}\n{without}"), @r#"
        {"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"USER_001","eventId":"MATCH_001","market":"total_goals","line":2.5,"selection":"over","stakeCents":1500,"oddValue":1.63,"reservedRef":"0192f0c1-7a9e-7000-8000-000000000001","tsUnixMs":1794258465123,"stake_cents":1500,"odd_value":1.63}
        {"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"USER_001","eventId":"MATCH_001","market":"1x2","selection":"home","stakeCents":1500,"oddValue":1.63,"reservedRef":"0192f0c1-7a9e-7000-8000-000000000001","tsUnixMs":1794258465123,"stake_cents":1500,"odd_value":1.63}
        "#);
}

#[test]
fn decided_bet_wire_format() {
    let now = "2026-11-09T21:07:46Z".parse().unwrap();
    let verdicts = [
        BetOutcome::Confirmed {
            provider_ref: "SUP-1".to_owned(),
        },
        BetOutcome::Confirmed {
            provider_ref: String::new(),
        },
        BetOutcome::Rejected {
            reason: "odds \"moved\"".to_owned(),
            provider_ref: "SUP-2".to_owned(),
        },
        BetOutcome::TimedOut,
    ];
    let all = verdicts.map(|outcome| bet_confirmed(&bet(), &outcome, now));
    insta::assert_snapshot!(all.join("\n"), @r#"
        {"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"USER_001","status":"CONFIRMED","providerRef":"SUP-1","ts":"2026-11-09T21:07:46Z"}
        {"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"USER_001","status":"CONFIRMED","ts":"2026-11-09T21:07:46Z"}
        {"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"USER_001","status":"REJECTED","reason":"odds \"moved\"","providerRef":"SUP-2","ts":"2026-11-09T21:07:46Z"}
        {"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"USER_001","status":"REJECTED","reason":"SUPPLIER_TIMEOUT","ts":"2026-11-09T21:07:46Z"}
        "#);
}

#[test]
fn written_record_reads_back() {
    let read = BetPlaced::from_json(bet_placed(&bet()).as_bytes()).unwrap();
    let Bet {
        id,
        user_id,
        event_id,
        market,
        selection,
        stake,
        price,
        ..
    } = bet();
    let placed_at = "2026-11-09T21:07:45.123Z".parse().ok();
    let reserved_ref = Some(id.to_string());
    let expected = BetPlaced {
        bet_id: id,
        user_id,
        event_id,
        market,
        selection,
        stake,
        price,
        reserved_ref,
        placed_at,
    };
    assert_eq!(read, expected);
}

#[rstest]
#[case::service(r#"{"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"u","eventId":"MATCH_001","market":"1x2","selection":"home","stakeCents":500,"oddValue":1.87,"reservedRef":"r","tsUnixMs":1000}"#)]
#[case::worker(r#"{"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"u","eventId":"MATCH_001","market":"1x2","selection":"home","stake_cents":500,"odd_value":1.87,"reserved_id":"r","created_at":1000}"#)]
#[case::snake(r#"{"bet_id":"0192f0c1-7a9e-7000-8000-000000000001","user_id":"u","event_id":"MATCH_001","market":"1x2","selection":"home","stake_cents":500,"odd_value":1.870000,"reserved_ref":"r","ts_unix_ms":1000,"line":null,"more":[{}]}"#)]
fn either_spelling_is_read(#[case] json: &str) {
    let read = BetPlaced::from_json(json.as_bytes()).unwrap();
    assert_eq!(
        (read.bet_id.to_string(), read.stake.cents()),
        ("0192f0c1-7a9e-7000-8000-000000000001".into(), 500)
    );
    assert_eq!(
        (read.price.to_string(), read.market.to_string()),
        ("1.87".to_owned(), "1x2".to_owned())
    );
    assert_eq!(
        (
            read.reserved_ref.as_deref(),
            read.placed_at.map(Timestamp::micros)
        ),
        (Some("r"), Some(1_000_000))
    );
}

#[test]
fn invalid_field_is_named() {
    let good = bet_placed(&bet());
    let refuse = |json: &str| {
        let error = BetPlaced::from_json(json.as_bytes()).unwrap_err();
        assert!(BadBetPlaced::VARIANTS.contains(&error.reason()));
        format!("{}: {error}", error.reason())
    };
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        refuse(&good.replacen(from, to, 1))
    };
    let wrong = [
        refuse("{garbage"),
        refuse("[]"),
        refuse("{}"),
        with(
            r#""betId":"0192f0c1-7a9e-7000-8000-000000000001""#,
            r#""betId":"bet-1""#,
        ),
        with(r#""userId":"USER_001""#, r#""userId":"""#),
        with(r#""eventId":"MATCH_001","#, ""),
        with(r#""market":"total_goals""#, r#""market":7"#),
        with(r#""line":2.5"#, r#""line":"two""#),
        with(r#""selection":"over""#, r#""selection":null"#),
        with(r#""stakeCents":1500"#, r#""stakeCents":0"#),
        with(r#""stakeCents":1500"#, r#""stakeCents":1501"#),
        with(r#""oddValue":1.63"#, r#""oddValue":1"#),
        with(r#""oddValue":1.63"#, r#""oddValue":1.64"#),
        with("{", r#"{"type":"bet_cancelled","#),
    ];
    insta::assert_snapshot!(wrong.join("\n"), @r#"
        malformed: not a JSON object: key must be a string at line 1 column 2
        malformed: not a JSON object: invalid type: sequence, expected a map at line 1 column 0
        missing_field: betId is missing
        invalid_field: betId: not a UUID: invalid character: found `t` at 2
        invalid_field: userId: userId is empty
        missing_field: eventId is missing
        invalid_field: market: invalid type: integer `7`, expected a string at line 1 column 1
        invalid_field: line: `"two"` is not a decimal number
        missing_field: selection is missing
        invalid_field: stakeCents: 0 is not at least 1 cent
        conflict: stakeCents and stake_cents differ
        invalid_field: oddValue: 1 is outside the range 1.001 to 1000.000
        conflict: oddValue and odd_value differ
        invalid_field: type: a placed bet has no type
        "#);
    assert!(
        with("\"over\"", &"7".repeat(5_000)).len() < 300,
        "foreign text is truncated"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = BetPlaced::from_json(&bytes);
    }

    #[test]
    fn modified_record_never_panics(at in 0..300_usize, to in ".{0,6}") {
        let good = bet_placed(&bet());
        let at = at % good.len();
        let changed = [&good.as_bytes()[..at], to.as_bytes(), &good.as_bytes()[at..]].concat();
        let _ = BetPlaced::from_json(&changed);
        let _ = BetPlaced::from_json(&changed[..at]);
    }
}
