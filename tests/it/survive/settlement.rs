//! Settlement under all failures at once: results, corrections and contradictions arrive while
//! processes are killed, and Kafka and PostgreSQL are stopped and killed.

mod expected;
mod results;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::expected::{Owed, Records, StoredBet, confirmed_bets};
use self::results::{ResultSource, SELECTIONS};
use super::bettors::{Addresses, Clients, Habits, verify_ledger};
use super::outage::eventually;
use crate::support::{
    Cluster, Database, PATIENT, PrivateEngine, ServerProcess, SteadySupplier, records,
};

const EVENTS: usize = 12;
const KILLS: usize = 24;
/// Users withdraw what they win, so that some of it cannot be taken back.
const HABITS: Habits = Habits {
    events: EVENTS,
    selections: &SELECTIONS,
    start: 3_000,
    withdrawal: 1_000,
    withdraws_after: 4,
};
/// The processes that are killed, with their roles.
const KILLED: [(&str, &str); 4] = [
    ("bets", "bets"),
    ("confirmation", "confirmation"),
    ("settlement 1", "settlement"),
    ("settlement 2", "settlement"),
];
/// What is not done yet: nothing, once all results are stored and paid, and all records published.
const OPEN: &str = "SELECT (SELECT count(*) FROM bets WHERE status = 'PENDING_CONFIRMATION')
    + (SELECT count(*) FROM supplier_cancels WHERE done_at IS NULL) + (SELECT count(*) FROM outbox)
    + (SELECT count(*) FROM bets_to_settle)
    + (SELECT count(*) FROM market_settlements WHERE settled_generation < generation) AS number";

/// The engines of the test.
struct Engines {
    kafka: PrivateEngine,
    postgres: PrivateEngine,
}

impl Engines {
    /// Stops, kills or starts the engine whose turn it is after a kill of this number.
    async fn act_after(&self, kill: usize) {
        match kill {
            4 => self.kafka.stop().await,
            6 => self.kafka.start().await,
            9 => self.postgres.kill().await,
            11 => self.postgres.start().await,
            14 => self.kafka.kill().await,
            16 => self.kafka.start().await,
            19 => self.postgres.stop().await,
            21 => self.postgres.start().await,
            _ => {}
        }
    }
}

/// Every bet is paid what the records say, no money is lost or created, and each settlement is
/// published, whatever fails.
#[actix_web::test]
#[ignore = "needs the real engines: make test"]
async fn failures_keep_settlement_consistent() {
    let engines = Engines {
        kafka: PrivateEngine::up("kafka").await,
        postgres: PrivateEngine::up("postgres").await,
    };
    let settings = [
        ("SIMULATOR_CONFIRM_REJECT_SHARE", "0.1"),
        ("SIMULATOR_CONFIRM_SILENT_SHARE", "0.05"),
        ("SIMULATOR_CONFIRM_ERROR_SHARE", "0.1"),
        ("SIMULATOR_CONFIRM_DELAY", "20ms"),
        ("BET_CONFIRM_DEADLINE", "20s"),
        ("BET_CONFIRM_TIMEOUT", "500ms"),
        ("KAFKA_SESSION_TIMEOUT", "2s"),
        ("FEED_STALE_AFTER", "2s"),
        ("SETTLEMENT_SOURCES", "test-supplier"),
    ];
    let variables = [engines.kafka.variables(), engines.postgres.variables()].concat();
    let all = [&PATIENT[..], &variables, &settings].concat();
    let mut cluster = Cluster::new(EVENTS, &all).await;
    let simulator = cluster.start("simulator").await;
    cluster.set("SUPPLIER_URL", &format!("http://{}", simulator.simulator()));
    cluster.supplier.send_at(20);
    let _processor = cluster.start("processor").await;
    let _ingest = cluster.start("ingest").await;
    let addresses = Arc::new(Addresses::default());
    let wallet = cluster.start("wallet").await;
    addresses.set("wallet", &wallet);
    let mut processes = BTreeMap::new();
    for (name, role) in KILLED {
        let process = cluster.start(role).await;
        addresses.set(role, &process);
        processes.insert(name, process);
    }

    let mut clients = Clients::start(HABITS, &addresses);
    let source = Mutex::new(ResultSource::of(EVENTS));
    let began = Instant::now();
    let killing = kill_processes(&cluster, &engines, &addresses, &mut processes);
    tokio::select! {
        () = killing => {}
        () = send_results(&cluster.supplier, &source) => {}
    }
    let before = clients.placed();
    eventually("bets are accepted again", async || {
        (clients.placed() > before + 50).then_some(())
    })
    .await;
    clients.end().await;
    let took = began.elapsed();

    let database = Database::of_cluster(&cluster);
    until_settled(&cluster, &database).await;
    let held = check_bets(&database);
    println!("{} bets held in {} markets", held.0, held.1.len());
    for event in &held.1 {
        for record in source.lock().unwrap().resolve(event) {
            cluster.supplier.send_record(record);
        }
    }
    until_settled(&cluster, &database).await;
    assert_eq!(check_bets(&database).0, 0, "a later record decides");
    verify_ledger(&cluster).await;
    let bets = confirmed_bets(&database);
    check_house(&database, &bets, &clients);
    let published = check_published(&cluster, &engines, &bets);

    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for bet in &bets {
        *outcomes
            .entry(bet.outcome.as_deref().unwrap_or("open"))
            .or_default() += 1;
    }
    let number = |sql: &str| database.number(&format!("SELECT ({sql}) AS number"));
    let of_kind = |kind| {
        number(&format!(
            "SELECT count(*) FROM ledger_transfers WHERE kind = '{kind}'"
        ))
    };
    println!(
        "{KILLS} kills, Kafka and PostgreSQL away twice each, {took:.1?}: {} bets {outcomes:?}, {} others; {} records of results, {} settlements, {published} published; {} payouts, {} clawbacks, {} debts, {} recovered, {} cents owed; {} retries",
        bets.len(),
        clients.placed() - bets.len(),
        cluster.supplier.records().len(),
        number("SELECT count(*) FROM bet_settlements"),
        of_kind("payout"),
        of_kind("clawback"),
        of_kind("owe"),
        of_kind("recover"),
        number("SELECT sum(owed_cents)::BIGINT FROM wallets"),
        clients.account.retries.load(Ordering::Relaxed),
    );
    for kind in ["settle", "unsettle", "payout", "clawback", "owe", "recover"] {
        assert!(of_kind(kind) > 0, "no {kind}");
    }
}

