//! Bets: the request, the check against current prices, and the outcome.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::ids::{EventId, MarketKey, SelectionId, UserId};
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::price::Price;
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::string_enum::string_enum;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;

/// A bet's id: a UUID, version 7 if this platform created it. It is also the key of the bet's
/// records on the bus, the reference of its reservation, and the id sent to the supplier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

string_enum! {
    /// Status of a bet. A bet starts as pending and ends in exactly one of the other states.
    BetStatus, "bet status", {
        /// The supplier has not answered yet; the stake is held.
        Pending = "PENDING_CONFIRMATION",
        /// The supplier accepted the bet; the stake belongs to the house.
        Confirmed = "CONFIRMED",
        /// The bet was not accepted; the stake is returned to the user.
        Rejected = "REJECTED",
    }
}

string_enum! {
    /// Which price changes, between display and placement, the user accepts.
    #[derive(Default)]
    OddsChange, "policy for changed odds", {
        /// No change: the price must equal the displayed one.
        #[default]
        None = "none",
        /// A higher price is accepted too.
        Higher = "higher",
        /// Any price is accepted.
        Any = "any",
    }
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
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    TimedOut,
}

impl BetOutcome {
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
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
    /// Every code.
    pub const CODES: [&str; 11] = [
        "EVENT_NOT_FOUND",
        "MARKET_NOT_FOUND",
        "SELECTION_NOT_FOUND",
        "MARKET_SUSPENDED",
        "SELECTION_SUSPENDED",
        "ODDS_CHANGED",
        "STAKE_TOO_LOW",
        "STAKE_TOO_HIGH",
        "PAYOUT_TOO_HIGH",
        "WALLET_NOT_FOUND",
        "INSUFFICIENT_FUNDS",
    ];

    /// The error code in the response.
    pub fn code(&self) -> &'static str {
        match self {
            BetRefusal::EventNotFound { .. } => "EVENT_NOT_FOUND",
            BetRefusal::MarketNotFound { .. } => "MARKET_NOT_FOUND",
            BetRefusal::SelectionNotFound { .. } => "SELECTION_NOT_FOUND",
            BetRefusal::MarketSuspended { .. } => "MARKET_SUSPENDED",
            BetRefusal::SelectionSuspended { .. } => "SELECTION_SUSPENDED",
            BetRefusal::OddsChanged { .. } => "ODDS_CHANGED",
            BetRefusal::StakeTooLow { .. } => "STAKE_TOO_LOW",
            BetRefusal::StakeTooHigh { .. } => "STAKE_TOO_HIGH",
            BetRefusal::PayoutTooHigh { .. } => "PAYOUT_TOO_HIGH",
            BetRefusal::WalletNotFound => "WALLET_NOT_FOUND",
            BetRefusal::InsufficientFunds => "INSUFFICIENT_FUNDS",
        }
    }
}

/// The accepted part of a request: the selection id used by the market, and the current price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The selection.
    pub selection: SelectionId,
    /// The price.
    pub price: Price,
}

