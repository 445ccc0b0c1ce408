//! Monitors the topics: creates missing ones, also those deleted later, and tracks whether Kafka
//! answers.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use log::{info, warn};
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;
use rdkafka::producer::Producer;
use tokio::sync::watch;

use super::config::{Clients, MAX_RECORD_BYTES};
use super::events::LastError;
use super::producer::ProducerHandle;
use crate::bus::BusError;
use crate::telemetry::log_limit::FaultLog;

/// Timeout for a metadata query.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout for creating a topic.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// Probe intervals while a topic is missing and while all are healthy.
const UNHEALTHY_PROBE_INTERVAL: Duration = Duration::from_millis(500);
const HEALTHY_PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Minimum time between log lines for different causes: librdkafka reports one fault in several
/// ways, in turn.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout of a ping; slightly longer than the metadata query it waits for.
const PING_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The status of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TopicStatus {
    /// How many probes have completed.
    probes: u64,
    /// `None` before the first probe.
    state: Option<Result<(), String>>,
    /// The number of partitions when the topic was last seen.
    partitions: usize,
    /// The topic exists, but some of it is unusable.
    degraded: Option<String>,
}

/// How a missing topic is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopicKind {
    /// An ordered log with the configured number of partitions.
    Log,
    /// One partition that keeps the latest record of each key. Keys that are not written any more
    /// are deleted after a week, and segments are short, so that little has to be read at a start.
    Compacted,
}

impl TopicKind {
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            TopicKind::Log => &[],
            TopicKind::Compacted => &[
                ("cleanup.policy", "compact,delete"),
                ("retention.ms", "604800000"),
                ("segment.ms", "600000"),
                ("max.compaction.lag.ms", "600000"),
                ("min.cleanable.dirty.ratio", "0.1"),
            ],
        }
    }
}

/// A monitored topic.
pub(super) struct TopicState {
    pub(super) name: String,
    /// `None` if it is not created by this process.
    kind: Option<TopicKind>,
    status: watch::Sender<TopicStatus>,
}

impl TopicState {
    /// Whether the topic existed at the last probe.
    pub(super) fn exists(&self) -> bool {
        matches!(self.status.borrow().state, Some(Ok(())))
    }

    /// The number of partitions when the topic was last seen.
    pub(super) fn partitions(&self) -> usize {
        self.status.borrow().partitions
    }

    /// Checks that a broker that knows `found` partitions knows all: brokers learn of a new topic,
    /// and of new partitions, one after the other.
    pub(super) fn check_complete(&self, found: usize) -> Result<(), BusError> {
        if found >= self.partitions().max(1) {
            return Ok(());
        }
        let name = &self.name;
        let text = format!("a broker does not know all partitions of the topic {name}");
        Err(BusError::Unavailable(text))
    }

    /// Waits until the topic exists, without a time limit.
    pub(super) async fn wait(&self) {
        let mut status = self.status.subscribe();
        let monitor_is_gone = status
            .wait_for(|status| status.state == Some(Ok(())))
            .await
            .is_err();
        if monitor_is_gone {
            std::future::pending::<()>().await;
        }
    }

    fn report(&self, state: Result<Found, String>) {
        self.status.send_modify(|status| {
            status.probes += 1;
            status.degraded = None;
            status.state = Some(state.map(|found| {
                status.partitions = found.partitions;
                status.degraded = found.degraded;
            }));
        });
    }
}

/// The monitor thread and its shared state.
pub(super) struct TopicMonitor {
    topics: Mutex<Vec<Arc<TopicState>>>,
    wake: SyncSender<()>,
    stop: AtomicBool,
    last_error: Arc<LastError>,
}

/// The configuration of created topics.
#[derive(Clone, Copy)]
pub(super) struct TopicConfig {
    pub(super) partitions: u32,
    pub(super) replication: Option<u16>,
}

impl TopicMonitor {
    /// Starts the monitor thread.
    pub(super) fn start(
        clients: Clients,
        config: TopicConfig,
        producers: Arc<ProducerHandle>,
    ) -> Result<Arc<TopicMonitor>, BusError> {
        let (wake, woken) = sync_channel(1);
        let last_error = producers.events.last_error.clone();
        let monitor = Arc::new(TopicMonitor {
            topics: Mutex::default(),
            wake,
            stop: AtomicBool::new(false),
            last_error: last_error.clone(),
        });
        let probe = TopicProbe {
            clients,
            config,
            producers,
            last_error,
            logged: None,
            log: FaultLog::new(),
        };
        let running = monitor.clone();
        let thread = std::thread::Builder::new().name("kafka topics".to_owned());
        thread
            .spawn(move || running.run(probe, &woken))
            .map_err(|failure| BusError::Unavailable(failure.to_string()))?;
        Ok(monitor)
    }

