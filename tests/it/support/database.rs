//! The database of a platform, opened while the platform runs or afterwards.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{
    Connection, PgConnection, QueryableByName, RunQueryDsl, SqliteConnection, sql_query, sql_types,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use secrecy::SecretString;
use sports_bet_platform::bus::{NewRecord, Record, dead_letter};
use sports_bet_platform::domain::dead_letter::DeadLetter;
use sports_bet_platform::domain::ids::{EventId, MarketKey, MarketName};
use sports_bet_platform::store::postgres::{PgOptions, PgStore};
use sports_bet_platform::store::sqlite::SqliteStore;
use sports_bet_platform::store::{HistoryEntry, HistoryQuery, Store};

use super::documents::check_record;
use super::engines::{Folder, Sandbox};
use super::{Cluster, until};

const KAFKA_WAIT: Duration = Duration::from_secs(10);

/// The database of a platform in a folder, or in the folder's sandbox.
pub struct Database {
    /// The store that the platform uses.
    pub store: Box<dyn Store>,
    sandbox: Sandbox,
    path: String,
}

enum AnyConnection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = sql_types::BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Text {
    #[diesel(sql_type = sql_types::Text)]
    text: String,
}

impl Database {
    /// The database of the platform that runs, or ran, in a folder.
    pub fn of(folder: &Folder) -> Database {
        Database::open(folder, folder.sandbox().clone())
    }

    /// The database used by the processes of a cluster, which may be a private engine of the test.
    pub fn of_cluster(cluster: &Cluster) -> Database {
        let mut sandbox = cluster.folder.sandbox().clone();
        // The last of two settings with the same name applies.
        sandbox.variables = cluster.variables().iter().rev().cloned().collect();
        Database::open(&cluster.folder, sandbox)
    }

    fn open(folder: &Folder, sandbox: Sandbox) -> Database {
        let path = folder.path().join("test.db").to_string_lossy().into_owned();
        let store: Box<dyn Store> = match sandbox.value("DATABASE_URL") {
            Some(url) => {
                Box::new(PgStore::open(&SecretString::from(url), &PgOptions::default()).unwrap())
            }
            None => Box::new(SqliteStore::open(&path).unwrap()),
        };
        Database {
            store,
            sandbox,
            path,
        }
    }

    /// The database at a URL outside the sandbox.
    pub fn at(folder: &Folder, url: &str) -> Database {
        let mut sandbox = folder.sandbox().clone();
        sandbox.set("DATABASE_URL", url);
        let store = Box::new(
            PgStore::open(&SecretString::from(url.to_owned()), &PgOptions::default()).unwrap(),
        );
        Database {
            store,
            sandbox,
            path: String::new(),
        }
    }

    fn connect(&self) -> AnyConnection {
        match self.sandbox.value("DATABASE_URL") {
            Some(url) => AnyConnection::Postgres(PgConnection::establish(url).unwrap()),
            None => {
                let mut connection = SqliteConnection::establish(&self.path).unwrap();
                connection
                    .batch_execute("PRAGMA busy_timeout = 20000")
                    .unwrap();
                AnyConnection::Sqlite(connection)
            }
        }
    }

    /// Runs SQL statements.
    pub fn execute(&self, sql: &str) {
        match self.connect() {
            AnyConnection::Sqlite(mut connection) => connection.batch_execute(sql).unwrap(),
            AnyConnection::Postgres(mut connection) => connection.batch_execute(sql).unwrap(),
        }
    }

    /// The result of `SELECT … AS number`.
    pub fn number(&self, sql: &str) -> i64 {
        let answer: Number = match self.connect() {
            AnyConnection::Sqlite(mut connection) => {
                sql_query(sql).get_result(&mut connection).unwrap()
            }
            AnyConnection::Postgres(mut connection) => {
                sql_query(sql).get_result(&mut connection).unwrap()
            }
        };
        answer.number
    }

    /// The rows of `SELECT … AS text`.
    pub fn texts(&self, sql: &str) -> Vec<String> {
        let rows: Vec<Text> = match self.connect() {
            AnyConnection::Sqlite(mut connection) => {
                sql_query(sql).get_results(&mut connection).unwrap()
            }
            AnyConnection::Postgres(mut connection) => {
                sql_query(sql).get_results(&mut connection).unwrap()
            }
        };
        rows.into_iter().map(|row| row.text).collect()
    }

    /// Blocks all other writers until the lock is dropped.
    pub fn lock(&self) -> DatabaseLock {
        let mut connection = self.connect();
        match &mut connection {
            AnyConnection::Sqlite(connection) => connection.batch_execute("BEGIN IMMEDIATE").unwrap(),
            AnyConnection::Postgres(connection) => connection
                .batch_execute("BEGIN; LOCK TABLE odds_current, odds_history, dead_letters, wallets IN EXCLUSIVE MODE")
                .unwrap(),
        }
        DatabaseLock(connection)
    }

