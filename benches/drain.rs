//! Backlog throughput: how fast one processor works through updates that collected in Kafka while
//! no processor ran, up to the last row in PostgreSQL and the last key in Redis. The baseline
//! writes the same rows to the same tables with one statement per 500 rows.
//!
//! Run with `scripts/engines with cargo bench --bench drain`. Settings: `BENCH_UPDATES`,
//! `BENCH_EVENTS`, `BENCH_ROUNDS`, and every setting of the server under its own name.

mod support;

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Text};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use secrecy::SecretString;
use sports_bet_platform::domain::odds::update::OddsUpdate;
use sports_bet_platform::domain::timestamp::Timestamp;
use sports_bet_platform::store::Store;
use sports_bet_platform::store::postgres::{PgOptions, PgStore};

use support::engines::{Folder, kafka_admin};
use support::server::Server;
use support::supplier::update;
use support::table::{Row, median, print};
use support::{Outcome, machine, need_engines, setting, until};

/// Rows per statement.
const ROWS: usize = 500;
const PARTITIONS: i32 = 4;
const WAIT_LIMIT: Duration = Duration::from_secs(30);

fn main() -> Outcome<()> {
    need_engines("drain")?;
    let updates = usize::try_from(setting("BENCH_UPDATES", 200_000)?)?;
    let events = usize::try_from(setting("BENCH_EVENTS", 1_000)?)?;
    let rounds = setting("BENCH_ROUNDS", 3)?;
    let backlog = Backlog::new(updates, events)?;
    let mut ours = Vec::new();
    let mut alone = Vec::new();
    for _ in 0..rounds {
        ours.push(drain(&backlog)?);
        alone.push(write_alone(&backlog)?);
    }
    let of = |figure: fn(&Drained) -> f64| median(ours.iter().map(figure).collect());
    let lost: u64 = ours.iter().map(|drained| drained.lost).sum();
    let all = updates as f64;
    let figure = format!("{updates} updates of {events} events, middle of {rounds} runs");
    let cpu = format!(
        "batches of {:.0} rows in {:.1} ms; CPU of the processor {:.0} % of a core, of all together {:.0} % of {} cores; {:.1} s from the process's start to the first row",
        of(|drained| drained.batch_rows),
        of(|drained| drained.batch_milliseconds),
        of(|drained| drained.own_share) * 100.0,
        of(|drained| drained.machine_share) * 100.0,
        machine::cores(),
        of(|drained| drained.first.as_secs_f64())
    );
    print(
        "drain",
        &[
            Row::new(
                figure,
                all / of(|drained| drained.rest.as_secs_f64()),
                "updates/s",
            )
            .beside(format!("one statement for {ROWS} rows"), median(alone))
            .at_least(0.5)
            .remark(cpu),
            Row::new(
                "the same from the process's start on",
                all / of(|drained| drained.all()),
                "updates/s",
            )
            .remark("the original: 143"),
            Row::new("rows and keys that were lost", lost as f64, "").at_most(0.0),
        ],
    )
}

/// The updates, in the order in which they were received.
struct Backlog {
    updates: Vec<OddsUpdate>,
    /// The records as `ingest` writes them.
    records: Vec<String>,
    events: usize,
}

impl Backlog {
    fn new(updates: usize, events: usize) -> Outcome<Backlog> {
        let begin = Timestamp::now().micros() - updates as i64;
        let mut all = Backlog {
            updates: Vec::with_capacity(updates),
            records: Vec::with_capacity(updates),
            events,
        };
        for number in 0..updates {
            let at = Timestamp::from_micros(begin + number as i64).ok_or("no time")?;
            let frame = update(&name_of(number % events), "1x2", number as u64 + 1, at);
            let update = OddsUpdate::from_json(frame.as_bytes())?;
            all.records.push(update.to_json());
            all.updates.push(update);
        }
        Ok(all)
    }

    /// The last version of each event.
    fn last_versions(&self) -> impl Iterator<Item = (String, i64)> {
        let last = self.updates.len().saturating_sub(self.events)..self.updates.len();
        self.updates[last]
            .iter()
            .map(|update| (update.event_id.to_string(), update.revision.version))
    }
}

fn name_of(event: usize) -> String {
    format!("MATCH_{event:05}")
}

struct Drained {
    /// From process start to the first row.
    first: Duration,
    /// From the first row to the last row and key.
    rest: Duration,
    lost: u64,
    own_share: f64,
    machine_share: f64,
    batch_rows: f64,
    batch_milliseconds: f64,
}

impl Drained {
    fn all(&self) -> f64 {
        (self.first + self.rest).as_secs_f64()
    }
}

