use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::testing::*;
use super::*;

const ORIGINAL: &str = r#"{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.528,"draw":2.574,"away":3.144},"updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":978}"#;

#[test]
fn reads_the_originals_frame() {
    let update = OddsUpdate::from_json(ORIGINAL.as_bytes()).unwrap();
    assert_eq!(update.event_id.as_str(), "MATCH_001");
    assert_eq!(update.market.to_string(), "1x2");
    assert_eq!(update.status, MarketStatus::Open);
    let prices: Vec<_> = update
        .selections
        .iter()
        .map(|s| (s.id.as_str(), s.price.unwrap().thousandths()))
        .collect();
    assert_eq!(prices, [("home", 1_528), ("draw", 2_574), ("away", 3_144)]);
    assert_eq!(update.selections[0].name, "Flamengo");
    assert_eq!(update.revision.version, 978);
}

#[test]
fn sport_and_start_time_are_read() {
    let with = |fields: &str| {
        OddsUpdate::from_json(
            ORIGINAL
                .replacen('{', &format!("{{{fields},"), 1)
                .as_bytes(),
        )
    };
    let detailed =
        with(r#""sport":" Horse Racing ","start_time":"2026-12-01T18:30:00+01:00""#).unwrap();
    assert_eq!(detailed.sport.as_deref(), Some("horse racing"));
    assert_eq!(
        detailed.start_time.unwrap().to_string(),
        "2026-12-01T17:30:00Z"
    );
    assert_eq!(
        OddsUpdate::from_json(detailed.to_json().as_bytes()),
        Ok(detailed.clone())
    );
    for nothing in [r#""sport":null,"start_time":null"#, r#""sport":" ""#] {
        let update = with(nothing).unwrap();
        assert_eq!(
            (&update.sport, update.start_time),
            (&None, None),
            "{nothing}"
        );
        assert!(!update.to_json().contains("sport\":"), "{nothing}");
        assert!(!update.shows_the_same_as(&detailed));
    }
    let reason = |fields: &str| with(fields).unwrap_err().reason();
    assert_eq!(
        reason(&format!(r#""sport":"{}""#, "x".repeat(MAX_NAME_BYTES + 1))),
        "bad_name"
    );
    assert_eq!(reason(r#""sport":"soc\u0000cer""#), "bad_name");
    assert_eq!(reason(r#""sport":7"#), "malformed");
    assert_eq!(reason(r#""start_time":"soon""#), "malformed");
}

#[test]
fn writes_original_and_added_fields() {
    let update = OddsUpdate::from_json(ORIGINAL.as_bytes()).unwrap();
    insta::assert_snapshot!(update.to_json(), @r#"{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.528,"draw":2.574,"away":3.144},"selections":[{"id":"home","name":"Flamengo","price":1.528,"status":"active"},{"id":"draw","name":"Draw","price":2.574,"status":"active"},{"id":"away","name":"Palmeiras","price":3.144,"status":"active"}],"status":"open","updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":978}"#);
}

#[test]
fn stored_selections_read_back() {
    let update = OddsUpdate::from_json(ORIGINAL.as_bytes()).unwrap();
    let json = serde_json::to_string(&update.selections).unwrap();
    assert_eq!(read_selections(&json).unwrap(), update.selections);
    assert_eq!(read_selections("[]").unwrap(), []);
    assert_eq!(
        read_selections(&json.replace("1.528", "0.5"))
            .unwrap_err()
            .reason(),
        "bad_price"
    );
    assert_eq!(read_selections("{}").unwrap_err().reason(), "malformed");
}

#[test]
fn selections_take_precedence_over_odds() {
    let json = r#"{"event_id":"E","market":"total_goals","line":2.5,"status":"suspended","in_play":true,
            "selections":[{"id":"over","name":"Over 2.5","price":1.9},{"id":"under","price":null,"status":"suspended"}],
            "odds":{"home":9,"draw":9,"away":9},"updated_at":"2025-11-09T21:07:45Z","source":"s","version":1,"unknown":[]}"#;
    let update = OddsUpdate::from_json(json.as_bytes()).unwrap();
    assert_eq!(update.market.to_string(), "total_goals@2.5");
    assert_eq!(update.selections.len(), 2);
    assert_eq!(update.selections[1].price, None);
    assert_eq!(update.selections[1].name, "under");
    assert!(!update.to_json().contains("\"odds\""));
    assert!(update.to_json().contains(r#""line":2.5"#));
}

#[test]
fn error_names_the_fault() {
    let refuse = |json: String| OddsUpdate::from_json(json.as_bytes()).unwrap_err();
    let bad_price = refuse(ORIGINAL.replace("2.574", "0.5"));
    assert_eq!(
        bad_price.to_string(),
        "bad price of selection `draw`: 0.5 is outside the range 1.001 to 1000.000"
    );
    assert_eq!(bad_price.reason(), "bad_price");
    assert_eq!(
        refuse(ORIGINAL.replace("1.528", "\"1.5\"")).reason(),
        "bad_price"
    );
    assert_eq!(
        refuse(ORIGINAL.replace("\"event_id\"", "\"id\"")).reason(),
        "malformed"
    );
    assert_eq!(
        refuse(ORIGINAL.replace("MATCH_001", "")).reason(),
        "malformed"
    );
    assert_eq!(refuse(ORIGINAL.replace("978", "9.5")).reason(), "malformed");
    assert_eq!(
        refuse(ORIGINAL.replace("\"odds\"", "\"sods\"")),
        DecodeError::NoSelections
    );
    assert_eq!(refuse(ORIGINAL[..50].to_owned()).reason(), "malformed");
    let twice = r#""selections":[{"id":"a","price":2},{"id":"a","price":3}],"version""#;
    assert_eq!(
        refuse(ORIGINAL.replace("\"version\"", twice)).reason(),
        "duplicate_selection"
    );
    let many: Vec<_> = (0..=MAX_SELECTIONS)
        .map(|id| format!(r#"{{"id":"{id}"}}"#))
        .collect();
    let many = format!(r#""selections":[{}],"version""#, many.join(","));
    assert_eq!(
        refuse(ORIGINAL.replace("\"version\"", &many)),
        DecodeError::TooManySelections(MAX_SELECTIONS + 1)
    );
    assert_eq!(
        OddsUpdate::from_json(b"\xff\xfe").unwrap_err().reason(),
        "malformed"
    );
    assert_eq!(
        refuse(ORIGINAL.replace("Flamengo", r"Fla\u0000mengo")),
        DecodeError::BadName("home_team")
    );
    assert_eq!(
        refuse(ORIGINAL.replace("Palmeiras", &"x".repeat(257))),
        DecodeError::BadName("away_team")
    );
}

/// The native feed will carry other kinds of messages. None of them opens a market, even if it
/// has every field of an update.
#[test]
fn other_message_kinds_are_refused() {
    let kinds = [
        "settlement",
        "rollback_settlement",
        "cancel",
        "rollback_cancel",
        "alive",
        "recover",
        "recovered",
    ];
    let kinds = kinds
        .iter()
        .chain(&["bet_stop", "odds_update", ""])
        .map(|kind| format!("\"{kind}\""));
    for kind in kinds.chain(["7", "true", "{}", "[\"odds\"]"].map(str::to_owned)) {
        for json in [
            ORIGINAL.replacen('{', &format!(r#"{{"type":{kind},"#), 1),
            format!("{},\"type\":{kind}}}", &ORIGINAL[..ORIGINAL.len() - 1]),
            format!(r#"{{"type":{kind},"at":"2026-12-01T21:52:10Z"}}"#),
            format!(
                r#"{{"type":{kind},"event_id":"E","market":"1x2","selections":[{{"id":"home","result":"won"}}]}}"#
            ),
        ] {
            let error = OddsUpdate::from_json(json.as_bytes()).unwrap_err();
            assert_eq!(error.reason(), "unknown_type", "{json}: {error}");
        }
    }
    let null = ORIGINAL.replacen('{', r#"{"type":null,"#, 1);
    assert!(
        OddsUpdate::from_json(null.as_bytes()).is_ok(),
        "null counts as absent"
    );
}

#[test]
fn unknown_statuses_are_refused() {
    let with = |field: &str| ORIGINAL.replacen('{', &format!("{{{field},"), 1);
    for field in [
        r#""status":"halted""#,
        r#""status":"OPEN""#,
        r#""status":"""#,
        r#""status":null"#,
        r#""status":1"#,
        r#""in_play":"yes""#,
        r#""selections":[{"id":"a","price":2,"status":"halted"}]"#,
        r#""selections":{"a":2}"#,
    ] {
        assert_eq!(
            OddsUpdate::from_json(with(field).as_bytes())
                .unwrap_err()
                .reason(),
            "malformed",
            "{field}"
        );
    }
}

#[test]
fn oversized_update_is_refused() {
    let padded = |length: usize| format!("{}{}", ORIGINAL, " ".repeat(length - ORIGINAL.len()));
    assert!(OddsUpdate::from_json(padded(MAX_UPDATE_BYTES).as_bytes()).is_ok());
    let error = OddsUpdate::from_json(padded(MAX_UPDATE_BYTES + 1).as_bytes()).unwrap_err();
    assert_eq!(error.reason(), "too_large");
}

#[test]
fn array_in_place_of_object_is_refused() {
    let refuse = |json: &str| OddsUpdate::from_json(json.as_bytes()).unwrap_err().reason();
    let by_position = r#"["E","H","A","1x2",null,"open",false,[["home","H",2.5,"active"]],null,"2025-11-09T21:07:45Z","s",1]"#;
    assert_eq!(refuse(by_position), "malformed");
    let with = |field: &str| ORIGINAL.replace("\"version\"", &format!("{field},\"version\""));
    assert_eq!(
        refuse(&with(r#""selections":[["home","H",2.5,"active"]]"#)),
        "malformed"
    );
    assert_eq!(
        refuse(&ORIGINAL.replace(
            r#"{"home":1.528,"draw":2.574,"away":3.144}"#,
            "[1.528,2.574,3.144]"
        )),
        "malformed"
    );
    assert_eq!(
        refuse(&with(r#""market":"other""#)),
        "malformed",
        "a field given twice"
    );
    assert!(read_selections(r#"[["home","H",2.5,"active"]]"#).is_err());
}

#[test]
fn original_health_check_is_refused() {
    let json = br#"{"event_id":"","home_team":"","away_team":"","market":"","odds":{"home":0,"draw":0,"away":0},"updated_at":"0001-01-01T00:00:00Z","source":"","version":0}"#;
    assert!(OddsUpdate::from_json(json).is_err());
}

proptest! {
    #[test]
    fn written_update_reads_back(update in any_update()) {
        prop_assert_eq!(OddsUpdate::from_json(update.to_json().as_bytes()).unwrap(), update);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = OddsUpdate::from_json(&bytes);
    }

    #[test]
    fn truncated_frame_is_refused(length in 0usize..ORIGINAL.len()) {
        prop_assert!(OddsUpdate::from_json(&ORIGINAL.as_bytes()[..length]).is_err());
    }
}
