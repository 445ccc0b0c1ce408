//! Observers for an engine outage: a client that records what it receives, and the resource use of
//! each process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{Cluster, Database, OddsClient, ServerProcess, SteadySupplier, get_text};

/// How long an engine is down.
pub const OUTAGE: Duration = Duration::from_secs(20);
/// Engines start and stop slowly, and machines are busy.
const WAIT_LIMIT: Duration = Duration::from_secs(90);
/// The most lines that a process may log during an outage.
const MAX_LINES: usize = 80;

/// A cluster whose supplier may be silent without being considered lost: otherwise its markets
/// would be suspended, by updates it did not send.
pub async fn cluster(events: usize, variables: &[(&str, &str)]) -> Cluster {
    Cluster::new(
        events,
        &[variables, &[("SUPPLIER_STALE_AFTER", "5m")]].concat(),
    )
    .await
}

/// Like [`crate::support::until`], with a longer deadline.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(WAIT_LIMIT, asking).await {
        Ok(value) => value,
        Err(_) => panic!("timed out after {WAIT_LIMIT:?}: {what}"),
    }
}

/// A client that has subscribed to events and records what it receives.
pub struct Follower {
    account: Arc<Mutex<Account>>,
    reading: JoinHandle<()>,
}

/// The state of a client.
#[derive(Default)]
pub struct Account {
    /// The last seq and version of each event.
    pub last: HashMap<String, (u64, i64)>,
    /// The number of updates received for each event.
    pub updates: HashMap<String, usize>,
    /// The feed states it received: snapshots marked stale, and `feed` messages.
    pub feed: Vec<String>,
    /// Messages that violate the protocol's guarantees.
    faults: Vec<String>,
}

impl Account {
    fn take(&mut self, message: &Value) {
        let kind = message["type"].as_str().unwrap_or_default();
        let payload = match kind {
            "update" => &message["payload"],
            "snapshot" => {
                if message["stale"] == true {
                    self.feed.push("stale snapshot".to_owned());
                }
                &message["markets"][0]["payload"]
            }
            "feed" => {
                return self
                    .feed
                    .push(message["status"].as_str().unwrap_or_default().to_owned());
            }
            _ => return self.faults.push(message.to_string()),
        };
        let event = message["eventId"].as_str().unwrap_or_default().to_owned();
        let seq = message["seq"].as_u64().unwrap_or(0);
        let version = payload["version"].as_i64().unwrap_or(0);
        let (last_seq, last_version) = self.last.get(&event).copied().unwrap_or_default();
        // A client drops a repeated change by its seq.
        let is_again = seq == last_seq && version == last_version;
        let grows = seq > last_seq && version >= last_version;
        if !is_again && !grows {
            self.faults.push(format!(
                "{event}: seq {last_seq} version {last_version}, then {message}"
            ));
        }
        if kind == "update" {
            *self.updates.entry(event.clone()).or_default() += 1;
        }
        self.last.insert(event, (seq, version));
    }
}

impl Follower {
    /// Subscribes to events, and reads until it is dropped.
    pub async fn of(address: SocketAddr, events: impl IntoIterator<Item = String>) -> Follower {
        let mut client = OddsClient::connect(address).await;
        for event in events {
            client.subscribe(&event).await;
        }
        let account = Arc::new(Mutex::new(Account::default()));
        let shared = account.clone();
        let reading = tokio::spawn(async move {
            use futures_util::StreamExt;
            while let Some(message) = client.socket.next().await {
                let mut account = shared.lock().unwrap();
                match message {
                    Ok(tokio_tungstenite::tungstenite::Message::Text(text)) => {
                        account.take(&serde_json::from_str(&text).unwrap());
                    }
                    Ok(tokio_tungstenite::tungstenite::Message::Close(frame)) => {
                        account.faults.push(format!("closed: {frame:?}"));
                    }
                    Ok(_) => {}
                    Err(error) => account.faults.push(format!("disconnected: {error}")),
                }
            }
        });
        Follower { account, reading }
    }