fn drain(backlog: &Backlog) -> Outcome<Drained> {
    let folder = Folder::on_real_engines();
    let value = |name| {
        folder
            .sandbox()
            .value(name)
            .ok_or_else(|| format!("no {name}"))
    };
    publish(backlog, value("KAFKA_BROKERS")?, value("KAFKA_TOPIC_ODDS")?)?;
    let mut database = migrated(value("DATABASE_URL")?)?;
    let server = Server::start("processor", &folder, &[], None)?;
    machine::unpin()?;
    until("the first row", || {
        Ok((last_id(&mut database)? > 0).then_some(()))
    })?;
    let first = server.started.elapsed();
    let began = Instant::now();
    let cpu = server.cpu()?;
    let busy = machine::busy()?;
    let mut cache = redis::Client::open(value("REDIS_URL")?)?.get_connection()?;
    let mut progress = (0, Instant::now());
    // Row ids count from 1, so the last id is enough; counting all rows would load the database.
    while last_id(&mut database)? < backlog.updates.len() as i64
        && progress.1.elapsed() < WAIT_LIMIT
    {
        std::thread::sleep(Duration::from_millis(20));
        let id = last_id(&mut database)?;
        if id > progress.0 {
            progress = (id, Instant::now());
        }
    }
    let mut stale_keys = stale_keys(backlog, &mut cache)?;
    let deadline = Instant::now() + WAIT_LIMIT;
    while stale_keys > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        stale_keys = self::stale_keys(backlog, &mut cache)?;
    }
    let rest = began.elapsed();
    let share = |time: Duration| time.as_secs_f64() / rest.as_secs_f64();
    let own_share = share(server.cpu()? - cpu);
    let machine_share = share(machine::busy()? - busy) / machine::cores() as f64;
    // The commit becomes visible shortly after the work is done.
    let group = folder.sandbox().store_group();
    until("the lag is 0", || {
        Ok((lag(value("KAFKA_BROKERS")?, value("KAFKA_TOPIC_ODDS")?, group)? == 0).then_some(()))
    })?;
    let lost = lost_rows(backlog, &mut database)? + stale_keys;
    let metric = |name: &str| server.metric("processor", name);
    let batches = metric("odds_proc_store_batch_size_count")?;
    Ok(Drained {
        first,
        rest,
        lost,
        own_share,
        machine_share,
        batch_rows: metric("odds_proc_store_batch_size_sum")? / batches,
        batch_milliseconds: metric("odds_proc_store_batch_seconds_sum")? / batches * 1_000.0,
    })
}

/// Publishes the backlog to a topic, as `ingest` does.
fn publish(backlog: &Backlog, brokers: &str, topic: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wanted = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    runtime.block_on(kafka_admin(brokers).create_topics(&[wanted], &AdminOptions::new()))?;
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random");
    let producer: BaseProducer = config.set("linger.ms", "5").create()?;
    for (update, record) in backlog.updates.iter().zip(&backlog.records) {
        let mut wanted = BaseRecord::to(topic)
            .key(update.event_id.as_str())
            .payload(record.as_str());
        while let Err((error, again)) = producer.send(wanted) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            producer.poll(Duration::from_millis(10));
            wanted = again;
        }
    }
    Ok(producer.flush(WAIT_LIMIT)?)
}

