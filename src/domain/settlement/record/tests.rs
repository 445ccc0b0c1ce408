use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::domain::settlement::testing::at;

fn base() -> Value {
    json!({
        "type": "settlement", "event_id": "MATCH_002", "market": "1x2",
        "selections": [{"id": "home", "result": "won"}],
        "updated_at": "2026-12-01T21:55:00.000001Z", "source": "native-1", "version": 71,
    })
}

fn with(fields: Value) -> Value {
    let mut json = base();
    json.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    json
}

fn read(json: &Value) -> Result<ResultRecord, RecordError> {
    ResultRecord::from_json(json.to_string().as_bytes())
}

fn result(fields: Value) -> Result<Outcome, RecordError> {
    let mut result = fields;
    result["id"] = json!("home");
    let record = read(&with(json!({"selections": [result]})))?;
    match record.content {
        RecordContent::Settlement(settlement) => Ok(settlement.selections[0].outcome),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_is_read_and_written() {
    let frames = [
        r#"{"type":"settlement","event_id":"MATCH_002","market":"1x2","line":null,"selections":[{"id":"home","result":"won"},{"id":"draw","result":"lost"},{"id":"away","result":"lost"}],"certainty":"confirmed","bets_until":"2026-12-01T21:52:10Z","updated_at":"2026-12-01T21:55:00.000001Z","source":"native-1","version":71}"#,
        r#"{"type":"rollback_settlement","event_id":"MATCH_002","market":"1x2","selections":["home"],"updated_at":"2026-12-01T21:56:00Z","source":"native-1","version":72}"#,
        r#"{"type":"cancel","event_id":"MATCH_002","market":"1x2","from":"2026-12-01T20:00:00Z","until":"2026-12-01T20:10:00Z","reason":"incorrect_odds","updated_at":"2026-12-01T21:57:00Z","source":"native-1","version":73}"#,
        r#"{"type":"rollback_cancel","event_id":"MATCH_002","market":"total","line":2.5,"from":"2026-12-01T20:00:00Z","until":"2026-12-01T20:10:00Z","updated_at":"2026-12-01T21:58:00Z","source":"native-1","version":74}"#,
    ];
    let written: Vec<_> = frames
        .iter()
        .map(|frame| ResultRecord::from_json(frame.as_bytes()).unwrap().to_json())
        .collect();
    insta::assert_snapshot!(written.join("\n"), @r#"
    {"type":"settlement","event_id":"MATCH_002","market":"1x2","selections":[{"id":"away","result":"lost"},{"id":"draw","result":"lost"},{"id":"home","result":"won"}],"certainty":"confirmed","bets_until":"2026-12-01T21:52:10Z","updated_at":"2026-12-01T21:55:00.000001Z","source":"native-1","version":71}
    {"type":"rollback_settlement","event_id":"MATCH_002","market":"1x2","selections":["home"],"updated_at":"2026-12-01T21:56:00Z","source":"native-1","version":72}
    {"type":"cancel","event_id":"MATCH_002","market":"1x2","from":"2026-12-01T20:00:00Z","until":"2026-12-01T20:10:00Z","reason":"incorrect_odds","updated_at":"2026-12-01T21:57:00Z","source":"native-1","version":73}
    {"type":"rollback_cancel","event_id":"MATCH_002","market":"total","line":2.5,"from":"2026-12-01T20:00:00Z","until":"2026-12-01T20:10:00Z","updated_at":"2026-12-01T21:58:00Z","source":"native-1","version":74}
    "#);
}

#[test]
fn defaults_are_whole_win_and_confirmed() {
    let record = read(&base()).unwrap();
    let settlement = Settlement {
        selections: vec![SelectionResult {
            id: SelectionId::new("home").unwrap(),
            outcome: Outcome::Won(Won::WHOLE),
        }],
        certainty: Certainty::Confirmed,
        bets_from: None,
        bets_until: None,
    };
    assert_eq!(record.content, RecordContent::Settlement(settlement));
    let cancel = read(&with(json!({"type": "cancel"}))).unwrap();
    let reason = CancelReason::default();
    let window = Window::default();
    assert_eq!(cancel.content, RecordContent::Cancel { window, reason });
    assert!(window.contains(at(0)));
}

#[rstest]
#[case("\"1/2\"", Some((1, 2)))]
#[case("\"2/4\"", Some((1, 2)))]
#[case("0.5", Some((1, 2)))]
#[case("0.333", Some((333, 1_000)))]
#[case("\"1/3\"", Some((1, 3)))]
#[case("\"1/1000\"", Some((1, 1_000)))]
#[case("\"1/1\"", None)]
#[case("1", None)]
#[case("1.0", None)]
fn dead_heat_is_exact_fraction(#[case] text: &str, #[case] expected: Option<(u16, u16)>) {
    let value: Value = serde_json::from_str(text).unwrap();
    let expected = expected.map_or(Won::WHOLE, |(places, tied)| {
        Won::DeadHeat(DeadHeat::new(places, tied).unwrap())
    });
    assert_eq!(
        result(json!({"result": "won", "dead_heat": value})),
        Ok(Outcome::Won(expected))
    );
}

#[rstest]
#[case(json!("0/2"))]
#[case(json!("3/2"))]
#[case(json!("1/1001"))]
#[case(json!("1/0"))]
#[case(json!("1"))]
#[case(json!("+1/2"))]
#[case(json!("-1/2"))]
#[case(json!("1/ 2"))]
#[case(json!("1/2/3"))]
#[case(json!("/2"))]
#[case(json!("65537/65538"))]
#[case(json!(0))]
#[case(json!(0.3333))]
#[case(json!(-0.5))]
#[case(json!(1.5))]
#[case(json!(true))]
#[case(json!([1, 2]))]
fn bad_dead_heat_is_refused(#[case] dead_heat: Value) {
    let error = result(json!({"result": "won", "dead_heat": dead_heat})).unwrap_err();
    assert_eq!(error.reason(), "bad_dead_heat", "{error}");
    assert!(error.to_string().contains("`home`"), "{error}");
}

#[rstest]
#[case(json!({"result": "won", "dead_heat": "1/2", "void_factor": 0.5}), "unfit_dead_heat")]
#[case(json!({"result": "lost", "dead_heat": "1/2"}), "unfit_dead_heat")]
#[case(json!({"result": "void", "dead_heat": "1/2"}), "unfit_dead_heat")]
#[case(json!({"result": "undecided", "dead_heat": 0.5}), "unfit_dead_heat")]
#[case(json!({"result": "void", "void_factor": 0.5}), "unfit_void_factor")]
#[case(json!({"result": "void", "void_factor": 0}), "unfit_void_factor")]
#[case(json!({"result": "undecided", "void_factor": 0.5}), "unfit_void_factor")]
#[case(json!({"result": "won", "void_factor": 1.001}), "bad_void_factor")]
#[case(json!({"result": "won", "void_factor": 0.3333}), "bad_void_factor")]
#[case(json!({"result": "won", "void_factor": -0.5}), "bad_void_factor")]
#[case(json!({"result": "won", "void_factor": "0.5"}), "bad_void_factor")]
#[case(json!({"result": "won", "reduction": 5, "removed_at": "2026-12-01T00:00:00Z"}), "unfit_removal")]
#[case(json!({"result": "void", "reduction": 5}), "unfit_removal")]
#[case(json!({"result": "void", "removed_at": "2026-12-01T00:00:00Z"}), "unfit_removal")]
#[case(json!({"result": "void", "reduction": 100.001, "removed_at": "2026-12-01T00:00:00Z"}), "bad_reduction")]
#[case(json!({"result": "void", "reduction": 5.0001, "removed_at": "2026-12-01T00:00:00Z"}), "bad_reduction")]
#[case(json!({"result": "refunded"}), "malformed")]
#[case(json!({}), "malformed")]
fn unfit_result_is_refused(#[case] fields: Value, #[case] reason: &str) {
    let error = result(fields).unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
}

#[rstest]
#[case(json!({"selections": []}), "no_selections")]
#[case(json!({"selections": [{"id": "a", "result": "won"}, {"id": "a", "result": "won"}]}), "duplicate_selection")]
#[case(json!({"type": "rollback_settlement", "selections": ["a", "a"]}), "duplicate_selection")]
#[case(json!({"type": "rollback_settlement", "selections": []}), "no_selections")]
#[case(json!({"type": "cancel", "from": "2026-12-01T20:00:00Z", "until": "2026-12-01T20:00:00Z"}), "empty_window")]
#[case(json!({"type": "rollback_cancel", "from": "2026-12-01T20:00:01Z", "until": "2026-12-01T20:00:00Z"}), "empty_window")]
#[case(json!({"type": "cancel", "note": ""}), "bad_note")]
#[case(json!({"type": "cancel", "note": "x".repeat(501)}), "bad_note")]
#[case(json!({"type": "cancel", "note": "a\nb"}), "bad_note")]
#[case(json!({"bets_from": "2026-12-01T20:00:00Z", "bets_until": "2026-12-01T20:00:00Z"}), "empty_round")]
#[case(json!({"bets_from": "soon"}), "malformed")]
#[case(json!({"type": "rollback_settlement", "selections": null, "bets_from": 1}), "malformed")]
#[case(json!({"type": "cancel", "reason": ""}), "bad_reason")]
#[case(json!({"type": "cancel", "reason": "x".repeat(65)}), "bad_reason")]
#[case(json!({"type": "cancel", "reason": "a\nb"}), "bad_reason")]
#[case(json!({"type": "alive"}), "malformed")]
#[case(json!({"market": "x".repeat(129)}), "malformed")]
#[case(json!({"line": "2.5"}), "malformed")]
#[case(json!({"certainty": "sure"}), "malformed")]
#[case(json!({"version": null}), "malformed")]
#[case(json!({"updated_at": "yesterday"}), "malformed")]
#[case(json!({"selections": [["home", "won"]]}), "malformed")]
fn bad_record_is_refused(#[case] fields: Value, #[case] reason: &str) {
    let error = read(&with(fields)).unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
}

#[test]
fn too_many_or_too_large_is_refused() {
    let selections: Vec<_> = (0..=MAX_SELECTIONS)
        .map(|id| json!({"id": id.to_string(), "result": "lost"}))
        .collect();
    let error = read(&with(json!({"selections": selections}))).unwrap_err();
    assert_eq!(error, RecordError::TooManySelections(MAX_SELECTIONS + 1));
    let padded = with(json!({"more": "x".repeat(MAX_RECORD_BYTES)}));
    assert_eq!(read(&padded).unwrap_err().reason(), "too_large");
}

#[test]
fn largest_record_is_not_too_large() {
    let selections: Vec<_> = (0..MAX_SELECTIONS)
        .map(|id| json!({"id": format!("{}{id:04}", "\"".repeat(124)), "result": "won", "dead_heat": "999/1000"}))
        .collect();
    assert!(read(&with(json!({"selections": selections}))).is_ok());
}

#[test]
fn start_of_round_is_read_and_written() {
    let from = json!({"bets_from": at(1)});
    for kind in ["settlement", "rollback_settlement"] {
        let mut json = with(from.clone());
        json["type"] = json!(kind);
        if kind == "rollback_settlement" {
            json["selections"] = json!(["home"]);
        }
        let record = read(&json).unwrap();
        assert_eq!(record.content.bets_from(), Some(at(1)));
        assert_eq!(
            read(&serde_json::from_str(&record.to_json()).unwrap()),
            Ok(record)
        );
    }
    let rest = [("settlement", json!({})), ("cancel", from)];
    for (kind, fields) in rest {
        let mut json = with(fields);
        json["type"] = json!(kind);
        assert_eq!(read(&json).unwrap().content.bets_from(), None);
    }
}

/// The order of the selections is no content.
#[test]
fn contents_in_another_order_are_equal() {
    let [home, away] = [
        json!({"id": "home", "result": "won"}),
        json!({"id": "away", "result": "lost"}),
    ];
    let read = |selections: Value| read(&with(json!({"selections": selections}))).unwrap();
    assert_eq!(read(json!([home, away])), read(json!([away, home])));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ResultRecord::from_json(&bytes);
    }

    #[test]
    fn damaged_record_never_panics(at in 0_usize..200, byte in any::<u8>()) {
        let mut bytes = base().to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = ResultRecord::from_json(&bytes);
    }

    #[test]
    fn every_result_reads_back(
        void in 0_u16..=1_000, places in 1_u16..=1_000, tied in 1_u16..=1_000, kind in 0..5, reduction in 0_u32..=100_000,
    ) {
        let void = VoidFactor::from_thousandths(void).unwrap();
        let removal = Reduction::from_thousandths(reduction)
            .map(|reduction| Removal { reduction, removed_at: at(1) });
        let outcome = match kind {
            0 => Outcome::Won(Won::Part { void }),
            1 => DeadHeat::new(places, tied).map_or(Outcome::Undecided, |share| Outcome::Won(Won::DeadHeat(share))),
            2 => Outcome::Lost { void },
            3 => Outcome::Void { removal },
            _ => Outcome::Void { removal: None },
        };
        let mut record = read(&base()).unwrap();
        record.content = RecordContent::Settlement(Settlement {
            selections: vec![SelectionResult { id: SelectionId::new("a").unwrap(), outcome }],
            certainty: Certainty::Scouted,
            bets_from: None,
            bets_until: Some(at(3)),
        });
        prop_assert_eq!(ResultRecord::from_json(record.to_json().as_bytes()).unwrap(), record);
    }
}
