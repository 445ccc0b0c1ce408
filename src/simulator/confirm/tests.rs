use proptest::prelude::*;

use super::*;

const SHARE: f64 = 0.2;

fn confirm(bet_id: &str) -> ConfirmResponse {
    ConfirmResponse::new(
        bet_id,
        is_rejected(bet_id, SHARE).then_some("supplier_reject_mock"),
    )
}

fn json(bet_id: &str) -> String {
    serde_json::to_string(&confirm(bet_id)).unwrap()
}

#[test]
fn wire_answers_never_change() {
    let all = [
        "0192f0c1-7a9e-7000-8000-000000000001",
        "bet-1",
        "bet-3",
        "bet-4",
        "bet-5",
        "bet-6",
        "bet-7",
        "aposta-é-ção",
    ]
    .map(json);
    insta::assert_snapshot!(all.join("\n"), @r#"
        {"status":"CONFIRMED","providerRef":"SUP-0192f0c1"}
        {"status":"REJECTED","providerRef":"SUP-bet-1","reason":"supplier_reject_mock"}
        {"status":"CONFIRMED","providerRef":"SUP-bet-3"}
        {"status":"CONFIRMED","providerRef":"SUP-bet-4"}
        {"status":"CONFIRMED","providerRef":"SUP-bet-5"}
        {"status":"REJECTED","providerRef":"SUP-bet-6","reason":"supplier_reject_mock"}
        {"status":"CONFIRMED","providerRef":"SUP-bet-7"}
        {"status":"CONFIRMED","providerRef":"SUP-aposta-é"}
        "#);
}

#[test]
fn four_of_five_bets_are_confirmed() {
    let taken = (0..10_000)
        .filter(|bet| confirm(&format!("bet-{bet}")).status == ConfirmStatus::Confirmed)
        .count();
    assert!((7_800..8_200).contains(&taken), "{taken}");
}

/// A larger fraction rejects all bets that a smaller one rejects.
#[test]
fn rejected_fraction_is_accurate_and_nested() {
    let rejected = |share| {
        (0..10_000)
            .filter(|bet| is_rejected(&format!("bet-{bet}"), share))
            .collect::<Vec<_>>()
    };
    assert_eq!((rejected(0.0).len(), rejected(1.0).len()), (0, 10_000));
    let small = rejected(0.005);
    let great = rejected(0.5);
    assert!((20..90).contains(&small.len()), "{}", small.len());
    assert!((4_700..5_300).contains(&great.len()), "{}", great.len());
    assert!(small.iter().all(|bet| great.contains(bet)));
}

#[test]
fn original_request_is_accepted() {
    let body = br#"{"betId":"b","userId":"u","eventId":"MATCH_001","stake_cents":500,"odd_value":1.87,"more":[]}"#;
    let request = ConfirmRequest::from_json(body).unwrap();
    assert_eq!(
        (
            request.bet_id.as_str(),
            request.stake_cents,
            request.odd_value
        ),
        ("b", Some(500), Some(1.87))
    );
    assert!(ConfirmRequest::from_json(br#"{"betId":"b"}"#).is_ok());
    assert!(
        ConfirmRequest::from_json(
            br#"{"betId":"b","stakeCents":500,"oddValue":1.87,"odd_value":1.87}"#
        )
        .is_ok()
    );
}

#[test]
fn invalid_requests_are_rejected() {
    let refuse = |body: &str| {
        ConfirmRequest::from_json(body.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refuse(r#"{"betId":""}"#), "betId is empty");
    assert!(refuse("").starts_with("not a confirmation request"));
    assert!(refuse("[]").starts_with("not a confirmation request"));
    assert!(refuse(r#"{"betId":7}"#).contains("invalid type"));
    assert!(refuse(r#"{"userId":"u"}"#).contains("missing field `betId`"));
    assert!(refuse(r#"{"betId":"b","stake_cents":1.5}"#).contains("invalid type"));
}

proptest! {
    #[test]
    fn same_bet_gets_same_answer(bet_id in ".{0,20}") {
        let answer = confirm(&bet_id);
        prop_assert_eq!(&answer, &confirm(&bet_id));
        prop_assert!(answer.provider_ref.strip_prefix("SUP-").is_some_and(|rest| bet_id.starts_with(rest)));
        prop_assert_eq!(answer.reason.is_some(), answer.status == ConfirmStatus::Rejected);
    }

    #[test]
    fn random_body_never_panics(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = ConfirmRequest::from_json(&body);
    }
}
