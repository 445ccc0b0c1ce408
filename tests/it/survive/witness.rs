//! A client subscribed to every event that records violations of the protocol's guarantees.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{OddsClient, SteadySupplier, get_json, within};

/// Maximum wait for an expected change: machines may be busy, and partitions must be reassigned
/// first.
const WAIT_LIMIT: Duration = Duration::from_secs(90);
/// The most updates sent by the supplier that a client may not have received yet: many times the
/// number that arrives while partitions are reassigned.
const MAX_ON_THE_WAY: i64 = 30_000;

/// The record of a witness.
#[derive(Default)]
pub struct Seen {
    /// The last seq and version of each event.
    pub last: HashMap<String, (u64, i64)>,
    /// The seq of each received version of each event.
    pub numbers: BTreeMap<(String, i64), u64>,
    /// The number of updates received, and how many of them were conflated.
    pub updates: usize,
    pub conflated: usize,
    /// The longest time without an update.
    pub silence: Duration,
    wrong: Vec<String>,
}

impl Seen {
    fn hear(&mut self, message: &Value) {
        let event = message["eventId"].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str() {
            Some("update") => {
                self.updates += 1;
                self.conflated += usize::from(message["conflated"] == true);
                let (seq, payload) = (message["seq"].as_u64().unwrap(), &message["payload"]);
                if !self.repeats(&event, seq, message) {
                    self.change(event, seq, payload);
                }
            }
            Some("snapshot") => {
                for market in message["markets"].as_array().unwrap() {
                    self.change(
                        event.clone(),
                        market["seq"].as_u64().unwrap(),
                        &market["payload"],
                    );
                }
            }
            Some("feed") => {}
            _ => self.wrong.push(format!("unexpected message: {message}")),
        }
    }

    /// Whether an update only says that the source of its market became stale, or live again.
    fn repeats(&self, event: &str, seq: u64, message: &Value) -> bool {
        let version = message["payload"]["version"].as_i64().unwrap();
        !message["stale"].is_null() && self.last.get(event) == Some(&(seq, version))
    }

    /// The state of a market; the supplier has one market per event.
    fn change(&mut self, event: String, seq: u64, payload: &Value) {
        let version = payload["version"].as_i64().unwrap();
        let price = payload["odds"]["home"].as_f64().unwrap();
        if (price - (1.5 + (version % 1_000) as f64 / 1_000.0)).abs() > 0.000_1 {
            self.wrong
                .push(format!("{event}: version {version} with price {price}"));
        }
        let (last_seq, last_version) = self.last.get(&event).copied().unwrap_or_default();
        if seq <= last_seq || version <= last_version {
            self.wrong.push(format!(
                "{event}: version {version} with number {seq} after version {last_version} with number {last_seq}"
            ));
        }
        self.last.insert(event.clone(), (seq, version));
        self.numbers.insert((event, version), seq);
    }
}

/// A client in a separate task.
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<Option<u16>>,
}