    /// Starts monitoring a topic. It is created if it is missing, unless `kind` is `None`.
    pub(super) fn monitor(&self, name: &str, kind: Option<TopicKind>) -> Arc<TopicState> {
        let mut topics = self.topics();
        if let Some(known) = topics.iter().find(|topic| topic.name == name) {
            return known.clone();
        }
        let topic = Arc::new(TopicState {
            name: name.to_owned(),
            kind,
            status: watch::Sender::default(),
        });
        topics.push(topic.clone());
        drop(topics);
        self.request_probe();
        topic
    }

    /// Requests a probe now.
    pub(super) fn request_probe(&self) {
        // If the channel is full, a probe is already requested.
        let _ = self.wake.try_send(());
    }

    /// Checks that Kafka answers and has the topic. Waits at most [`PING_TIMEOUT`] and does not
    /// block the thread.
    pub(super) async fn ping(&self, topic: &TopicState) -> Result<(), BusError> {
        let mut status = topic.status.subscribe();
        let before = status.borrow().probes;
        self.request_probe();
        let probed = tokio::time::timeout(
            PING_TIMEOUT,
            status.wait_for(|status| status.probes > before),
        )
        .await;
        let state = match probed {
            Ok(Ok(status)) => status
                .degraded
                .clone()
                .map_or(status.state.clone(), |text| Some(Err(text))),
            _ => None,
        };
        state
            .unwrap_or_else(|| Err(self.reason()))
            .map_err(BusError::Unavailable)
    }

    /// Why Kafka does not answer, as far as known.
    pub(super) fn reason(&self) -> String {
        self.last_error
            .last()
            .unwrap_or_else(|| "no answer in time".to_owned())
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.request_probe();
    }

