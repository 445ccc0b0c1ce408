//! From the settings to what librdkafka is told. Whatever is wrong is found here, before anything connects.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use secrecy::ExposeSecret;

use crate::bus::BusError;
use crate::config::settings::{BusSettings, KafkaMechanism, KafkaSecurity};

/// The largest record, key and headers included. Topics that are made here take as much, twice what a broker takes by
/// default: a supplier's largest frame becomes a dead letter with its headers, and that must fit.
pub(super) const MAX_RECORD_BYTES: usize = 2 * 1024 * 1024;
/// Room for what the protocol adds to a record.
const OVERHEAD_BYTES: usize = 16 * 1024;

/// Makes the configuration of each client.
#[derive(Clone)]
pub(super) struct Clients {
    /// The addresses, for log lines.
    pub(super) brokers: String,
    session_timeout: Duration,
    base: ClientConfig,
}

impl Clients {
    /// Checks the settings.
    pub(super) fn new(settings: &BusSettings, client_id: &str) -> Result<Clients, BusError> {
        let brokers = read_brokers(settings.kafka_brokers.as_deref().unwrap_or_default())?;
        let mut base = ClientConfig::new();
        base.set("bootstrap.servers", &brokers)
            .set("client.id", client_id)
            .set("allow.auto.create.topics", "false")
            // Tries often enough to be back within a second, rarely enough to cost nothing while Kafka is away.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("socket.keepalive.enable", "true")
            // What answers too late is asked again; half a minute less of standing still than by default.
            .set("socket.timeout.ms", "20000")
            // Short, so that a topic that was deleted and made again is noticed.
            .set("topic.metadata.refresh.interval.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Info);
        set_security(&mut base, settings)?;
        Ok(Clients { brokers, session_timeout: settings.kafka_session_timeout, base })
    }

    /// A client for questions and for making topics.
    pub(super) fn admin(&self) -> ClientConfig {
        self.base.clone()
    }

    /// A producer: what was acknowledged is on every replica that is in sync, once, and in order.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.base.clone();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // What Java clients use, and librdkafka does not by default: a key has one partition, whoever writes it.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "2")
            // Waits for as long as Kafka is away.
            .set("message.timeout.ms", "0")
            .set("queue.buffering.max.messages", "20000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("message.max.bytes", (MAX_RECORD_BYTES + OVERHEAD_BYTES).to_string());
        config
    }

    /// A member of a group.
    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let session = self.session_timeout.as_millis();
        let mut config = self.reader(group);
        config
            // What was done is committed by ourselves, and nothing else.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // Members keep what stays theirs while others come and go.
            .set("partition.assignment.strategy", "cooperative-sticky")
            // A member that was killed gives its partitions up after this: soon, but not for a pause of a second or two.
            .set("session.timeout.ms", session.to_string())
            .set("heartbeat.interval.ms", (session / 4).max(1).to_string())
            .set("statistics.interval.ms", "1000")
            // Only for the line that tells that a topic has another id: see `events`.
            .set("debug", "topic")
            .set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    /// A reader of partitions that it chooses itself. librdkafka wants a group's name, and nobody joins it.
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

fn wrong(variable: &str, want: &str) -> BusError {
    BusError::Refused(format!("{variable}: want {want}"))
}

fn read_brokers(text: &str) -> Result<String, BusError> {
    let brokers: Vec<&str> = text.split(',').map(str::trim).filter(|broker| !broker.is_empty()).collect();
    if brokers.is_empty() || !brokers.iter().all(|broker| is_address(broker)) {
        return Err(wrong("KAFKA_BROKERS", "host:port, several with commas; nothing else, no scheme and no login"));
    }
    Ok(brokers.join(","))
}

fn is_address(broker: &str) -> bool {
    let Some((host, port)) = broker.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let legal = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')),
    };
    !host.is_empty() && legal && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn set_security(base: &mut ClientConfig, settings: &BusSettings) -> Result<(), BusError> {
    const TLS: bool = cfg!(any(feature = "tls-system", feature = "tls-vendored"));
    const FEATURE: &str = "a binary built with the feature tls-system or tls-vendored; this one has neither";
    let (protocol, tls, login) = match settings.kafka_security_protocol {
        KafkaSecurity::Plaintext => ("plaintext", false, false),
        KafkaSecurity::Ssl => ("ssl", true, false),
        KafkaSecurity::SaslPlaintext => ("sasl_plaintext", false, true),
        KafkaSecurity::SaslSsl => ("sasl_ssl", true, true),
    };
    if tls && !TLS {
        return Err(wrong(&format!("KAFKA_SECURITY_PROTOCOL={protocol}"), FEATURE));
    }
    base.set("security.protocol", protocol);
    if tls && let Some(file) = &settings.kafka_ca_file {
        let readable = std::fs::File::open(file).is_ok();
        let Some(path) = file.to_str().filter(|_| readable) else {
            return Err(wrong("KAFKA_CA_FILE", &format!("a PEM file that can be read, not {}", file.display())));
        };
        base.set("ssl.ca.location", path);
    }
    if !login {
        return Ok(());
    }
    let mechanism = match settings.kafka_sasl_mechanism {
        KafkaMechanism::Plain => "PLAIN",
        KafkaMechanism::ScramSha256 => "SCRAM-SHA-256",
        KafkaMechanism::ScramSha512 => "SCRAM-SHA-512",
    };
    if mechanism != "PLAIN" && !TLS {
        return Err(wrong(&format!("KAFKA_SASL_MECHANISM={}", mechanism.to_ascii_lowercase()), FEATURE));
    }
    let name = settings.kafka_sasl_username.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| wrong("KAFKA_SASL_USERNAME", "a name to log in with"))?;
    let password = settings.kafka_sasl_password.as_ref().map(ExposeSecret::expose_secret).filter(|it| !it.is_empty());
    let password = password.ok_or_else(|| wrong("KAFKA_SASL_PASSWORD", "a password to log in with"))?;
    base.set("sasl.mechanism", mechanism).set("sasl.username", name).set("sasl.password", password);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::kafka::testing::settings;

    fn refused(change: impl FnOnce(&mut BusSettings)) -> String {
        let mut settings = settings("kafka:9092");
        change(&mut settings);
        match Clients::new(&settings, "test") {
            Err(BusError::Refused(text)) => text,
            Err(other) => panic!("{other}"),
            Ok(clients) => panic!("taken: {}", clients.brokers),
        }
    }

    #[test]
    fn addresses_are_read_or_refused() {
        let read = |text: &str| Clients::new(&settings(text), "test").map(|clients| clients.brokers);
        assert_eq!(read("a:1, b.c-d:65535,,[::1]:9092").as_deref(), Ok("a:1,b.c-d:65535,[::1]:9092"));
        for bad in
            ["", " , ", "kafka", "kafka:", ":9092", "kafka:0", "kafka:70000", "ssl://kafka:1", "u:hunter2@kafka:1"]
        {
            let text = refused(|settings| settings.kafka_brokers = Some(bad.to_owned()));
            assert!(text.starts_with("KAFKA_BROKERS: want host:port"), "{bad}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_login_needs_a_name_and_a_password() {
        let text = refused(|settings| settings.kafka_security_protocol = KafkaSecurity::SaslPlaintext);
        assert!(text.starts_with("KAFKA_SASL_USERNAME: want"), "{text}");
        let text = refused(|settings| {
            settings.kafka_security_protocol = KafkaSecurity::SaslPlaintext;
            settings.kafka_sasl_username = Some("me".to_owned());
        });
        assert!(text.starts_with("KAFKA_SASL_PASSWORD: want"), "{text}");
    }

    #[cfg(not(any(feature = "tls-system", feature = "tls-vendored")))]
    #[test]
    fn what_needs_tls_names_the_feature() {
        for protocol in [KafkaSecurity::Ssl, KafkaSecurity::SaslSsl] {
            let text = refused(|settings| settings.kafka_security_protocol = protocol);
            assert!(text.starts_with("KAFKA_SECURITY_PROTOCOL=") && text.contains("tls-vendored"), "{text}");
        }
        let text = refused(|settings| {
            settings.kafka_security_protocol = KafkaSecurity::SaslPlaintext;
            settings.kafka_sasl_mechanism = KafkaMechanism::ScramSha256;
        });
        assert!(text.starts_with("KAFKA_SASL_MECHANISM=scram-sha-256") && text.contains("tls-system"), "{text}");
    }

    #[test]
    fn librdkafka_takes_every_configuration_and_no_password_is_shown() {
        let mut settings = settings("127.0.0.1:9");
        settings.kafka_security_protocol = KafkaSecurity::SaslPlaintext;
        settings.kafka_sasl_username = Some("me".to_owned());
        settings.kafka_sasl_password = Some("hunter2".into());
        let clients = Clients::new(&settings, "test").unwrap();
        for config in [clients.admin(), clients.producer(), clients.consumer("g"), clients.reader("g")] {
            assert!(config.create_native_config().is_ok());
            assert!(!format!("{config:?}").contains("hunter2"));
        }
    }
}