impl Witness {
    /// Connects and subscribes to every event of the supplier.
    pub async fn of(address: SocketAddr, supplier: &SteadySupplier) -> Witness {
        let mut client = OddsClient::connect(address).await;
        for event in supplier.events() {
            client.subscribe(&event).await;
        }
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            let mut last = Instant::now();
            while let Some(Ok(message)) = client.socket.next().await {
                match message {
                    Message::Text(text) => {
                        let mut seen = noted.lock().unwrap();
                        seen.silence = seen.silence.max(last.elapsed());
                        last = Instant::now();
                        seen.hear(&serde_json::from_str(&text).unwrap());
                    }
                    Message::Close(frame) => return frame.map(|frame| frame.code.into()),
                    _ => {}
                }
            }
            None
        });
        Witness { seen, task }
    }

    /// Its record. Panics if it contains a violation.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        let seen = self.seen.lock().unwrap();
        let wrong = &seen.wrong[..seen.wrong.len().min(10)];
        assert!(
            wrong.is_empty(),
            "{} times, as {wrong:#?}",
            seen.wrong.len()
        );
        seen
    }

    /// Waits until it has received the supplier's last version of each event.
    pub async fn until_last(&self, supplier: &SteadySupplier) {
        until_all(supplier, "received by a client", async |event| {
            self.seen()
                .last
                .get(event)
                .map_or(0, |(_, version)| *version)
        })
        .await;
    }

    /// Waits until it has received this many more updates while the supplier sends.
    pub async fn until_more(&self, supplier: &SteadySupplier, more: usize) {
        let wanted = self.seen().updates + more;
        self.until_seen(supplier, "updates are received", |seen| {
            seen.updates >= wanted
        })
        .await;
    }

    /// Waits until it has received a not yet sent change of each event; returns how long that took.
    pub async fn until_every_event_moves(&self, supplier: &SteadySupplier) -> Duration {
        let began = Instant::now();
        let sent = supplier.last();
        let moved = |seen: &Seen, event, sent| {
            seen.last
                .get(&SteadySupplier::event(event))
                .is_some_and(|(_, version)| *version > sent)
        };
        self.until_seen(supplier, "every event is published again", |seen| {
            sent.iter()
                .enumerate()
                .all(|(event, sent)| moved(seen, event, *sent))
        })
        .await;
        began.elapsed()
    }

    /// The supplier sends 1,000 updates per second, except while too many are in flight: on a
    /// slower machine the backlog stays short.
    async fn until_seen(
        &self,
        supplier: &SteadySupplier,
        what: &str,
        wanted: impl Fn(&Seen) -> bool,
    ) {
        let deadline = Instant::now() + WAIT_LIMIT;
        loop {
            {
                let seen = self.seen();
                if wanted(&seen) {
                    return;
                }
                let received: i64 = seen.last.values().map(|(_, version)| version).sum();
                let on_the_way = supplier.last().iter().sum::<i64>() - received;
                supplier.send_at(if on_the_way > MAX_ON_THE_WAY {
                    0
                } else {
                    1_000
                });
            }
            assert!(
                Instant::now() < deadline,
                "timed out after {WAIT_LIMIT:?}: {what}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the server has closed the socket, and returns the code.
    pub async fn close_code(self) -> (Option<u16>, Seen) {
        let code = within("the end of the connection", self.task)
            .await
            .unwrap();
        drop(self.seen.lock().unwrap());
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        (code, seen)
    }
}

/// Requests each event in turn, repeatedly, and panics if a seq or a version decreases.
pub fn poll_rest(address: SocketAddr, supplier: &SteadySupplier) -> JoinHandle<()> {
    let events: Vec<_> = supplier.events().collect();
    tokio::spawn(async move {
        let mut last: HashMap<&str, (u64, i64)> = HashMap::new();
        loop {
            for event in &events {
                let (status, odds) =
                    get_json(&format!("http://{address}/v1/events/{event}/odds")).await;
                assert!(
                    status != 404 || !last.contains_key(event.as_str()),
                    "{event} was known before"
                );
                if status != 200 {
                    // Not known yet, or not readable in time on a busy machine.
                    assert!(status == 404 || status == 503, "{event}: {status} {odds}");
                    continue;
                }
                let now = (
                    odds[0]["seq"].as_u64().unwrap(),
                    odds[0]["version"].as_i64().unwrap(),
                );
                let before = last.insert(event, now).unwrap_or_default();
                assert!(
                    before.0 <= now.0 && before.1 <= now.1,
                    "{event}: {before:?} became {now:?}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    })
}

/// The version that REST shows of an event; 0 if it is unknown.
pub async fn rest_version(address: SocketAddr, event: &str) -> i64 {
    let (_, odds) = get_json(&format!("http://{address}/v1/events/{event}/odds")).await;
    odds[0]["version"].as_i64().unwrap_or_default()
}

/// Waits until a place is at the supplier's last version of each event.
pub async fn until_all(supplier: &SteadySupplier, what: &str, version: impl AsyncFn(&str) -> i64) {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let mut late = Vec::new();
        for (event, last) in supplier.events().zip(supplier.last()) {
            let version = version(&event).await;
            if version != last {
                late.push(format!("{event}: {version} of {last}"));
            }
        }
        if late.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "timed out after {WAIT_LIMIT:?}: not {what}: {late:#?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
