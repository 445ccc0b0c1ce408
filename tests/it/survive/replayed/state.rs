//! The state of the engines, and the changes that listeners receive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl, sql_query, sql_types};
use serde_json::Value;
use sports_bet_platform::domain::odds::update::OddsUpdate;

use super::updates::Scenario;
use crate::support::{DEADLINE, Folder, KeyAndPayload, OddsClient, ServerProcess};

/// A market: its key, its revision, and its selections as JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MarketRow {
    event: String,
    market: String,
    revision: (String, i64),
    source: String,
    status: String,
    selections: String,
}

/// The unique key of a change in the history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryKey(String, String, (String, i64), String, String);

/// A published or stored change: event, market, revision, seq.
pub type Change = (String, String, (String, i64), u64);

fn selections(update: &OddsUpdate) -> String {
    serde_json::to_string(&update.selections).unwrap()
}

fn revision(update: &OddsUpdate) -> (String, i64) {
    (
        update.revision.updated_at.to_string(),
        update.revision.version,
    )
}

impl MarketRow {
    pub fn of(update: &OddsUpdate) -> MarketRow {
        MarketRow {
            event: update.event_id.to_string(),
            market: update.market.to_string(),
            revision: revision(update),
            source: update.source.to_string(),
            status: update.status.to_string(),
            selections: selections(update),
        }
    }
}

impl HistoryKey {
    pub fn of(update: &OddsUpdate) -> HistoryKey {
        let event = update.event_id.to_string();
        let market = update.market.to_string();
        HistoryKey(
            event,
            market,
            revision(update),
            update.source.to_string(),
            selections(update),
        )
    }

    /// The part of an update that must be unique in the history.
    pub fn unique(update: &OddsUpdate) -> HistoryKey {
        HistoryKey {
            4: String::new(),
            ..HistoryKey::of(update)
        }
    }
}

/// The contents of database and Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `odds_current`, with sequence numbers.
    current: BTreeMap<MarketRow, u64>,
    /// `odds_history`.
    pub history: BTreeSet<HistoryKey>,
    /// The number of rows, including any duplicates.
    history_rows: usize,
    /// `odds:book:*`, with sequence numbers.
    books: BTreeMap<MarketRow, u64>,
    /// `odds:current:*`.
    hot: BTreeMap<String, String>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = sql_types::Text)]
    json: String,
    #[diesel(sql_type = sql_types::BigInt)]
    seq: i64,
}

/// A row in the form of an update, so that one parser serves both database and Redis.
const AS_UPDATE: &str = "jsonb_build_object('event_id', event_id, 'market', market, 'status', status, 'selections', selections, \
     'updated_at', to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), 'source', source, 'version', version) \
     || CASE line WHEN '' THEN '{}'::jsonb ELSE jsonb_build_object('line', line::numeric) END";

fn rows(folder: &Folder, seq: &str, table: &str) -> Vec<(OddsUpdate, u64)> {
    let mut database =
        PgConnection::establish(folder.sandbox().value("DATABASE_URL").unwrap()).unwrap();
    let sql = format!("SELECT ({AS_UPDATE})::text AS json, {seq} AS seq FROM {table}");
    let rows: Vec<Row> = sql_query(sql).load(&mut database).unwrap();
    rows.into_iter()
        .map(|row| {
            (
                OddsUpdate::from_json(row.json.as_bytes()).unwrap(),
                row.seq as u64,
            )
        })
        .collect()
}

fn redis_of(folder: &Folder) -> redis::Connection {
    redis::Client::open(folder.sandbox().value("REDIS_URL").unwrap())
        .unwrap()
        .get_connection()
        .unwrap()
}

/// Empties Redis.
pub fn flush(folder: &Folder) {
    let () = redis::cmd("FLUSHDB").query(&mut redis_of(folder)).unwrap();
}

