//! `/bets…`: bets at the current price, each decided once.

use futures_util::future::join_all;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use sports_bet_platform::config::settings::Role;

use super::{BetsHarness, bet_body, market};
use crate::support::until;

#[actix_web::test]
async fn confirmed_bet_costs_its_stake() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let placed = harness.bet(&bet_body("u", "E", 300), None).await.json();
    assert_eq!(placed["status"], "PENDING_CONFIRMATION", "{placed}");
    assert_eq!(
        (&placed["new_balance"], &placed["odd_value"]),
        (&json!(700), &json!(1.5))
    );
    let bet = harness.decided(&placed).await;
    assert_eq!(bet["status"], "CONFIRMED", "{bet}");
    assert!(
        bet["providerRef"].as_str().unwrap().starts_with("SUP-"),
        "{bet}"
    );
    assert_eq!(bet["potential_payout_cents"], 450);
    let steps: Vec<_> = bet["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (&step["from"], &step["to"]))
        .collect();
    assert_eq!(
        steps,
        [
            (&Value::Null, &json!("PENDING_CONFIRMATION")),
            (&json!("PENDING_CONFIRMATION"), &json!("CONFIRMED"))
        ]
    );
    assert_eq!(harness.balance("u").await, (700, 0));
    let id = placed["betId"].as_str().unwrap();
    // Only the bet decides about its own reservation.
    for path in ["commit", "refund"] {
        let end = harness
            .wallet(path, json!({"userId": "u", "external_ref": id}))
            .await;
        let ended = if path == "commit" {
            "200"
        } else {
            "409 ALREADY_COMMITTED"
        };
        assert_eq!(end.code(), ended);
    }
    let list = harness
        .get(harness.platform.bets(), "/bets?userId=u&status=CONFIRMED")
        .await
        .json();
    assert_eq!(
        (
            &list["entries"][0]["betId"],
            list["entries"].as_array().unwrap().len()
        ),
        (&placed["betId"], 1)
    );
    let none = harness
        .get(harness.platform.bets(), "/bets?userId=u&status=REJECTED")
        .await
        .json();
    assert_eq!(none, json!({"entries": [], "nextCursor": null}));
    let books = harness
        .get(
            harness.simulator.simulator(),
            &format!("/supplier/bets/{id}"),
        )
        .await
        .json();
    assert_eq!(
        (&books["status"], &books["asked"]),
        (&json!("CONFIRMED"), &json!(1))
    );
    harness.close().await;
}

