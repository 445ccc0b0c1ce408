//! Clients of an `odds` process that is killed while prices change, and that resume elsewhere. They
//! are compared with a client that was never away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use sports_bet_platform::domain::timestamp::Timestamp;
use tokio::task::JoinHandle;

use crate::support::{Cluster, Follower, OddsClient, OddsTopic, ServerProcess, get_json, until};

const EVENT: &str = "E";
/// The event's markets, and how many of them change.
const MARKETS: usize = 400;
const CHANGING: usize = 300;
/// Other events, of which some share the event's partition: their records leave gaps in its numbers,
/// after which all processes give the same ones again.
const OTHERS: usize = 16;
/// After how many changes the other events change.
const OTHERS_AFTER: u64 = 20;
/// The time between two changes.
const INTERVAL: Duration = Duration::from_millis(5);
/// How many kills are followed by a resume that recovers, and how many are tried: on a busy machine
/// prices may be stale when the client returns.
const RESUMES: usize = 4;
const KILLS: usize = 8;

/// Changes random markets all the time.
struct Publisher {
    is_ended: Arc<AtomicBool>,
    /// Returns the last version of each market.
    task: JoinHandle<BTreeMap<String, u64>>,
}

impl Publisher {
    /// Publishes every market once, then starts to change them.
    fn start(topic: &OddsTopic) -> Publisher {
        let mut last: BTreeMap<_, _> = (0..MARKETS).map(|it| (format!("m{it}"), 1)).collect();
        let publisher = topic.publisher();
        let is_ended = Arc::new(AtomicBool::new(false));
        let ends = is_ended.clone();
        let task = tokio::task::spawn_blocking(move || {
            last.iter()
                .for_each(|(market, version)| publisher.publish(&record(EVENT, market, *version)));
            let mut version = 1;
            while !ends.load(Ordering::Relaxed) {
                version += 1;
                let market = format!("m{}", fastrand::usize(..CHANGING));
                publisher.publish(&record(EVENT, &market, version));
                last.insert(market, version);
                if version.is_multiple_of(OTHERS_AFTER) {
                    let others = (0..OTHERS).map(|it| format!("other-{it}"));
                    others.for_each(|other| publisher.publish(&record(&other, "m", version)));
                }
                std::thread::sleep(INTERVAL);
            }
            publisher.finish();
            last
        });
        Publisher { is_ended, task }
    }

    /// Ends the changes. Returns the last version of each market.
    async fn end(&mut self) -> BTreeMap<String, u64> {
        self.is_ended.store(true, Ordering::Relaxed);
        (&mut self.task).await.unwrap()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
    }
}

fn record(event: &str, market: &str, version: u64) -> (Vec<u8>, Vec<u8>) {
    let frame = json!({
        "event_id": event, "home_team": "A", "away_team": "B", "market": market,
        "selections": [{"id": "s", "name": "S", "price": 2.5, "status": "active"}],
        "updated_at": Timestamp::now().to_string(), "source": "test", "version": version,
    });
    (event.into(), frame.to_string().into())
}

/// Markets and their payloads, by the numbers of the changes.
type Changes = BTreeMap<u64, (String, Value)>;

fn change_of(change: &Value) -> (u64, (String, Value)) {
    let payload = change["payload"].clone();
    let market = payload["market"].as_str().unwrap().to_owned();
    (change["seq"].as_u64().unwrap(), (market, payload))
}

fn markets_of(snapshot: &Value) -> Changes {
    let markets = snapshot["markets"].as_array().unwrap();
    markets.iter().map(change_of).collect()
}

/// Adds a change that a client was sent.
fn add(changes: &mut Changes, message: &Value) {
    if message["type"] == "update" {
        let (seq, change) = change_of(message);
        assert!(changes.insert(seq, change).is_none(), "again: {message}");
    } else {
        assert_eq!(message["type"], "feed", "{message}");
    }
}

/// The last change of each market up to the number `seq`, if it is later than `since`.
fn missed(changes: &Changes, since: u64, seq: u64) -> Changes {
    let mut last = BTreeMap::new();
    for (seq, (market, payload)) in changes.range(..=seq) {
        last.insert(market, (*seq, payload));
    }
    let missed = last.into_iter().filter(|(_, (seq, _))| *seq > since);
    missed
        .map(|(market, (seq, payload))| (seq, (market.clone(), payload.clone())))
        .collect()
}

