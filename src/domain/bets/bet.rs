//! Bets: the request, the check against current prices, and the outcome.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantNames};
use uuid::Uuid;

use crate::domain::ids::{EventId, MarketKey, SelectionId, Source, UserId};
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::price::Price;
use crate::domain::odds::restrictions::{Restriction, Restrictions};
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::settlement::payout::SettledAs;
use crate::domain::timestamp::Timestamp;
use crate::domain::unknown_variant::UnknownVariant;
use crate::domain::wallet::amount::Amount;

/// A bet's id: a UUID, version 7 if this platform created it. It is also the key of the bet's
/// records on the bus, the reference of its reservation, and the id sent to the supplier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct BetId(pub Uuid);

impl BetId {
    /// Creates an id. Later ids are greater within a process, and nearly so across processes.
    pub fn new() -> BetId {
        BetId(Uuid::now_v7())
    }
}

impl Default for BetId {
    fn default() -> BetId {
        BetId::new()
    }
}

impl fmt::Display for BetId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FromStr for BetId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<BetId, uuid::Error> {
        Ok(BetId(text.parse()?))
    }
}

/// Status of a bet. It starts as pending. `REJECTED` is final. A confirmed bet is settled when the result of
/// its market is known, settled again when the result changes, and open again when it is withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Serialize, Deserialize, Display, EnumString, IntoStaticStr)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE", parse_err_ty = UnknownVariant, parse_err_fn = unknown_bet_status)]
pub enum BetStatus {
    /// The supplier has not answered yet; the stake is held.
    #[serde(rename = "PENDING_CONFIRMATION")]
    #[strum(to_string = "PENDING_CONFIRMATION")]
    Pending,
    /// The supplier accepted the bet; the stake is at risk until the market is settled.
    Confirmed,
    /// The bet was not accepted; the stake is returned to the user.
    Rejected,
    /// The result is known and paid.
    Settled,
}

impl BetStatus {
    /// The text on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_bet_status(text: &str) -> UnknownVariant {
    UnknownVariant::new("bet status", text)
}

/// Which price changes, between display and placement, the user accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Serialize, Deserialize, Display, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_odds_change)]
pub enum OddsChange {
    /// No change: the price must equal the displayed one.
    #[default]
    None,
    /// A higher price is accepted too.
    Higher,
    /// Any price is accepted.
    Any,
}

fn unknown_odds_change(text: &str) -> UnknownVariant {
    UnknownVariant::new("policy for changed odds", text)
}

/// Rejection reason if the platform, not the supplier, rejected the bet: no answer came in time.
pub const SUPPLIER_TIMEOUT: &str = "SUPPLIER_TIMEOUT";

/// A request to place a bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BetRequest {
    /// The user.
    pub user_id: UserId,
    /// The event.
    pub event_id: EventId,
    /// The market of the event.
    pub market: MarketKey,
    /// The selection. `1`, `X` and `2` mean home, draw and away if the market has no selections
    /// with those ids.
    pub selection: SelectionId,
    /// The stake.
    pub stake: Amount,
    /// The price displayed to the user.
    pub price: Price,
    /// Which other prices the user accepts.
    pub odds_change: OddsChange,
}

/// A bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bet {
    /// Its id.
    pub id: BetId,
    /// Who placed it.
    pub user_id: UserId,
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
    /// The selection id used by the market.
    pub selection: SelectionId,
    /// The stake.
    pub stake: Amount,
    /// The price at which it was accepted.
    pub price: Price,
    /// Its status.
    pub status: BetStatus,
    /// The reason for a rejection.
    pub reason: Option<String>,
    /// The supplier's reference.
    pub provider_ref: Option<String>,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it is rejected if no answer has arrived.
    pub decide_by: Timestamp,
    /// When the supplier's answer was stored.
    pub decided_at: Option<Timestamp>,
    /// What the results so far paid; set while the status is settled.
    pub settlement: Option<BetSettlement>,
}

