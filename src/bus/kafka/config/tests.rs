use super::*;
use crate::bus::kafka::testing::settings;
use crate::config::settings::KafkaSecurity;

fn refused(change: impl FnOnce(&mut BusSettings)) -> String {
    let mut settings = settings("kafka:9092");
    change(&mut settings);
    match Clients::new(&settings, "test") {
        Err(BusError::Refused(text)) => text,
        Err(other) => panic!("{other}"),
        Ok(clients) => panic!("accepted: {}", clients.brokers),
    }
}

#[test]
fn broker_addresses_are_validated() {
    let read = |text: &str| Clients::new(&settings(text), "test").map(|clients| clients.brokers);
    assert_eq!(
        read("a:1, b.c-d:65535,,[::1]:9092").as_deref(),
        Ok("a:1,b.c-d:65535,[::1]:9092")
    );
    for bad in [
        "",
        " , ",
        "kafka",
        "kafka:",
        ":9092",
        "kafka:0",
        "kafka:70000",
        "ssl://kafka:1",
        "u:hunter2@kafka:1",
    ] {
        let text = refused(|settings| settings.kafka_brokers = Some(bad.to_owned()));
        assert!(
            text.starts_with("KAFKA_BROKERS: want a list of addresses"),
            "{bad}: {text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn login_requires_name_and_password() {
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
fn tls_settings_name_missing_feature() {
    for protocol in [KafkaSecurity::Ssl, KafkaSecurity::SaslSsl] {
        let text = refused(|settings| settings.kafka_security_protocol = protocol);
        assert!(
            text.starts_with("KAFKA_SECURITY_PROTOCOL: want plaintext")
                && text.contains("tls-vendored"),
            "{text}"
        );
    }
    let text = refused(|settings| {
        settings.kafka_security_protocol = KafkaSecurity::SaslPlaintext;
        settings.kafka_sasl_mechanism = KafkaMechanism::ScramSha256;
    });
    assert!(
        text.starts_with("KAFKA_SASL_MECHANISM: want plain") && text.contains("tls-system"),
        "{text}"
    );
}

#[test]
fn ca_file_is_checked_only_with_tls() {
    let mut settings = settings("kafka:9092");
    settings.kafka_ca_file = Some("/nowhere/ca.pem".into());
    assert_eq!(kafka::check(&settings), []);
    settings.kafka_security_protocol = KafkaSecurity::Ssl;
    assert!(
        kafka::check(&settings)
            .iter()
            .any(|(variable, _)| *variable == "KAFKA_CA_FILE")
    );
}

#[test]
fn configurations_are_valid_and_hide_password() {
    let mut settings = settings("127.0.0.1:9");
    settings.kafka_security_protocol = KafkaSecurity::SaslPlaintext;
    settings.kafka_sasl_username = Some("me".to_owned());
    settings.kafka_sasl_password = Some("hunter2".into());
    let clients = Clients::new(&settings, "test").unwrap();
    for config in [
        clients.admin(),
        clients.producer(),
        clients.consumer("g"),
        clients.bulk_consumer("g"),
        clients.reader("g"),
    ] {
        assert!(config.create_native_config().is_ok());
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

mod login {
    use std::io::{Read, Write};
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use rdkafka::config::FromClientConfigAndContext;
    use rdkafka::consumer::{BaseConsumer, Consumer};

    use super::*;
    use crate::bus::kafka::events::Events;

    /// A server that echoes every request.
    fn echo() -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), mut sent) = (stream, [0; 4096]) else {
                    return;
                };
                if let Ok(count) = stream.read(&mut sent) {
                    let _ = stream.write_all(&sent[..count]);
                }
            }
        });
        address
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// librdkafka's messages about a broker that echoes its input, and about one that is
        /// unreachable, contain no password.
        #[test]
        fn library_messages_contain_no_password(password in "[ -~é]{4,20}") {
            let messages = Arc::new(Mutex::new(Vec::new()));
            for broker in [echo().to_string(), "127.0.0.1:9".to_owned()] {
                let mut settings = settings(&broker);
                settings.kafka_security_protocol = KafkaSecurity::SaslPlaintext;
                settings.kafka_sasl_username = Some("me".to_owned());
                settings.kafka_sasl_password = Some(password.as_str().into());
                let clients = Clients::new(&settings, "test").unwrap();
                let events = Events::new(clients.redaction.clone());
                let made = BaseConsumer::<Events>::from_config_and_context(&clients.reader("g"), events.clone());
                let consumer = made.unwrap();
                let error = consumer.fetch_metadata(Some("t"), Duration::from_millis(300)).err().unwrap();
                consumer.poll(Duration::from_millis(50));
                messages.lock().unwrap().extend([error.to_string(), events.last_error.last().unwrap_or_default()]);
            }
            let messages = messages.lock().unwrap().join("\n");
            prop_assert!(!messages.contains(&password), "{}", messages);
        }
    }
}

/// An idempotent producer asks for a producer id, which Kafka refuses without WRITE.
#[test]
fn reading_process_asks_for_no_producer_id() {
    let clients = Clients::new(&settings("kafka:9092"), "test").unwrap();
    let idempotence = |config: ClientConfig| config.get("enable.idempotence").map(str::to_owned);
    assert_eq!(idempotence(clients.producer()).as_deref(), Some("true"));
    assert_eq!(
        idempotence(clients.metadata_client()).as_deref(),
        Some("false")
    );
}
