//! Decides whether the supplier confirms a bet: four of five by default, and always the same answer
//! for the same bet.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};

use crate::domain::json;

/// The request body of `POST /supplier/confirm`. As in the original, only its shape is checked,
/// except that the bet id must not be empty.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct ConfirmRequest {
    /// The bet id.
    #[serde(rename = "betId")]
    pub bet_id: String,
    /// The user who placed the bet.
    #[serde(rename = "userId", default)]
    pub user_id: Option<String>,
    /// The event of the bet.
    #[serde(rename = "eventId", default)]
    pub event_id: Option<String>,
    /// The stake, in cents.
    #[serde(default)]
    pub stake_cents: Option<i64>,
    /// The odds that the bettor saw.
    #[serde(default)]
    pub odd_value: Option<f64>,
}

/// Why a body is not a confirmation request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadConfirmRequest {
    /// Not JSON, or a field is missing or has the wrong type.
    #[error("not a confirmation request: {0}")]
    Malformed(String),
    /// The bet id is empty.
    #[error("betId is empty")]
    NoBetId,
}

/// The supplier's decision on a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[derive(Serialize, IntoStaticStr, VariantNames)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "lowercase")]
pub enum ConfirmStatus {
    /// The bet is confirmed.
    Confirmed,
    /// The bet is rejected.
    Rejected,
}

impl ConfirmStatus {
    /// The label value in metrics.
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// The response of `POST /supplier/confirm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConfirmResponse {
    /// The decision.
    pub status: ConfirmStatus,
    /// The supplier's reference of the bet.
    pub provider_ref: String,
    /// The reason, if the bet is rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl ConfirmRequest {
    /// Parses a body. Unknown fields are ignored: each platform sends more than the original does.
    pub(crate) fn from_json(body: &[u8]) -> Result<ConfirmRequest, BadConfirmRequest> {
        let request: ConfirmRequest = json::from_slice(body)
            .map_err(|error| BadConfirmRequest::Malformed(error.to_string()))?;
        if request.bet_id.is_empty() {
            Err(BadConfirmRequest::NoBetId)
        } else {
            Ok(request)
        }
    }
}

/// Whether a bet belongs to the fraction that is rejected. Depends on its id alone, so that the
/// answer survives restarts and does not depend on a seed.
pub(crate) fn is_rejected(bet_id: &str, reject_share: f64) -> bool {
    let hash = stable_hash(bet_id.as_bytes());
    // A percentile from 0 to 100 with four decimal places.
    let place = (hash % 100) as f64 + (hash / 100 % 10_000) as f64 / 10_000.0;
    place >= 100.0 - 100.0 * reject_share
}

impl ConfirmResponse {
    /// Creates the response for a bet; `rejected` is the reason if it is rejected.
    pub(crate) fn new(bet_id: &str, rejected: Option<&'static str>) -> ConfirmResponse {
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

/// FNV-1a with a final mixing step, so that ids that differ only in their last characters spread
/// too. The standard library's hasher may change with its version; this one does not.
fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests;
