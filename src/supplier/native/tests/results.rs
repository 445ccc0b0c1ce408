//! Results of markets in the native format.

use super::*;
use crate::domain::settlement::record::{RecordKind, ResultRecord};

fn settlement(fields: &str) -> String {
    format!(
        r#"{{"type":"settlement","event_id":"MATCH_001","market":"a","selections":[{{"id":"home","result":"won"}}],"updated_at":"2025-11-09T21:07:55Z","source":"test","version":1{fields}}}"#
    )
}

/// A result neither opens nor suspends a market, and judges no source.
#[test]
fn results_are_decoded_and_change_no_market() {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &market("a", 10));
    let sources = decoder.sources();
    let rest = r#""event_id":"MATCH_001","market":"a","updated_at":"2025-11-09T21:07:55Z","source":"other","version":2"#;
    for (frame, kind) in [
        (settlement(""), RecordKind::Settlement),
        (
            format!(r#"{{"type":"rollback_settlement",{rest}}}"#),
            RecordKind::RollbackSettlement,
        ),
        (format!(r#"{{"type":"cancel",{rest}}}"#), RecordKind::Cancel),
        (
            format!(r#"{{"type":"rollback_cancel",{rest}}}"#),
            RecordKind::RollbackCancel,
        ),
    ] {
        let decoded = message(&mut decoder, &frame);
        assert_eq!(decoded.refused_results, []);
        assert_eq!(decoded.updates, []);
        assert!(!decoded.is_unreadable);
        assert_eq!(
            decoded.results,
            [ResultRecord::from_json(frame.as_bytes()).unwrap()]
        );
        assert_eq!(decoded.results[0].content.kind(), kind);
    }
    assert_eq!(decoder.sources(), sources);
    assert_eq!(decoder.suspend_unconfirmed(&|_| false), []);
}

#[test]
fn refused_result_suspends_no_market() {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &market("a", 10));
    decoder.refuse_after("2025-11-10T00:00:00Z".parse().unwrap());
    let frames = [
        (settlement(r#","certainty":"sure""#), "malformed"),
        (
            settlement("").replace(r#""result":"won""#, r#""result":"lost","dead_heat":"1/2""#),
            "unfit_dead_heat",
        ),
        (settlement("").replace("2025-11-09", "2025-11-11"), "future"),
        (
            settlement("").replace(r#""source":"test""#, r#""source":"operator:ann""#),
            "reserved_source",
        ),
    ];
    for (frame, reason) in frames {
        let decoded = message(&mut decoder, &frame);
        assert_eq!(
            (&decoded.updates, &decoded.results),
            (&vec![], &vec![]),
            "{frame}"
        );
        let reasons: Vec<_> = decoded
            .refused_results
            .iter()
            .map(|one| one.reason)
            .collect();
        assert_eq!(reasons, [reason], "{frame}");
    }
    assert_eq!(decoder.unnamed_refusals(), 0);
}

#[test]
fn unknown_type_is_refused_as_before() {
    let mut decoder = NativeDecoder::default();
    let frame = settlement("").replace(r#""settlement""#, r#""resettlement""#);
    let decoded = decoder.on_frame(frame.as_bytes()).unwrap();
    assert_eq!(decoded.refused[0].reason, "unknown_type");
    assert_eq!(
        (decoded.results, decoded.refused_results, decoded.updates),
        (vec![], vec![], vec![])
    );
}
