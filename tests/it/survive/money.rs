//! Bets under all failures at once: killed processes, engine outages, and a supplier that fails in
//! every possible way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::bettors::{Addresses, Clients, Habits, verify_ledger};
use super::outage::eventually;
use crate::support::{Cluster, Database, PATIENT, PrivateEngine, send};

const EVENTS: usize = 4;
const KILLS: usize = 20;
const HABITS: Habits = Habits {
    events: EVENTS,
    selections: &["home"],
    start: 1_000_000,
    withdrawal: 300,
    withdraws_after: 11,
};
/// The money roles, which are killed.
const ROLES: [&str; 3] = ["bets", "wallet", "confirmation"];

/// No money is lost or created and every bet is decided, whatever fails.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn failures_keep_money_and_bets_consistent() {
    let kafka = PrivateEngine::up("kafka").await;
    let redis = PrivateEngine::up("redis").await;
    let fails = [
        ("SIMULATOR_CONFIRM_REJECT_SHARE", "0.2"),
        ("SIMULATOR_CONFIRM_SILENT_SHARE", "0.05"),
        ("SIMULATOR_CONFIRM_GARBAGE_SHARE", "0.1"),
        ("SIMULATOR_CONFIRM_ERROR_SHARE", "0.1"),
        ("SIMULATOR_CONFIRM_DELAY", "20ms"),
        ("BET_CONFIRM_DEADLINE", "4s"),
        ("BET_CONFIRM_TIMEOUT", "500ms"),
        ("KAFKA_SESSION_TIMEOUT", "2s"),
        ("FEED_STALE_AFTER", "2s"),
    ];
    let all = [&PATIENT[..], &kafka.variables(), &redis.variables(), &fails].concat();
    let mut cluster = Cluster::new(EVENTS, &all).await;
    let simulator = cluster.start("simulator").await;
    let supplier = format!("http://{}", simulator.simulator());
    cluster.set("SUPPLIER_URL", &supplier);
    cluster.supplier.send_at(20);
    let _processor = cluster.start("processor").await;
    let _ingest = cluster.start("ingest").await;
    let addresses = Arc::new(Addresses::default());
    let mut processes = BTreeMap::new();
    for role in ROLES {
        let process = cluster.start_at_once(role).await;
        addresses.set(role, &process);
        processes.insert(role, process);
    }
    for process in processes.values() {
        process.until_ready().await;
    }

    let mut clients = Clients::start(HABITS, &addresses);
    let began = Instant::now();
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(200..1_200))).await;
        let role = ROLES[fastrand::usize(..ROLES.len())];
        processes.get_mut(role).unwrap().kill().await;
        let process = cluster.start_at_once(role).await;
        addresses.set(role, &process);
        processes.insert(role, process);
        match kill {
            5 => kafka.stop().await,
            8 => kafka.start().await,
            11 => redis.stop().await,
            14 => redis.start().await,
            _ => {}
        }
    }
    let before = clients.placed();
    eventually("bets are accepted again", async || {
        (clients.placed() > before + 50).then_some(())
    })
    .await;
    clients.end().await;
    let took = began.elapsed();
    let account = clients.account;

    let database = Database::of_cluster(&cluster);
    let pending = "SELECT count(*) AS number FROM bets WHERE status = 'PENDING_CONFIRMATION'";
    eventually("every bet is final", async || {
        (database.number(pending) == 0).then_some(())
    })
    .await;
    let open = "SELECT (SELECT count(*) FROM supplier_cancels WHERE done_at IS NULL) + (SELECT count(*) FROM outbox) AS number";
    eventually("outbox and cancel queue are empty", async || {
        (database.number(open) == 0).then_some(())
    })
    .await;

    verify_ledger(&cluster).await;

    // The database agrees with the clients: no more bets, and no fewer.
    let number =
        |sql: &str| database.number(&format!("SELECT coalesce({sql}, 0)::bigint AS number"));
    let placed = account.placed.lock().unwrap().clone();
    assert_eq!(number("(SELECT count(*) FROM bets)"), placed.len() as i64);
    let held = number("(SELECT sum(available_cents + reserved_cents) FROM wallets)");
    let staked = number("(SELECT sum(stake_cents) FROM bets WHERE status = 'CONFIRMED')");
    let deposited = account.deposited.load(Ordering::Relaxed) as i64;
    let withdrawn = account.withdrawn.load(Ordering::Relaxed) as i64;
    assert_eq!(
        held + staked,
        deposited - withdrawn,
        "no money is created or lost"
    );

    // The supplier's register agrees with ours on each bet.
    let mut ends = BTreeMap::new();
    let http = reqwest::Client::new();
    let bets = *addresses.bets.lock().unwrap();
    for answer in placed.values() {
        let id = answer["betId"].as_str().unwrap();
        let get = |url: String| {
            let http = http.clone();
            async move { send(http.get(url)).await.json() }
        };
        let ours = get(format!("http://{}/bets/{id}", bets.unwrap())).await;
        let theirs = get(format!("{supplier}/supplier/bets/{id}")).await;
        let end = match (ours["status"].as_str().unwrap(), ours["reason"].as_str()) {
            ("CONFIRMED", _) => "CONFIRMED",
            ("REJECTED", Some("SUPPLIER_TIMEOUT")) => "CANCELLED",
            ("REJECTED", _) => "REJECTED",
            other => panic!("{other:?}"),
        };
        assert_eq!(theirs["status"], end, "ours {ours}, theirs {theirs}");
        *ends.entry(end).or_insert(0) += 1;
    }
    println!(
        "{KILLS} kills, Kafka and Redis away once, {took:.1?}: {} bets {ends:?}, {} refused, {} retries; {deposited} cents in, {withdrawn} out, {held} held, {staked} staked",
        placed.len(),
        account.refused.load(Ordering::Relaxed),
        account.retries.load(Ordering::Relaxed),
    );
    assert!(ends.len() == 3, "each final status occurs: {ends:?}");
}
