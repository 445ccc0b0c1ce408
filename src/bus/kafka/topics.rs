//! Monitors the topics: creates missing ones, also those deleted later, and tracks whether Kafka
//! answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use log::{info, warn};
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
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
    looks: u64,
    /// `None` before the first probe.
    state: Option<Result<(), String>>,
    /// The topic exists, but some of it is unusable.
    limps: Option<String>,
}

/// A monitored topic.
pub(super) struct TopicState {
    pub(super) name: String,
    standing: watch::Sender<TopicStatus>,
}

impl TopicState {
    /// Whether the topic existed at the last probe.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.standing.borrow().state, Some(Ok(())))
    }

    /// Waits until the topic exists, without a time limit.
    pub(super) async fn wait(&self) {
        let mut standing = self.standing.subscribe();
        let monitor_is_gone = standing
            .wait_for(|standing| standing.state == Some(Ok(())))
            .await
            .is_err();
        if monitor_is_gone {
            std::future::pending::<()>().await;
        }
    }

    fn report(&self, state: Result<Found, String>) {
        self.standing.send_modify(|standing| {
            standing.looks += 1;
            standing.limps = match &state {
                Ok(Found::Degraded(text)) => Some(text.clone()),
                _ => None,
            };
            standing.state = Some(state.map(drop));
        });
    }
}