    /// Locks the wallet rows of these users until it is dropped. PostgreSQL only.
    pub fn hold_wallets(&self, users: &[String]) -> DatabaseLock {
        let mut connection = self.connect();
        let AnyConnection::Postgres(postgres) = &mut connection else {
            panic!("SQLite has no row locks")
        };
        let users = users.join("', '");
        postgres
            .batch_execute(&format!(
                "BEGIN; SELECT FROM wallets WHERE user_id IN ('{users}') FOR UPDATE"
            ))
            .unwrap();
        DatabaseLock(connection)
    }

    /// The whole history of a market, in the supplier's order.
    pub fn history(&self, event: &str, market: MarketKey) -> Vec<HistoryEntry> {
        let event_id = EventId::new(event).unwrap();
        let query = HistoryQuery {
            event_id,
            market,
            from: None,
            to: None,
            after: None,
            limit: 1_000_000,
        };
        self.store.history(&query).unwrap()
    }

    /// The versions of an event's `1x2` in its history, in the supplier's order.
    pub fn versions(&self, event: &str) -> Vec<i64> {
        let market = MarketKey {
            name: MarketName::new("1x2").unwrap(),
            line: None,
        };
        self.history(event, market)
            .iter()
            .map(|entry| entry.cursor.revision.version)
            .collect()
    }

    /// Waits until an event's `1x2` has exactly these versions in its history.
    pub async fn until_versions(&self, event: &str, wanted: &[i64]) {
        until(&format!("{} rows of {event}", wanted.len()), async || {
            (self.versions(event).len() >= wanted.len()).then_some(())
        })
        .await;
        assert_eq!(self.versions(event), wanted);
    }

    /// Dead letters, oldest first, from the database or from Kafka's dead-letter topic.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        if let Some(brokers) = self.sandbox.value("KAFKA_BROKERS") {
            let topic = format!("{}_dlq", self.sandbox.value("KAFKA_TOPIC_ODDS").unwrap());
            let mut letters: Vec<_> = records(brokers, &topic)
                .iter()
                .map(dead_letter::read)
                .collect();
            letters.sort_by_key(|letter| letter.received_at);
            return letters;
        }
        let mut letters = self.store.list_dead_letters(100_000).unwrap();
        letters.reverse();
        letters.into_iter().map(|stored| stored.letter).collect()
    }

    /// Waits until there are exactly this many dead letters.
    pub async fn until_dead_letters(&self, count: usize) -> Vec<DeadLetter> {
        until(&format!("{count} dead letters"), async || {
            let letters = self.dead_letters();
            (letters.len() >= count).then_some(letters)
        })
        .await
    }
}

/// Blocks all other writers while it is held.
pub struct DatabaseLock(AnyConnection);

impl Drop for DatabaseLock {
    fn drop(&mut self) {
        let _ = match &mut self.0 {
            AnyConnection::Sqlite(connection) => connection.batch_execute("ROLLBACK"),
            AnyConnection::Postgres(connection) => connection.batch_execute("ROLLBACK"),
        };
    }
}

/// All current records of a topic, partition by partition; empty if the topic does not exist.
pub fn records(brokers: &str, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "tests")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), KAFKA_WAIT).unwrap();
    let mut read = Vec::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
    {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition.id(), KAFKA_WAIT)
            .unwrap();
        if low == high {
            continue;
        }
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Offset(low))
            .unwrap();
        consumer.assign(&assignment).unwrap();
        loop {
            let message = consumer
                .poll(KAFKA_WAIT)
                .expect("the topic's next record")
                .unwrap();
            let headers = message.headers().map(|headers| {
                headers
                    .iter()
                    .map(|header| {
                        (
                            header.key.to_owned(),
                            bytes::Bytes::copy_from_slice(header.value.unwrap_or_default()),
                        )
                    })
                    .collect()
            });
            let bytes =
                |part: Option<&[u8]>| bytes::Bytes::copy_from_slice(part.unwrap_or_default());
            let record = Record {
                partition: message.partition() as u32,
                offset: message.offset() as u64,
                published_at: None,
                record: NewRecord {
                    key: bytes(message.key()),
                    payload: bytes(message.payload()),
                    headers: headers.unwrap_or_default(),
                },
            };
            check_record(topic, &record.record);
            read.push(record);
            if message.offset() + 1 >= high {
                break;
            }
        }
    }
    read
}
