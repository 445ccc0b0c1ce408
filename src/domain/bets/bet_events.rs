//! Bet events on the bus: `bet_placed`, `bet_confirmed` and `bet_settled`, each keyed by bet id.
//!
//! The first two use the original's JSON. The original writes `bet_placed` in camelCase, but its reader
//! expects snake_case for two of the fields, so those two are written in both spellings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strum::{IntoStaticStr, VariantNames};

use super::bet::{Bet, BetId, BetOutcome, BetStatus};
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId, UserId};
use crate::domain::odds::price::{Line, Price};
use crate::domain::settlement::payout::SettledAs;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;

/// Maximum length, in characters, of foreign text quoted in an error.
const MAX_SHOWN: usize = 200;

/// A record of `bet_placed`, as read from the bus. The bet itself is in the database; these are the
/// values in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BetPlaced {
    /// The bet.
    pub bet_id: BetId,
    /// Who placed it.
    pub user_id: UserId,
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
    /// The selection.
    pub selection: SelectionId,
    /// The stake.
    pub stake: Amount,
    /// The price.
    pub price: Price,
    /// The reference of the stake's reservation.
    pub reserved_ref: Option<String>,
    /// When it was placed, if the record says so.
    pub placed_at: Option<Timestamp>,
}

/// Why a record is not a `bet_placed`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum BadBetPlaced {
    /// Not a JSON object.
    #[error("not a JSON object: {0}")]
    Malformed(String),
    /// A field is missing, or null.
    #[error("{0} is missing")]
    #[strum(to_string = "missing_field")]
    Missing(&'static str),
    /// A field has an invalid value.
    #[error("{field}: {problem}")]
    #[strum(to_string = "invalid_field")]
    Invalid {
        /// The field, as spelled in the record.
        field: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// A field is present in both spellings with different values.
    #[error("{0} and {1} differ")]
    Conflict(&'static str, &'static str),
}

impl BadBetPlaced {
    /// The kind of error, as a label.
    pub fn reason(&self) -> &'static str {
        self.into()
    }
}

impl BetPlaced {
    /// Reads a record in camelCase, snake_case or a mixture. Unknown fields are ignored.
    pub fn from_json(json: &[u8]) -> Result<BetPlaced, BadBetPlaced> {
        let fields = serde_json::from_slice(json)
            .map_err(|error| BadBetPlaced::Malformed(shorten(&error)))?;
        let fields = Fields(fields);
        // Neither our records nor the original's have a `type`, so a record with one is of another
        // kind.
        if fields
            .0
            .get("type")
            .is_some_and(|kind| kind.get() != "null")
        {
            return Err(invalid("type", &"a placed bet has no type"));
        }
        let bet_id: String = fields.required("betId", "bet_id")?;
        let bet_id = bet_id
            .parse()
            .map_err(|error| invalid("betId", &format_args!("not a UUID: {error}")))?;
        Ok(BetPlaced {
            bet_id,
            user_id: fields.required("userId", "user_id")?,
            event_id: fields.required("eventId", "event_id")?,
            market: MarketKey {
                name: fields.required::<MarketName>("market", "market")?,
                line: fields.optional::<Line>("line", "line")?,
            },
            selection: fields.required("selection", "selection")?,
            stake: fields.required("stakeCents", "stake_cents")?,
            price: fields.required("oddValue", "odd_value")?,
            // The name used by the original's worker.
            reserved_ref: match fields.optional("reservedRef", "reserved_ref")? {
                None => fields.optional("reservedId", "reserved_id")?,
                some => some,
            },
            placed_at: match fields.optional::<i64>("tsUnixMs", "ts_unix_ms")? {
                None => fields.optional("createdAt", "created_at")?,
                some => some,
            }
            .and_then(Timestamp::from_millis),
        })
    }
}

/// The fields of a record, each as raw JSON text, so that numbers keep every digit.
struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    fn required<T: Deserialize<'a> + PartialEq>(
        &self,
        camel: &'static str,
        snake: &'static str,
    ) -> Result<T, BadBetPlaced> {
        self.optional(camel, snake)?
            .ok_or(BadBetPlaced::Missing(camel))
    }

    fn optional<T: Deserialize<'a> + PartialEq>(
        &self,
        camel: &'static str,
        snake: &'static str,
    ) -> Result<Option<T>, BadBetPlaced> {
        match (self.one::<T>(camel)?, self.one::<T>(snake)?) {
            (Some(one), Some(other)) if one != other => Err(BadBetPlaced::Conflict(camel, snake)),
            (one, other) => Ok(one.or(other)),
        }
    }

    fn one<T: Deserialize<'a>>(&self, field: &'static str) -> Result<Option<T>, BadBetPlaced> {
        let Some(text) = self
            .0
            .get(field)
            .map(|value| value.get())
            .filter(|text| *text != "null")
        else {
            return Ok(None);
        };
        serde_json::from_str(text)
            .map(Some)
            .map_err(|error| invalid(field, &error))
    }
}

