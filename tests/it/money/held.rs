//! Locked wallet rows: requests for other wallets are not delayed.

use futures_util::future::join_all;
use serde_json::json;

use super::{Answer, post};
use crate::support::{Cluster, Database, ServerProcess, until};

async fn deposit(
    client: &reqwest::Client,
    wallet: &ServerProcess,
    user: &str,
    reference: &str,
) -> Answer {
    let body = json!({"userId": user, "amount_cents": 100, "external_ref": reference}).to_string();
    post(client, wallet.wallet(), "/wallet/deposit", body, None).await
}

/// As many wallets are locked as there are connections, each with several waiting clients.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn locked_wallets_delay_no_other() {
    let cluster = Cluster::new(1, &[("DATABASE_POOL_SIZE", "4")]).await;
    let wallet = cluster.start("wallet").await;
    let client = reqwest::Client::new();
    let held: Vec<_> = (0..4).map(|n| format!("held{n}")).collect();
    let others: Vec<_> = (0..20).map(|n| format!("other{n}")).collect();
    for user in held.iter().chain(&others) {
        assert_eq!(
            deposit(&client, &wallet, user, &format!("first {user}"))
                .await
                .code(),
            "200"
        );
    }
    let lock = Database::of_cluster(&cluster).hold_wallets(&held);
    let waiting: Vec<_> = (0..24)
        .map(|n| {
            let client = client.clone();
            let user = held[n % held.len()].clone();
            let address = wallet.wallet();
            let body =
                json!({"userId": user, "amount_cents": 100, "external_ref": format!("held {n}")})
                    .to_string();
            tokio::spawn(async move { post(&client, address, "/wallet/deposit", body, None).await })
        })
        .collect();
    let locks = "SELECT count(*) AS number FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let database = Database::of_cluster(&cluster);
    until("they wait", || async {
        (database.number(locks) > 0).then_some(())
    })
    .await;
    for round in 0..3 {
        let references: Vec<_> = others
            .iter()
            .map(|user| format!("{user} {round}"))
            .collect();
        let deposits = others
            .iter()
            .zip(&references)
            .map(|(user, text)| deposit(&client, &wallet, user, text));
        let codes: Vec<_> = join_all(deposits).await.iter().map(Answer::code).collect();
        assert_eq!(codes, vec!["200"; others.len()], "round {round}");
    }
    drop(lock);
    for waiting in waiting {
        let code = waiting.await.unwrap().code();
        assert!(
            ["200", "503 WALLET_BUSY"].contains(&code.as_str()),
            "{code}"
        );
    }
    assert_eq!(
        deposit(&client, &wallet, "held0", "last").await.code(),
        "200"
    );
}