/// How a bet is settled by the results so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BetSettlement {
    /// What happened to it.
    pub outcome: SettledAs,
    /// What it has been paid in all, in cents, including returned stake.
    pub payout_cents: i64,
    /// When it was settled last.
    pub settled_at: Timestamp,
}

/// A status change of a bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BetStep {
    /// The previous status; `None` for the placement.
    pub from: Option<BetStatus>,
    /// The new status.
    pub to: BetStatus,
    /// The reason, if there is one.
    pub reason: Option<String>,
    /// When it happened.
    pub at: Timestamp,
}

/// The decision on a bet.
#[derive(Clone, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum BetOutcome {
    /// The supplier accepted it.
    Confirmed {
        /// The supplier's reference.
        provider_ref: String,
    },
    /// The supplier rejected it.
    Rejected {
        /// The reason.
        reason: String,
        /// The supplier's reference.
        provider_ref: String,
    },
    /// No answer came in time. The bet is rejected, and the supplier is asked to cancel it in case
    /// it was accepted there.
    #[strum(to_string = "supplier_timeout")]
    TimedOut,
}

impl BetOutcome {
    /// The metric label.
    pub fn label(&self) -> &'static str {
        self.into()
    }

    /// The status after this decision.
    pub fn status(&self) -> BetStatus {
        match self {
            BetOutcome::Confirmed { .. } => BetStatus::Confirmed,
            BetOutcome::Rejected { .. } | BetOutcome::TimedOut => BetStatus::Rejected,
        }
    }

    /// The reason for a rejection.
    pub fn reason(&self) -> Option<&str> {
        match self {
            BetOutcome::Confirmed { .. } => None,
            BetOutcome::Rejected { reason, .. } => Some(reason),
            BetOutcome::TimedOut => Some(SUPPLIER_TIMEOUT),
        }
    }

    /// The supplier's reference, if it sent one.
    pub fn provider_ref(&self) -> Option<&str> {
        match self {
            BetOutcome::Confirmed { provider_ref } | BetOutcome::Rejected { provider_ref, .. } => {
                Some(provider_ref.as_str()).filter(|text| !text.is_empty())
            }
            BetOutcome::TimedOut => None,
        }
    }
}

/// The limits of a bet, in cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BetLimits {
    /// The minimum stake.
    pub min_stake: Amount,
    /// The maximum stake.
    pub max_stake: Amount,
    /// The maximum payout, including the stake.
    pub max_payout: Amount,
}

/// Why a bet is refused. Stored with its idempotency key, so this is also the database format.
#[derive(Clone, Debug, PartialEq, Eq)]
#[derive(Serialize, Deserialize, IntoStaticStr, VariantNames, thiserror::Error)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum BetRefusal {
    /// The event does not exist.
    #[error("event `{event}` not found")]
    EventNotFound {
        /// The requested id.
        event: String,
    },
    /// The event has no such market.
    #[error("the event has no market `{market}`")]
    MarketNotFound {
        /// The requested market.
        market: String,
    },
    /// The market has no such selection.
    #[error("the market has no selection `{selection}`")]
    SelectionNotFound {
        /// The requested selection.
        selection: String,
    },
    /// The market is not open.
    #[error("the market is {status}")]
    MarketSuspended {
        /// Its status.
        status: MarketStatus,
    },
    /// The source of the market is not live, so its price may be stale.
    #[error("the supplier of the market is not heard, so its price may be stale")]
    MarketStale,
    /// The selection is not active, or has no price.
    #[error("the selection is {status}")]
    SelectionSuspended {
        /// Its status.
        status: SelectionStatus,
    },
    /// The price has changed, and the user does not accept the new one.
    #[error("the price is now {odd_value}")]
    OddsChanged {
        /// The current price.
        odd_value: Price,
    },
    /// The stake is below the minimum.
    #[error("the minimum stake is {limit_cents} cents")]
    StakeTooLow {
        /// The minimum stake.
        limit_cents: Amount,
    },
    /// The stake is above the maximum.
    #[error("the maximum stake is {limit_cents} cents")]
    StakeTooHigh {
        /// The maximum stake.
        limit_cents: Amount,
    },
    /// The possible payout is above the maximum.
    #[error("the maximum payout is {limit_cents} cents")]
    PayoutTooHigh {
        /// The maximum payout.
        limit_cents: Amount,
    },
    /// The user has no wallet.
    #[error("the user has no wallet; a deposit creates one")]
    WalletNotFound,
    /// The user's available balance is below the stake.
    #[error("the available balance is below the stake")]
    InsufficientFunds,
}