    fn topics(&self) -> parking_lot::MutexGuard<'_, Vec<Arc<TopicState>>> {
        self.topics.lock()
    }

    fn run(&self, mut probe: TopicProbe, woken: &Receiver<()>) {
        while !self.stop.load(Ordering::Relaxed) {
            let topics = self.topics().clone();
            probe.run(&topics);
            let is_healthy = topics.iter().all(|topic| topic.exists());
            match woken.recv_timeout(if is_healthy {
                HEALTHY_PROBE_INTERVAL
            } else {
                UNHEALTHY_PROBE_INTERVAL
            }) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Limits the rate of probes, however often they are requested.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A topic that exists.
struct Found {
    partitions: usize,
    /// Some partitions have no leader; publishing to the others continues.
    degraded: Option<String>,
}

/// The state of the probing thread.
struct TopicProbe {
    clients: Clients,
    config: TopicConfig,
    producers: Arc<ProducerHandle>,
    last_error: Arc<LastError>,
    /// The last logged problem, and when it was logged.
    logged: Option<(String, Instant)>,
    log: FaultLog,
}

impl TopicProbe {
    /// Probes each topic, and logs changes.
    fn run(&mut self, topics: &[Arc<TopicState>]) {
        let mut failure = None;
        for topic in topics {
            let state = match &failure {
                // After a failure the remaining topics of this round are not queried.
                Some(failure) => Err(String::clone(failure)),
                None => self.probe_topic(topic),
            };
            if let Err(text) = &state {
                failure.get_or_insert_with(|| text.clone());
            }
            topic.report(state);
        }
        self.log_change(failure);
    }

    /// Logs a new failure, and its end.
    fn log_change(&mut self, failure: Option<String>) {
        match (&failure, &self.logged) {
            (Some(text), logged)
                if logged
                    .as_ref()
                    .is_none_or(|(last, at)| last != text && at.elapsed() >= LOG_INTERVAL) =>
            {
                if let Some(repeated) = self.log.failed(text) {
                    warn!(brokers = self.clients.brokers.as_str(), repeated; "waiting for Kafka: {text}");
                }
                self.logged = failure.map(|text| (text, Instant::now()));
            }
            (None, Some(_)) => {
                if self.log.recovered() {
                    info!(brokers = self.clients.brokers.as_str(); "kafka is available again");
                }
                self.logged = None;
            }
            _ => {}
        }
    }

    fn probe_topic(&self, topic: &TopicState) -> Result<Found, String> {
        if let Some(found) = self.find(topic)? {
            return Ok(found);
        }
        let Some(kind) = topic.kind else {
            return Err(format!("the topic {} is missing", topic.name));
        };
        self.create(&topic.name, kind)?;
        self.await_created(topic)
    }

    /// Waits until a new topic is visible in the metadata.
    fn await_created(&self, topic: &TopicState) -> Result<Found, String> {
        for _ in 0..20 {
            if let Ok(Some(found)) = self.find(topic)
                && found.degraded.is_none()
            {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!(
            "the topic {} was created but is not visible yet",
            topic.name
        ))
    }

    /// The topic, or `None` if it is missing.
    fn find(&self, topic: &TopicState) -> Result<Option<Found>, String> {
        let producer = self
            .producers
            .current()
            .map_err(|failure| failure.to_string())?;
        let metadata = producer
            .client()
            .fetch_metadata(Some(&topic.name), METADATA_TIMEOUT);
        let metadata = metadata.map_err(|error| {
            self.last_error
                .last()
                .unwrap_or_else(|| format!("no answer: {error}"))
        })?;
        self.last_error.clear();
        found_in(&metadata, &topic.name)
    }

    fn create(&self, name: &str, kind: TopicKind) -> Result<(), String> {
        let failed = |failure: &dyn Display| format!("cannot create the topic {name}: {failure}");
        let partitions = match kind {
            TopicKind::Log => self.config.partitions,
            TopicKind::Compacted => 1,
        };
        let limit = MAX_RECORD_BYTES.to_string();
        let copies = self.config.replication.map_or(-1, i32::from);
        let mut new = NewTopic::new(name, partitions as i32, TopicReplication::Fixed(copies))
            .set("max.message.bytes", &limit);
        for (setting, value) in kind.settings() {
            new = new.set(setting, value);
        }
        match self.request_creation(&new, &failed)? {
            Some(Ok(_)) => {
                info!(topic = name, partitions; "kafka topic created");
                Ok(())
            }
            // Another process was faster, or the old topic is still being deleted.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => Err(failed(&code)),
            None => Err(failed(&"no answer")),
        }
    }

    /// Sends the request and waits for Kafka's answer. `failed` describes an error.
    fn request_creation(
        &self,
        topic: &NewTopic<'_>,
        failed: &dyn Fn(&dyn Display) -> String,
    ) -> Result<Option<TopicResult>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let runtime = runtime.map_err(|failure| failed(&failure))?;
        let admin: AdminClient<DefaultClientContext> = self
            .clients
            .admin()
            .create()
            .map_err(|error| failed(&error))?;
        let options = AdminOptions::new()
            .request_timeout(Some(CREATE_TIMEOUT))
            .operation_timeout(Some(CREATE_TIMEOUT));
        let created = runtime.block_on(async {
            tokio::time::timeout(
                CREATE_TIMEOUT + METADATA_TIMEOUT,
                admin.create_topics([topic], &options),
            )
            .await
        });
        let results = created
            .map_err(|_| failed(&"no answer"))?
            .map_err(|error| failed(&error))?;
        Ok(results.into_iter().next())
    }
}

/// The topic `name` according to Kafka's metadata.
fn found_in(metadata: &Metadata, name: &str) -> Result<Option<Found>, String> {
    let topics = metadata.topics();
    let Some(topic) = topics.iter().find(|topic| topic.name() == name) else {
        return Ok(None);
    };
    if let Some(error) = topic.error() {
        return match RDKafkaErrorCode::from(error) {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(None),
            // The topic exists and is electing a leader.
            RDKafkaErrorCode::LeaderNotAvailable => {
                Err(format!("the topic {name} has no leader yet"))
            }
            code => Err(format!("the topic {name}: {code}")),
        };
    }
    let partitions = topic.partitions();
    if partitions.is_empty() {
        return Ok(None);
    }
    let leaderless = partitions.iter().find(|partition| partition.leader() < 0);
    Ok(Some(Found {
        partitions: partitions.len(),
        degraded: leaderless.map(|partition| {
            format!(
                "partition {} of the topic {name} has no leader",
                partition.id()
            )
        }),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker may know less of a topic than the one that was asked before.
    #[test]
    fn broker_must_know_every_partition() {
        let topic = TopicState {
            name: "t".to_owned(),
            kind: None,
            status: watch::Sender::default(),
        };
        assert!(topic.check_complete(0).is_err(), "none at all");
        topic.check_complete(1).unwrap();
        topic.report(Ok(Found {
            partitions: 2,
            degraded: None,
        }));
        assert!(topic.check_complete(1).is_err());
        topic.check_complete(2).unwrap();
    }
}