    pub fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap()
    }

    /// The last seq and version it has of an event.
    pub fn last(&self, event: &str) -> (u64, i64) {
        self.account().last.get(event).copied().unwrap_or_default()
    }

    /// Waits until it has received this many more updates of each of these events.
    pub async fn until_received(&self, events: &[String], more: usize) {
        let count = |event: &String| self.account().updates.get(event).copied().unwrap_or(0);
        let wanted: Vec<usize> = events.iter().map(|event| count(event) + more).collect();
        eventually(&format!("{more} updates of every event"), async || {
            events
                .iter()
                .zip(&wanted)
                .all(|(event, wanted)| count(event) >= *wanted)
                .then_some(())
        })
        .await;
        self.check();
    }

    /// Waits until it has at least these versions of events 0, 1, ….
    pub async fn until_at(&self, versions: &[i64]) {
        eventually(&format!("versions {versions:?}"), async || {
            let known = |(number, version): (usize, &i64)| {
                self.last(&SteadySupplier::event(number)).1 >= *version
            };
            versions.iter().enumerate().all(known).then_some(())
        })
        .await;
        self.check();
    }

    /// Panics if it received an old change as new, or was disconnected.
    pub fn check(&self) {
        let faults = &self.account().faults;
        assert!(
            faults.is_empty(),
            "{} faults, the first: {}",
            faults.len(),
            faults[0]
        );
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The resource use of processes from a moment on.
pub struct Costs<'a> {
    since: Instant,
    of: Vec<(&'static str, &'a ServerProcess, f64, usize)>,
}

impl<'a> Costs<'a> {
    /// Starts measuring now.
    pub fn of(processes: &[(&'static str, &'a ServerProcess)]) -> Costs<'a> {
        let begin = |(name, process): &(&'static str, &'a ServerProcess)| {
            (
                *name,
                *process,
                cpu_seconds(process.id()),
                process.log().lines().count(),
            )
        };
        Costs {
            since: Instant::now(),
            of: processes.iter().map(begin).collect(),
        }
    }

    /// Prints the resource use, and panics if a process has ended or flooded its log.
    pub async fn report(&self, what: &str) {
        for (name, process, cpu, lines) in &self.of {
            let share =
                (cpu_seconds(process.id()) - cpu) / self.since.elapsed().as_secs_f64() * 100.0;
            let log = process.log();
            let new: Vec<&str> = log.lines().skip(*lines).collect();
            eprintln!(
                "{what}: {name}: CPU {share:.1} %, {} MiB, {} log lines",
                resident_mib(process.id()),
                new.len()
            );
            assert!(
                new.len() < MAX_LINES,
                "{name} floods its log:\n{}",
                new.join("\n")
            );
            for line in new {
                eprintln!("    {}", line.chars().take(220).collect::<String>());
            }
            for address in process.health.values() {
                assert_eq!(
                    get_text(&format!("http://{address}/livez")).await.0,
                    200,
                    "{name} is not alive"
                );
            }
        }
    }
}

fn cpu_seconds(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // In hundredths of a second.
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn resident_mib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// Status and body of a role's readiness.
pub async fn readiness(process: &ServerProcess, role: &str) -> (u16, String) {
    get_text(&format!("http://{}/healthz", process.health[role])).await
}

/// Waits until a role is not ready and names a failing check; returns the body.
pub async fn until_down(process: &ServerProcess, role: &str, what: &str) -> String {
    let named = format!("\"{what}\"");
    eventually(&format!("{role} reports that {what} is down"), async || {
        let (status, body) = readiness(process, role).await;
        (status == 503 && body.contains(&named)).then_some(body)
    })
    .await
}

/// Waits until a role is ready.
pub async fn until_up(process: &ServerProcess, role: &str) {
    eventually(&format!("{role} is ready"), async || {
        (readiness(process, role).await.0 == 200).then_some(())
    })
    .await;
}

/// Silences the supplier; returns the last versions, after the platform has processed everything
/// that was sent.
pub async fn fall_silent(cluster: &Cluster, follower: &Follower) -> Vec<i64> {
    cluster.supplier.send_at(0);
    let mut before = cluster.supplier.sent();
    let last = eventually("the supplier has sent everything", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let sent = std::mem::replace(&mut before, cluster.supplier.sent());
        (sent == before).then(|| cluster.supplier.last())
    })
    .await;
    follower.until_at(&last).await;
    last
}

/// Waits until the history has all versions of each event from the first to the last, each once,
/// and the current odds are the last.
pub async fn until_stored(database: &Database, last: &[i64]) {
    for (number, version) in last.iter().enumerate() {
        let event = SteadySupplier::event(number);
        let wanted = *version as usize;
        eventually(&format!("{wanted} rows of {event}"), async || {
            (database.versions(&event).len() >= wanted).then_some(())
        })
        .await;
        assert!(
            database.versions(&event).into_iter().eq(1..=*version),
            "history of {event}: {:?}",
            database.versions(&event)
        );
        let sql = format!("SELECT version AS number FROM odds_current WHERE event_id = '{event}'");
        assert_eq!(database.number(&sql), *version, "current odds of {event}");
    }
}
