//! Unexpected databases: one without tables, and one of another deployment.

use serde_json::json;

use crate::support::{Cluster, Folder, OddsTopic, ServerProcess, until};

#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn first_start_logs_no_fault() {
    sports_bet_platform::runtime::tls::install_provider();
    let folder = Folder::on_real_engines();
    let database = folder.sandbox().value("DATABASE_URL").unwrap().to_owned();
    let process = ServerProcess::start(folder.path(), &[("DATABASE_URL", &database)]).await;
    let client = reqwest::Client::new();
    let body = json!({"userId": "u", "amount_cents": 100, "external_ref": "r"});
    let deposit = || {
        client
            .post(format!("http://{}/wallet/deposit", process.wallet()))
            .json(&body)
            .send()
    };
    until("the database is used", || async {
        deposit()
            .await
            .is_ok_and(|answer| answer.status() == 200)
            .then_some(())
    })
    .await;
    let log = process.log();
    let faults: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The bets are unknown in that database. They become dead letters at a limited rate, and the log
/// gives the reason in one line.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn foreign_bets_are_logged_once() {
    const BETS: usize = 200;
    let mut cluster = Cluster::new(1, &[]).await;
    let topic = OddsTopic::make(&cluster.folder).await;
    cluster.set("KAFKA_TOPIC_BET_PLACED", &topic.name);
    // No two topics may have the same name.
    cluster.set("KAFKA_TOPIC_ODDS", &format!("{}_odds", topic.name));
    let confirmation = cluster.start("confirmation").await;
    let bet = |n: usize| {
        let id = format!("0192f0c1-7a9e-7000-8000-{n:012}");
        let bet = json!({"betId": id, "userId": "u", "eventId": "E", "market": "1x2", "selection": "home",
            "stakeCents": 500, "oddValue": 1.87, "reservedRef": id, "tsUnixMs": 1_000});
        (id.into_bytes(), bet.to_string().into_bytes())
    };
    topic.publish((0..BETS).map(bet).collect()).await;
    let name = "bets_dead_letters_total{reason=\"unknown_bet\"}";
    until("all are dead letters", || async {
        confirmation
            .metric("confirmation", name)
            .await
            .filter(|count| *count >= BETS as f64)
    })
    .await;
    let log = confirmation.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("bet_placed record sent to dead letters"))
        .collect();
    assert!((1..=3).contains(&lines.len()), "{lines:#?}");
    assert!(
        lines[0].contains("check that DATABASE_URL matches the bets role"),
        "{}",
        lines[0]
    );
}
