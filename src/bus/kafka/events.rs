//! Events from librdkafka other than records: connection errors, log lines, new topic ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use log::{debug, error};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, Statistics};

use crate::runtime::health::HealthCell;
use crate::telemetry::redact::Redaction;

/// The placeholder for an unknown topic id.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The last error on the way to Kafka, used to explain why it does not answer. Only the topic
/// monitor logs it, once per change: librdkafka reports each failed attempt of each client.
#[derive(Default)]
pub(super) struct LastError {
    health: HealthCell,
    /// A broker may repeat the request in its error.
    redaction: Redaction,
}

impl LastError {
    /// The last error since the connection last worked.
    pub(super) fn last(&self) -> Option<String> {
        self.health.problem()
    }

    /// Clears the error after a success.
    pub(super) fn clear(&self) {
        self.health.record_success();
    }

    fn set_cause(&self, text: &str) {
        self.health.record_failure(&self.redaction.apply(text));
    }

    /// Forwards librdkafka's log lines. They help in debugging; the topic monitor logs what
    /// operators need.
    pub(super) fn log_line(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                error!(target: "librdkafka", "{facility} {}", self.redaction.apply(line));
            }
            RDKafkaLogLevel::Debug => {}
            _ => debug!(target: "librdkafka", "{facility} {}", self.redaction.apply(line)),
        }
    }

    pub(super) fn record(&self, error: &KafkaError, reason: &str) {
        let text = self.redaction.apply(&readable(reason));
        debug!("librdkafka: {error}: {text}");
        let is_summary = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        // "1/1 brokers are down" is less useful than the reason of the last one.
        if !is_summary || self.last().is_none() {
            self.health.record_failure(&text);
        }
    }
}

/// The reason without the parts that differ between attempts.
fn readable(reason: &str) -> String {
    let end = reason.find(" (after ").unwrap_or(reason.len());
    // librdkafka's name for one of our settings.
    let text = reason[..end]
        .trim()
        .replace("ssl.ca.location", "KAFKA_CA_FILE");
    match text.split_once("]: ") {
        Some((thread, rest)) if thread.starts_with("[thrd:") => rest.to_owned(),
        _ => text,
    }
}

/// The error of a broker that disconnects at the first request, as a TLS port does. librdkafka
/// reports it only in this line.
fn disconnect_hint(facility: &str, line: &str) -> Option<String> {
    let is_first_request = facility == "FAIL"
        && line.contains(": Disconnected")
        && line.contains("in state APIVERSION_QUERY");
    is_first_request.then(|| {
        format!(
            "{} (does the port want TLS? see KAFKA_SECURITY_PROTOCOL)",
            readable(line)
        )
    })
}

/// The new id of `topic`, if the line reports one. librdkafka treats a topic that was deleted and
/// recreated as the old one, continues at the old offset, and reports the new id only in this line.
pub(super) fn new_id<'a>(topic: &str, line: &'a str) -> Option<&'a str> {
    let (_, rest) = line.split_once("Topic ")?;
    let (_, ids) = rest
        .strip_prefix(topic)?
        .strip_prefix(" changed id from ")?
        .split_once(" to ")?;
    let id = ids.split_whitespace().next()?;
    (id != NO_ID).then_some(id)
}

/// A client counts as lost after this many consecutive statistics without a broker.
const LOST_AFTER: u32 = 2;

/// Whether a client knows a broker to query. librdkafka forgets all brokers, including the
/// configured ones, if a broker that has just started answers that there is none; it then never
/// queries any again (<https://github.com/confluentinc/librdkafka/issues/5301>, in 2.10 and later).
/// Only a new client helps.
#[derive(Default)]
pub(super) struct BrokerVisibility {
    without: AtomicU32,
}

