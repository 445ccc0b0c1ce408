//! What cannot be done now: it is told so, nothing is taken, and the same request is taken later.

use futures_util::future::join3;
use pretty_assertions::assert_eq;
use serde_json::json;

use super::{BetsHarness, market, post, slip};
use crate::support::{Cluster, Database, SteadySupplier, until};

#[actix_web::test]
async fn a_wallet_that_another_holds_for_too_long_is_told_to_be_asked_again() {
    let mut shop = BetsHarness::open(&[], &[]).await;
    shop.offer("E").await;
    shop.deposit("u", 1_000).await;
    let lock = Database::of(&shop.platform.folder).lock();
    let (keyed, order) = (
        slip("u", "E", 100),
        json!({"userId": "u", "amount_cents": 50, "external_ref": "r"}),
    );
    let (bet, reserved, looked) = join3(
        shop.bet(&keyed, Some("key")),
        shop.wallet("reserve", order.clone()),
        shop.balance("u"),
    )
    .await;
    assert_eq!(
        bet.code(),
        "409 REQUEST_IN_FLIGHT",
        "a twin may hold it, as far as is known: {}",
        bet.text
    );
    assert_eq!(reserved.code(), "503 WALLET_BUSY");
    assert_eq!(looked, (1_000, 0), "reading waits for nobody");
    assert_eq!(
        shop.bet(&keyed, None).await.code(),
        "503 WALLET_BUSY",
        "without a key there is no twin"
    );
    drop(lock);
    let placed = shop.bet(&keyed, Some("key")).await;
    assert_eq!(
        (placed.status, &placed.json()["new_balance"]),
        (200, &json!(900)),
        "{placed:?}"
    );
    assert_eq!(shop.wallet("reserve", order).await.code(), "200");
    shop.decided(&placed.json()).await;
    assert_eq!(shop.balance("u").await, (850, 50));
    shop.close().await;
}

#[actix_web::test]
async fn a_database_that_fails_is_told_and_takes_nothing() {
    let mut shop = BetsHarness::open(&[], &[]).await;
    shop.offer("E").await;
    shop.deposit("u", 1_000).await;
    let database = Database::of(&shop.platform.folder);
    database.execute("ALTER TABLE wallets RENAME TO away; ALTER TABLE bets RENAME TO also_away");
    let more = json!({"userId": "u", "amount_cents": 500, "external_ref": "more"});
    let order = json!({"userId": "u", "amount_cents": 50, "external_ref": "r"});
    let bet = slip("u", "E", 100);
    let (wallet, bets) = (shop.platform.wallet(), shop.platform.bets());
    let answers = [
        shop.get(wallet, "/wallet?userId=u").await,
        shop.wallet("deposit", more.clone()).await,
        shop.wallet("reserve", order).await,
        shop.bet(&bet, Some("key")).await,
        shop.get(bets, "/bets?userId=u").await,
        shop.get(bets, "/bets/00000000-0000-7000-8000-000000000000")
            .await,
    ];
    assert_eq!(
        answers.map(|answer| answer.code()),
        ["503 STORE_UNAVAILABLE"; 6]
    );
    database.execute("ALTER TABLE away RENAME TO wallets; ALTER TABLE also_away RENAME TO bets");
    assert_eq!(shop.balance("u").await, (1_000, 0));
    assert_eq!(shop.wallet("deposit", more).await.code(), "200");
    let placed = shop.bet(&bet, Some("key")).await;
    assert_eq!(
        (placed.status, &placed.json()["new_balance"]),
        (200, &json!(1_400)),
        "{placed:?}"
    );
    shop.close().await;
}

#[actix_web::test]
async fn prices_that_cannot_be_looked_up_are_not_bet_at() {
    let mut shop = BetsHarness::open(&[], &[]).await;
    shop.deposit("u", 1_000).await;
    let database = Database::of(&shop.platform.folder);
    database.execute("ALTER TABLE odds_current RENAME TO away");
    let bet = slip("u", "E", 100);
    for key in [None, Some("key")] {
        assert_eq!(
            shop.bet(&bet, key).await.code(),
            "503 ODDS_UNAVAILABLE",
            "it is not known that there is none"
        );
    }
    database.execute("ALTER TABLE away RENAME TO odds_current");
    shop.show(market("E", 1, |_| {})).await;
    let placed = shop.bet(&bet, Some("key")).await;
    assert_eq!(
        (placed.status, &placed.json()["new_balance"]),
        (200, &json!(900)),
        "{placed:?}"
    );
    shop.close().await;
}

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn no_bet_is_taken_while_no_processor_tells_prices() {
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
    let mut slip = slip("u", &SteadySupplier::event(0), 100);
    slip["oddsChange"] = json!("any");
    let bet = || post(&client, bets.bets(), "/bets", slip.to_string(), Some("key"));
    let other = || post(&client, bets.bets(), "/bets", slip.to_string(), None);
    until("the database is there", || async {
        (!bet().await.text.contains("STORE_UNAVAILABLE")).then_some(())
    })
    .await;
    assert_eq!(bet().await.code(), "503 ODDS_UNAVAILABLE");

    let mut processor = cluster.start("processor").await;
    let ingest = cluster.start("ingest").await;
    cluster.supplier.send_at(20);
    until("another bet is taken", || async {
        (other().await.status == 200).then_some(())
    })
    .await;
    let placed = bet().await;
    assert_eq!(
        (placed.status, &placed.json()["new_balance"]),
        (200, &json!(800)),
        "{placed:?}"
    );
    // The prices grow old again. What was answered stays the answer; nothing new is taken.
    processor.kill().await;
    until("prices may be old", || async {
        (other().await.code() == "503 ODDS_UNAVAILABLE").then_some(())
    })
    .await;
    assert_eq!(bet().await, placed);
    drop((ingest, wallet));
}