async fn kill_processes(
    cluster: &Cluster,
    engines: &Engines,
    addresses: &Addresses,
    processes: &mut BTreeMap<&'static str, ServerProcess>,
) {
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(500..2_000))).await;
        let (name, role) = fastrand::choice(KILLED).unwrap();
        processes.get_mut(name).unwrap().kill().await;
        let process = cluster.start_at_once(role).await;
        addresses.set(role, &process);
        processes.insert(name, process);
        engines.act_after(kill).await;
    }
}

async fn send_results(supplier: &SteadySupplier, source: &Mutex<ResultSource>) {
    loop {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..1_000))).await;
        supplier.send_record(source.lock().unwrap().next());
    }
}

/// Waits until every record that was sent is stored, and nothing is left to do.
async fn until_settled(cluster: &Cluster, database: &Database) {
    let sent: HashSet<String> = cluster.supplier.records().into_iter().collect();
    let stored = "SELECT count(*) AS number FROM market_results";
    eventually("every result is stored", async || {
        (database.number(stored) >= sent.len() as i64).then_some(())
    })
    .await;
    assert_eq!(database.number(stored), sent.len() as i64);
    eventually("nothing is left to do", async || {
        (database.number(OPEN) == 0).then_some(())
    })
    .await;
}

/// Checks that each bet is as the records say. Returns the number of bets that an operator has to
/// decide, and their events.
fn check_bets(database: &Database) -> (usize, HashSet<String>) {
    let records = Records::stored(database);
    let mut held = (0, HashSet::new());
    for bet in confirmed_bets(database) {
        let state = match (&bet.status[..], &bet.outcome, bet.payout_cents) {
            ("CONFIRMED", None, None) => Owed::Open,
            ("SETTLED", Some(outcome), Some(payout)) => Owed::Settled(outcome.clone(), payout),
            _ => panic!("{bet:?}"),
        };
        let owed = records.owed(&bet);
        if owed == Owed::Held {
            assert_eq!(bet.held.as_deref(), Some("conflict"), "{bet:?}");
            held.0 += 1;
            held.1.insert(bet.event_id);
        } else {
            assert_eq!(state, owed, "{bet:?}");
            assert_eq!(bet.held, None, "{bet:?}");
        }
    }
    held
}

/// What users paid in is in their wallets, at risk, or with the house.
fn check_house(database: &Database, bets: &[StoredBet], clients: &Clients) {
    let wallets =
        "SELECT sum(available_cents + reserved_cents - owed_cents)::BIGINT AS number FROM wallets";
    let with_house: i64 = bets
        .iter()
        .map(|bet| bet.stake_cents - bet.payout_cents.unwrap_or(0))
        .sum();
    let account = &clients.account;
    let deposited = account.deposited.load(Ordering::Relaxed) as i64;
    let withdrawn = account.withdrawn.load(Ordering::Relaxed) as i64;
    assert_eq!(
        database.number(wallets) + with_house,
        deposited - withdrawn,
        "no money is created or lost"
    );
    let all = database.number("SELECT count(*) AS number FROM bets");
    assert_eq!(all, clients.placed() as i64, "no bet is lost");
}

/// Checks that each settlement of each bet is on Kafka, and that the last one is the bet's state.
/// Returns the number of records.
fn check_published(cluster: &Cluster, engines: &Engines, bets: &[StoredBet]) -> usize {
    let topic = cluster
        .folder
        .sandbox()
        .value("KAFKA_TOPIC_BET_SETTLED")
        .unwrap();
    let read = records(engines.kafka.address(), topic);
    let mut published: HashMap<String, BTreeMap<i64, Value>> = HashMap::new();
    for record in &read {
        let key = String::from_utf8(record.record.key.to_vec()).unwrap();
        let settled: Value = serde_json::from_slice(&record.record.payload).unwrap();
        assert_eq!(settled["betId"], key.as_str());
        let n = settled["n"].as_i64().unwrap();
        published.entry(key).or_default().insert(n, settled);
    }
    let none = BTreeMap::new();
    for bet in bets {
        let settlements = published.get(&bet.id).unwrap_or(&none);
        assert!(
            settlements.keys().copied().eq(1..=bet.settlements),
            "{bet:?}: {settlements:?}"
        );
        let Some((_, last)) = settlements.last_key_value() else {
            continue;
        };
        let state = (
            last["status"].as_str(),
            last["outcome"].as_str(),
            last["payoutCents"].as_i64(),
        );
        let expected = (
            Some(&bet.status[..]),
            bet.outcome.as_deref(),
            Some(bet.payout_cents.unwrap_or(0)),
        );
        assert_eq!(state, expected, "{bet:?}");
    }
    read.len()
}
