//! A client that hears everything of every event, and notes what of it is wrong.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{OddsClient, SteadySupplier, get_json, within};

/// How long a test waits for something to come: machines may be busy, and partitions must first
/// come free.
const WAIT_LIMIT: Duration = Duration::from_secs(90);
/// What the supplier may have sent and no client been told: what comes in while partitions come
/// free, many times over.
const MAX_ON_THE_WAY: i64 = 30_000;

/// What a witness has seen.
#[derive(Default)]
pub struct Seen {
    /// Of each event, the last number and version.
    pub last: HashMap<String, (u64, i64)>,
    /// The number of each version that was told, of each event.
    pub numbers: BTreeMap<(String, i64), u64>,
    /// How many updates were told, and how many of them stand for several.
    pub updates: usize,
    pub conflated: usize,
    /// The longest that nothing was told.
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
                self.change(event, message["seq"].as_u64().unwrap(), &message["payload"]);
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
            _ => self.wrong.push(format!("told: {message}")),
        }
    }

    /// A market's state; the supplier has one market an event.
    fn change(&mut self, event: String, seq: u64, payload: &Value) {
        let version = payload["version"].as_i64().unwrap();
        let price = payload["odds"]["home"].as_f64().unwrap();
        if (price - (1.5 + (version % 1_000) as f64 / 1_000.0)).abs() > 0.000_1 {
            self.wrong
                .push(format!("{event}: version {version} at the price {price}"));
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

/// A client in a task of its own.
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

    /// What it has seen. Fails where something of it was wrong.
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

    /// Waits until it has seen the supplier's last of each event.
    pub async fn until_last(&self, supplier: &SteadySupplier) {
        until_all(supplier, "told to a client", async |event| {
            self.seen()
                .last
                .get(event)
                .map_or(0, |(_, version)| *version)
        })
        .await;
    }

    /// Waits until it has seen so many updates more, while the supplier sends.
    pub async fn until_more(&self, supplier: &SteadySupplier, more: usize) {
        let wanted = self.seen().updates + more;
        self.until_seen(supplier, "updates are told", |seen| seen.updates >= wanted)
            .await;
    }

    /// Waits until it has seen a change of each event that was not sent yet, and gives how long
    /// that took.
    pub async fn until_every_event_moves(&self, supplier: &SteadySupplier) -> Duration {
        let began = Instant::now();
        let sent = supplier.last();
        let moved = |seen: &Seen, event, sent| {
            seen.last
                .get(&SteadySupplier::event(event))
                .is_some_and(|(_, version)| *version > sent)
        };
        self.until_seen(supplier, "every event is told anew", |seen| {
            sent.iter()
                .enumerate()
                .all(|(event, sent)| moved(seen, event, *sent))
        })
        .await;
        began.elapsed()
    }

    /// The supplier sends 1,000 a second, but for as long as too much is on its way: where the
    /// machine is slower than that, the end stays near.
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
                let told: i64 = seen.last.values().map(|(_, version)| version).sum();
                let on_the_way = supplier.last().iter().sum::<i64>() - told;
                supplier.send_at(if on_the_way > MAX_ON_THE_WAY {
                    0
                } else {
                    1_000
                });
            }
            assert!(
                Instant::now() < deadline,
                "not within {WAIT_LIMIT:?}: {what}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the server has closed the socket, and gives the code.
    pub async fn close_code(self) -> (Option<u16>, Seen) {
        let code = within("the end of the connection", self.task)
            .await
            .unwrap();
        drop(self.seen.lock().unwrap());
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        (code, seen)
    }
}

/// Asks for each event in turn, again and again, and fails where a number or a version goes back.
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

/// The version that REST shows of an event; 0 where it knows none.
pub async fn rest_version(address: SocketAddr, event: &str) -> i64 {
    let (_, odds) = get_json(&format!("http://{address}/v1/events/{event}/odds")).await;
    odds[0]["version"].as_i64().unwrap_or_default()
}

/// Waits until something is at the supplier's last version of each event.
pub async fn until_all(supplier: &SteadySupplier, what: &str, version: impl AsyncFn(&str) -> i64) {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let mut behind = Vec::new();
        for (event, last) in supplier.events().zip(supplier.last()) {
            let version = version(&event).await;
            if version != last {
                behind.push(format!("{event}: {version} of {last}"));
            }
        }
        if behind.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not within {WAIT_LIMIT:?} {what}: {behind:#?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
