//! Whether the supplier takes a bet: four of five unless told otherwise, and the same answer again
//! for the same bet.

use serde::{Deserialize, Serialize};

use crate::domain::json;

/// A question of `POST /supplier/confirm`. As in the original only the shape is looked at, except
/// that a bet has an id.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ConfirmRequest {
    /// The bet.
    #[serde(rename = "betId")]
    pub bet_id: String,
    /// Who bets.
    #[serde(rename = "userId", default)]
    pub user_id: Option<String>,
    /// On which event.
    #[serde(rename = "eventId", default)]
    pub event_id: Option<String>,
    /// The stake.
    #[serde(default)]
    pub stake_cents: Option<i64>,
    /// The odds that the better saw.
    #[serde(default)]
    pub odd_value: Option<f64>,
}

/// Why a body is not a question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConfirmRequest {
    /// No JSON, or a field is missing or of the wrong kind.
    #[error("not a confirmation request: {0}")]
    Malformed(String),
    /// The id of the bet is empty.
    #[error("betId is empty")]
    NoBetId,
}

/// The supplier's word on a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ConfirmStatus {
    /// It takes the bet.
    Confirmed,
    /// It does not.
    Rejected,
}

impl ConfirmStatus {
    /// Both.
    pub const ALL: [ConfirmStatus; 2] = [ConfirmStatus::Confirmed, ConfirmStatus::Rejected];

    /// A word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            ConfirmStatus::Confirmed => "confirmed",
            ConfirmStatus::Rejected => "rejected",
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfirmResponse {
    /// Whether it takes the bet.
    pub status: ConfirmStatus,
    /// What the supplier calls the bet.
    pub provider_ref: String,
    /// Why not, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl ConfirmRequest {
    /// Reads a body. Unknown fields are ignored: each platform sends more than the original does.
    pub fn from_json(body: &[u8]) -> Result<ConfirmRequest, BadConfirmRequest> {
        let request: ConfirmRequest = json::from_slice(body)
            .map_err(|error| BadConfirmRequest::Malformed(error.to_string()))?;
        if request.bet_id.is_empty() {
            Err(BadConfirmRequest::NoBetId)
        } else {
            Ok(request)
        }
    }
}

/// Whether a bet is one of those that are rejected, which are this share of all. Decided by its id
/// alone, so that the answer outlives restarts and does not depend on a seed.
pub fn is_rejected(bet_id: &str, reject_share: f64) -> bool {
    let hash = stable_hash(bet_id.as_bytes());
    // In hundredths of all bets, and ten thousandths of those.
    let place = (hash % 100) as f64 + (hash / 100 % 10_000) as f64 / 10_000.0;
    place >= 100.0 - 100.0 * reject_share
}

impl ConfirmResponse {
    /// What is answered for a bet; `rejected` says why, where it is not taken.
    pub fn new(bet_id: &str, rejected: Option<&'static str>) -> ConfirmResponse {
        ConfirmResponse {
            status: if rejected.is_none() {
                ConfirmStatus::Confirmed
            } else {
                ConfirmStatus::Rejected
            },
            provider_ref: format!("SUP-{}", bet_id.chars().take(8).collect::<String>()),
            reason: rejected,
        }
    }
}

/// FNV-1a, stirred at the end so that ids which differ only in their last characters spread too.
/// The standard library's hasher may change with its version; this one stays.
fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
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
    fn the_answers_on_the_wire_stay_as_they_are_for_ever() {
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
    fn four_of_five_are_taken() {
        let taken = (0..10_000)
            .filter(|bet| confirm(&format!("bet-{bet}")).status == ConfirmStatus::Confirmed)
            .count();
        assert!((7_800..8_200).contains(&taken), "{taken}");
    }

    #[test]
    fn any_share_is_rejected_and_a_greater_one_rejects_those_of_a_smaller_one_too() {
        let rejected = |share| {
            (0..10_000)
                .filter(|bet| is_rejected(&format!("bet-{bet}"), share))
                .collect::<Vec<_>>()
        };
        assert_eq!((rejected(0.0).len(), rejected(1.0).len()), (0, 10_000));
        let (small, great) = (rejected(0.005), rejected(0.5));
        assert!((20..90).contains(&small.len()), "{}", small.len());
        assert!((4_700..5_300).contains(&great.len()), "{}", great.len());
        assert!(small.iter().all(|bet| great.contains(bet)));
    }

    #[test]
    fn reads_what_the_original_sends() {
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
    fn refuses_what_is_no_question() {
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
        fn the_same_bet_gets_the_same_answer_and_no_id_panics(bet_id in ".{0,20}") {
            let answer = confirm(&bet_id);
            prop_assert_eq!(&answer, &confirm(&bet_id));
            prop_assert!(answer.provider_ref.strip_prefix("SUP-").is_some_and(|rest| bet_id.starts_with(rest)));
            prop_assert_eq!(answer.reason.is_some(), answer.status == ConfirmStatus::Rejected);
        }

        #[test]
        fn any_body_is_read_or_refused_but_never_panics(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = ConfirmRequest::from_json(&body);
        }
    }
}
