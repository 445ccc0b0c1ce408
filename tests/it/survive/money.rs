//! Bets under all failures at once: killed processes, engine outages, and a supplier that fails in
//! every possible way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::outage::eventually;
use crate::support::{
    Cluster, Database, PATIENT, PrivateEngine, ServerProcess, SteadySupplier, command, send,
    try_send, within,
};

const EVENTS: usize = 4;
const CLIENTS: usize = 16;
const KILLS: usize = 20;
/// The initial balance of every user, in cents.
const START: i64 = 1_000_000;
/// The money roles, which are killed.
const ROLES: [&str; 3] = ["bets", "wallet", "confirmation"];

/// The current addresses of the processes: each start uses another port.
#[derive(Default)]
struct Where {
    bets: Mutex<Option<SocketAddr>>,
    wallet: Mutex<Option<SocketAddr>>,
}

impl Where {
    fn is_now(&self, role: &str, process: &ServerProcess) {
        match role {
            "bets" => *self.bets.lock().unwrap() = Some(process.bets()),
            "wallet" => *self.wallet.lock().unwrap() = Some(process.wallet()),
            _ => {}
        }
    }
}

/// The combined knowledge of all clients at the end.
#[derive(Default)]
struct Account {
    /// Each bet with the first answer to its key.
    placed: Mutex<BTreeMap<String, Value>>,
    deposited: AtomicUsize,
    withdrawn: AtomicUsize,
    refused: AtomicUsize,
    retries: AtomicUsize,
    gave_up: AtomicBool,
}

/// A client that retries with the same key until the answer is final.
struct Client {
    number: usize,
    http: reqwest::Client,
    places: Arc<Where>,
    account: Arc<Account>,
}

impl Client {
    fn user(&self) -> String {
        // Some clients share a wallet.
        format!("USER_{:03}", self.number % (CLIENTS - 4))
    }

    /// Retries until there is a final answer.
    async fn certain(
        &self,
        place: impl Fn() -> Option<SocketAddr>,
        path: &str,
        body: &Value,
        key: &str,
    ) -> (u16, Value) {
        let last = Mutex::new(String::from("no request sent: no process had an address"));
        let asking = async {
            loop {
                if let Some(address) = place() {
                    let request = self
                        .http
                        .post(format!("http://{address}{path}"))
                        .header("Idempotency-Key", key);
                    let request = request.header("Content-Type", "application/json");
                    let outcome = match try_send(request.body(body.to_string())).await {
                        Ok(answer) => {
                            let (status, text) = (answer.status, answer.text());
                            if status < 500
                                && !text.contains("REQUEST_IN_FLIGHT")
                                && !text.is_empty()
                            {
                                return (status, answer.json());
                            }
                            format!("{status} {text}")
                        }
                        Err(error) => format!("{error:?}"),
                    };
                    *last.lock().unwrap() = format!("{address}: {outcome}");
                }
                self.account.retries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(120), asking).await;
        answer.unwrap_or_else(|_| {
            panic!(
                "{key}, {path}: no final answer in two minutes, the last: {}",
                last.lock().unwrap()
            )
        })
    }

    async fn deposit(&self, cents: i64, reference: &str) {
        let body = json!({"userId": self.user(), "amount_cents": cents, "external_ref": reference});
        let wallet = || *self.places.wallet.lock().unwrap();
        let (status, answer) = self
            .certain(wallet, "/wallet/deposit", &body, reference)
            .await;
        assert_eq!(status, 200, "{answer}");
        self.account
            .deposited
            .fetch_add(cents as usize, Ordering::Relaxed);
    }

    async fn run(self, is_over: Arc<AtomicBool>) {
        self.deposit(START, &format!("start-{}", self.number)).await;
        let bets = || *self.places.bets.lock().unwrap();
        let wallet = || *self.places.wallet.lock().unwrap();
        let mut turn = 0;
        while !is_over.load(Ordering::Relaxed) {
            turn += 1;
            let key = format!("client-{}-{turn}", self.number);
            let body = json!({
                "userId": self.user(), "eventId": SteadySupplier::event(turn % EVENTS), "market": "1x2",
                "selection": "home", "stake_cents": 100 + turn, "odd_value": 1.5, "oddsChange": "any",
            });
            let (status, answer) = self.certain(bets, "/bets", &body, &key).await;
            match status {
                200 => {
                    let again = self.certain(bets, "/bets", &body, &key).await;
                    assert_eq!(
                        again,
                        (200, answer.clone()),
                        "the first answer is the answer"
                    );
                    self.account
                        .placed
                        .lock()
                        .unwrap()
                        .insert(key.clone(), answer);
                }
                409 => _ = self.account.refused.fetch_add(1, Ordering::Relaxed),
                _ => panic!("{status} {answer}"),
            }
            if turn % 7 == 0 {
                self.deposit(500, &format!("more-{key}")).await;
            }
            if turn % 11 == 0 {
                let body = json!({"userId": self.user(), "amount_cents": 300, "external_ref": format!("out-{key}")});
                let (status, _) = self.certain(wallet, "/wallet/withdraw", &body, &key).await;
                if status == 200 {
                    self.account.withdrawn.fetch_add(300, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..40))).await;
        }
        self.account.gave_up.fetch_or(turn < 5, Ordering::Relaxed);
    }
}

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
    let places = Arc::new(Where::default());
    let mut processes = BTreeMap::new();
    for role in ROLES {
        let process = cluster.start_at_once(role).await;
        places.is_now(role, &process);
        processes.insert(role, process);
    }
    for process in processes.values() {
        process.until_ready().await;
    }

    let account = Arc::new(Account::default());
    let is_over = Arc::new(AtomicBool::new(false));
    let client = |number| Client {
        number,
        http: reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap(),
        places: places.clone(),
        account: account.clone(),
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| actix_web::rt::spawn(client(number).run(is_over.clone())))
        .collect();
    let began = Instant::now();
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(200..1_200))).await;
        let role = ROLES[fastrand::usize(..ROLES.len())];
        processes.get_mut(role).unwrap().kill().await;
        let process = cluster.start_at_once(role).await;
        places.is_now(role, &process);
        processes.insert(role, process);
        match kill {
            5 => kafka.stop().await,
            8 => kafka.start().await,
            11 => redis.stop().await,
            14 => redis.start().await,
            _ => {}
        }
    }
    let placed = || account.placed.lock().unwrap().len();
    let before = placed();
    eventually("bets are accepted again", async || {
        (placed() > before + 50).then_some(())
    })
    .await;
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        within("a client ends", client).await.unwrap();
    }
    let took = began.elapsed();
    assert!(
        !account.gave_up.load(Ordering::Relaxed),
        "a client was starved"
    );

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

    let variables: Vec<_> = cluster
        .variables()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let verify = command(cluster.folder.path(), &variables)
        .args(["ledger", "verify"])
        .output();
    let verified = within("ledger verify", verify).await.unwrap();
    let report = String::from_utf8_lossy(&verified.stdout).into_owned();
    println!("{report}");
    assert!(
        verified.status.success(),
        "{report}{}",
        String::from_utf8_lossy(&verified.stderr)
    );

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
    let bets = *places.bets.lock().unwrap();
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