impl BetRefusal {
    /// The error code in the response.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}

/// The accepted part of a request: the selection id used by the market, and the current price with
/// its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The selection.
    pub selection: SelectionId,
    /// The price.
    pub price: Price,
    /// The source of the price.
    pub source: Source,
}

/// Checks whether a bet can be accepted at the prices in the event's book, and at what price.
/// `restrictions` were read after the book.
pub fn check(
    request: &BetRequest,
    book: &Snapshot,
    restrictions: &Restrictions,
    limits: &BetLimits,
) -> Result<Offer, BetRefusal> {
    check_stake(request.stake, limits)?;
    if book.markets.is_empty() {
        return Err(BetRefusal::EventNotFound {
            event: request.event_id.to_string(),
        });
    }
    let market = book
        .markets
        .iter()
        .find(|state| state.update.market == request.market);
    let market = market.ok_or_else(|| BetRefusal::MarketNotFound {
        market: request.market.to_string(),
    })?;
    let offer = offer(request, market, restrictions)?;
    if request.stake.payout_at(offer.price) > i128::from(limits.max_payout.cents()) {
        return Err(BetRefusal::PayoutTooHigh {
            limit_cents: limits.max_payout,
        });
    }
    Ok(offer)
}

fn check_stake(stake: Amount, limits: &BetLimits) -> Result<(), BetRefusal> {
    if stake < limits.min_stake {
        return Err(BetRefusal::StakeTooLow {
            limit_cents: limits.min_stake,
        });
    }
    if stake > limits.max_stake {
        return Err(BetRefusal::StakeTooHigh {
            limit_cents: limits.max_stake,
        });
    }
    Ok(())
}

fn offer(
    request: &BetRequest,
    market: &Arc<MarketState>,
    restrictions: &Restrictions,
) -> Result<Offer, BetRefusal> {
    let market = restrictions.shown(market);
    let selections = &market.update.selections;
    let named = |id: &str| {
        selections
            .iter()
            .find(|selection| selection.id.as_str() == id)
    };
    let requested = request.selection.as_str();
    let selection = named(requested).or_else(|| named(long_name(requested)?));
    let selection = selection.ok_or_else(|| BetRefusal::SelectionNotFound {
        selection: requested.to_owned(),
    })?;
    if restrictions.on_market(&market) == Some(Restriction::Stale) {
        return Err(BetRefusal::MarketStale);
    }
    if market.update.status != MarketStatus::Open {
        return Err(BetRefusal::MarketSuspended {
            status: market.update.status,
        });
    }
    let price = selection
        .price
        .filter(|_| selection.status == SelectionStatus::Active)
        .ok_or({
            // Without a price the selection cannot be backed, whatever its status.
            let status = selection.status;
            BetRefusal::SelectionSuspended {
                status: if status == SelectionStatus::Active {
                    SelectionStatus::Suspended
                } else {
                    status
                },
            }
        })?;
    let is_accepted = match request.odds_change {
        OddsChange::None => price == request.price,
        OddsChange::Higher => price >= request.price,
        OddsChange::Any => true,
    };
    if is_accepted {
        Ok(Offer {
            selection: selection.id.clone(),
            price,
            source: market.update.source.clone(),
        })
    } else {
        Err(BetRefusal::OddsChanged { odd_value: price })
    }
}

/// Maps the short names on a betting slip to selection ids.
fn long_name(selection: &str) -> Option<&'static str> {
    match selection {
        "1" => Some("home"),
        "X" | "x" => Some("draw"),
        "2" => Some("away"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
