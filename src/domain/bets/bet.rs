//! Bets: what is asked for, whether it may be taken at the price of the moment, and how it ends.

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

/// A bet's id: a UUID, of version 7 where it is ours. Also the key of its records on the bus, the
/// reference of its reservation, and what the supplier knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BetId(pub Uuid);

impl BetId {
    /// A new one; later ones are greater, within a process and nearly so across processes.
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
    /// What has become of a bet. It begins pending and ends in exactly one of the others.
    BetStatus, "bet status", {
        /// The supplier has not answered yet; the stake is held.
        Pending = "PENDING_CONFIRMATION",
        /// The supplier took it; the stake is the house's.
        Confirmed = "CONFIRMED",
        /// It was not taken; the stake is the user's again.
        Rejected = "REJECTED",
    }
}

string_enum! {
    /// Which changes of the price, between the screen and the moment of the bet, the user takes.
    #[derive(Default)]
    OddsChange, "policy for odds that changed", {
        /// None: the price is exactly the one on the screen.
        #[default]
        None = "none",
        /// A higher price, too.
        Higher = "higher",
        /// Whatever the price is.
        Any = "any",
    }
}

/// Why a bet was rejected, where we and not the supplier did it: no answer came in time.
pub const SUPPLIER_TIMEOUT: &str = "SUPPLIER_TIMEOUT";

/// What a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BetRequest {
    /// Who.
    pub user_id: UserId,
    /// On which event.
    pub event_id: EventId,
    /// On which of its markets.
    pub market: MarketKey,
    /// On which selection; `1`, `X`, `2` stand for home, draw and away where the market has no such
    /// ids.
    pub selection: SelectionId,
    /// How much.
    pub stake: Amount,
    /// The price that was on the screen.
    pub price: Price,
    /// Which other prices are taken.
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
    /// The selection, as its market names it.
    pub selection: SelectionId,
    /// The stake.
    pub stake: Amount,
    /// The price that it was taken at.
    pub price: Price,
    /// What has become of it.
    pub status: BetStatus,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// The supplier's reference.
    pub provider_ref: Option<String>,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it is rejected if no answer came.
    pub decide_by: Timestamp,
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
}

/// A step in the life of a bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BetStep {
    /// What it was; nothing before it was placed.
    pub from: Option<BetStatus>,
    /// What it became.
    pub to: BetStatus,
    /// Why, where there is a reason.
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// How a bet is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BetOutcome {
    /// The supplier took it.
    Confirmed {
        /// The supplier's reference.
        provider_ref: String,
    },
    /// The supplier refused it.
    Rejected {
        /// Why.
        reason: String,
        /// The supplier's reference.
        provider_ref: String,
    },
    /// No answer came in time: it is rejected, and the supplier is told to cancel whatever it may
    /// have taken.
    TimedOut,
}

impl BetOutcome {
    /// What the bet becomes.
    pub fn status(&self) -> BetStatus {
        match self {
            BetOutcome::Confirmed { .. } => BetStatus::Confirmed,
            BetOutcome::Rejected { .. } | BetOutcome::TimedOut => BetStatus::Rejected,
        }
    }

    /// Why it was rejected.
    pub fn reason(&self) -> Option<&str> {
        match self {
            BetOutcome::Confirmed { .. } => None,
            BetOutcome::Rejected { reason, .. } => Some(reason),
            BetOutcome::TimedOut => Some(SUPPLIER_TIMEOUT),
        }
    }

    /// The supplier's reference, where it gave one.
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
    /// The lowest stake.
    pub min_stake: Amount,
    /// The highest stake.
    pub max_stake: Amount,
    /// The highest payout, the stake included.
    pub max_payout: Amount,
}