impl State {
    /// Reads the current state.
    pub fn of(folder: &Folder) -> State {
        let current = rows(folder, "seq", "odds_current");
        let history = rows(folder, "0::bigint", "odds_history");
        let mut redis = redis_of(folder);
        let mut books = BTreeMap::new();
        let mut hot = BTreeMap::new();
        let keys: Vec<String> = redis::cmd("KEYS").arg("odds:*").query(&mut redis).unwrap();
        for key in keys {
            if let Some(event) = key.strip_prefix("odds:current:") {
                let value: String = redis::cmd("GET").arg(&key).query(&mut redis).unwrap();
                hot.insert(event.to_owned(), value);
                continue;
            }
            assert!(key.starts_with("odds:book:"), "{key}");
            let fields: BTreeMap<String, String> =
                redis::cmd("HGETALL").arg(&key).query(&mut redis).unwrap();
            for (market, value) in fields {
                let value: Value = serde_json::from_str(&value).unwrap();
                let update =
                    OddsUpdate::from_json(value["payload"].to_string().as_bytes()).unwrap();
                assert_eq!(update.market.to_string(), market);
                books.insert(MarketRow::of(&update), value["seq"].as_u64().unwrap());
            }
        }
        State {
            current: current
                .iter()
                .map(|(update, seq)| (MarketRow::of(update), *seq))
                .collect(),
            history: history
                .iter()
                .map(|(update, _)| HistoryKey::of(update))
                .collect(),
            history_rows: history.len(),
            books,
            hot,
        }
    }

    /// The state of the markets without sequence numbers, which derive from positions.
    pub fn without_seq(&self) -> BTreeSet<MarketRow> {
        self.current.keys().cloned().collect()
    }

    /// The state of each event that the original would read.
    pub fn hot(&self) -> &BTreeMap<String, String> {
        &self.hot
    }

    /// Asserts that Redis and the database hold the same with the same sequence numbers, and that
    /// the history has no duplicates.
    pub fn assert_cache_agrees(&self) {
        pretty_assertions::assert_eq!(self.books, self.current);
        assert_eq!(self.history_rows, self.history.len());
    }

    /// The contents of Redis, in the form of published changes.
    pub fn books(&self) -> impl Iterator<Item = Change> {
        self.books.iter().map(|(row, seq)| {
            (
                row.event.clone(),
                row.market.clone(),
                row.revision.clone(),
                *seq,
            )
        })
    }
}

/// Everything published on the channel.
pub struct Broadcasts {
    messages: mpsc::Receiver<Vec<u8>>,
    received: Vec<Change>,
}

impl Broadcasts {
    /// Listens from now on.
    pub fn of(folder: &Folder) -> Broadcasts {
        let mut connection = redis_of(folder);
        connection
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let channel = folder
            .sandbox()
            .value("REDIS_PUBSUB_CHANNEL")
            .unwrap()
            .to_owned();
        let (tell, messages) = mpsc::channel();
        // The first message is empty and signals that the subscription is active.
        std::thread::spawn(move || {
            let mut listening = connection.as_pubsub();
            listening.subscribe(channel).unwrap();
            let mut received = Some(Vec::new());
            let end = Instant::now() + 10 * DEADLINE;
            while Instant::now() < end
                && received
                    .take()
                    .is_none_or(|message| tell.send(message).is_ok())
            {
                match listening.get_message() {
                    Ok(message) => received = Some(message.get_payload_bytes().to_vec()),
                    Err(error) => assert!(error.is_timeout(), "{error}"),
                }
            }
        });
        assert_eq!(messages.recv_timeout(DEADLINE), Ok(Vec::new()));
        Broadcasts {
            messages,
            received: Vec::new(),
        }
    }

    /// Reads until all these marks have arrived.
    pub fn until_marked(&mut self, marks: &[KeyAndPayload]) {
        let mut missing = revisions(marks);
        while !missing.is_empty() {
            let message = self
                .messages
                .recv_timeout(DEADLINE)
                .unwrap_or_else(|_| panic!("never published: {missing:?}"));
            let broadcast: Value = serde_json::from_slice(&message).unwrap();
            let update =
                OddsUpdate::from_json(broadcast["payload"].to_string().as_bytes()).unwrap();
            missing.remove(&(update.event_id.to_string(), revision(&update)));
            let seq = broadcast["seq"].as_u64().unwrap();
            self.received.push((
                update.event_id.to_string(),
                update.market.to_string(),
                revision(&update),
                seq,
            ));
        }
    }

