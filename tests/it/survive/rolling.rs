//! Three `odds` processes behind a load balancer are replaced one after another. No client misses a
//! change, and the clients do not all reconnect at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sports_bet_platform::domain::timestamp::Timestamp;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{
    Cluster, LoadBalancer, OddsTopic, ReservedPort, ServerProcess, get_text, until,
};

const SOCKETS: usize = 2_000;
/// Each event changes once a second: 500 updates a second.
const EVENTS: usize = 500;
/// How many clients connect at a time before the first roll.
const BATCH: usize = 200;
const INTERVAL: Duration = Duration::from_millis(2);
const DRAIN_DELAY: &str = "3s";
const DRAIN_SPREAD: &str = "14s";
/// The largest part of the clients that may reconnect within a second.
const MAX_PER_SECOND: usize = SOCKETS / 10;

/// Publishes every event once, and then changes one after another.
struct Publisher {
    changes: Arc<AtomicBool>,
    is_ended: Arc<AtomicBool>,
    /// Returns the last version of each event.
    task: tokio::task::JoinHandle<Vec<u64>>,
}

impl Publisher {
    fn start(topic: &OddsTopic) -> Publisher {
        let publisher = topic.publisher();
        let is_ended = Arc::new(AtomicBool::new(false));
        let changes = Arc::new(AtomicBool::new(false));
        let (begins, ends) = (changes.clone(), is_ended.clone());
        let task = tokio::task::spawn_blocking(move || {
            let mut versions = vec![1; EVENTS];
            (0..EVENTS).for_each(|event| publisher.publish(&record(event, 1)));
            while !begins.load(Ordering::Relaxed) && !ends.load(Ordering::Relaxed) {
                std::thread::sleep(INTERVAL);
            }
            let start = Instant::now();
            for change in 0.. {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                let event = change as usize % EVENTS;
                versions[event] += 1;
                publisher.publish(&record(event, versions[event]));
                let due = start + INTERVAL * change;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            publisher.finish();
            versions
        });
        Publisher {
            changes,
            is_ended,
            task,
        }
    }

    fn change(&self) {
        self.changes.store(true, Ordering::Relaxed);
    }

    async fn end(mut self) -> Vec<u64> {
        self.is_ended.store(true, Ordering::Relaxed);
        (&mut self.task).await.unwrap()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
    }
}

fn record(event: usize, version: u64) -> (Vec<u8>, Vec<u8>) {
    let id = format!("E{event}");
    let frame = json!({
        "event_id": id, "home_team": "A", "away_team": "B", "market": "m",
        "selections": [{"id": "s", "name": "S", "price": 2.5, "status": "active"}],
        "updated_at": Timestamp::now().to_string(), "source": "test", "version": version,
    });
    (id.into(), frame.to_string().into())
}

/// What all clients record.
#[derive(Default)]
struct Counts {
    reconnects: Mutex<Vec<Instant>>,
    /// Snapshots of the whole event, because prices were stale: nothing is missed, but more is sent.
    not_resumed: AtomicUsize,
    server_errors: AtomicUsize,
    /// Reconnects after a `reconnect` message.
    told: AtomicUsize,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client that follows one event and moves when it is told to.
struct Client {
    event: usize,
    url: String,
    counts: Arc<Counts>,
    /// The version that it shows.
    shown: Arc<Mutex<u64>>,
    resume: Option<(u64, String)>,
}

impl Client {
    /// Connects until it succeeds, and subscribes. Returns once the snapshot is there.
    async fn connect(&mut self) -> Socket {
        loop {
            match connect_async(&self.url).await {
                Ok((mut socket, _)) => {
                    if self.subscribe(&mut socket).await.is_some() {
                        return socket;
                    }
                }
                Err(tungstenite::Error::Http(answer)) if answer.status().is_server_error() => {
                    println!("connect failed: {answer:?}");
                    self.counts.server_errors.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn subscribe(&mut self, socket: &mut Socket) -> Option<()> {
        let mut subscribe = json!({"type": "subscribe", "eventId": format!("E{}", self.event)});
        subscribe["conflateMs"] = 0.into();
        if let Some((since, epoch)) = &self.resume {
            subscribe["since"] = (*since).into();
            subscribe["epoch"] = epoch.as_str().into();
        }
        socket
            .send(Message::text(subscribe.to_string()))
            .await
            .ok()?;
        loop {
            let message = next(socket).await?;
            if message["type"] == "snapshot" {
                self.on_snapshot(&message);
                return Some(());
            }
        }
    }

    fn on_snapshot(&mut self, message: &Value) {
        if self.resume.is_some() && message["recovered"] != true {
            self.counts.not_resumed.fetch_add(1, Ordering::Relaxed);
        }
        for market in message["markets"].as_array().unwrap() {
            let version = version(market);
            let mut shown = self.shown.lock();
            let is_marked = message["stale"] == true || market["stale"] == true;
            assert!(
                version >= *shown || is_marked,
                "{shown} is followed by {message}"
            );
            *shown = version;
        }
        let seq = message["seq"].as_u64().unwrap();
        let epoch = message["epoch"].as_str().map(str::to_owned);
        self.resume = epoch.map(|epoch| (seq, epoch));
    }

    /// A change follows the one that is shown, unless the server says that it left changes out.
    fn on_update(&mut self, message: &Value) {
        let version = version(message);
        let mut shown = self.shown.lock();
        let is_next = version == *shown + 1 || version == *shown && !message["stale"].is_null();
        let is_conflated = message["conflated"] == true && version > *shown;
        assert!(is_next || is_conflated, "{shown} is followed by {message}");
        *shown = version;
        let seq = message["seq"].as_u64().unwrap();
        if let Some((since, _)) = &mut self.resume {
            *since = seq.max(*since);
        }
    }

    /// Follows the event, on one connection after another.
    async fn follow(mut self) {
        let mut socket = self.connect().await;
        loop {
            let mut moving_at = None;
            loop {
                let now = tokio::time::Instant::now();
                let due = moving_at.unwrap_or(now + Duration::from_secs(3_600));
                let message = tokio::select! {
                    message = next(&mut socket) => message,
                    () = tokio::time::sleep_until(due) => break,
                };
                match message {
                    None => break,
                    Some(message) if message["type"] == "update" => self.on_update(&message),
                    Some(message) if message["type"] == "reconnect" => {
                        let within = message["withinMs"].as_u64().unwrap();
                        let wait = Duration::from_millis(fastrand::u64(0..within));
                        moving_at = Some(now + wait);
                    }
                    Some(_) => {}
                }
            }
            let told = usize::from(moving_at.is_some());
            self.counts.told.fetch_add(told, Ordering::Relaxed);
            self.counts.reconnects.lock().push(Instant::now());
            // The old connection ends once the new one has shown everything.
            socket = self.connect().await;
        }
    }
}

/// The next message; `None` if the connection has ended.
async fn next(socket: &mut Socket) -> Option<Value> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

fn version(change: &Value) -> u64 {
    change["payload"]["version"].as_u64().unwrap()
}

/// An `odds` process on ports that its successor takes over.
struct Instance {
    http: ReservedPort,
    health: ReservedPort,
    process: ServerProcess,
}

impl Instance {
    async fn start(cluster: &Cluster) -> Instance {
        let (http, health) = (ReservedPort::take(), ReservedPort::take());
        let process = Instance::start_on(cluster, &http, &health).await;
        Instance {
            http,
            health,
            process,
        }
    }

    async fn start_on(
        cluster: &Cluster,
        http: &ReservedPort,
        health: &ReservedPort,
    ) -> ServerProcess {
        let ports = [http, health].map(|it| it.address.port().to_string());
        let mut variables: Vec<(&str, &str)> = cluster
            .variables()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        variables.extend([
            ("ROLE", "odds"),
            ("HTTP_PORT_ODDS", &ports[0]),
            ("METRICS_PORT_ODDS", &ports[1]),
        ]);
        let process = ServerProcess::start(cluster.folder.path(), &variables).await;
        until("it is ready", || async {
            let url = format!("http://{}/readyz", process.health["odds"]);
            (get_text(&url).await.0 == 200).then_some(())
        })
        .await;
        process
    }

    /// Stops the process as an orchestrator does, and starts its successor.
    async fn replace(&mut self, cluster: &Cluster) {
        self.process.signal("TERM").await;
        let ended = self.process.ended().await;
        assert!(ended.success(), "{ended}: {}", self.process.log());
        self.process = Instance::start_on(cluster, &self.http, &self.health).await;
    }
}

/// Reads through the load balancer all the time. Returns the number of reads.
async fn poll(address: SocketAddr, counts: Arc<Counts>, is_ended: Arc<AtomicBool>) -> usize {
    let client = reqwest::Client::new();
    let mut reads = 0;
    while !is_ended.load(Ordering::Relaxed) {
        let event = reads % EVENTS;
        let answer = client
            .get(format!("http://{address}/v1/events/E{event}/odds"))
            .send()
            .await;
        let outcome = match answer {
            Ok(answer) if answer.status().is_success() => answer.bytes().await.map(|_| ()),
            Ok(answer) => Err(answer.error_for_status().unwrap_err()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            println!("read failed: {error:?}");
            counts.server_errors.fetch_add(1, Ordering::Relaxed);
        }
        reads += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    reads
}

/// The largest number of reconnects within any second.
fn peak(reconnects: &[Instant]) -> usize {
    let mut sorted = reconnects.to_vec();
    sorted.sort();
    let within = |start: &Instant| {
        let end = *start + Duration::from_secs(1);
        sorted.partition_point(|it| *it < end) - sorted.partition_point(|it| it < start)
    };
    sorted.iter().map(within).max().unwrap_or(0)
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn rolled_processes_lose_no_client() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let mut cluster = Cluster::new(1, &[]).await;
    cluster.set("DRAIN_DELAY", DRAIN_DELAY);
    cluster.set("DRAIN_SPREAD", DRAIN_SPREAD);
    let _processor = cluster.start("processor").await;
    let topic = OddsTopic::existing(&cluster.folder, "KAFKA_TOPIC_ODDS");
    let publisher = Publisher::start(&topic);
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(Instance::start(&cluster).await);
    }
    let servers: Vec<_> = instances
        .iter()
        .map(|it| (it.http.address, it.health.address))
        .collect();
    let balancer = LoadBalancer::start(&servers).await;
    balancer.until_up(3).await;

    let counts = Arc::new(Counts::default());
    let shown: Vec<_> = (0..SOCKETS).map(|_| Arc::new(Mutex::new(0))).collect();
    let mut clients = JoinSet::new();
    for (number, own) in shown.iter().enumerate() {
        let client = Client {
            event: number % EVENTS,
            url: format!("ws://{}/ws/odds", balancer.address),
            counts: counts.clone(),
            shown: own.clone(),
            resume: None,
        };
        clients.spawn(client.follow());
        // A part of them at a time: each event is loaded by three processes.
        if (number + 1).is_multiple_of(BATCH) {
            until("the clients show their events", || async {
                let mut first = shown[..=number].iter();
                first.all(|it| *it.lock() > 0).then_some(())
            })
            .await;
        }
    }
    publisher.change();
    let is_ended = Arc::new(AtomicBool::new(false));
    let polling = tokio::spawn(poll(balancer.address, counts.clone(), is_ended.clone()));
    let start = Instant::now();
    for instance in &mut instances {
        instance.replace(&cluster).await;
        balancer.until_up(3).await;
    }
    let rolled = start.elapsed();

    let last = publisher.end().await;
    until("every client shows the last change", || async {
        let mut events = (0..SOCKETS).map(|number| number % EVENTS);
        let is_last = |shown: &Arc<Mutex<u64>>| {
            let event = events.next().unwrap();
            *shown.lock() == last[event]
        };
        shown.iter().all(is_last).then_some(())
    })
    .await;
    is_ended.store(true, Ordering::Relaxed);
    let reads = polling.await.unwrap();
    let reconnects = counts.reconnects.lock().clone();
    let peak = peak(&reconnects);
    let [told, not_resumed, server_errors] =
        [&counts.told, &counts.not_resumed, &counts.server_errors]
            .map(|count| count.load(Ordering::Relaxed));
    let mut by_second = BTreeMap::new();
    for reconnect in &reconnects {
        *by_second.entry((*reconnect - start).as_secs()).or_insert(0) += 1;
    }
    println!(
        "3 processes rolled in {rolled:.1?}; {SOCKETS} clients reconnected {} times ({told} told before), \
         at most {peak} within a second; {not_resumed} not resumed; {reads} reads, {server_errors} \
         server errors; by second: {by_second:?}",
        reconnects.len()
    );
    // A client that panicked has missed a change.
    while let Some(ended) = clients.try_join_next() {
        ended.unwrap();
    }
    assert_eq!(server_errors, 0);
    assert!(reconnects.len() >= SOCKETS, "every process was replaced");
    assert!(peak <= MAX_PER_SECOND, "{peak} clients within a second");
}
