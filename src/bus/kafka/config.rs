//! Converts the settings to librdkafka's configuration. All errors are found here, before anything
//! connects.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use secrecy::ExposeSecret;

use crate::bus::BusError;
use crate::config::kafka;
use crate::config::settings::{BusSettings, KafkaMechanism};
use crate::telemetry::redact::Redaction;

/// The largest record, including key and headers. Topics created here accept as much, twice a
/// broker's default: a supplier's largest frame becomes a dead letter with its headers, and that
/// must fit.
pub(super) const MAX_RECORD_BYTES: usize = 2 * 1024 * 1024;
/// Room for the protocol overhead of a record.
const OVERHEAD_BYTES: usize = 16 * 1024;

/// How long a broker gathers records for a member whose work is not urgent, and how many bytes.
/// Answering each record at once would cost a request, and often a transaction, per record.
const BULK_WAIT: Duration = Duration::from_millis(50);
const BULK_BYTES: usize = 64 * 1024;

/// Builds the configuration of each client.
#[derive(Clone)]
pub(super) struct Clients {
    /// Removes credentials from librdkafka's and the brokers' messages.
    pub(super) redaction: Redaction,
    /// The broker addresses, for log lines.
    pub(super) brokers: String,
    session_timeout: Duration,
    base: ClientConfig,
}

impl Clients {
    /// Validates the settings.
    pub(super) fn new(settings: &BusSettings, client_id: &str) -> Result<Clients, BusError> {
        if let Some((variable, want)) = kafka::check(settings).into_iter().next() {
            return Err(BusError::Refused(format!("{variable}: want {want}")));
        }
        let brokers = settings.brokers().join(",");
        let mut base = ClientConfig::new();
        base.set("bootstrap.servers", &brokers)
            .set("client.id", client_id)
            .set("allow.auto.create.topics", "false")
            // Often enough to reconnect within a second, rarely enough to cost nothing during an
            // outage.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("socket.keepalive.enable", "true")
            // Late answers are requested again; this is half a minute less downtime than the
            // default.
            .set("socket.timeout.ms", "20000")
            // Short, so that a topic that was deleted and recreated is noticed.
            .set("topic.metadata.refresh.interval.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Info);
        set_security(&mut base, settings);
        let redaction = Redaction::of(
            settings
                .kafka_sasl_password
                .as_ref()
                .map(ExposeSecret::expose_secret),
        );
        Ok(Clients {
            redaction,
            brokers,
            session_timeout: settings.kafka_session_timeout,
            base,
        })
    }

    /// A client for metadata queries and for creating topics.
    pub(super) fn admin(&self) -> ClientConfig {
        self.base.clone()
    }

    /// A producer. An acknowledged record is on every in-sync replica, exactly once and in order.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.base.clone();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // The partitioner of Java clients, not librdkafka's default: a key maps to the same
            // partition for every writer.
            .set("partitioner", "murmur2_random")
            // A record waits for no other. librdkafka rounds up to whole milliseconds, which would
            // be a third of the way to a client; a dense stream is gathered before it is published,
            // and what arrives while five requests are in flight forms the next one.
            .set("linger.ms", "0")
            // Retries as long as Kafka is unavailable.
            .set("message.timeout.ms", "0")
            // Reports the known brokers: see `events`.
            .set("statistics.interval.ms", "1000")
            .set("queue.buffering.max.messages", "20000")
            .set("queue.buffering.max.kbytes", "65536")
            .set(
                "message.max.bytes",
                (MAX_RECORD_BYTES + OVERHEAD_BYTES).to_string(),
            );
        config
    }

    /// A producer that only asks for metadata. One that publishes asks for a producer id when it
    /// starts, and is refused without the permission to write.
    pub(super) fn metadata_client(&self) -> ClientConfig {
        let mut config = self.producer();
        config.set("enable.idempotence", "false");
        config
    }

    /// A producer of states, which a newer record replaces: what Kafka does not accept within
    /// `timeout` is dropped.
    pub(super) fn state_producer(&self, timeout: Duration) -> ClientConfig {
        let mut config = self.producer();
        config
            .set("enable.idempotence", "false")
            // Without idempotence, a retry could overtake a later record.
            .set("max.in.flight.requests.per.connection", "1")
            .set("message.timeout.ms", timeout.as_millis().to_string());
        config
    }

    /// A group member.
    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let session = self.session_timeout.as_millis();
        let mut config = self.reader(group);
        config
            // Only completed work is committed, explicitly.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // Members keep their partitions while others join and leave.
            .set("partition.assignment.strategy", "cooperative-sticky")
            // A killed member loses its partitions after this time: soon, but not because of a
            // pause of a second or two.
            .set("session.timeout.ms", session.to_string())
            .set("heartbeat.interval.ms", (session / 4).max(1).to_string())
            // Reports the lag and the known brokers.
            .set("statistics.interval.ms", "1000")
            // Only for the log line that reports a new topic id: see `events`.
            .set("debug", "topic")
            .set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    /// A group member whose work is not urgent.
    pub(super) fn bulk_consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.consumer(group);
        config
            .set("fetch.min.bytes", BULK_BYTES.to_string())
            .set("fetch.wait.max.ms", BULK_WAIT.as_millis().to_string());
        config
    }

    /// A reader that assigns its own partitions. librdkafka requires a group name, but no group is
    /// joined.
    pub(super) fn reader(&self, group: &str) -> ClientConfig {
        let mut config = self.base.clone();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "200")
            .set("queued.max.messages.kbytes", "16384");
        config
    }
}

fn set_security(base: &mut ClientConfig, settings: &BusSettings) {
    let security = settings.kafka_security_protocol;
    base.set("security.protocol", security.as_str());
    if security.uses_tls()
        && let Some(path) = settings
            .kafka_ca_file
            .as_ref()
            .and_then(|file| file.to_str())
    {
        base.set("ssl.ca.location", path);
    }
    if !security.requires_login() {
        return;
    }
    let mechanism = match settings.kafka_sasl_mechanism {
        KafkaMechanism::Plain => "PLAIN",
        KafkaMechanism::ScramSha256 => "SCRAM-SHA-256",
        KafkaMechanism::ScramSha512 => "SCRAM-SHA-512",
    };
    let name = settings.kafka_sasl_username.as_deref().unwrap_or_default();
    let password = settings
        .kafka_sasl_password
        .as_ref()
        .map(ExposeSecret::expose_secret)
        .unwrap_or_default();
    base.set("sasl.mechanism", mechanism)
        .set("sasl.username", name)
        .set("sasl.password", password);
}

#[cfg(test)]
mod tests;
