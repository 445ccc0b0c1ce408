//! When a process accepts clients for the first time.

use super::misconfiguration::{address_of, elsewhere};
use crate::support::{Cluster, PATIENT, ServerProcess, TcpProxy, get_text, until};

/// The status and the answer of a health path of a role.
async fn health(process: &ServerProcess, role: &str, path: &str) -> (u16, String) {
    get_text(&format!("http://{}{path}", process.health[role])).await
}

async fn until_health(
    process: &ServerProcess,
    role: &str,
    path: &str,
    status: u16,
    contains: &str,
) {
    until(&format!("{role}{path} {status}"), || async {
        let (now, text) = health(process, role, path).await;
        (now == status && text.contains(contains)).then_some(())
    })
    .await;
}

/// `bets` needs the prices of its books once. Later all replicas would lack them at the same time, and
/// each would still answer reads, so it stays ready.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn bets_wait_for_their_first_prices() {
    let cluster = Cluster::new(1, &PATIENT).await;
    cluster.supplier.send_at(20);
    let bets = cluster.start_at_once("bets").await;
    until_health(&bets, "bets", "/healthz", 503, "\"feed\"").await;
    until_health(&bets, "bets", "/readyz", 503, "\"feed\"").await;
    let mut processor = cluster.start("processor").await;
    let _ingest = cluster.start("ingest").await;
    until_health(&bets, "bets", "/readyz", 200, "ok").await;
    processor.kill().await;
    until_health(&bets, "bets", "/healthz", 503, "\"feed\"").await;
    assert_eq!(health(&bets, "bets", "/readyz").await.0, 200);
}

/// A process that has never reached its database, for example because its address is wrong, must not
/// replace one that works.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn money_waits_for_its_database() {
    let mut cluster = Cluster::new(1, &PATIENT).await;
    let url = cluster.folder.sandbox().value("DATABASE_URL").unwrap();
    let url = url::Url::parse(url).unwrap();
    let mut database = TcpProxy::closed(&address_of(url.as_str()).to_string()).await;
    let login = (url.username(), url.password().unwrap());
    let through = elsewhere(url.as_str(), database.address(), Some(login));
    cluster.set("DATABASE_URL", &through);
    let roles = ["wallet", "confirmation", "settlement"];
    let mut processes = Vec::new();
    for role in roles {
        processes.push(cluster.start_at_once(role).await);
    }
    for (role, process) in roles.iter().zip(&processes) {
        until_health(process, role, "/readyz", 503, "\"database\"").await;
    }
    database.open();
    for (role, process) in roles.iter().zip(&processes) {
        until_health(process, role, "/readyz", 200, "ok").await;
    }
}
