//! A user who tries a bet at the shown price about ten times a second.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{ServerProcess, try_send};

/// The time between two bets.
const INTERVAL: Duration = Duration::from_millis(100);
/// After this time a request has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The answers to a bet on a market whose price may be stale.
const REFUSALS: [&str; 3] = [
    "409 MARKET_STALE",
    "409 MARKET_SUSPENDED",
    "503 ODDS_UNAVAILABLE",
];

/// A bet that was tried.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub event: String,
    pub sent: Instant,
    /// `200`, or status and code, such as `409 MARKET_STALE`.
    pub answer: String,
    /// The id of the bet, if it was accepted.
    pub bet_id: Option<String>,
}

impl Attempt {
    /// Whether the bet was accepted.
    pub fn is_accepted(&self) -> bool {
        self.answer == "200"
    }

    /// Whether the bet was refused because its price may be stale.
    pub fn is_refused(&self) -> bool {
        REFUSALS.contains(&self.answer.as_str())
    }
}

/// The user, in a separate task.
pub struct Bettor {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    betting: JoinHandle<()>,
}

impl Bettor {
    /// Deposits, then bets on the events in turn until it is dropped.
    pub async fn start(odds: &ServerProcess, money: &ServerProcess, events: &[String]) -> Bettor {
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().unwrap();
        let deposit =
            json!({"userId": "bettor", "amount_cents": 100_000_000, "external_ref": "first"});
        let url = format!("http://{}/wallet/deposit", money.wallet());
        let (answer, _) = post(&http, &url, &deposit).await;
        assert_eq!(answer, "200");
        let table = BetTable {
            http,
            odds: odds.odds(),
            bets: money.bets(),
        };
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let shared = attempts.clone();
        let events = events.to_vec();
        let betting = actix_web::rt::spawn(async move {
            let mut prices = BTreeMap::new();
            for turn in 0.. {
                let event = &events[turn % events.len()];
                let attempt = table.bet(event, &mut prices).await;
                shared.lock().extend(attempt);
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Bettor { attempts, betting }
    }

    /// The bets sent since a moment.
    pub fn since(&self, since: Instant) -> Vec<Attempt> {
        let attempts = self.attempts.lock();
        let sent = attempts.iter().filter(|attempt| attempt.sent >= since);
        sent.cloned().collect()
    }

    /// The ids of all bets that were accepted.
    pub fn accepted(&self) -> Vec<String> {
        let attempts = self.attempts.lock();
        let ids = attempts.iter().filter_map(|attempt| attempt.bet_id.clone());
        ids.collect()
    }

    /// The number of answers of each kind since a moment.
    pub fn answers(&self, since: Instant) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for attempt in self.since(since) {
            *answers.entry(attempt.answer).or_default() += 1;
        }
        answers
    }

    /// Panics if a bet on these events that was sent since a moment got any answer but a refusal.
    pub fn check_refused(&self, since: Instant, events: &[String]) {
        let mut tried = self.since(since);
        tried.retain(|attempt| events.contains(&attempt.event));
        assert!(!tried.is_empty(), "no bet was tried");
        let others: Vec<_> = tried
            .iter()
            .filter(|attempt| !attempt.is_refused())
            .map(|attempt| (&attempt.event, attempt.sent - since, &attempt.answer))
            .collect();
        assert!(
            others.is_empty(),
            "{} of {} bets, by the time after the clients knew: {others:?}",
            others.len(),
            tried.len()
        );
    }
}

impl Drop for Bettor {
    fn drop(&mut self) {
        self.betting.abort();
    }
}

/// Where prices are read and bets are placed.
struct BetTable {
    http: reqwest::Client,
    odds: SocketAddr,
    bets: SocketAddr,
}

impl BetTable {
    /// Bets at the shown price, or at the last one if none is shown. `None` before the first.
    async fn bet(&self, event: &str, prices: &mut BTreeMap<String, Value>) -> Option<Attempt> {
        if let Some(price) = self.shown_price(event).await {
            prices.insert(event.to_owned(), price);
        }
        let price = prices.get(event)?;
        let body = json!({
            "userId": "bettor", "eventId": event, "market": "1x2", "selection": "home",
            "stake_cents": 100, "odd_value": price,
        });
        let sent = Instant::now();
        let url = format!("http://{}/bets", self.bets);
        let (answer, body) = post(&self.http, &url, &body).await;
        Some(Attempt {
            event: event.to_owned(),
            sent,
            answer,
            bet_id: body["betId"].as_str().map(str::to_owned),
        })
    }

    async fn shown_price(&self, event: &str) -> Option<Value> {
        let url = format!("http://{}/v1/events/{event}/odds", self.odds);
        let odds = try_send(self.http.get(url)).await.ok()?.json();
        Some(odds[0]["homeOdd"].clone()).filter(|price| !price.is_null())
    }
}

/// Posts a body. Returns the status of the answer, with its code if there is one, and its body.
async fn post(http: &reqwest::Client, url: &str, body: &Value) -> (String, Value) {
    let request = http.post(url).header("Content-Type", "application/json");
    let answer = match try_send(request.body(body.to_string())).await {
        Ok(answer) => answer,
        Err(error) => return (format!("no answer: {error:?}"), Value::Null),
    };
    let status = answer.status;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let answer = match body["code"].as_str() {
        Some(code) => format!("{status} {code}"),
        None => status.to_string(),
    };
    (answer, body)
}
