//! PostgreSQL outage under load: the live path is unaffected, and the store path catches up
//! afterwards.

use std::time::Instant;

use super::outage::{
    self, Costs, Follower, OUTAGE, eventually, fall_silent, readiness, until_down, until_stored,
    until_up,
};
use crate::support::{
    Database, FakeSupplier, PrivateEngine, SteadySupplier, get_json, get_text, original_frame,
};

const EVENTS: usize = 20;
const NEW: &str = "NEW";

/// Prices flow during the outage, and the history is complete afterwards.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn prices_flow_while_postgres_is_stopped() {
    away(false).await;
}

/// Prices flow during the outage, and the history is complete afterwards.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn prices_flow_while_postgres_is_killed() {
    away(true).await;
}

async fn away(is_killed: bool) {
    let postgres = PrivateEngine::up("postgres").await;
    let mut cluster = outage::cluster(EVENTS, &postgres.variables()).await;
    // A second supplier, whose only event first appears during the outage.
    let other = FakeSupplier::start().await;
    let suppliers = format!("{},{}", cluster.supplier.url(), other.url());
    cluster.set("SUPPLIER_URLS", &suppliers);
    let database = Database::at(&cluster.folder, postgres.address());
    let processor = cluster.start("processor").await;
    let odds = cluster.start("odds").await;
    let ingest = cluster.start("ingest").await;
    let mut link = other.accept().await;
    let events: Vec<String> = cluster.supplier.events().collect();
    cluster.supplier.send_at(300);
    let follower = Follower::of(odds.odds(), events.clone()).await;
    follower.until_received(&events, 5).await;

    let costs = Costs::of(&[
        ("ingest", &ingest),
        ("processor", &processor),
        ("odds", &odds),
    ]);
    if is_killed {
        postgres.kill().await
    } else {
        postgres.stop().await
    }
    let since = Instant::now();
    eprintln!(
        "readiness: {}",
        until_down(&processor, "processor", "database").await
    );
    assert_eq!(
        readiness(&ingest, "ingest").await.0,
        200,
        "ingest needs no database"
    );
    link.send(original_frame(NEW, "2026-01-01T00:00:00Z", 7))
        .await;
    tokio::spawn(async move { link.serve_pings().await });
    let of_new = format!("http://{}/v1/events/{NEW}/odds", odds.odds());
    eventually("a book that starts without the database", async || {
        (get_json(&of_new).await.1[0]["version"] == 7).then_some(())
    })
    .await;
    let known = follower.last(&events[0]).1;
    // A process that starts during the outage only has the hot copy.
    let late = cluster.start_at_once("odds").await;
    until_down(&late, "odds", "database").await;
    for process in [&odds, &late] {
        let newcomer = Follower::of(process.odds(), events.clone()).await;
        eventually("a snapshot of every event", async || {
            let account = newcomer.account();
            events
                .iter()
                .all(|event| account.last.get(event).is_some_and(|last| last.1 > 0))
                .then_some(())
        })
        .await;
        assert!(newcomer.last(&events[0]).1 >= known);
        newcomer.until_received(&events, 2).await;
        let (status, odds) = get_json(&format!(
            "http://{}/v1/events/{}/odds",
            process.odds(),
            events[0]
        ))
        .await;
        assert_eq!(
            (status, odds[0]["version"].as_i64() >= Some(known)),
            (200, true),
            "{odds}"
        );
        for list in [
            "/v1/events".to_owned(),
            format!("/v1/events/{}/markets/1x2/history", events[0]),
        ] {
            let (status, body) = get_text(&format!("http://{}{list}", process.odds())).await;
            assert_eq!(status, 503, "{list}: {body}");
        }
    }
    while since.elapsed() < OUTAGE {
        // Several updates of each event.
        follower.until_received(&events, 3).await;
    }
    costs.report("PostgreSQL away").await;

    postgres.start().await;
    let back = Instant::now();
    until_up(&processor, "processor").await;
    eprintln!(
        "the processor is ready {:?} after PostgreSQL",
        back.elapsed()
    );
    let event = SteadySupplier::event(0);
    let version = follower.last(&event).1;
    eventually("the store path has caught up", async || {
        let stored = database.versions(&event);
        (stored.last() >= Some(&version)).then_some(())
    })
    .await;
    eprintln!(
        "the history has caught up {:?} after PostgreSQL",
        back.elapsed()
    );
    let last = fall_silent(&cluster, &follower).await;
    until_stored(&database, &last).await;
    until_up(&odds, "odds").await;
    until_up(&late, "odds").await;
    assert_eq!(
        cluster.supplier.connections(),
        1,
        "the supplier was never held back"
    );
    costs.report("PostgreSQL back").await;
}