/// A connection to a database with the migrations applied.
fn migrated(url: &str) -> Outcome<PgConnection> {
    PgStore::open(&SecretString::from(url), &PgOptions::default())?.migrate()?;
    Ok(PgConnection::establish(url)?)
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn number(database: &mut PgConnection, query: &str) -> Outcome<i64> {
    Ok(diesel::sql_query(query)
        .get_result::<Number>(database)?
        .number)
}

fn last_id(database: &mut PgConnection) -> Outcome<i64> {
    number(
        database,
        "SELECT COALESCE(max(id), 0) AS number FROM odds_history",
    )
}

/// The number of missing history rows plus the number of events whose stored version is not their
/// last.
fn lost_rows(backlog: &Backlog, database: &mut PgConnection) -> Outcome<u64> {
    let rows = number(database, "SELECT count(*) AS number FROM odds_history")?;
    let (events, versions): (Vec<String>, Vec<i64>) = backlog.last_versions().unzip();
    let current = diesel::sql_query(
        "SELECT count(*) AS number FROM odds_current JOIN unnest($1, $2) AS last (event_id, version) USING (event_id, version)",
    );
    let current = current
        .bind::<Array<Text>, _>(&events)
        .bind::<Array<BigInt>, _>(&versions);
    let current = current.get_result::<Number>(database)?.number;
    Ok((backlog.updates.len() as i64 - rows).unsigned_abs()
        + (events.len() as i64 - current).unsigned_abs())
}

/// The number of events whose version in Redis is not their last.
fn stale_keys(backlog: &Backlog, cache: &mut redis::Connection) -> Outcome<u64> {
    let mut pipeline = redis::pipe();
    for (event, _) in backlog.last_versions() {
        pipeline.get(format!("odds:current:{event}"));
    }
    let held: Vec<Option<String>> = pipeline.query(cache)?;
    let is_last = |held: &Option<String>, version: i64| {
        held.as_ref()
            .is_some_and(|held| held.ends_with(&format!(r#""version":{version}}}"#)))
    };
    Ok(held
        .iter()
        .zip(backlog.last_versions())
        .filter(|(held, (_, version))| !is_last(held, *version))
        .count() as u64)
}

fn lag(brokers: &str, topic: &str, group: &str) -> Outcome<i64> {
    let mut config = ClientConfig::new();
    let consumer: BaseConsumer = config
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .create()?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_range(topic, 0, PARTITIONS - 1);
    let mut lag = 0;
    for partition in consumer
        .committed_offsets(partitions, WAIT_LIMIT)?
        .elements()
    {
        let (_, end) = consumer.fetch_watermarks(topic, partition.partition(), WAIT_LIMIT)?;
        lag += match partition.offset() {
            Offset::Offset(done) => end - done,
            _ => end,
        };
    }
    Ok(lag)
}

/// The rows of one statement, one list per column.
struct Columns {
    event_id: Vec<String>,
    market: Vec<String>,
    status: Vec<String>,
    in_play: Vec<bool>,
    selections: Vec<String>,
    source: Vec<String>,
    version: Vec<i64>,
    updated_at: Vec<i64>,
    home_team: Vec<String>,
    away_team: Vec<String>,
}

impl Columns {
    fn of(updates: &[OddsUpdate]) -> Outcome<Columns> {
        let texts = |field: fn(&OddsUpdate) -> &str| {
            updates
                .iter()
                .map(|update| field(update).to_owned())
                .collect()
        };
        let numbers = |field: fn(&OddsUpdate) -> i64| updates.iter().map(field).collect();
        Ok(Columns {
            event_id: texts(|update| update.event_id.as_str()),
            market: texts(|update| update.market.name.as_str()),
            status: texts(|update| update.status.as_str()),
            in_play: updates.iter().map(|update| update.in_play).collect(),
            selections: updates
                .iter()
                .map(|update| serde_json::to_string(&update.selections))
                .collect::<Result<_, _>>()?,
            source: texts(|update| update.source.as_str()),
            version: numbers(|update| update.revision.version),
            updated_at: numbers(|update| update.revision.updated_at.micros()),
            home_team: texts(|update| &update.home_team),
            away_team: texts(|update| &update.away_team),
        })
    }
}

/// The minimum PostgreSQL needs for these rows: one statement in its own transaction, with no query
/// before it.
const STATEMENT: &str = "
WITH taken AS (
    SELECT event_id, market, '' AS line, status, in_play, selections::jsonb AS selections, source, version,
        'epoch'::timestamptz + micros * interval '1 microsecond' AS updated_at, home_team, away_team
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        AS taken (event_id, market, status, in_play, selections, source, version, micros, home_team, away_team)
), recorded AS (
    INSERT INTO odds_history (event_id, market, line, status, in_play, selections, source, version, updated_at)
    SELECT event_id, market, line, status, in_play, selections, source, version, updated_at FROM taken
    ON CONFLICT (event_id, market, line, updated_at, version, source) DO NOTHING
)
INSERT INTO odds_current (event_id, market, line, status, in_play, selections, source, version, updated_at,
    home_team, away_team, seq)
SELECT DISTINCT ON (event_id, market, line) event_id, market, line, status, in_play, selections, source, version,
    updated_at, home_team, away_team, version
FROM taken ORDER BY event_id, market, line, updated_at DESC, version DESC
ON CONFLICT (event_id, market, line) DO UPDATE SET
    status = excluded.status, in_play = excluded.in_play, selections = excluded.selections,
    source = excluded.source, version = excluded.version, updated_at = excluded.updated_at,
    home_team = excluded.home_team, away_team = excluded.away_team, seq = excluded.seq
WHERE (excluded.updated_at, excluded.version) > (odds_current.updated_at, odds_current.version)";

/// Writes the same rows with plain statements; returns rows per second.
fn write_alone(backlog: &Backlog) -> Outcome<f64> {
    let folder = Folder::on_real_engines();
    let mut database = migrated(
        folder
            .sandbox()
            .value("DATABASE_URL")
            .ok_or("no database")?,
    )?;
    // Built before the clock starts.
    let batches = backlog
        .updates
        .chunks(ROWS)
        .map(Columns::of)
        .collect::<Outcome<Vec<_>>>()?;
    database.batch_execute("SET application_name = 'bench'")?;
    let began = Instant::now();
    for rows in &batches {
        diesel::sql_query(STATEMENT)
            .bind::<Array<Text>, _>(&rows.event_id)
            .bind::<Array<Text>, _>(&rows.market)
            .bind::<Array<Text>, _>(&rows.status)
            .bind::<Array<Bool>, _>(&rows.in_play)
            .bind::<Array<Text>, _>(&rows.selections)
            .bind::<Array<Text>, _>(&rows.source)
            .bind::<Array<BigInt>, _>(&rows.version)
            .bind::<Array<BigInt>, _>(&rows.updated_at)
            .bind::<Array<Text>, _>(&rows.home_team)
            .bind::<Array<Text>, _>(&rows.away_team)
            .execute(&mut database)?;
    }
    let rate = backlog.updates.len() as f64 / began.elapsed().as_secs_f64();
    match lost_rows(backlog, &mut database)? {
        0 => Ok(rate),
        lost => Err(format!("{lost} rows are missing").into()),
    }
}
