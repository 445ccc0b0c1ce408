//! Settings of the bus.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::SecretString;
use strum::IntoStaticStr;

use crate::config::values::{duration_above_zero, secret, topic, whole};

/// The Kafka security protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, ValueEnum)]
#[strum(serialize_all = "snake_case")]
pub enum KafkaSecurity {
    /// Unencrypted, without authentication.
    Plaintext,
    /// TLS, without authentication.
    Ssl,
    /// Unencrypted, with SASL authentication.
    #[value(name = "sasl_plaintext")]
    SaslPlaintext,
    /// TLS, with SASL authentication.
    #[value(name = "sasl_ssl")]
    SaslSsl,
}

impl KafkaSecurity {
    /// The name that Kafka uses for it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether connections are encrypted.
    pub fn uses_tls(self) -> bool {
        matches!(self, KafkaSecurity::Ssl | KafkaSecurity::SaslSsl)
    }

    /// Whether the client logs in with SASL.
    pub fn requires_login(self) -> bool {
        matches!(self, KafkaSecurity::SaslPlaintext | KafkaSecurity::SaslSsl)
    }
}

/// The Kafka SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KafkaMechanism {
    /// User name and password, sent as they are.
    Plain,
    /// SCRAM challenge with SHA-256.
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// SCRAM challenge with SHA-512.
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

/// Settings of the bus.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Bus")]
pub struct BusSettings {
    /// Kafka bootstrap addresses, host:port, comma-separated; if unset, the embedded bus is used
    #[arg(long, env)]
    pub kafka_brokers: Option<String>,
    /// Topic for odds updates
    #[arg(long, env, default_value = "odds_updates", value_parser = topic)]
    pub kafka_topic_odds: String,
    /// Dead-letter topic for unreadable odds updates; by default the name of the odds topic + _dlq
    #[arg(long, env, value_parser = topic)]
    pub kafka_topic_odds_dlq: Option<String>,
    /// Topic for the updates of all suppliers, if SUPPLIER_PRIORITY is set; the selected ones go on to
    /// the topic for odds updates
    #[arg(long, env, default_value = "supplier_updates", value_parser = topic)]
    pub kafka_topic_suppliers: String,
    /// Compacted topic for the states of sources
    #[arg(long, env, default_value = "source_status", value_parser = topic)]
    pub kafka_topic_source_status: String,
    /// Topic for the results of markets
    #[arg(long, env, default_value = "market_results", value_parser = topic)]
    pub kafka_topic_market_results: String,
    /// Dead-letter topic for results that could not be read, or need an operator
    #[arg(long, env, default_value = "market_results_dlq", value_parser = topic)]
    pub kafka_topic_market_results_dlq: String,
    /// Topic for placed bets
    #[arg(long, env, default_value = "bet_placed", value_parser = topic)]
    pub kafka_topic_bet_placed: String,
    /// Dead-letter topic for placed bets that could not be read or published
    #[arg(long, env, default_value = "bet_placed_dlq", value_parser = topic)]
    pub kafka_topic_bet_placed_dlq: String,
    /// Topic for decided bets
    #[arg(long, env, default_value = "bet_confirmed", value_parser = topic)]
    pub kafka_topic_bet_confirmed: String,
    /// Dead-letter topic for decided bets that could not be published
    #[arg(long, env, default_value = "bet_confirmed_dlq", value_parser = topic)]
    pub kafka_topic_bet_confirmed_dlq: String,
    /// Topic for settled bets
    #[arg(long, env, default_value = "bet_settled", value_parser = topic)]
    pub kafka_topic_bet_settled: String,
    /// Dead-letter topic for settled bets that could not be published
    #[arg(long, env, default_value = "bet_settled_dlq", value_parser = topic)]
    pub kafka_topic_bet_settled_dlq: String,
    /// Partitions of a topic that is created because it is missing; existing topics are left
    /// unchanged
    #[arg(long, env, default_value_t = 12, value_parser = whole(1_u32, 10_000))]
    pub kafka_topic_partitions: u32,
    /// Replicas of a topic that is created because it is missing; the brokers' default if unset
    #[arg(long, env, value_parser = whole(1_u16, 100))]
    pub kafka_topic_replication: Option<u16>,
    /// Consumer group of the live path: books, cache and clients
    #[arg(long, env, default_value = "odds-live", value_parser = topic)]
    pub kafka_group_live: String,
    /// Consumer group of the store path: the database
    #[arg(long, env, default_value = "odds-processor", value_parser = topic)]
    pub kafka_group_store: String,
    /// Consumer group that selects the source of each market, if SUPPLIER_PRIORITY is set
    #[arg(long, env, default_value = "odds-selector", value_parser = topic)]
    pub kafka_group_selector: String,
    /// Consumer group of bet confirmation
    #[arg(long, env, default_value = "bet-confirmation", value_parser = topic)]
    pub kafka_group_confirmation: String,
    /// Consumer group of settlement
    #[arg(long, env, default_value = "bet-settlement", value_parser = topic)]
    pub kafka_group_settlement: String,
    /// How long Kafka waits for a consumer's heartbeat before it reassigns the consumer's
    /// partitions
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub kafka_session_timeout: Duration,
    /// Kafka security protocol; ssl and sasl_ssl need a binary built with a tls- feature
    #[arg(long, env, value_enum, default_value = "plaintext")]
    pub kafka_security_protocol: KafkaSecurity,
    /// Kafka SASL mechanism; SCRAM needs a binary built with a tls- feature
    #[arg(long, env, value_enum, default_value = "plain")]
    pub kafka_sasl_mechanism: KafkaMechanism,
    /// Kafka SASL user name
    #[arg(long, env)]
    pub kafka_sasl_username: Option<String>,
    /// Kafka SASL password
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub kafka_sasl_password: Option<SecretString>,
    /// PEM file with the certificate authorities trusted for Kafka; the system's by default
    #[arg(long, env)]
    pub kafka_ca_file: Option<PathBuf>,
    /// Records that the embedded bus holds until every consumer group has processed them; when it
    /// is full, publishers wait
    #[arg(long, env, default_value_t = 10_000, value_parser = whole(1_usize, 10_000_000))]
    pub embedded_bus_capacity: usize,
    /// Partitions of the embedded bus
    #[arg(long, env, default_value_t = 4, value_parser = whole(1_u32, 1024))]
    pub embedded_bus_partitions: u32,
    /// Maximum number of records per consumer batch
    #[arg(long, env, default_value_t = 500, value_parser = whole(1_usize, 100_000))]
    pub bus_batch_size: usize,
}

impl BusSettings {
    /// The addresses of the brokers.
    pub fn brokers(&self) -> Vec<&str> {
        let text = self.kafka_brokers.as_deref().unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .filter(|broker| !broker.is_empty())
            .collect()
    }

    /// The name of the dead-letter topic for odds updates.
    pub fn dead_letter_topic(&self) -> String {
        self.kafka_topic_odds_dlq
            .clone()
            .unwrap_or_else(|| format!("{}_dlq", self.kafka_topic_odds))
    }
}