impl BrokerVisibility {
    /// Records a client's statistics, which arrive once a second.
    pub(super) fn observe(&self, statistics: &Statistics) {
        let known = |source: &str| matches!(source, "configured" | "learned");
        if statistics
            .brokers
            .values()
            .any(|broker| known(&broker.source))
        {
            self.without.store(0, Ordering::Relaxed);
        } else {
            self.without.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the client cannot recover without being recreated.
    pub(super) fn has_lost_brokers(&self) -> bool {
        self.without.load(Ordering::Relaxed) >= LOST_AFTER
    }
}

/// The context of all clients except consumers.
#[derive(Clone, Default)]
pub(super) struct Events {
    pub(super) last_error: Arc<LastError>,
}

impl Events {
    /// Creates a context that redacts secrets from reported errors.
    pub(super) fn new(redaction: Redaction) -> Events {
        Events {
            last_error: Arc::new(LastError {
                redaction,
                ..LastError::default()
            }),
        }
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if let Some(text) = disconnect_hint(facility, line) {
            self.last_error.set_cause(&text);
        }
        self.last_error.log_line(level, facility, line);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.last_error.record(&error, reason);
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    #[test]
    fn reason_is_stable_and_cause_is_kept() {
        let last_error = LastError::default();
        let code = |code| KafkaError::Global(code);
        last_error.record(
            &code(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        assert_eq!(last_error.last().as_deref(), Some("1/1 brokers are down"));
        let reason = "[thrd:127.0.0.1:9/bootstrap]: 127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection \
                      refused (after 0ms in state CONNECT)";
        last_error.record(&code(RDKafkaErrorCode::BrokerTransportFailure), reason);
        last_error.record(
            &code(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        let cause = "127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused";
        assert_eq!(last_error.last().as_deref(), Some(cause));
        last_error.clear();
        assert_eq!(last_error.last(), None);
    }

    #[test]
    fn early_disconnect_suggests_tls() {
        let line = "[thrd:kafka:9093/bootstrap]: kafka:9093/bootstrap: Disconnected: connection closed by peer: receive 0 \
                    after POLLIN (after 6ms in state APIVERSION_QUERY)";
        let text = disconnect_hint("FAIL", line).unwrap();
        assert!(
            text.starts_with("kafka:9093/bootstrap: Disconnected: ") && text.contains("want TLS"),
            "{text}"
        );
        assert_eq!(
            disconnect_hint("FAIL", &line.replace("APIVERSION_QUERY", "UP")),
            None
        );
        let last_error = LastError::default();
        last_error.set_cause(&text);
        last_error.record(
            &KafkaError::Global(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        assert_eq!(last_error.last(), Some(text));
        assert_eq!(
            readable("verify that ssl.ca.location is right"),
            "verify that KAFKA_CA_FILE is right"
        );
    }

    #[test]
    fn client_without_brokers_is_lost() {
        let figures = |sources: &[&str]| {
            let broker = |source: &&str| {
                (
                    (*source).to_owned(),
                    Broker {
                        source: (*source).to_owned(),
                        ..Broker::default()
                    },
                )
            };
            Statistics {
                brokers: sources.iter().map(broker).collect(),
                ..Statistics::default()
            }
        };
        let brokers = BrokerVisibility::default();
        for (sources, lost) in [
            (&["configured"][..], false),
            (&["internal", "logical"], false),
            (&["logical", "learned"], false),
            (&[], false),
            (&["internal", "logical"], true),
            (&["configured", "internal"], false),
        ] {
            brokers.observe(&figures(sources));
            assert_eq!(brokers.has_lost_brokers(), lost, "{sources:?}");
        }
    }

    #[test]
    fn new_topic_id_is_parsed() {
        let line = "[thrd:main]: Topic odds_updates changed id from AAAAAAAAAAAAAAAAAAAAAA to cDkBQm7gS9uHTP3yqd-ysg";
        assert_eq!(new_id("odds_updates", line), Some("cDkBQm7gS9uHTP3yqd-ysg"));
        for (topic, line) in [
            ("odds", line),
            ("odds_updates", "Topic odds_updates changed id from x"),
            ("x", ""),
        ] {
            assert_eq!(new_id(topic, line), None);
        }
        assert_eq!(
            new_id("t", "Topic t changed id from b to AAAAAAAAAAAAAAAAAAAAAA"),
            None
        );
    }
}