/// Checks whether a bet can be accepted at the prices in the event's book, and at what price.
pub fn check(
    request: &BetRequest,
    book: &Snapshot,
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
    let offer = offer(request, market)?;
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

fn offer(request: &BetRequest, market: &MarketState) -> Result<Offer, BetRefusal> {
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
mod tests {
    use std::sync::{Arc, LazyLock};

    use pretty_assertions::assert_eq;
    use rstest::rstest;

    use super::*;
    use crate::domain::ids::MarketName;
    use crate::domain::odds::update::OddsUpdate;
    use crate::domain::odds::update::testing::market_update;
    use crate::domain::odds::version_stamp::VersionStamp;

    static LIMITS: LazyLock<BetLimits> = LazyLock::new(|| BetLimits {
        min_stake: cents(100),
        max_stake: cents(100_000),
        max_payout: cents(1_000_000),
    });

    fn cents(cents: i64) -> Amount {
        Amount::new(cents).unwrap()
    }

    fn request() -> BetRequest {
        BetRequest {
            user_id: UserId::new("USER_001").unwrap(),
            event_id: EventId::new("E").unwrap(),
            market: MarketKey {
                name: MarketName::new("1x2").unwrap(),
                line: None,
            },
            selection: SelectionId::new("draw").unwrap(),
            stake: cents(1_000),
            price: "3.2".parse().unwrap(),
            odds_change: OddsChange::None,
        }
    }

    fn book(update: OddsUpdate) -> Snapshot {
        let markets = vec![Arc::new(MarketState { update, seq: 1 })];
        let event_id = EventId::new("E").unwrap();
        Snapshot {
            event_id,
            seq: 1,
            markets,
            is_stale: false,
            validity: VersionStamp::default(),
        }
    }

    /// home 1.201, draw 3.2, away 4.5
    fn open() -> OddsUpdate {
        market_update("E", "1x2", None, 1, 1)
    }

    fn code(refused: Result<Offer, BetRefusal>) -> String {
        match refused {
            Ok(offer) => format!("{} {}", offer.selection, offer.price),
            Err(refusal) => {
                // A refusal stored in a database reads back with the same code.
                let stored = serde_json::to_string(&refusal).unwrap();
                assert_eq!(
                    serde_json::from_str::<BetRefusal>(&stored).unwrap(),
                    refusal
                );
                assert!(
                    stored.contains(&format!("\"{}\"", refusal.code())),
                    "{stored}"
                );
                assert!(BetRefusal::CODES.contains(&refusal.code()));
                refusal.code().to_owned()
            }
        }
    }

    #[test]
    fn bet_is_accepted_at_current_price() {
        assert_eq!(code(check(&request(), &book(open()), &LIMITS)), "draw 3.2");
    }

    #[rstest]
    #[case("1", "1.201", "home 1.201")]
    #[case("X", "3.2", "draw 3.2")]
    #[case("x", "3.2", "draw 3.2")]
    #[case("2", "4.5", "away 4.5")]
    #[case("away", "4.500", "away 4.5")]
    #[case("3", "4.5", "SELECTION_NOT_FOUND")]
    #[case("Home", "1.201", "SELECTION_NOT_FOUND")]
    fn selection_has_short_name(#[case] requested: &str, #[case] price: &str, #[case] taken: &str) {
        let selection = SelectionId::new(requested).unwrap();
        let request = BetRequest {
            selection,
            price: price.parse().unwrap(),
            ..request()
        };
        assert_eq!(code(check(&request, &book(open()), &LIMITS)), taken);
    }

    #[rstest]
    #[case(OddsChange::None, ["ODDS_CHANGED", "draw 3.2", "ODDS_CHANGED"])]
    #[case(OddsChange::Higher, ["draw 3.2", "draw 3.2", "ODDS_CHANGED"])]
    #[case(OddsChange::Any, ["draw 3.2", "draw 3.2", "draw 3.2"])]
    fn user_chooses_accepted_prices(#[case] odds_change: OddsChange, #[case] taken: [&str; 3]) {
        // The displayed price was lower, equal or higher, by a thousandth.
        let prices = ["3.199", "3.2", "3.201"];
        let check = |price: &str| {
            let request = BetRequest {
                price: price.parse().unwrap(),
                odds_change,
                ..request()
            };
            code(check(&request, &book(open()), &LIMITS))
        };
        assert_eq!(prices.map(check), taken);
    }

    #[test]
    fn refusal_contains_current_price() {
        let request = BetRequest {
            price: "3".parse().unwrap(),
            ..request()
        };
        let refused = check(&request, &book(open()), &LIMITS).unwrap_err();
        assert_eq!(
            serde_json::to_string(&refused).unwrap(),
            r#"{"ODDS_CHANGED":{"odd_value":3.2}}"#
        );
        assert_eq!(refused.to_string(), "the price is now 3.2");
        for stored in ["\"INSUFFICIENT_FUNDS\"", "\"WALLET_NOT_FOUND\""] {
            assert_eq!(
                format!(
                    "\"{}\"",
                    serde_json::from_str::<BetRefusal>(stored).unwrap().code()
                ),
                stored
            );
        }
    }

    #[test]
    fn inactive_market_or_selection_is_refused() {
        for status in MarketStatus::ALL
            .iter()
            .copied()
            .filter(|status| *status != MarketStatus::Open)
        {
            let refused = check(&request(), &book(OddsUpdate { status, ..open() }), &LIMITS);
            assert_eq!(refused, Err(BetRefusal::MarketSuspended { status }));
        }
        for status in SelectionStatus::ALL
            .iter()
            .copied()
            .filter(|status| *status != SelectionStatus::Active)
        {
            let mut update = open();
            update.selections[1].status = status;
            assert_eq!(
                check(&request(), &book(update), &LIMITS),
                Err(BetRefusal::SelectionSuspended { status })
            );
        }
        let mut update = open();
        update.selections[1].price = None;
        assert_eq!(
            code(check(&request(), &book(update), &LIMITS)),
            "SELECTION_SUSPENDED"
        );
    }

    #[test]
    fn unknown_ids_are_named() {
        let nothing = Snapshot {
            markets: Vec::new(),
            ..book(open())
        };
        assert_eq!(
            code(check(&request(), &nothing, &LIMITS)),
            "EVENT_NOT_FOUND"
        );
        let line = MarketKey {
            line: "2.5".parse().ok(),
            ..request().market
        };
        assert_eq!(
            code(check(
                &BetRequest {
                    market: line,
                    ..request()
                },
                &book(open()),
                &LIMITS
            )),
            "MARKET_NOT_FOUND"
        );
    }

    #[rstest]
    #[case(99, "STAKE_TOO_LOW")]
    #[case(100, "draw 3.2")]
    #[case(100_000, "draw 3.2")]
    #[case(100_001, "STAKE_TOO_HIGH")]
    fn stake_has_limits(#[case] stake: i64, #[case] taken: &str) {
        assert_eq!(
            code(check(
                &BetRequest {
                    stake: cents(stake),
                    ..request()
                },
                &book(open()),
                &LIMITS
            )),
            taken
        );
    }

    #[rstest]
    #[case(31_250, "draw 3.2")]
    #[case(31_251, "PAYOUT_TOO_HIGH")]
    fn payout_has_a_limit(#[case] stake: i64, #[case] taken: &str) {
        let limits = BetLimits {
            max_payout: cents(100_000),
            ..*LIMITS
        };
        assert_eq!(
            code(check(
                &BetRequest {
                    stake: cents(stake),
                    ..request()
                },
                &book(open()),
                &limits
            )),
            taken
        );
    }
}
