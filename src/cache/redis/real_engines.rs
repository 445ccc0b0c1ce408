//! Tests on a real Redis: the suite on the one at `REDIS_URL`, fault tests on dedicated servers.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use pretty_assertions::assert_eq;
use redis::Commands;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::cache::BroadcastEvent;
use crate::cache::suite::cache_suite;
use crate::domain::odds::book::LOST_NUMBERS;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::update::testing::{market_update, update};
use crate::domain::timestamp::Timestamp;

const TTL: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(20);

cache_suite!(own_database(), #[ignore = "needs the real engines: make test"]);

/// A database of the Redis at `REDIS_URL` that is not used by any other test until it is dropped.
struct Database {
    client: redis::Client,
    claim: String,
    number: i64,
    url: String,
}

impl Database {
    fn claim() -> Database {
        let url = std::env::var("REDIS_URL").unwrap_or_else(|_| {
            panic!(
                "REDIS_URL is not set; `eval \"$(scripts/engines env)\"` sets it, `scripts/engines up` starts a Redis"
            )
        });
        let mut url = url::Url::parse(&url).unwrap();
        url.set_path("0");
        let client = redis::Client::open(url.clone()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let count: Vec<String> = redis::cmd("CONFIG")
            .arg("GET")
            .arg("databases")
            .query(&mut connection)
            .unwrap();
        let count: i64 = count[1].parse().unwrap();
        for _ in 0..3_000 {
            let number = fastrand::i64(1..count);
            let claim = format!("test:database:{number}");
            let mut claiming = redis::cmd("SET");
            claiming
                .arg(&claim)
                .arg("taken")
                .arg("NX")
                .arg("EX")
                .arg(120);
            if claiming
                .query::<Option<String>>(&mut connection)
                .unwrap()
                .is_some()
            {
                url.set_path(&number.to_string());
                let database = Database {
                    client,
                    claim,
                    number,
                    url: url.to_string(),
                };
                redis::cmd("FLUSHDB")
                    .exec(&mut database.connection())
                    .unwrap();
                return database;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no redis database became free within a minute");
    }

    /// A direct connection that bypasses the cache.
    fn connection(&self) -> redis::Connection {
        let mut connection = self.client.get_connection().unwrap();
        redis::cmd("SELECT")
            .arg(self.number)
            .exec(&mut connection)
            .unwrap();
        connection
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut connection) = self.client.get_connection() {
            let _ = connection.del::<_, ()>(&self.claim);
        }
    }
}

fn random_channel() -> String {
    format!("test_{:016x}", fastrand::u64(..))
}

fn options<'a>(channel: &'a str) -> RedisOptions<'a> {
    RedisOptions {
        ca_file: None,
        channel,
        deployment: None,
        uses_original_channel: true,
        ttl: TTL,
        limits: Plausibility::within(Duration::from_secs(300)),
    }
}

fn cache_at(url: &str, channel: &str) -> RedisCache {
    RedisCache::new(&SecretString::from(url), &options(channel)).unwrap()
}

fn own_database() -> (RedisCache, Database) {
    let database = Database::claim();
    (cache_at(&database.url, &random_channel()), database)
}

/// A dedicated Redis server.
struct Server {
    child: Child,
    port: u16,
    options: Vec<&'static str>,
    folder: TempDir,
}

impl Server {
    fn start(options: &[&'static str]) -> Server {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = TempDir::new().unwrap();
        let child = Server::spawn(port, options, &folder);
        Server {
            child,
            port,
            options: options.to_vec(),
            folder,
        }
    }

    fn spawn(port: u16, options: &[&str], folder: &TempDir) -> Child {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command
            .args(options)
            .current_dir(folder.path())
            .stdout(Stdio::null());
        let mut child = command
            .spawn()
            .expect("redis-server is required: apt-get install redis-server");
        for _ in 0..1_000 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return child;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("redis-server does not answer within 10 s");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = Server::spawn(self.port, &self.options, &self.folder);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn command(&self, words: &[&str]) -> String {
        let mut connection = redis::Client::open(self.url())
            .unwrap()
            .get_connection()
            .unwrap();
        redis::cmd(words[0])
            .arg(&words[1..])
            .query::<redis::Value>(&mut connection)
            .map(|value| format!("{value:?}"))
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy between a cache and Redis. It forwards until stopped and then keeps the connections
/// open.
struct Proxy {
    address: SocketAddr,
    forwards: Arc<AtomicBool>,
}

async fn proxy(to: u16, tls: Option<TlsAcceptor>) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let forwards = Arc::new(AtomicBool::new(true));
    let is_forwarding = forwards.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let tls = tls.clone();
            let forwards = is_forwarding.clone();
            tokio::spawn(async move {
                match tls {
                    Some(tls) => forward(tls.accept(client).await.unwrap(), to, forwards).await,
                    None => forward(client, to, forwards).await,
                }
            });
        }
    });
    Proxy { address, forwards }
}

async fn forward<S: AsyncRead + AsyncWrite + Unpin>(client: S, to: u16, forwards: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_redis, mut to_redis) = TcpStream::connect(("127.0.0.1", to))
        .await
        .unwrap()
        .into_split();
    tokio::join!(
        copy(&mut from_client, &mut to_redis, &forwards),
        copy(&mut from_redis, &mut to_client, &forwards)
    );
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    forwards: &AtomicBool,
) {
    let mut bytes = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if forwards.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

async fn next(broadcasts: &mut Box<dyn BroadcastStream>) -> BroadcastEvent {
    timeout(DEADLINE, broadcasts.next())
        .await
        .expect("no event within the deadline")
}

async fn next_loss(broadcasts: &mut Box<dyn BroadcastStream>) -> String {
    loop {
        match next(broadcasts).await {
            BroadcastEvent::Lost(why) => return why,
            BroadcastEvent::Changes(_)
            | BroadcastEvent::Alive { .. }
            | BroadcastEvent::Unreadable(_) => {}
            other => panic!("expected a loss: {other:?}"),
        }
    }
}

/// The sequence numbers of the next `count` changes.
async fn next_seqs(broadcasts: &mut Box<dyn BroadcastStream>, count: usize) -> Vec<Option<u64>> {
    let mut seqs = Vec::new();
    while seqs.len() < count {
        match next(broadcasts).await {
            BroadcastEvent::Changes(changes) => {
                seqs.extend(changes.iter().map(|change| change.seq))
            }
            other => panic!("expected changes: {other:?}"),
        }
    }
    seqs
}

async fn listening(cache: &RedisCache) -> Box<dyn BroadcastStream> {
    let mut broadcasts = cache.listen().unwrap();
    assert_eq!(next(&mut broadcasts).await, BroadcastEvent::Listening);
    broadcasts
}

fn state(time: i64, seq: u64) -> Vec<Arc<MarketState>> {
    vec![Arc::new(MarketState {
        update: update(1, time, 1),
        seq,
    })]
}

fn event() -> EventId {
    EventId::new("MATCH_001").unwrap()
}

async fn write_until_accepted(cache: &RedisCache, states: Vec<Arc<MarketState>>) {
    let writing = async {
        while cache.write(states.clone()).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, writing)
        .await
        .expect("not written within the deadline");
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn stored_keys_and_broadcasts() {
    let database = Database::claim();
    let channel = random_channel();
    let named = RedisOptions {
        deployment: Some("db0"),
        ..options(&channel)
    };
    let cache = RedisCache::new(&SecretString::from(database.url.as_str()), &named).unwrap();
    let mut connection = database.connection();
    let mut listener = database.client.get_connection().unwrap();
    let mut channel_itself = listener.as_pubsub();
    channel_itself.subscribe(&channel).unwrap();
    let other = Arc::new(MarketState {
        update: market_update("MATCH_001", "goals", Some("2.5"), 1, 1),
        seq: 43,
    });
    cache
        .write([state(1, 42), vec![other.clone()]].concat())
        .await
        .unwrap();

    let book = |connection: &mut redis::Connection, field| {
        connection
            .hget::<_, _, String>("odds:book:MATCH_001", field)
            .unwrap()
    };
    // A hash is unordered.
    let mut fields: Vec<String> = connection.hkeys("odds:book:MATCH_001").unwrap();
    fields.sort();
    assert_eq!(fields, ["1x2", "goals@2.5"]);
    insta::assert_snapshot!(book(&mut connection, "1x2"), @r#"{"order":"0922513475932077580809223372036854775809","seq":42,"payload":{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.201,"draw":3.2,"away":4.5},"selections":[{"id":"home","name":"home","price":1.201,"status":"active"},{"id":"draw","name":"draw","price":3.2,"status":"active"},{"id":"away","name":"away","price":4.5,"status":"active"}],"status":"open","updated_at":"2025-11-09T21:07:46Z","source":"test","version":1}}"#);
    let current: String = connection.get("odds:current:MATCH_001").unwrap();
    insta::assert_snapshot!(current, @r#"{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.201,"draw":3.2,"away":4.5},"selections":[{"id":"home","name":"home","price":1.201,"status":"active"},{"id":"draw","name":"draw","price":3.2,"status":"active"},{"id":"away","name":"away","price":4.5,"status":"active"}],"status":"open","updated_at":"2025-11-09T21:07:46Z","source":"test","version":1}"#);
    let message: String = channel_itself.get_message().unwrap().get_payload().unwrap();
    insta::assert_snapshot!(message, @r#"{"eventId":"MATCH_001","payload":{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.201,"draw":3.2,"away":4.5},"selections":[{"id":"home","name":"home","price":1.201,"status":"active"},{"id":"draw","name":"draw","price":3.2,"status":"active"},{"id":"away","name":"away","price":4.5,"status":"active"}],"status":"open","updated_at":"2025-11-09T21:07:46Z","source":"test","version":1},"seq":42,"deployment":"db0"}"#);
    for key in ["odds:book:MATCH_001", "odds:current:MATCH_001"] {
        let left: i64 = connection.pttl(key).unwrap();
        assert!(
            (1..=TTL.as_millis() as i64).contains(&left),
            "{key}: {left}"
        );
    }
    // The broadcast says that earlier changes may have been conflated.
    let mut broadcasts = listening(&cache).await;
    let change = Change {
        trace: None,
        state: state(2, 44).remove(0),
        conflated: true,
    };
    cache.write_changes(vec![change]).await.unwrap();
    let received = tokio::time::timeout(DEADLINE, async {
        loop {
            if let BroadcastEvent::Changes(changes) = broadcasts.next().await {
                return changes;
            }
        }
    });
    let received: Vec<_> = received
        .await
        .unwrap()
        .iter()
        .map(|broadcast| (broadcast.seq, broadcast.conflated))
        .collect();
    assert_eq!(received, [(Some(44), true)]);
    // An event without a `1x2` market shows its last market.
    let only = MarketState {
        update: market_update("E", "goals", Some("2.5"), 1, 1),
        seq: 1,
    };
    cache.write(vec![Arc::new(only.clone())]).await.unwrap();
    assert_eq!(
        connection.get::<_, String>("odds:current:E").unwrap(),
        only.update.to_json()
    );
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn only_newer_states_are_broadcast_once() {
    let database = Database::claim();
    let channel = random_channel();
    let cache = cache_at(&database.url, &channel);
    let zombie = cache_at(&database.url, &channel);
    let mut broadcasts = listening(&cache).await;
    cache.write(state(10, 10)).await.unwrap();
    cache.write(state(10, 10)).await.unwrap();
    zombie.write(state(9, 9)).await.unwrap();
    zombie.write(state(9, 99)).await.unwrap();
    zombie.write(state(10, 11)).await.unwrap();
    cache
        .write([state(11, 12), state(12, 13)].concat())
        .await
        .unwrap();
    cache.write(state(13, 5)).await.unwrap();
    // Over the numbers of lost records.
    let jumped = 14 + LOST_NUMBERS;
    cache.write(state(13, jumped)).await.unwrap();
    assert_eq!(
        next_seqs(&mut broadcasts, 5).await,
        [10, 12, 13, 14, jumped].map(Some)
    );
}

/// Unreadable broadcasts are skipped, and those of the original are read.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn unreadable_messages_are_skipped() {
    let database = Database::claim();
    let channel = random_channel();
    let cache = cache_at(&database.url, &channel);
    let mut connection = database.connection();
    let original = r#"{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.528,"draw":2.574,"away":3.144},"updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":978}"#;
    let _: () = connection.set("odds:current:MATCH_001", original).unwrap();
    let read = cache.read_book(&event()).await.unwrap();
    assert_eq!((read.len(), read[0].update.revision.version), (1, 978));
    let _: () = connection
        .hset("odds:book:MATCH_001", "btts", "{garbage")
        .unwrap();
    cache.write(state(100, 7)).await.unwrap();
    let Err(CacheError::Damaged { readable, .. }) = cache.read_book(&event()).await else {
        panic!("not damaged")
    };
    assert_eq!(
        readable.iter().map(|state| state.seq).collect::<Vec<_>>(),
        [7]
    );
    assert_eq!(cache.damaged().await.unwrap(), [event()]);

    let mut broadcasts = listening(&cache).await;
    for message in [
        "",
        "{}",
        "\u{0}",
        &format!(r#"{{"eventId":"MATCH_001","payload":{original}}}"#),
    ] {
        let _: () = connection.publish(&channel, message).unwrap();
    }
    let mut unreadable = 0;
    let change = loop {
        match next(&mut broadcasts).await {
            BroadcastEvent::Unreadable(count) => unreadable += count,
            other => break other,
        }
    };
    assert!(
        matches!(change, BroadcastEvent::Changes(changes) if changes.len() == 1 && changes[0].seq.is_none())
    );
    assert_eq!(unreadable, 3);
    // An unreadable entry is replaced.
    let btts = MarketState {
        update: market_update("MATCH_001", "btts", None, 1, 1),
        seq: 8,
    };
    cache.write(vec![Arc::new(btts)]).await.unwrap();
    assert_eq!(cache.read_book(&event()).await.unwrap().len(), 2);
}

/// Keys of the wrong type, and a hash field that cannot be replaced, affect one event, and a write
/// repairs it.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn damaged_key_affects_one_event() {
    let database = Database::claim();
    let channel = random_channel();
    let cache = cache_at(&database.url, &channel);
    let mut connection = database.connection();
    let mut broadcasts = listening(&cache).await;
    let other = |seq| {
        Arc::new(MarketState {
            update: update(2, seq as i64, 1),
            seq,
        })
    };
    for (round, command) in [
        vec!["SET", "odds:book:MATCH_001", "x"],
        vec!["LPUSH", "odds:book:MATCH_001", "x"],
        vec!["ZADD", "odds:book:MATCH_001", "1", "x"],
        vec!["LPUSH", "odds:current:MATCH_001", "x"],
    ]
    .into_iter()
    .enumerate()
    {
        let seq = round as u64 + 1;
        let _: () = redis::cmd("DEL")
            .arg(&["odds:book:MATCH_001", "odds:current:MATCH_001"])
            .query(&mut connection)
            .unwrap();
        let mut break_it = redis::cmd(command[0]);
        command[1..]
            .iter()
            .for_each(|argument| _ = break_it.arg(argument));
        let _: redis::Value = break_it.query(&mut connection).unwrap();
        let is_book = command[1].starts_with("odds:book");
        let read = cache.read_book(&event()).await;
        assert_eq!(
            matches!(read, Err(CacheError::Damaged { .. })),
            is_book,
            "{command:?}: {read:?}"
        );
        assert_eq!(cache.damaged().await.unwrap().len(), usize::from(is_book));
        let changes = [other(seq), state(seq as i64, seq).remove(0)].map(|state| Change {
            trace: None,
            state,
            conflated: false,
        });
        let repaired = cache.write_changes(changes.into()).await.unwrap();
        assert_eq!(repaired.len(), usize::from(is_book), "{command:?}");
        assert_eq!(
            next_seqs(&mut broadcasts, 2).await,
            [Some(seq), Some(seq)],
            "both are broadcast"
        );
        assert_eq!(cache.read_book(&event()).await.unwrap()[0].seq, seq);
        assert_eq!(
            cache
                .read_book(&EventId::new("MATCH_002").unwrap())
                .await
                .unwrap()[0]
                .seq,
            seq
        );
    }
}

/// Only unreadable fields and keys of the wrong type are removed, and no longer reported.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn removal_keeps_what_others_wrote() {
    let database = Database::claim();
    let channel = random_channel();
    let cache = cache_at(&database.url, &channel);
    let mut connection = database.connection();
    let events = vec![event(), EventId::new("MATCH_009").unwrap()];
    let unbeatable = format!(r#"{{"order":"{}","seq":9,"payload":{{}}}}"#, "9".repeat(40));
    cache.write(state(1, 1)).await.unwrap();
    for (market, value) in [("btts", "{garbage"), ("goals", &unbeatable)] {
        let _: () = connection
            .hset("odds:book:MATCH_001", market, value)
            .unwrap();
    }
    assert!(cache.read_book(&event()).await.is_err());
    assert_eq!(cache.damaged().await, Ok(vec![event()]));
    // Another processor writes a market between the report and the removal.
    cache.write(state(2, 2)).await.unwrap();
    assert_eq!(
        cache.remove_damaged(events.clone()).await,
        Ok(vec![event()])
    );
    assert_eq!(cache.read_book(&event()).await.unwrap(), state(2, 2));
    assert_eq!(cache.damaged().await, Ok(Vec::new()));
    assert_eq!(cache.remove_damaged(events.clone()).await, Ok(Vec::new()));
    // A field that has another value than the one that was read stays.
    let entry = (&events[0], vec![(b"1x2".to_vec(), b"{garbage".to_vec())]);
    assert_eq!(
        damaged::remove_from(&cache.shared.client, vec![entry]).await,
        Ok(Vec::new())
    );
    assert_eq!(cache.read_book(&event()).await.unwrap(), state(2, 2));
    // A key of the wrong type is removed as a whole.
    let _: () = connection.set("odds:book:MATCH_001", "x").unwrap();
    assert!(cache.read_book(&event()).await.is_err());
    assert_eq!(cache.remove_damaged(events).await, Ok(vec![event()]));
    assert_eq!(cache.damaged().await, Ok(Vec::new()));
    let keys: Vec<String> = connection.keys("odds:*").unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn damaged_list_of_wrong_type_is_removed() {
    let database = Database::claim();
    let channel = random_channel();
    let cache = cache_at(&database.url, &channel);
    let mut connection = database.connection();
    for command in [["SET", "x"], ["LPUSH", "x"]] {
        let _: () = redis::cmd("DEL")
            .arg("odds:damaged")
            .query(&mut connection)
            .unwrap();
        let _: redis::Value = redis::cmd(command[0])
            .arg("odds:damaged")
            .arg(command[1])
            .query(&mut connection)
            .unwrap();
        let _: () = redis::cmd("SET")
            .arg("odds:book:MATCH_001")
            .arg("x")
            .query(&mut connection)
            .unwrap();
        let read = cache.read_book(&event()).await;
        assert!(
            matches!(read, Err(CacheError::Damaged { .. })),
            "{command:?}: {read:?}"
        );
        assert_eq!(cache.damaged().await, Ok(Vec::new()), "{command:?}");
        assert!(cache.read_book(&event()).await.is_err());
        assert_eq!(
            cache.damaged().await,
            Ok(vec![event()]),
            "{command:?}: the next report is kept"
        );
    }
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn heartbeats_skip_original_change_channel() {
    let database = Database::claim();
    let channel = random_channel();
    let cache = cache_at(&database.url, &channel);
    let mut broadcasts = listening(&cache).await;
    cache.publish_heartbeat(&BTreeMap::new()).await.unwrap();
    assert!(matches!(
        next(&mut broadcasts).await,
        BroadcastEvent::Alive { is_own: true, .. }
    ));
    cache.write(state(1, 1)).await.unwrap();
    assert_eq!(next_seqs(&mut broadcasts, 1).await, [Some(1)]);
    // A subscriber of the channel alone, as the original is, gets the change first.
    let mut client = database.connection();
    let mut alone = client.as_pubsub();
    alone.subscribe(&channel).unwrap();
    cache.publish_heartbeat(&BTreeMap::new()).await.unwrap();
    cache.write(state(2, 2)).await.unwrap();
    let first: String = alone.get_message().unwrap().get_payload().unwrap();
    assert!(first.contains("\"payload\""), "{first}");
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn empty_restarted_redis_is_used_again() {
    let mut server = Server::start(&[]);
    let cache = cache_at(&server.url(), "test");
    let mut broadcasts = listening(&cache).await;
    cache.write(state(1, 1)).await.unwrap();
    assert_eq!(next_seqs(&mut broadcasts, 1).await, [Some(1)]);
    server.kill();
    next_loss(&mut broadcasts).await;
    let error = cache.write(state(2, 2)).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("127.0.0.1:{}", server.port)),
        "{error}"
    );
    server.restart();
    assert_eq!(
        next(&mut broadcasts).await,
        BroadcastEvent::Listening,
        "the loss is reported once"
    );
    write_until_accepted(&cache, state(2, 2)).await;
    assert_eq!(next_seqs(&mut broadcasts, 1).await, [Some(2)]);
    assert_eq!(cache.read_book(&event()).await.unwrap().len(), 1);
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn wrong_password_is_reported_without_value() {
    let server = Server::start(&["--requirepass", "right-one"]);
    for (login, code) in [(":wrong-one@", "WRONGPASS"), ("", "NOAUTH")] {
        let cache = cache_at(&format!("redis://{login}127.0.0.1:{}", server.port), "test");
        let error = cache.ping().await.unwrap_err().to_string();
        assert!(
            error.contains("password") && !error.contains("wrong-one"),
            "{code}: {error}"
        );
        let why = next_loss(&mut cache.listen().unwrap()).await;
        assert!(
            why.contains("password") && !why.contains("wrong-one"),
            "{code}: {why}"
        );
    }
    let later = cache_at(
        &format!("redis://:new-one@127.0.0.1:{}", server.port),
        "test",
    );
    let mut broadcasts = later.listen().unwrap();
    next_loss(&mut broadcasts).await;
    assert!(later.ping().await.is_err());
    let mut admin = redis::Client::open(format!("redis://:right-one@127.0.0.1:{}", server.port))
        .unwrap()
        .get_connection()
        .unwrap();
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("requirepass")
        .arg("new-one")
        .exec(&mut admin)
        .unwrap();
    assert_eq!(next(&mut broadcasts).await, BroadcastEvent::Listening);
    write_until_accepted(&later, state(1, 1)).await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn server_faults_are_named() {
    let server = Server::start(&[]);
    let (_, ca) = crate::runtime::tls::testing::localhost();
    let url = SecretString::from(format!("rediss://localhost:{}", server.port));
    let tls = RedisCache::new(
        &url,
        &RedisOptions {
            ca_file: Some(ca.path()),
            ..options("test")
        },
    )
    .unwrap();
    for error in [
        tls.ping().await.unwrap_err().to_string(),
        next_loss(&mut tls.listen().unwrap()).await,
    ] {
        assert!(error.contains("TLS"), "{error}");
    }
    let cache = cache_at(&server.url(), "test");
    cache.write(state(1, 1)).await.unwrap();
    let error = async |time| {
        cache
            .write(state(time, time as u64))
            .await
            .unwrap_err()
            .to_string()
    };
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = error(2).await;
    assert!(full.contains("memory"), "{full}");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let replica = error(3).await;
    assert!(replica.contains("replica"), "{replica}");
    assert!(
        !cache.shared.client.is_connected().await,
        "the name may resolve to another server by now"
    );
    server.command(&["REPLICAOF", "NO", "ONE"]);
    write_until_accepted(&cache, state(4, 4)).await;
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn tls_with_custom_authority() {
    let server = Server::start(&[]);
    let (tls, ca) = crate::runtime::tls::testing::localhost();
    let proxy = proxy(server.port, Some(tls)).await;
    let url = SecretString::from(format!("rediss://localhost:{}", proxy.address.port()));
    let cache = RedisCache::new(
        &url,
        &RedisOptions {
            ca_file: Some(ca.path()),
            ..options("test")
        },
    )
    .unwrap();
    let mut broadcasts = listening(&cache).await;
    cache.write(state(1, 1)).await.unwrap();
    assert_eq!(next_seqs(&mut broadcasts, 1).await, [Some(1)]);
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn queue_overflow_is_reported_as_gap() {
    let server = Server::start(&[]);
    let cache = cache_at(&server.url(), "test");
    let mut broadcasts: Box<dyn BroadcastStream> = Box::new(RedisBroadcasts::with_queue(
        cache.shared.client.address().clone(),
        cache.shared.channels.clone(),
        cache.shared.limits,
        8,
    ));
    assert_eq!(next(&mut broadcasts).await, BroadcastEvent::Listening);
    // Nothing receives the events meanwhile.
    for round in 0..20 {
        cache
            .write(
                (1..100)
                    .flat_map(|n| state(round * 100 + n, (round * 100 + n) as u64))
                    .collect(),
            )
            .await
            .unwrap();
    }
    let why = next_loss(&mut broadcasts).await;
    assert!(why.contains("the broadcast queue overflowed"), "{why}");
    // There may be another gap if the first was noticed before everything was written.
    let mut last = 10_000;
    loop {
        match next(&mut broadcasts).await {
            BroadcastEvent::Listening => {
                last += 1;
                cache.write(state(last, last as u64)).await.unwrap();
            }
            BroadcastEvent::Changes(changes)
                if changes.iter().any(|change| change.seq == Some(last as u64)) =>
            {
                break;
            }
            BroadcastEvent::Ended(why) => panic!("{why}"),
            BroadcastEvent::Changes(_)
            | BroadcastEvent::Alive { .. }
            | BroadcastEvent::Unreadable(_)
            | BroadcastEvent::Refused(_)
            | BroadcastEvent::Lost(_) => {}
        }
    }
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn half_open_connection_is_recreated() {
    let server = Server::start(&[]);
    let proxy = proxy(server.port, None).await;
    let cache = cache_at(&format!("redis://{}", proxy.address), "test");
    let mut broadcasts = listening(&cache).await;
    cache.write(state(1, 1)).await.unwrap();
    proxy.forwards.store(false, Ordering::SeqCst);
    next_loss(&mut broadcasts).await;
    assert!(cache.write(state(2, 2)).await.is_err());
    proxy.forwards.store(true, Ordering::SeqCst);
    assert_eq!(next(&mut broadcasts).await, BroadcastEvent::Listening);
    write_until_accepted(&cache, state(2, 2)).await;
    assert_eq!(next_seqs(&mut broadcasts, 1).await, [Some(2)]);
}

/// Each process that writes to the cache has its own view of the sources.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn heartbeats_carry_views_of_sources() {
    let database = Database::claim();
    let channel = random_channel();
    let caches = [(); 2].map(|()| cache_at(&database.url, &channel));
    let mut broadcasts = listening(&caches[0]).await;
    let sources = |state| -> BTreeMap<Source, SourceStatus> {
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        [(Source::new("a").unwrap(), SourceStatus { state, at })].into()
    };
    let expected = [SourceState::Live, SourceState::Stale, SourceState::Live].map(sources);
    for (cache, sources) in [&caches[0], &caches[1], &caches[0]]
        .into_iter()
        .zip(&expected)
    {
        cache.publish_heartbeat(sources).await.unwrap();
    }
    let mut views = Vec::new();
    while views.len() < expected.len() {
        match next(&mut broadcasts).await {
            BroadcastEvent::Alive { views: more, .. } => views.extend(more),
            event => panic!("{event:?}"),
        }
    }
    let processors: Vec<_> = views.iter().map(|view| view.processor.clone()).collect();
    assert_eq!(processors[0], processors[2]);
    assert_ne!(processors[0], processors[1]);
    assert_eq!(
        views
            .into_iter()
            .map(|view| view.sources)
            .collect::<Vec<_>>(),
        expected
    );
}

/// Two databases of one server with the same channel name, both with the default settings.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn deployments_on_one_redis_are_separate() {
    let one = Database::claim();
    let other = Database::claim();
    let channel = random_channel();
    let caches = [&one, &other].map(|database| cache_at(&database.url, &channel));
    let mut streams = [listening(&caches[0]).await, listening(&caches[1]).await];
    caches[0].publish_heartbeat(&BTreeMap::new()).await.unwrap();
    caches[0].write(state(1, 1)).await.unwrap();
    caches[1].write(state(2, 2)).await.unwrap();
    for (own, broadcasts) in (1..).zip(&mut streams) {
        let mut seqs = Vec::new();
        let mut strangers = 0;
        while seqs.is_empty() || strangers == 0 {
            match next(broadcasts).await {
                BroadcastEvent::Changes(changes) => {
                    seqs.extend(changes.iter().map(|change| change.seq))
                }
                BroadcastEvent::Refused(refused) => strangers += refused.counts["deployment"],
                BroadcastEvent::Alive { .. } => assert_eq!(
                    own, 1,
                    "the other deployment's heartbeat uses its own channel"
                ),
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(seqs, [Some(own)], "its own change, once");
    }
    // Both deployments read the original's channel, and a reader of it gets both deployments'
    // changes.
    let original = update(1, 3, 1).to_json();
    let message = format!(r#"{{"eventId":"MATCH_001","payload":{original}}}"#);
    let _: () = one.connection().publish(&channel, message).unwrap();
    for broadcasts in &mut streams {
        let change = loop {
            match next(broadcasts).await {
                BroadcastEvent::Changes(changes) => break changes,
                BroadcastEvent::Refused(_) => {}
                event => panic!("{event:?}"),
            }
        };
        assert_eq!(
            change.iter().map(|change| change.seq).collect::<Vec<_>>(),
            [None]
        );
    }
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn disabled_original_channel_is_not_used() {
    let database = Database::claim();
    let channel = random_channel();
    let apart = RedisOptions {
        uses_original_channel: false,
        deployment: Some("apart"),
        ..options(&channel)
    };
    let cache = RedisCache::new(&SecretString::from(database.url.as_str()), &apart).unwrap();
    let mut broadcasts = listening(&cache).await;
    let mut client = database.connection();
    let mut original = client.as_pubsub();
    original.subscribe(&channel).unwrap();
    let forged = format!(
        r#"{{"eventId":"MATCH_001","payload":{},"seq":9}}"#,
        update(1, 9, 9).to_json()
    );
    let receivers: i64 = database.connection().publish(&channel, forged).unwrap();
    assert_eq!(receivers, 1, "only the subscriber of that channel");
    cache.write(state(1, 1)).await.unwrap();
    assert_eq!(next_seqs(&mut broadcasts, 1).await, [Some(1)]);
    cache.publish_heartbeat(&BTreeMap::new()).await.unwrap();
    assert!(matches!(
        next(&mut broadcasts).await,
        BroadcastEvent::Alive { is_own: true, .. }
    ));
    original.get_message().unwrap();
    original
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!(original.get_message().is_err(), "only the forged message");
}

/// Implausible states written by an earlier version or another program are replaced, and are not
/// broadcast again.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn implausible_state_is_replaced_by_next_update() {
    let database = Database::claim();
    let channel = random_channel();
    let cache = cache_at(&database.url, &channel);
    let mut broadcasts = listening(&cache).await;
    let careless = RedisOptions {
        limits: Plausibility::any_time(),
        ..options(&channel)
    };
    let careless = RedisCache::new(&SecretString::from(database.url.as_str()), &careless).unwrap();
    let mut ahead = update(1, 1, 1);
    ahead.revision.updated_at = "2099-01-01T00:00:00Z".parse().unwrap();
    careless
        .write(vec![Arc::new(MarketState {
            update: ahead,
            seq: 7,
        })])
        .await
        .unwrap();
    match next(&mut broadcasts).await {
        BroadcastEvent::Refused(refused) => {
            assert_eq!(refused.counts["future"], 1);
            assert!(refused.events.contains(&event()), "its book is reloaded");
        }
        event => panic!("{event:?}"),
    }
    cache.write(state(2, 8)).await.unwrap();
    assert_eq!(next_seqs(&mut broadcasts, 1).await, [Some(8)]);
    assert_eq!(cache.read_book(&event()).await.unwrap()[0], state(2, 8)[0]);
    // A number beyond any bus sequence does not stop the numbering.
    careless.write(state(3, u64::MAX)).await.unwrap();
    assert!(
        matches!(next(&mut broadcasts).await, BroadcastEvent::Refused(refused) if refused.counts["seq"] == 1)
    );
    cache.write(state(4, 9)).await.unwrap();
    assert_eq!(next_seqs(&mut broadcasts, 1).await, [Some(9)]);
}

#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn market_named_like_line_has_own_field() {
    let database = Database::claim();
    let channel = random_channel();
    let cache = cache_at(&database.url, &channel);
    let named = MarketState {
        update: market_update("MATCH_001", "total@2.5", None, 1, 1),
        seq: 1,
    };
    let lined = MarketState {
        update: market_update("MATCH_001", "total", Some("2.5"), 2, 1),
        seq: 2,
    };
    cache
        .write([&named, &lined].map(|state| Arc::new(state.clone())).into())
        .await
        .unwrap();
    let mut read: Vec<_> = cache
        .read_book(&event())
        .await
        .unwrap()
        .iter()
        .map(|state| state.seq)
        .collect();
    read.sort();
    assert_eq!(read, [1, 2]);
    // The field written by an earlier version is read until a later state exists.
    let mut connection = database.connection();
    let earlier = MarketState {
        update: market_update("MATCH_001", "a@b", None, 1, 1),
        seq: 3,
    };
    let value = format!(
        r#"{{"order":"0","seq":3,"payload":{}}}"#,
        earlier.update.to_json()
    );
    let _: () = connection
        .hset("odds:book:MATCH_001", "a@b", value)
        .unwrap();
    assert!(
        cache
            .read_book(&event())
            .await
            .unwrap()
            .iter()
            .any(|state| **state == earlier)
    );
}
