//! When a process accepts clients for the first time.

use crate::support::{Cluster, PATIENT, ServerProcess, get_text, until};

/// The status and the answer of a health path of `bets`.
async fn health(bets: &ServerProcess, path: &str) -> (u16, String) {
    get_text(&format!("http://{}{path}", bets.health["bets"])).await
}

/// `bets` needs the prices of its books once. Later all replicas would lack them at the same time, and
/// each would still answer reads, so it stays ready.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn bets_wait_for_their_first_prices() {
    let cluster = Cluster::new(1, &PATIENT).await;
    cluster.supplier.send_at(20);
    let bets = cluster.start_at_once("bets").await;
    let until_is = async |path: &str, wanted: u16, contains: &str| {
        until(path, || async {
            let (status, text) = health(&bets, path).await;
            (status == wanted && text.contains(contains)).then_some(())
        })
        .await;
    };
    until_is("/healthz", 503, "\"feed\"").await;
    until_is("/readyz", 503, "\"feed\"").await;
    let mut processor = cluster.start("processor").await;
    let _ingest = cluster.start("ingest").await;
    until_is("/readyz", 200, "ok").await;
    processor.kill().await;
    until_is("/healthz", 503, "\"feed\"").await;
    assert_eq!(health(&bets, "/readyz").await.0, 200);
}
