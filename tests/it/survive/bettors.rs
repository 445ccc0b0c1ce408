//! Clients that deposit, bet and withdraw, and retry each request until its answer is final.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Cluster, ServerProcess, SteadySupplier, command, try_send, within};

const CLIENTS: usize = 16;

/// What clients do.
#[derive(Clone, Copy)]
pub struct Habits {
    /// The number of events they bet on.
    pub events: usize,
    /// The selections they bet on, in turn.
    pub selections: &'static [&'static str],
    /// The initial balance of every client, in cents.
    pub start: i64,
    /// What they withdraw at once, in cents.
    pub withdrawal: i64,
    /// They withdraw after this many bets.
    pub withdraws_after: usize,
}

/// The current addresses of the processes: each start uses another port.
#[derive(Default)]
pub struct Addresses {
    pub bets: Mutex<Option<SocketAddr>>,
    pub wallet: Mutex<Option<SocketAddr>>,
}

impl Addresses {
    /// Stores the address of a process that has started.
    pub fn set(&self, role: &str, process: &ServerProcess) {
        match role {
            "bets" => *self.bets.lock().unwrap() = Some(process.bets()),
            "wallet" => *self.wallet.lock().unwrap() = Some(process.wallet()),
            _ => {}
        }
    }
}

/// The combined knowledge of all clients at the end.
#[derive(Default)]
pub struct Account {
    /// Each bet with the first answer to its key.
    pub placed: Mutex<BTreeMap<String, Value>>,
    pub deposited: AtomicUsize,
    pub withdrawn: AtomicUsize,
    pub refused: AtomicUsize,
    pub retries: AtomicUsize,
    pub gave_up: AtomicBool,
}

/// A client that retries with the same key until the answer is final.
struct Client {
    number: usize,
    http: reqwest::Client,
    addresses: Arc<Addresses>,
    account: Arc<Account>,
    habits: Habits,
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
        let wallet = || *self.addresses.wallet.lock().unwrap();
        let (status, answer) = self
            .certain(wallet, "/wallet/deposit", &body, reference)
            .await;
        assert_eq!(status, 200, "{answer}");
        self.account
            .deposited
            .fetch_add(cents as usize, Ordering::Relaxed);
    }

    async fn run(self, is_over: Arc<AtomicBool>) {
        self.deposit(self.habits.start, &format!("start-{}", self.number))
            .await;
        let bets = || *self.addresses.bets.lock().unwrap();
        let wallet = || *self.addresses.wallet.lock().unwrap();
        let Habits {
            events,
            selections,
            withdrawal,
            withdraws_after,
            ..
        } = self.habits;
        let mut turn = 0;
        while !is_over.load(Ordering::Relaxed) {
            turn += 1;
            let key = format!("client-{}-{turn}", self.number);
            let body = json!({
                "userId": self.user(), "eventId": SteadySupplier::event(turn % events), "market": "1x2",
                "selection": selections[(turn / events) % selections.len()], "stake_cents": 100 + turn, "odd_value": 1.5, "oddsChange": "any",
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
            if turn % withdraws_after == 0 {
                let body = json!({"userId": self.user(), "amount_cents": withdrawal, "external_ref": format!("out-{key}")});
                let (status, _) = self.certain(wallet, "/wallet/withdraw", &body, &key).await;
                if status == 200 {
                    self.account
                        .withdrawn
                        .fetch_add(withdrawal as usize, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..40))).await;
        }
        self.account.gave_up.fetch_or(turn < 5, Ordering::Relaxed);
    }
}

/// The running clients.
pub struct Clients {
    pub account: Arc<Account>,
    is_over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts the clients.
    pub fn start(habits: Habits, addresses: &Arc<Addresses>) -> Clients {
        let account = Arc::new(Account::default());
        let is_over = Arc::new(AtomicBool::new(false));
        let client = |number| Client {
            number,
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(10))
                .build()
                .unwrap(),
            addresses: addresses.clone(),
            account: account.clone(),
            habits,
        };
        let tasks = (0..CLIENTS)
            .map(|number| actix_web::rt::spawn(client(number).run(is_over.clone())))
            .collect();
        Clients {
            account,
            is_over,
            tasks,
        }
    }

    /// The number of bets that were answered.
    pub fn placed(&self) -> usize {
        self.account.placed.lock().unwrap().len()
    }

    /// Waits until each client has its last answer.
    pub async fn end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            within("a client ends", task).await.unwrap();
        }
        let gave_up = self.account.gave_up.load(Ordering::Relaxed);
        assert!(!gave_up, "a client was starved");
    }
}

/// Runs `sports-bet ledger verify`, prints its report, and panics if it finds an error.
pub async fn verify_ledger(cluster: &Cluster) {
    let variables: Vec<_> = cluster
        .variables()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let verify = command(cluster.folder.path(), &variables)
        .args(["ledger", "verify"])
        .output();
    let verified = within("ledger verify", verify).await.unwrap();
    let report = String::from_utf8_lossy(&verified.stdout);
    println!("{report}");
    let errors = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{report}{errors}");
}
