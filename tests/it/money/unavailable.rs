//! Operations that are temporarily unavailable: the client is told, nothing is taken, and the same
//! request succeeds later.

use futures_util::future::join3;
use pretty_assertions::assert_eq;
use serde_json::json;

use super::{BetsHarness, bet_body, market, post};
use crate::support::{Cluster, Database, SteadySupplier, until};

#[actix_web::test]
async fn locked_wallet_asks_for_a_retry() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let lock = Database::of(&harness.platform.folder).lock();
    let keyed = bet_body("u", "E", 100);
    let order = json!({"userId": "u", "amount_cents": 50, "external_ref": "r"});
    let (bet, reserved, looked) = join3(
        harness.bet(&keyed, Some("key")),
        harness.wallet("reserve", order.clone()),
        harness.balance("u"),
    )
    .await;
    assert_eq!(
        bet.code(),
        "409 REQUEST_IN_FLIGHT",
        "a concurrent request with the same key may hold it: {}",
        bet.text
    );
    assert_eq!(reserved.code(), "503 WALLET_BUSY");
    assert_eq!(looked, (1_000, 0), "reads do not wait for locks");
    assert_eq!(
        harness.bet(&keyed, None).await.code(),
        "503 WALLET_BUSY",
        "without a key there is no concurrent duplicate"
    );
    drop(lock);
    let placed = harness.bet(&keyed, Some("key")).await;
    assert_eq!(
        (placed.status, &placed.json()["new_balance"]),
        (200, &json!(900)),
        "{placed:?}"
    );
    assert_eq!(harness.wallet("reserve", order).await.code(), "200");
    harness.decided(&placed.json()).await;
    assert_eq!(harness.balance("u").await, (850, 50));
    harness.close().await;
}

#[actix_web::test]
async fn database_failure_is_reported_and_takes_nothing() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.offer("E").await;
    harness.deposit("u", 1_000).await;
    let database = Database::of(&harness.platform.folder);
    database.execute("ALTER TABLE wallets RENAME TO away; ALTER TABLE bets RENAME TO also_away");
    let more = json!({"userId": "u", "amount_cents": 500, "external_ref": "more"});
    let order = json!({"userId": "u", "amount_cents": 50, "external_ref": "r"});
    let bet = bet_body("u", "E", 100);
    let wallet = harness.platform.wallet();
    let bets = harness.platform.bets();
    let answers = [
        harness.get(wallet, "/wallet?userId=u").await,
        harness.wallet("deposit", more.clone()).await,
        harness.wallet("reserve", order).await,
        harness.bet(&bet, Some("key")).await,
        harness.get(bets, "/bets?userId=u").await,
        harness
            .get(bets, "/bets/00000000-0000-7000-8000-000000000000")
            .await,
    ];
    assert_eq!(
        answers.map(|answer| answer.code()),
        ["503 STORE_UNAVAILABLE"; 6]
    );
    database.execute("ALTER TABLE away RENAME TO wallets; ALTER TABLE also_away RENAME TO bets");
    assert_eq!(harness.balance("u").await, (1_000, 0));
    assert_eq!(harness.wallet("deposit", more).await.code(), "200");
    let placed = harness.bet(&bet, Some("key")).await;
    assert_eq!(
        (placed.status, &placed.json()["new_balance"]),
        (200, &json!(1_400)),
        "{placed:?}"
    );
    harness.close().await;
}

#[actix_web::test]
async fn unreadable_prices_take_no_bets() {
    let mut harness = BetsHarness::open(&[], &[]).await;
    harness.deposit("u", 1_000).await;
    let database = Database::of(&harness.platform.folder);
    database.execute("ALTER TABLE odds_current RENAME TO away");
    let bet = bet_body("u", "E", 100);
    for key in [None, Some("key")] {
        assert_eq!(
            harness.bet(&bet, key).await.code(),
            "503 ODDS_UNAVAILABLE",
            "a failed read does not mean that there is none"
        );
    }
    database.execute("ALTER TABLE away RENAME TO odds_current");
    harness.show(market("E", 1, |_| {})).await;
    let placed = harness.bet(&bet, Some("key")).await;
    assert_eq!(
        (placed.status, &placed.json()["new_balance"]),
        (200, &json!(900)),
        "{placed:?}"
    );
    harness.close().await;
}

/// No bet is accepted while no processor publishes prices.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn no_processor_means_no_bets() {
    let cluster = Cluster::new(1, &[("FEED_STALE_AFTER", "2s")]).await;
    let wallet = cluster.start("wallet").await;
    let bets = cluster.start_at_once("bets").await;
    let client = reqwest::Client::new();
    let deposit = json!({"userId": "u", "amount_cents": 1_000, "external_ref": "d"}).to_string();
    assert_eq!(
        post(&client, wallet.wallet(), "/wallet/deposit", deposit, None)
            .await
            .code(),
        "200"
    );
    let mut bet_body = bet_body("u", &SteadySupplier::event(0), 100);
    bet_body["oddsChange"] = json!("any");
    let bet = || {
        post(
            &client,
            bets.bets(),
            "/bets",
            bet_body.to_string(),
            Some("key"),
        )
    };
    let other = || post(&client, bets.bets(), "/bets", bet_body.to_string(), None);
    until("the database is available", || async {
        (!bet().await.text.contains("STORE_UNAVAILABLE")).then_some(())
    })
    .await;
    assert_eq!(bet().await.code(), "503 ODDS_UNAVAILABLE");

    let mut processor = cluster.start("processor").await;
    let ingest = cluster.start("ingest").await;
    cluster.supplier.send_at(20);
    until("another bet is accepted", || async {
        (other().await.status == 200).then_some(())
    })
    .await;
    let placed = bet().await;
    assert_eq!(
        (placed.status, &placed.json()["new_balance"]),
        (200, &json!(800)),
        "{placed:?}"
    );
    // The prices become stale again. A stored answer stays the answer; new bets are rejected.
    processor.kill().await;
    until("prices may be stale", || async {
        (other().await.code() == "503 ODDS_UNAVAILABLE").then_some(())
    })
    .await;
    assert_eq!(bet().await, placed);
    drop((ingest, wallet));
}
