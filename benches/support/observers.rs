//! Observers of the stages between supplier and socket: they read what the platform writes to Kafka
//! and Redis, and take the time since each update was due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use sports_bet_platform::domain::timestamp::Timestamp;

use super::Outcome;
use super::client::due_of;
use super::engines::Folder;

/// How long an observer waits before it looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);

/// The delays of one stage, in microseconds since the updates were due.
#[derive(Clone)]
struct Stage(Arc<Mutex<Histogram<u64>>>);

impl Stage {
    fn new() -> Outcome<Stage> {
        let delays = Histogram::new_with_bounds(1, 120_000_000, 3)?;
        Ok(Stage(Arc::new(Mutex::new(delays))))
    }

    fn record(&self, due: i64, at: i64) {
        let delay = (at - due).max(1).unsigned_abs();
        self.0.lock().saturating_record(delay);
    }

    /// Returns the delays since the last call.
    fn take(&self) -> Histogram<u64> {
        let mut delays = self.0.lock();
        let taken = delays.clone();
        delays.reset();
        taken
    }
}

/// Observes one platform. Stops on drop.
pub struct Observers {
    stages: Vec<(&'static str, Stage)>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Outcome<()>>>,
}

impl Observers {
    /// Observes the odds topic and the broadcast channel of the platform with this folder.
    pub fn start(folder: &Folder) -> Outcome<Observers> {
        let stop = Arc::new(AtomicBool::new(false));
        let (produced, on_kafka, on_redis) = (Stage::new()?, Stage::new()?, Stage::new()?);
        let consumer = consumer_at_end(folder)?;
        let mut broadcasts = redis::Client::open(value(folder, "REDIS_URL")?)?.get_connection()?;
        let channels = format!("{}:*", value(folder, "REDIS_PUBSUB_CHANNEL")?);
        let stages = vec![
            (
                "in the producer of ingest, to the whole millisecond",
                produced.clone(),
            ),
            ("readable on Kafka", on_kafka.clone()),
            ("readable on Redis", on_redis.clone()),
        ];
        let stopped = stop.clone();
        let kafka = move || {
            while !stopped.load(Ordering::Relaxed) {
                let Some(record) = consumer.poll(POLL) else {
                    continue;
                };
                let record = record?;
                let now = Timestamp::now().micros();
                let Some(due) = record.payload().and_then(due_of) else {
                    continue;
                };
                on_kafka.record(due, now);
                let created = record.timestamp().to_millis().unwrap_or_default();
                produced.record(due, created * 1_000);
            }
            Ok(())
        };
        let stopped = stop.clone();
        let redis = move || {
            let mut messages = broadcasts.as_pubsub();
            messages.psubscribe(channels)?;
            messages.set_read_timeout(Some(POLL))?;
            while !stopped.load(Ordering::Relaxed) {
                let Ok(message) = messages.get_message() else {
                    continue;
                };
                if let Some(due) = due_of(message.get_payload_bytes()) {
                    on_redis.record(due, Timestamp::now().micros());
                }
            }
            Ok(())
        };
        Ok(Observers {
            stages,
            stop,
            threads: vec![std::thread::spawn(kafka), std::thread::spawn(redis)],
        })
    }

    /// The delays of each stage since the last call.
    pub fn take(&self) -> Vec<(&'static str, Histogram<u64>)> {
        let stages = self.stages.iter();
        stages.map(|(name, stage)| (*name, stage.take())).collect()
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("an observer failed: {error}");
            }
        }
    }
}

fn value(folder: &Folder, variable: &str) -> Outcome<String> {
    let value = folder.sandbox().value(variable);
    Ok(value.ok_or_else(|| format!("no {variable}"))?.to_owned())
}

/// A consumer of all partitions of the odds topic that is at their ends.
fn consumer_at_end(folder: &Folder) -> Outcome<BaseConsumer> {
    let topic = value(folder, "KAFKA_TOPIC_ODDS")?;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", value(folder, "KAFKA_BROKERS")?)
        .set("group.id", "observer")
        .set("fetch.min.bytes", "1")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10))?;
    let mut partitions = TopicPartitionList::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
    {
        partitions.add_partition_offset(&topic, partition.id(), Offset::End)?;
    }
    consumer.assign(&partitions)?;
    // Polled once, so that the consumer has its offsets before anything is measured.
    consumer.poll(Duration::from_secs(1));
    Ok(consumer)
}