    /// All changes received so far.
    pub fn received(&self) -> &[Change] {
        &self.received
    }
}

fn revisions(marks: &[KeyAndPayload]) -> BTreeSet<(String, (String, i64))> {
    let read = |(_, payload): &KeyAndPayload| OddsUpdate::from_json(payload).unwrap();
    marks
        .iter()
        .map(read)
        .map(|update| (update.event_id.to_string(), revision(&update)))
        .collect()
}

/// A client subscribed to every event, and its state.
pub struct SubscribedClient {
    client: OddsClient,
    markets: BTreeMap<(String, String), (String, i64)>,
    seqs: BTreeMap<String, u64>,
    /// The number of updates received since its snapshots or since the last marks.
    pub updates: usize,
}

impl SubscribedClient {
    /// Subscribes, and reads the snapshots.
    pub async fn everything(odds: &ServerProcess, scenario: &Scenario) -> SubscribedClient {
        let client = odds.client().await;
        let mut known = SubscribedClient {
            client,
            markets: BTreeMap::new(),
            seqs: BTreeMap::new(),
            updates: 0,
        };
        for event in &scenario.events {
            known.client.subscribe(event).await;
            let snapshot = known.client.next_of("snapshot").await;
            assert_eq!(snapshot["eventId"], event.as_str());
            known
                .seqs
                .insert(event.clone(), snapshot["seq"].as_u64().unwrap());
            for market in snapshot["markets"]
                .as_array()
                .unwrap_or_else(|| panic!("{snapshot}"))
            {
                known.take(market.get("payload").unwrap_or(market), None);
            }
        }
        known
    }

    /// Reads until all these marks have arrived. No update may be older than the client's state.
    pub async fn until_marked(&mut self, marks: &[KeyAndPayload]) {
        let mut missing = revisions(marks);
        self.updates = 0;
        while !missing.is_empty() {
            let message = self.client.next().await;
            if message["type"] == "feed" || message["type"] == "status" {
                continue;
            }
            assert_eq!(message["type"], "update", "{message}");
            if self.repeats_known_state(&message) {
                continue;
            }
            self.updates += 1;
            let (event, revision) = self.take(&message["payload"], message["seq"].as_u64());
            missing.remove(&(event, revision));
        }
    }

    /// Whether it shows a known state of a market whose source is lost or live again. After the
    /// start of a processor, a source that nobody reports is lost until it publishes.
    fn repeats_known_state(&self, message: &Value) -> bool {
        if message["stale"].is_null() {
            return false;
        }
        let update = OddsUpdate::from_json(message["payload"].to_string().as_bytes()).unwrap();
        let market = (update.event_id.to_string(), update.market.to_string());
        self.markets.get(&market) == Some(&revision(&update))
    }

    fn take(&mut self, payload: &Value, seq: Option<u64>) -> (String, (String, i64)) {
        let update = OddsUpdate::from_json(payload.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("{error}: {payload}"));
        let event = update.event_id.to_string();
        let market = update.market.to_string();
        let revision = revision(&update);
        if let Some(seq) = seq {
            let last = self.seqs.insert(event.clone(), seq).unwrap_or_default();
            assert!(seq > last, "number {seq} after {last}: {payload}");
        }
        let before = self
            .markets
            .insert((event.clone(), market), revision.clone());
        let order = |(at, version): &(String, i64)| {
            (
                at.parse::<sports_bet_platform::domain::timestamp::Timestamp>()
                    .unwrap(),
                *version,
            )
        };
        assert!(
            before
                .as_ref()
                .is_none_or(|before| order(before) < order(&revision)),
            "{before:?}, then {revision:?}"
        );
        (event, revision)
    }
}
