//! Checks the Kafka settings in relation to each other.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::settings::{BusSettings, KafkaMechanism};

/// librdkafka's `max.poll.interval.ms`; it rejects a longer session.
const MAX_SESSION: Duration = Duration::from_secs(300);
/// Whether this binary supports TLS and SCRAM for Kafka.
const HAS_TLS: bool = cfg!(any(feature = "tls-system", feature = "tls-vendored"));

/// A variable with a wrong value, and the value it needs.
pub(crate) type WrongSetting = (&'static str, String);

/// Validates the settings. The only place with these rules. May read a file; connects nowhere.
pub(crate) fn check(settings: &BusSettings) -> Vec<WrongSetting> {
    let mut wrong = Vec::new();
    let brokers = settings.brokers();
    if brokers.is_empty() || !brokers.iter().all(|broker| is_address(broker)) {
        let want = "a list of addresses as host:port, with commas";
        wrong.push(("KAFKA_BROKERS", want.to_owned()));
    }
    check_features(settings, &mut wrong);
    if settings.kafka_session_timeout > MAX_SESSION {
        let want = "a duration up to 5m, within which a consumer has to poll";
        wrong.push(("KAFKA_SESSION_TIMEOUT", want.to_owned()));
    }
    check_login(settings, &mut wrong);
    if settings.kafka_security_protocol.uses_tls()
        && let Some(file) = &settings.kafka_ca_file
    {
        let is_readable = file.to_str().is_some() && std::fs::read(file).is_ok();
        if !is_readable {
            wrong.push(("KAFKA_CA_FILE", "a PEM file that can be read".to_owned()));
        }
    }
    wrong
}

/// Refuses what this binary was built without.
fn check_features(settings: &BusSettings, wrong: &mut Vec<WrongSetting>) {
    if HAS_TLS {
        return;
    }
    let feature = "in this binary, which was built without the feature tls-system or tls-vendored";
    let security = settings.kafka_security_protocol;
    if security.uses_tls() {
        let want = format!("plaintext or sasl_plaintext {feature}");
        wrong.push(("KAFKA_SECURITY_PROTOCOL", want));
    }
    if security.requires_login() && settings.kafka_sasl_mechanism != KafkaMechanism::Plain {
        wrong.push(("KAFKA_SASL_MECHANISM", format!("plain {feature}")));
    }
}

/// Requires user name and password for a protocol with a login, and refuses them for any other.
fn check_login(settings: &BusSettings, wrong: &mut Vec<WrongSetting>) {
    let requires_login = settings.kafka_security_protocol.requires_login();
    let name = settings.kafka_sasl_username.as_deref();
    let password = settings
        .kafka_sasl_password
        .as_ref()
        .map(ExposeSecret::expose_secret);
    for (variable, value) in [
        ("KAFKA_SASL_USERNAME", name),
        ("KAFKA_SASL_PASSWORD", password),
    ] {
        if requires_login && value.is_none_or(str::is_empty) {
            let want = "a value: KAFKA_SECURITY_PROTOCOL requires a login";
            wrong.push((variable, want.to_owned()));
        } else if !requires_login && value.is_some() {
            let want = "it unset, or KAFKA_SECURITY_PROTOCOL sasl_ssl or sasl_plaintext";
            wrong.push((variable, want.to_owned()));
        }
    }
}

fn is_address(broker: &str) -> bool {
    let Some((host, port)) = broker.rsplit_once(':') else {
        return false;
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let legal = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')),
    };
    !host.is_empty() && legal && port.parse::<u16>().is_ok_and(|port| port > 0)
}
