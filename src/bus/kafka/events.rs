//! What librdkafka tells beside records: errors of connections, log lines, a topic's new id.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use log::{debug, error};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, Statistics};

use crate::telemetry::redact::Redaction;

/// The id of a topic that is not known yet.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The last thing that went wrong on the way to Kafka, for whoever has to say why it does not
/// answer. Lines are logged by the keeper alone, one a change: librdkafka tells each failed attempt
/// of each client.
#[derive(Default)]
pub(super) struct LastError {
    last: Mutex<Option<String>>,
    /// A broker may repeat in its error what it was sent.
    redaction: Redaction,
}

impl LastError {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What went wrong last, since it last went well.
    pub(super) fn last(&self) -> Option<String> {
        self.lock().clone()
    }

    /// It goes well.
    pub(super) fn clear(&self) {
        *self.lock() = None;
    }

    fn tell_cause(&self, text: &str) {
        *self.lock() = Some(self.redaction.apply(text));
    }

    /// Passes librdkafka's own lines on. What matters to people is told by the keeper; these are
    /// for a search of a fault.
    pub(super) fn log_line(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                error!(target: "librdkafka", "{facility} {}", self.redaction.apply(line));
            }
            RDKafkaLogLevel::Debug => {}
            _ => debug!(target: "librdkafka", "{facility} {}", self.redaction.apply(line)),
        }
    }

    pub(super) fn tell(&self, error: &KafkaError, reason: &str) {
        let text = self.redaction.apply(&readable(reason));
        debug!("librdkafka: {error}: {text}");
        let mut last = self.lock();
        // "1/1 brokers are down" says less than why the last of them is.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) || last.is_none() {
            *last = Some(text);
        }
    }
}

/// The reason without what differs from one attempt to the next.
fn readable(reason: &str) -> String {
    let end = reason.find(" (after ").unwrap_or(reason.len());
    // librdkafka's name for what is a setting here.
    let text = reason[..end]
        .trim()
        .replace("ssl.ca.location", "KAFKA_CA_FILE");
    match text.split_once("]: ") {
        Some((thread, rest)) if thread.starts_with("[thrd:") => rest.to_owned(),
        _ => text,
    }
}

/// What a line tells of a broker that hangs up at the first word, as a port does that speaks TLS.
/// librdkafka says nothing of it but this.
fn hung_up(facility: &str, line: &str) -> Option<String> {
    let is_first_word = facility == "FAIL"
        && line.contains(": Disconnected")
        && line.contains("in state APIVERSION_QUERY");
    is_first_word.then(|| {
        format!(
            "{} (does the port want TLS? see KAFKA_SECURITY_PROTOCOL)",
            readable(line)
        )
    })
}

/// The id that `topic` has now, where a line tells it. librdkafka takes a topic that was deleted
/// and made again for the one that was there, goes on at the offset of the old one, and tells of
/// the new id only in this line.
pub(super) fn new_id<'a>(topic: &str, line: &'a str) -> Option<&'a str> {
    let (_, rest) = line.split_once("Topic ")?;
    let (_, ids) = rest
        .strip_prefix(topic)?
        .strip_prefix(" changed id from ")?
        .split_once(" to ")?;
    let id = ids.split_whitespace().next()?;
    (id != NO_ID).then_some(id)
}

/// Figures in a row that name no broker before a client counts as lost.
const LOST_AFTER: u32 = 2;

/// Whether a client knows a broker to ask. librdkafka forgets all of them, those of its
/// configuration too, when a broker that has just started answers that there is none; then it asks
/// nobody any more, for ever (<https://github.com/confluentinc/librdkafka/issues/5301>, in 2.10 and
/// later). Only a new client helps.
#[derive(Default)]
pub(super) struct BrokerVisibility {
    without: AtomicU32,
}

impl BrokerVisibility {
    /// Looks at a client's figures, which come once a second.
    pub(super) fn look(&self, statistics: &Statistics) {
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

    /// Whether the client finds no way back by itself.
    pub(super) fn has_lost_brokers(&self) -> bool {
        self.without.load(Ordering::Relaxed) >= LOST_AFTER
    }
}

/// The context of the clients that do not read.
#[derive(Clone, Default)]
pub(super) struct Events {
    pub(super) trouble: Arc<LastError>,
}

impl Events {
    /// Keeps the secrets out of what is told.
    pub(super) fn new(redaction: Redaction) -> Events {
        Events {
            trouble: Arc::new(LastError {
                redaction,
                ..LastError::default()
            }),
        }
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if let Some(text) = hung_up(facility, line) {
            self.trouble.tell_cause(&text);
        }
        self.trouble.log_line(level, facility, line);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.tell(&error, reason);
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    #[test]
    fn a_reason_is_the_same_at_each_attempt_and_the_cause_stays() {
        let trouble = LastError::default();
        let code = |code| KafkaError::Global(code);
        trouble.tell(
            &code(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        assert_eq!(trouble.last().as_deref(), Some("1/1 brokers are down"));
        let reason = "[thrd:127.0.0.1:9/bootstrap]: 127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection \
                      refused (after 0ms in state CONNECT)";
        trouble.tell(&code(RDKafkaErrorCode::BrokerTransportFailure), reason);
        trouble.tell(
            &code(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        let cause = "127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused";
        assert_eq!(trouble.last().as_deref(), Some(cause));
        trouble.clear();
        assert_eq!(trouble.last(), None);
    }

    #[test]
    fn a_broker_that_hangs_up_at_the_first_word_may_want_tls() {
        let line = "[thrd:kafka:9093/bootstrap]: kafka:9093/bootstrap: Disconnected: connection closed by peer: receive 0 \
                    after POLLIN (after 6ms in state APIVERSION_QUERY)";
        let text = hung_up("FAIL", line).unwrap();
        assert!(
            text.starts_with("kafka:9093/bootstrap: Disconnected: ") && text.contains("want TLS"),
            "{text}"
        );
        assert_eq!(
            hung_up("FAIL", &line.replace("APIVERSION_QUERY", "UP")),
            None
        );
        let trouble = LastError::default();
        trouble.tell_cause(&text);
        trouble.tell(
            &KafkaError::Global(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        assert_eq!(trouble.last(), Some(text));
        assert_eq!(
            readable("verify that ssl.ca.location is right"),
            "verify that KAFKA_CA_FILE is right"
        );
    }

    #[test]
    fn a_client_is_lost_when_it_knows_no_broker_again_and_again() {
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
        let bearings = BrokerVisibility::default();
        for (sources, lost) in [
            (&["configured"][..], false),
            (&["internal", "logical"], false),
            (&["logical", "learned"], false),
            (&[], false),
            (&["internal", "logical"], true),
            (&["configured", "internal"], false),
        ] {
            bearings.look(&figures(sources));
            assert_eq!(bearings.has_lost_brokers(), lost, "{sources:?}");
        }
    }

    #[test]
    fn the_line_of_a_new_id_is_found() {
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