fn invalid(field: &'static str, problem: &dyn std::fmt::Display) -> BadBetPlaced {
    BadBetPlaced::Invalid {
        field,
        problem: shorten(problem),
    }
}

fn shorten(text: &dyn std::fmt::Display) -> String {
    text.to_string().chars().take(MAX_SHOWN).collect()
}

#[derive(Serialize)]
struct PlacedJson<'a> {
    #[serde(rename = "betId")]
    bet_id: BetId,
    #[serde(rename = "userId")]
    user_id: &'a UserId,
    #[serde(rename = "eventId")]
    event_id: &'a EventId,
    market: &'a MarketName,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<Line>,
    selection: &'a SelectionId,
    #[serde(rename = "stakeCents")]
    stake: Amount,
    #[serde(rename = "oddValue")]
    price: Price,
    #[serde(rename = "reservedRef")]
    reserved_ref: BetId,
    #[serde(rename = "tsUnixMs")]
    placed_at: i64,
    // The original's worker reads these.
    stake_cents: Amount,
    odd_value: Price,
}

/// Builds the `bet_placed` record of a bet.
pub fn bet_placed(bet: &Bet) -> String {
    to_json(&PlacedJson {
        bet_id: bet.id,
        user_id: &bet.user_id,
        event_id: &bet.event_id,
        market: &bet.market.name,
        line: bet.market.line,
        selection: &bet.selection,
        stake: bet.stake,
        price: bet.price,
        reserved_ref: bet.id,
        placed_at: bet.placed_at.micros().div_euclid(1_000),
        stake_cents: bet.stake,
        odd_value: bet.price,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfirmedJson<'a> {
    bet_id: BetId,
    user_id: &'a UserId,
    status: BetStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_ref: Option<&'a str>,
    ts: Timestamp,
}

/// Builds the `bet_confirmed` record of a bet decided now.
pub fn bet_confirmed(bet: &Bet, outcome: &BetOutcome, now: Timestamp) -> String {
    to_json(&ConfirmedJson {
        bet_id: bet.id,
        user_id: &bet.user_id,
        status: outcome.status(),
        reason: outcome.reason(),
        provider_ref: outcome.provider_ref(),
        ts: now,
    })
}

/// What a settlement did to a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledBet<'a> {
    /// The bet.
    pub bet_id: BetId,
    /// Who placed it.
    pub user_id: &'a UserId,
    /// How it is settled; `None` if it is open again.
    pub outcome: Option<SettledAs>,
    /// What it has been paid in all, in cents.
    pub payout_cents: i64,
    /// By how much that changed.
    pub difference_cents: i64,
    /// The number of the settlement: 1 for the first of the bet.
    pub n: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SettledJson<'a> {
    bet_id: BetId,
    user_id: &'a UserId,
    status: BetStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    payout_cents: i64,
    difference_cents: i64,
    n: u32,
    ts: Timestamp,
}

/// Builds the `bet_settled` record of a bet settled, or opened again, now.
pub fn bet_settled(settled: &SettledBet<'_>, now: Timestamp) -> String {
    to_json(&SettledJson {
        bet_id: settled.bet_id,
        user_id: settled.user_id,
        status: match settled.outcome {
            Some(_) => BetStatus::Settled,
            None => BetStatus::Confirmed,
        },
        outcome: settled.outcome.map(<&str>::from),
        payout_cents: settled.payout_cents,
        difference_cents: settled.difference_cents,
        n: settled.n,
        ts: now,
    })
}

fn to_json<T: Serialize>(record: &T) -> String {
    // Serializing strings and numbers to memory cannot fail.
    serde_json::to_string(record).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod testing {
    //! Bets for tests.

    use std::time::Duration;

    use super::*;

    /// A timestamp `time` after `at`.
    pub(crate) fn after(at: Timestamp, time: Duration) -> Timestamp {
        Timestamp::from_micros(at.micros() + time.as_micros() as i64).unwrap()
    }

    /// A pending bet placed at `placed_at` that must be decided within `decide_within`.
    pub(crate) fn pending_bet(placed_at: Timestamp, decide_within: Duration) -> Bet {
        Bet {
            id: BetId::new(),
            user_id: UserId::new("USER_001").unwrap(),
            event_id: EventId::new("MATCH_001").unwrap(),
            market: MarketKey {
                name: MarketName::new("total_goals").unwrap(),
                line: "2.5".parse().ok(),
            },
            selection: SelectionId::new("over").unwrap(),
            stake: Amount::new(1_500).unwrap(),
            price: "1.63".parse().unwrap(),
            status: BetStatus::Pending,
            reason: None,
            provider_ref: None,
            placed_at,
            decide_by: after(placed_at, decide_within),
            decided_at: None,
            settlement: None,
        }
    }
}

#[cfg(test)]
mod tests;