/// Why a bet is not taken. Kept with its idempotency key, so it is also the form in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BetRefusal {
    /// No such event.
    #[error("no event `{event}` is offered")]
    EventNotFound {
        /// As it was asked for.
        event: String,
    },
    /// The event has no such market.
    #[error("the event has no market `{market}`")]
    MarketNotFound {
        /// As it was asked for.
        market: String,
    },
    /// The market has no such selection.
    #[error("the market has no selection `{selection}`")]
    SelectionNotFound {
        /// As it was asked for.
        selection: String,
    },
    /// No bets are taken on the market now.
    #[error("the market is {status}")]
    MarketSuspended {
        /// What it is.
        status: MarketStatus,
    },
    /// No bets are taken on the selection now.
    #[error("the selection is {status}")]
    SelectionSuspended {
        /// What it is.
        status: SelectionStatus,
    },
    /// The price is another one, and the user does not take it.
    #[error("the price is {odd_value} now")]
    OddsChanged {
        /// The price now.
        odd_value: Price,
    },
    /// The stake is below the lowest.
    #[error("the lowest stake is {limit_cents} cents")]
    StakeTooLow {
        /// The lowest stake.
        limit_cents: Amount,
    },
    /// The stake is above the highest.
    #[error("the highest stake is {limit_cents} cents")]
    StakeTooHigh {
        /// The highest stake.
        limit_cents: Amount,
    },
    /// What might have to be paid is above the highest.
    #[error("the highest payout is {limit_cents} cents")]
    PayoutTooHigh {
        /// The highest payout.
        limit_cents: Amount,
    },
    /// The user has no wallet.
    #[error("the user has no wallet; a deposit makes one")]
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

    /// The code in an answer.
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

/// What is taken of a request: the selection as its market names it, and the price of the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The selection.
    pub selection: SelectionId,
    /// The price.
    pub price: Price,
}

/// Whether a bet may be taken at what the book of its event shows, and at what price.
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
    let asked = request.selection.as_str();
    let selection = named(asked).or_else(|| named(long_name(asked)?));
    let selection = selection.ok_or_else(|| BetRefusal::SelectionNotFound {
        selection: asked.to_owned(),
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
            // Without a price nothing can be bought, whatever its status says.
            let status = selection.status;
            BetRefusal::SelectionSuspended {
                status: if status == SelectionStatus::Active {
                    SelectionStatus::Suspended
                } else {
                    status
                },
            }
        })?;
    let is_taken = match request.odds_change {
        OddsChange::None => price == request.price,
        OddsChange::Higher => price >= request.price,
        OddsChange::Any => true,
    };
    if is_taken {
        Ok(Offer {
            selection: selection.id.clone(),
            price,
        })
    } else {
        Err(BetRefusal::OddsChanged { odd_value: price })
    }
}

/// The betting slip's short names.
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
                // What is kept in a database reads back, and is known by the same code.
                let kept = serde_json::to_string(&refusal).unwrap();
                assert_eq!(serde_json::from_str::<BetRefusal>(&kept).unwrap(), refusal);
                assert!(kept.contains(&format!("\"{}\"", refusal.code())), "{kept}");
                assert!(BetRefusal::CODES.contains(&refusal.code()));
                refusal.code().to_owned()
            }
        }
    }

    #[test]
    fn a_bet_is_taken_at_the_price_of_the_moment() {
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
    fn a_selection_has_a_short_name(#[case] asked: &str, #[case] price: &str, #[case] taken: &str) {
        let selection = SelectionId::new(asked).unwrap();
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
    fn the_user_says_which_prices_are_taken(
        #[case] odds_change: OddsChange,
        #[case] taken: [&str; 3],
    ) {
        // The screen showed a lower price, the same, a higher one; by a thousandth.
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
    fn the_price_now_is_told() {
        let request = BetRequest {
            price: "3".parse().unwrap(),
            ..request()
        };
        let refused = check(&request, &book(open()), &LIMITS).unwrap_err();
        assert_eq!(
            serde_json::to_string(&refused).unwrap(),
            r#"{"ODDS_CHANGED":{"odd_value":3.2}}"#
        );
        assert_eq!(refused.to_string(), "the price is 3.2 now");
        for kept in ["\"INSUFFICIENT_FUNDS\"", "\"WALLET_NOT_FOUND\""] {
            assert_eq!(
                format!(
                    "\"{}\"",
                    serde_json::from_str::<BetRefusal>(kept).unwrap().code()
                ),
                kept
            );
        }
    }

    #[test]
    fn what_is_not_open_and_active_takes_no_bet() {
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
    fn what_is_not_offered_is_named() {
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
    fn the_stake_has_limits(#[case] stake: i64, #[case] taken: &str) {
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
    fn the_payout_has_a_limit(#[case] stake: i64, #[case] taken: &str) {
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