/// A client that is never away.
struct Reference {
    /// Everything that it was sent.
    changes: Arc<Mutex<Changes>>,
    reading: JoinHandle<()>,
}

impl Reference {
    async fn start(address: SocketAddr) -> Reference {
        let (mut client, snapshot) = until("every market, and an epoch", || async {
            let (client, snapshot) = Follower::default().resume(address, EVENT).await;
            let (known, epoch) = (markets_of(&snapshot).len(), &snapshot["epoch"]);
            println!("{known} of {MARKETS} markets, epoch {epoch}");
            (known == MARKETS && epoch.is_string()).then_some((client, snapshot))
        })
        .await;
        let changes = Arc::new(Mutex::new(markets_of(&snapshot)));
        let shared = changes.clone();
        let reading = tokio::spawn(async move {
            while let Ok(message) = client.next_or_close().await {
                add(&mut shared.lock(), &message);
            }
        });
        Reference { changes, reading }
    }

    /// What it was sent, once it has this number.
    async fn until(&self, seq: u64) -> Changes {
        until(&format!("number {seq}"), || async {
            let changes = self.changes.lock();
            let (last, _) = changes.last_key_value()?;
            (*last >= seq).then(|| changes.clone())
        })
        .await
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A connection of the client that resumes.
struct Connection {
    client: OddsClient,
    is_resumed: bool,
    /// The number of its snapshot.
    from: u64,
    /// The changes after it.
    received: Changes,
    /// The numbers of those before which earlier changes of their markets may have been left out.
    conflated: BTreeSet<u64>,
}

/// The processes and the clients.
struct Scene {
    cluster: Cluster,
    _processor: ServerProcess,
    /// Serves the client that is never away.
    steady: ServerProcess,
    killed: ServerProcess,
    publisher: Publisher,
    reference: Reference,
    follower: Follower,
}

impl Scene {
    async fn start() -> Scene {
        let cluster = Cluster::new(1, &[]).await;
        let processor = cluster.start("processor").await;
        let (steady, killed) = tokio::join!(cluster.start("odds"), cluster.start("odds"));
        let topic = OddsTopic::existing(&cluster.folder, "KAFKA_TOPIC_ODDS");
        let publisher = Publisher::start(&topic);
        let reference = Reference::start(steady.odds()).await;
        Scene {
            cluster,
            _processor: processor,
            steady,
            killed,
            publisher,
            reference,
            follower: Follower::default(),
        }
    }

    /// Connects, from what the client knows, and checks the snapshot.
    async fn resume(&mut self, address: SocketAddr) -> Connection {
        let since = self.follower.since;
        until("the process knows what the client knows", || async {
            let (_, odds) = get_json(&format!("http://{address}/v1/events/{EVENT}/odds")).await;
            let numbers = odds.as_array()?.iter().map(|it| it["seq"].as_u64());
            (numbers.max()?? >= since).then_some(())
        })
        .await;
        let (client, snapshot) = self.follower.resume(address, EVENT).await;
        let seq = snapshot["seq"].as_u64().unwrap();
        let known = self.reference.until(seq).await;
        let is_resumed = snapshot["recovered"] == true;
        let markets = markets_of(&snapshot);
        if is_resumed {
            assert_eq!(markets, missed(&known, since, seq));
            let all = snapshot["markets"].as_array().unwrap();
            assert!(all.iter().all(|it| it["why"] == "resume"), "{snapshot}");
            assert!(markets.len() <= CHANGING, "{}", markets.len());
        } else {
            assert_eq!(snapshot["recovered"], false);
            assert_eq!(markets, missed(&known, 0, seq));
        }
        let shown: BTreeMap<_, _> = missed(&known, 0, seq).into_values().collect();
        assert_eq!(self.follower.markets, shown);
        println!("from {since}: {} markets, up to {seq}", markets.len());
        Connection {
            client,
            is_resumed,
            from: seq,
            received: Changes::new(),
            conflated: BTreeSet::new(),
        }
    }

    /// Reads some changes.
    async fn read(&mut self, connection: &mut Connection) {
        for _ in 0..fastrand::usize(5..50) {
            let message = connection.client.next().await;
            self.receive(connection, &message);
        }
    }

    /// Kills the process of a connection, and reads what it still sent. Returns once the client has
    /// missed something.
    async fn kill(&mut self, mut connection: Connection) {
        self.killed.kill().await;
        while let Ok(message) = connection.client.next_or_close().await {
            self.receive(&mut connection, &message);
        }
        self.end(connection).await;
        self.reference.until(self.follower.since + 20).await;
    }

    fn receive(&mut self, connection: &mut Connection, message: &Value) {
        add(&mut connection.received, message);
        if message["conflated"] == true {
            let seq = message["seq"].as_u64().unwrap();
            connection.conflated.insert(seq);
        }
        self.follower.receive(message);
    }

    /// Panics if a connection brought other changes than the client that is never away was sent.
    /// While a snapshot is on its way, only the last change of each market is kept, and marked.
    async fn end(&self, connection: Connection) {
        let last = self.follower.since;
        let all = self.reference.until(last).await;
        let next_of = |changes: &Changes, seq: u64, market: &String| {
            let mut later = changes.range(seq + 1..);
            let next = later.find(|(_, (of, _))| of == market);
            next.map(|(next, _)| *next)
        };
        let is_left_out = |seq: u64, market: &String| {
            match next_of(&connection.received, seq, market) {
                Some(next) => connection.conflated.contains(&next),
                // The one that replaces it was not read any more.
                None => next_of(&all, last, market).is_some(),
            }
        };
        let mut expected = all.clone();
        expected.retain(|seq, (market, _)| {
            let is_received = connection.received.contains_key(seq);
            let is_in_range = *seq > connection.from && *seq <= last;
            is_in_range && (is_received || !is_left_out(*seq, market))
        });
        assert_eq!(connection.received, expected);
    }

    /// Ends the changes, and reads until the client shows the last of each market.
    async fn finish(mut self, mut connection: Connection) {
        let published = self.publisher.end().await;
        let version = |payload: &Value| payload["version"].as_u64().unwrap();
        loop {
            let shown = self.follower.markets.iter();
            let shown: BTreeMap<_, _> = shown.map(|(it, at)| (it.clone(), version(at))).collect();
            if shown == published {
                break;
            }
            let message = connection.client.next().await;
            self.receive(&mut connection, &message);
        }
        self.end(connection).await;
        let known = self.reference.changes.lock().clone();
        let known: BTreeMap<_, _> = missed(&known, 0, u64::MAX).into_values().collect();
        assert_eq!(self.follower.markets, known);
    }
}

/// R4, at another process.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn client_of_killed_process_resumes_at_another() {
    let mut scene = Scene::start().await;
    let mut connection = scene.resume(scene.killed.odds()).await;
    let mut resumed = 0;
    for _ in 0..KILLS {
        scene.read(&mut connection).await;
        scene.kill(connection).await;
        let mut other = scene.resume(scene.steady.odds()).await;
        resumed += usize::from(other.is_resumed);
        scene.read(&mut other).await;
        scene.end(other).await;
        if resumed == RESUMES {
            break;
        }
        scene.killed = scene.cluster.start("odds").await;
        connection = scene.resume(scene.killed.odds()).await;
    }
    assert_eq!(resumed, RESUMES);
    let connection = scene.resume(scene.steady.odds()).await;
    scene.finish(connection).await;
}

/// R4, at the same process after its restart.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn client_of_killed_process_resumes_after_its_restart() {
    let mut scene = Scene::start().await;
    let mut connection = scene.resume(scene.killed.odds()).await;
    let mut resumed = 0;
    for _ in 0..KILLS {
        scene.read(&mut connection).await;
        scene.kill(connection).await;
        scene.killed = scene.cluster.start("odds").await;
        connection = scene.resume(scene.killed.odds()).await;
        resumed += usize::from(connection.is_resumed);
        if resumed == RESUMES {
            break;
        }
    }
    assert_eq!(resumed, RESUMES);
    scene.finish(connection).await;
}
