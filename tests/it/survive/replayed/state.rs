//! What the engines hold, and what listeners are told.

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

/// A change that the history holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryKey(String, String, (String, i64), String, String);

/// A change that was told or is held: event, market, revision, number.
pub type Told = (String, String, (String, i64), u64);

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
        let (event, market) = (update.event_id.to_string(), update.market.to_string());
        HistoryKey(
            event,
            market,
            revision(update),
            update.source.to_string(),
            selections(update),
        )
    }

    /// What may stand once only.
    pub fn unique(update: &OddsUpdate) -> HistoryKey {
        HistoryKey {
            4: String::new(),
            ..HistoryKey::of(update)
        }
    }
}

/// What database and Redis hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `odds_current`, with the numbers.
    current: BTreeMap<MarketRow, u64>,
    /// `odds_history`.
    pub history: BTreeSet<HistoryKey>,
    /// How many rows that is.
    history_rows: usize,
    /// `odds:book:*`, with the numbers.
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

/// A row in the form of an update, so that one reader does for database and Redis.
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

/// Takes everything away from Redis.
pub fn flush(folder: &Folder) {
    let () = redis::cmd("FLUSHDB").query(&mut redis_of(folder)).unwrap();
}

impl State {
    /// As it is now.
    pub fn of(folder: &Folder) -> State {
        let current = rows(folder, "seq", "odds_current");
        let history = rows(folder, "0::bigint", "odds_history");
        let mut redis = redis_of(folder);
        let (mut books, mut hot) = (BTreeMap::new(), BTreeMap::new());
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

    /// How the markets stand, whatever their numbers: these count positions.
    pub fn without_seq(&self) -> BTreeSet<MarketRow> {
        self.current.keys().cloned().collect()
    }

    /// What the original would read of each event.
    pub fn hot(&self) -> &BTreeMap<String, String> {
        &self.hot
    }

    /// Redis holds what the database holds, with the same numbers; and the history holds nothing
    /// twice.
    pub fn assert_cache_agrees(&self) {
        pretty_assertions::assert_eq!(self.books, self.current);
        assert_eq!(self.history_rows, self.history.len());
    }

    /// What Redis holds, as it is told.
    pub fn books(&self) -> impl Iterator<Item = Told> {
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

/// Everything that is told on the channel.
pub struct Broadcasts {
    messages: mpsc::Receiver<Vec<u8>>,
    heard: Vec<Told>,
}

impl Broadcasts {
    /// From now on.
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
        // The first is empty: it listens.
        std::thread::spawn(move || {
            let mut listening = connection.as_pubsub();
            listening.subscribe(channel).unwrap();
            let mut heard = Some(Vec::new());
            let end = Instant::now() + 10 * DEADLINE;
            while Instant::now() < end
                && heard
                    .take()
                    .is_none_or(|message| tell.send(message).is_ok())
            {
                match listening.get_message() {
                    Ok(message) => heard = Some(message.get_payload_bytes().to_vec()),
                    Err(error) => assert!(error.is_timeout(), "{error}"),
                }
            }
        });
        assert_eq!(messages.recv_timeout(DEADLINE), Ok(Vec::new()));
        Broadcasts {
            messages,
            heard: Vec::new(),
        }
    }

    /// Reads until all these were told.
    pub fn until_marked(&mut self, marks: &[KeyAndPayload]) {
        let mut missing = revisions(marks);
        while !missing.is_empty() {
            let message = self
                .messages
                .recv_timeout(DEADLINE)
                .unwrap_or_else(|_| panic!("never told: {missing:?}"));
            let told: Value = serde_json::from_slice(&message).unwrap();
            let update = OddsUpdate::from_json(told["payload"].to_string().as_bytes()).unwrap();
            missing.remove(&(update.event_id.to_string(), revision(&update)));
            let seq = told["seq"].as_u64().unwrap();
            self.heard.push((
                update.event_id.to_string(),
                update.market.to_string(),
                revision(&update),
                seq,
            ));
        }
    }

    /// Everything so far.
    pub fn heard(&self) -> &[Told] {
        &self.heard
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

/// A client that is subscribed to every event, and what it knows.
pub struct Known {
    client: OddsClient,
    markets: BTreeMap<(String, String), (String, i64)>,
    seqs: BTreeMap<String, u64>,
    /// How many updates it was told since its snapshots, in all or since the last marks.
    pub updates: usize,
}

impl Known {
    /// Subscribes, and reads the snapshots.
    pub async fn everything(odds: &ServerProcess, scenario: &Scenario) -> Known {
        let client = odds.client().await;
        let mut known = Known {
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

    /// Reads until all these were told. Nothing on the way may be older than what it knows.
    pub async fn until_marked(&mut self, marks: &[KeyAndPayload]) {
        let mut missing = revisions(marks);
        self.updates = 0;
        while !missing.is_empty() {
            let message = self.client.next().await;
            if message["type"] == "feed" || message["type"] == "status" {
                continue;
            }
            assert_eq!(message["type"], "update", "{message}");
            self.updates += 1;
            let (event, revision) = self.take(&message["payload"], message["seq"].as_u64());
            missing.remove(&(event, revision));
        }
    }

    fn take(&mut self, payload: &Value, seq: Option<u64>) -> (String, (String, i64)) {
        let update = OddsUpdate::from_json(payload.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("{error}: {payload}"));
        let (event, market, revision) = (
            update.event_id.to_string(),
            update.market.to_string(),
            revision(&update),
        );
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