/// The monitor thread and its shared state.
pub(super) struct TopicMonitor {
    topics: Mutex<Vec<Arc<TopicState>>>,
    wake: SyncSender<()>,
    stop: AtomicBool,
    trouble: Arc<LastError>,
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
        making: TopicConfig,
        producers: Arc<ProducerHandle>,
    ) -> Result<Arc<TopicMonitor>, BusError> {
        let (wake, woken) = sync_channel(1);
        let trouble = producers.events.trouble.clone();
        let keeper = Arc::new(TopicMonitor {
            topics: Mutex::default(),
            wake,
            stop: AtomicBool::new(false),
            trouble: trouble.clone(),
        });
        let look = TopicProbe {
            clients,
            making,
            producers,
            trouble,
            away: None,
            log: FaultLog::new(),
        };
        let kept = keeper.clone();
        let thread = std::thread::Builder::new().name("kafka topics".to_owned());
        thread
            .spawn(move || kept.run(look, &woken))
            .map_err(|failure| BusError::Unavailable(failure.to_string()))?;
        Ok(keeper)
    }

    /// Starts monitoring a topic.
    pub(super) fn keep(&self, name: &str) -> Arc<TopicState> {
        let mut topics = self.topics();
        if let Some(known) = topics.iter().find(|kept| kept.name == name) {
            return known.clone();
        }
        let kept = Arc::new(TopicState {
            name: name.to_owned(),
            standing: watch::Sender::default(),
        });
        topics.push(kept.clone());
        drop(topics);
        self.look();
        kept
    }

    /// Requests a probe now.
    pub(super) fn look(&self) {
        // If the channel is full, a probe is already requested.
        let _ = self.wake.try_send(());
    }

    /// Checks that Kafka answers and has the topic. Waits at most [`PING_TIMEOUT`] and does not
    /// block the thread.
    pub(super) async fn ping(&self, kept: &TopicState) -> Result<(), BusError> {
        let mut standing = kept.standing.subscribe();
        let looks = standing.borrow().looks;
        self.look();
        let looked = tokio::time::timeout(
            PING_TIMEOUT,
            standing.wait_for(|standing| standing.looks > looks),
        )
        .await;
        let state = match looked {
            Ok(Ok(standing)) => standing
                .limps
                .clone()
                .map_or(standing.state.clone(), |text| Some(Err(text))),
            _ => None,
        };
        state
            .unwrap_or_else(|| Err(self.reason()))
            .map_err(BusError::Unavailable)
    }

    /// Why Kafka does not answer, as far as known.
    pub(super) fn reason(&self) -> String {
        self.trouble
            .last()
            .unwrap_or_else(|| "no answer in time".to_owned())
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.look();
    }

    fn topics(&self) -> parking_lot::MutexGuard<'_, Vec<Arc<TopicState>>> {
        self.topics.lock()
    }

    fn run(&self, mut look: TopicProbe, woken: &Receiver<()>) {
        while !self.stop.load(Ordering::Relaxed) {
            let topics = self.topics().clone();
            look.at(&topics);
            let well = topics.iter().all(|kept| kept.is_there());
            match woken.recv_timeout(if well {
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

enum Found {
    There,
    /// The topic exists, but some partitions have no leader; publishing to the others continues.
    Degraded(String),
    Missing,
}

/// The state of the probing thread.
struct TopicProbe {
    clients: Clients,
    making: TopicConfig,
    producers: Arc<ProducerHandle>,
    trouble: Arc<LastError>,
    /// The last logged problem, and when it was logged.
    away: Option<(String, Instant)>,
    log: FaultLog,
}

impl TopicProbe {
    fn at(&mut self, topics: &[Arc<TopicState>]) {
        let mut failure = None;
        for kept in topics {
            let state = match &failure {
                // After a failure the remaining topics of this round are not queried.
                Some(failure) => Err(String::clone(failure)),
                None => self.probe_topic(kept),
            };
            if let Err(text) = &state {
                failure.get_or_insert_with(|| text.clone());
            }
            kept.report(state);
        }
        match (&failure, &self.away) {
            (Some(text), away)
                if away
                    .as_ref()
                    .is_none_or(|(said, at)| said != text && at.elapsed() >= LOG_INTERVAL) =>
            {
                if let Some(repeated) = self.log.failed(text) {
                    warn!(brokers = self.clients.brokers.as_str(), repeated; "waiting for Kafka: {text}");
                }
                self.away = failure.map(|text| (text, Instant::now()));
            }
            (None, Some(_)) => {
                if self.log.recovered() {
                    info!(brokers = self.clients.brokers.as_str(); "kafka is available again");
                }
                self.away = None;
            }
            _ => {}
        }
    }

    fn probe_topic(&self, kept: &TopicState) -> Result<Found, String> {
        match self.find(kept)? {
            found @ (Found::There | Found::Degraded(_)) => Ok(found),
            Found::Missing => {
                self.make(kept)?;
                self.await_created(kept)
            }
        }
    }

    /// Waits until a new topic is visible in the metadata.
    fn await_created(&self, kept: &TopicState) -> Result<Found, String> {
        for _ in 0..20 {
            if let Ok(Found::There) = self.find(kept) {
                return Ok(Found::There);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!(
            "the topic {} was created but is not visible yet",
            kept.name
        ))
    }

    fn find(&self, kept: &TopicState) -> Result<Found, String> {
        let producer = self
            .producers
            .current()
            .map_err(|failure| failure.to_string())?;
        let found = producer
            .client()
            .fetch_metadata(Some(&kept.name), METADATA_TIMEOUT);
        let found = found.map_err(|error| {
            self.trouble
                .last()
                .unwrap_or_else(|| format!("no answer: {error}"))
        })?;
        self.trouble.clear();
        let topic = found
            .topics()
            .iter()
            .find(|topic| topic.name() == kept.name);
        let leaderless = topic.and_then(|topic| {
            topic
                .partitions()
                .iter()
                .find(|partition| partition.leader() < 0)
        });
        match topic.map(|topic| (topic.error(), topic.partitions().is_empty())) {
            Some((None, false)) => Ok(leaderless.map_or(Found::There, |partition| {
                Found::Degraded(format!(
                    "partition {} of the topic {} has no leader",
                    partition.id(),
                    kept.name
                ))
            })),
            None | Some((None, true)) => Ok(Found::Missing),
            Some((Some(error), _)) => match RDKafkaErrorCode::from(error) {
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                    Ok(Found::Missing)
                }
                // The topic exists and is electing a leader.
                RDKafkaErrorCode::LeaderNotAvailable => {
                    Err(format!("the topic {} has no leader yet", kept.name))
                }
                code => Err(format!("the topic {}: {code}", kept.name)),
            },
        }
    }

    fn make(&self, kept: &TopicState) -> Result<(), String> {
        let TopicConfig {
            partitions,
            replication,
        } = self.making;
        let limit = MAX_RECORD_BYTES.to_string();
        let copies = TopicReplication::Fixed(replication.map_or(-1, i32::from));
        let topic =
            NewTopic::new(&kept.name, partitions as i32, copies).set("max.message.bytes", &limit);
        let failed = |failure: &dyn std::fmt::Display| {
            format!("cannot create the topic {}: {failure}", kept.name)
        };
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
        let made = runtime.block_on(async {
            tokio::time::timeout(
                CREATE_TIMEOUT + METADATA_TIMEOUT,
                admin.create_topics([&topic], &options),
            )
            .await
        });
        let results = made
            .map_err(|_| failed(&"no answer"))?
            .map_err(|error| failed(&error))?;
        match results.into_iter().next() {
            Some(Ok(_)) => {
                info!(topic = kept.name.as_str(), partitions; "kafka topic created");
                Ok(())
            }
            // Another process was faster, or the old topic is still being deleted.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => Err(failed(&code)),
            None => Err(failed(&"no answer")),
        }
    }
}
