use std::sync::{Arc, LazyLock};

use pretty_assertions::assert_eq;
use rstest::rstest;
use strum::VariantArray;

use super::*;
use crate::domain::ids::{MarketName, Source};
use crate::domain::odds::hold::{Hold, HoldScope};
use crate::domain::odds::source_status::{SourceState, SourceStatus};
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

/// Checks without restrictions.
fn check(request: &BetRequest, book: &Snapshot, limits: &BetLimits) -> Result<Offer, BetRefusal> {
    super::check(request, book, &Restrictions::default(), limits)
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
            assert!(BetRefusal::VARIANTS.contains(&refusal.code()));
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
    for status in MarketStatus::VARIANTS
        .iter()
        .copied()
        .filter(|status| *status != MarketStatus::Open)
    {
        let refused = check(&request(), &book(OddsUpdate { status, ..open() }), &LIMITS);
        assert_eq!(refused, Err(BetRefusal::MarketSuspended { status }));
    }
    for status in SelectionStatus::VARIANTS
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

fn restricted(update: OddsUpdate, restrictions: &Restrictions) -> String {
    code(super::check(
        &request(),
        &book(update),
        restrictions,
        &LIMITS,
    ))
}

/// A market that the supplier or the platform suspended stays stale. One that has ended has ended.
#[test]
fn market_of_lost_source_is_stale() {
    for (state, expected) in [
        (SourceState::Live, "draw 3.2"),
        (SourceState::Recovering, "MARKET_STALE"),
        (SourceState::Stale, "MARKET_STALE"),
    ] {
        let status = SourceStatus { state, at: None };
        let restrictions = Restrictions {
            sources: [(open().source, status)].into(),
            ..Restrictions::default()
        };
        assert_eq!(restricted(open(), &restrictions), expected);
    }
    let lost = Restrictions {
        unreported_from: u64::MAX,
        ..Restrictions::default()
    };
    for status in MarketStatus::VARIANTS {
        let update = OddsUpdate {
            status: *status,
            ..open()
        };
        let expected = match status {
            MarketStatus::Open | MarketStatus::Suspended => "MARKET_STALE",
            _ => "MARKET_SUSPENDED",
        };
        assert_eq!(restricted(update, &lost), expected, "{status}");
    }
}

#[test]
fn held_market_counts_as_suspended() {
    let OddsUpdate {
        event_id, market, ..
    } = open();
    let selection = |id: &str| {
        let id = SelectionId::new(id).unwrap();
        HoldScope::Selection(event_id.clone(), market.clone(), id)
    };
    let other = Source::new("other").unwrap();
    for (scope, expected) in [
        (HoldScope::All, "MARKET_SUSPENDED"),
        (HoldScope::Source(open().source), "MARKET_SUSPENDED"),
        (HoldScope::Source(other), "draw 3.2"),
        (selection("draw"), "SELECTION_SUSPENDED"),
        (selection("home"), "draw 3.2"),
    ] {
        let hold = Hold {
            id: 1,
            scope,
            until: None,
        };
        let restrictions = Restrictions {
            holds: vec![hold],
            ..Restrictions::default()
        };
        assert_eq!(restricted(open(), &restrictions), expected);
    }
}