#[actix_web::test]
async fn rejected_bet_returns_its_stake() {
    let mut harness = BetsHarness::open(&[("SIMULATOR_CONFIRM_REJECT_SHARE", "1")], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let placed = harness.bet(&bet_body("u", "E", 300), None).await.json();
    let bet = harness.decided(&placed).await;
    assert_eq!(
        (&bet["status"], bet["reason"].is_string()),
        (&json!("REJECTED"), true),
        "{bet}"
    );
    assert_eq!(harness.balance("u").await, (1_000, 0));
    harness.close().await;
}

/// A bet that the supplier does not answer is rejected, and the supplier receives a cancel.
#[actix_web::test]
async fn unanswered_bet_is_rejected_and_cancelled() {
    let silent = [("SIMULATOR_CONFIRM_SILENT_SHARE", "1")];
    let mut harness = BetsHarness::open(
        &silent,
        &[
            ("BET_CONFIRM_DEADLINE", "2s"),
            ("BET_CONFIRM_TIMEOUT", "500ms"),
        ],
    )
    .await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let placed = harness.bet(&bet_body("u", "E", 300), None).await.json();
    let id = placed["betId"].as_str().unwrap();
    // While the bet is pending, nothing else can move its stake.
    for path in ["commit", "refund"] {
        let end = harness
            .wallet(path, json!({"userId": "u", "external_ref": id}))
            .await;
        assert_eq!(end.code(), "409 RESERVATION_HELD_BY_BET");
    }
    assert_eq!(harness.balance("u").await, (700, 300));
    let bet = harness.decided(&placed).await;
    assert_eq!(
        (&bet["status"], &bet["reason"]),
        (&json!("REJECTED"), &json!("SUPPLIER_TIMEOUT")),
        "{bet}"
    );
    assert_eq!(harness.balance("u").await, (1_000, 0));
    until("the supplier has cancelled", || async {
        let books = harness
            .get(
                harness.simulator.simulator(),
                &format!("/supplier/bets/{id}"),
            )
            .await;
        (books.status == 200 && books.json()["status"] == "CANCELLED").then_some(())
    })
    .await;
    harness.close().await;
}

#[actix_web::test]
async fn invalid_bets_are_rejected_by_reason() {
    let limits = [
        ("BET_MIN_STAKE_CENTS", "100"),
        ("BET_MAX_STAKE_CENTS", "50000"),
        ("BET_MAX_PAYOUT_CENTS", "60000"),
    ];
    let mut harness = BetsHarness::open(&[], &limits).await;
    harness.deposit("u", 100_000).await;
    harness.offer("E").await;
    let with = |change: &[(&str, Value)]| {
        let mut body = bet_body("u", "E", 1_000);
        for (field, value) in change {
            body[*field] = value.clone();
        }
        body
    };
    for (change, code) in [
        (with(&[("eventId", json!("F"))]), "409 EVENT_NOT_FOUND"),
        (with(&[("market", json!("2x3"))]), "409 MARKET_NOT_FOUND"),
        (with(&[("line", json!(2.5))]), "409 MARKET_NOT_FOUND"),
        (
            with(&[("selection", json!("nobody"))]),
            "409 SELECTION_NOT_FOUND",
        ),
        (with(&[("odd_value", json!(1.6))]), "409 ODDS_CHANGED"),
        (
            with(&[("odd_value", json!(1.6)), ("oddsChange", json!("higher"))]),
            "409 ODDS_CHANGED",
        ),
        (with(&[("stake_cents", json!(99))]), "409 STAKE_TOO_LOW"),
        (
            with(&[("stake_cents", json!(50_001))]),
            "409 STAKE_TOO_HIGH",
        ),
        (
            with(&[("stake_cents", json!(40_001))]),
            "409 PAYOUT_TOO_HIGH",
        ),
        (
            with(&[("userId", json!("stranger"))]),
            "409 WALLET_NOT_FOUND",
        ),
        (with(&[("oddsChange", json!("lower"))]), "400 BAD_REQUEST"),
        (with(&[("odd_value", json!(1.0))]), "400 BAD_REQUEST"),
        (with(&[("odd_value", json!("1.5"))]), "400 BAD_REQUEST"),
        (with(&[("odd_value", json!(null))]), "400 BAD_REQUEST"),
        (with(&[("stake_cents", json!(0))]), "400 INVALID_AMOUNT"),
        (with(&[("stake_cents", json!(-100))]), "400 INVALID_AMOUNT"),
        (with(&[("stake_cents", json!(100.5))]), "400 INVALID_AMOUNT"),
        (
            with(&[("requestId", json!("x".repeat(256)))]),
            "400 BAD_REQUEST",
        ),
        (with(&[("market", json!(""))]), "400 BAD_REQUEST"),
        (with(&[("line", json!("2.5"))]), "400 BAD_REQUEST"),
    ] {
        assert_eq!(harness.bet(&change, None).await.code(), code, "{change}");
    }
    let changed = harness
        .bet(&with(&[("odd_value", json!(1.6))]), None)
        .await
        .json();
    assert_eq!(changed["odd_value"], 1.5);
    let stake = harness
        .bet(&with(&[("stake_cents", json!(99))]), None)
        .await
        .json();
    assert_eq!(stake["limit_cents"], 100);
    let unknown = harness
        .bet(&with(&[("more", json!({"x": [1]}))]), None)
        .await;
    assert_eq!(unknown.code(), "400 BAD_REQUEST");
    assert!(unknown.text.contains("unknown field `more`"), "{unknown:?}");
    for taken in [
        with(&[("selection", json!("1"))]),
        with(&[("selection", json!("X")), ("odd_value", json!(3.2))]),
        with(&[("odd_value", json!(1.4)), ("oddsChange", json!("higher"))]),
        with(&[("odd_value", json!(9)), ("oddsChange", json!("any"))]),
    ] {
        assert_eq!(harness.bet(&taken, None).await.code(), "200", "{taken}");
    }
    harness.deposit("poor", 100).await;
    assert_eq!(
        harness
            .bet(&with(&[("userId", json!("poor"))]), None)
            .await
            .code(),
        "409 INSUFFICIENT_FUNDS"
    );

    harness
        .show(market("E", 2, |frame| frame["status"] = json!("suspended")))
        .await;
    assert_eq!(
        harness.bet(&with(&[]), None).await.code(),
        "409 MARKET_SUSPENDED"
    );
    harness
        .show(market("E", 3, |frame| {
            frame["selections"][0]["status"] = json!("suspended")
        }))
        .await;
    assert_eq!(
        harness.bet(&with(&[]), None).await.code(),
        "409 SELECTION_SUSPENDED"
    );
    let bets = harness.platform.bets();
    for (path, code) in [
        ("/bets", "400 BAD_QUERY"),
        ("/bets?userId=u&status=WON", "400 BAD_QUERY"),
        ("/bets?userId=u&cursor=1", "400 BAD_QUERY"),
        ("/bets/nothing", "404 BET_NOT_FOUND"),
        (
            "/bets/00000000-0000-7000-8000-000000000000",
            "404 BET_NOT_FOUND",
        ),
        ("/nothing", "404 NOT_FOUND"),
    ] {
        assert_eq!(harness.get(bets, path).await.code(), code, "{path}");
    }
    for (key, code) in [
        ("", "400 BAD_REQUEST"),
        (&"k".repeat(256), "400 BAD_REQUEST"),
        (&"k".repeat(255), "409 SELECTION_SUSPENDED"),
    ] {
        assert_eq!(
            harness.bet(&with(&[]), Some(key)).await.code(),
            code,
            "{} characters",
            key.len()
        );
    }
    harness.close().await;
}

#[actix_web::test]
async fn repeated_bet_key_places_one_bet() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 10_000).await;
    let body = bet_body("u", "E", 100);
    let answers = join_all((0..100).map(|_| harness.bet(&body, Some("key")))).await;
    assert_eq!(answers[0].code(), "200", "{:?}", answers[0]);
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "100 equal answers"
    );
    harness.decided(&answers[0].json()).await;
    assert_eq!(harness.balance("u").await, (9_900, 0));
    let bets = harness
        .get(harness.platform.bets(), "/bets?userId=u")
        .await
        .json();
    assert_eq!(bets["entries"].as_array().unwrap().len(), 1);
    let reservations = harness
        .get(harness.platform.wallet(), "/wallet/reservations?userId=u")
        .await
        .json();
    assert_eq!(reservations["entries"].as_array().unwrap().len(), 1);

    // Field order, white space and the key in the body make no difference.
    let mut again = body.clone();
    again["requestId"] = json!("key");
    assert_eq!(harness.bet(&again, None).await, answers[0]);
    assert_eq!(
        harness
            .bet(&bet_body("u", "E", 101), Some("key"))
            .await
            .code(),
        "422 IDEMPOTENCY_KEY_REUSED"
    );
    // The same key of another user is a different key.
    harness.deposit("v", 1_000).await;
    assert_eq!(
        harness
            .bet(&bet_body("v", "E", 100), Some("key"))
            .await
            .code(),
        "200"
    );
    // A rejection is an answer, too, and is repeated even after its cause is gone.
    let refused = harness.bet(&bet_body("v", "E", 5_000), Some("other")).await;
    assert_eq!(refused.code(), "409 INSUFFICIENT_FUNDS");
    harness
        .wallet(
            "deposit",
            json!({"userId": "v", "amount_cents": 10_000, "external_ref": "more"}),
        )
        .await;
    assert_eq!(
        harness.bet(&bet_body("v", "E", 5_000), Some("other")).await,
        refused
    );
    harness
        .show(market("E", 2, |frame| {
            frame["selections"][0]["price"] = json!(1.7)
        }))
        .await;
    assert_eq!(
        harness.bet(&body, Some("key")).await,
        answers[0],
        "the price at the time of the bet"
    );
    let changed = harness.bet(&bet_body("u", "E", 100), Some("third")).await;
    assert_eq!(
        (changed.code().as_str(), &changed.json()["odd_value"]),
        ("409 ODDS_CHANGED", &json!(1.7))
    );
    harness.show(market("E", 3, |_| {})).await;
    assert_eq!(
        harness.bet(&bet_body("u", "E", 100), Some("third")).await,
        changed
    );
    let page = harness.platform.metrics(Role::Bets).await;
    assert_eq!(
        crate::support::metric(&page, "bets_requests_total{outcome=\"placed\"}"),
        Some(2.0)
    );
    harness.close().await;
}
