//! The bus against a real Kafka: `cargo nextest run --run-ignored only -E 'test(real_engines)'`.

use std::sync::Arc;

use super::KafkaBus;
use super::testing::{name, settings};
use crate::bus::Topic;
use crate::config::settings::BusSettings;

/// The brokers of the environment.
fn brokers() -> String {
    std::env::var("KAFKA_BROKERS").unwrap_or_else(|_| {
        panic!("KAFKA_BROKERS is not set: scripts/engines up && eval \"$(scripts/engines export)\", or run make test")
    })
}

fn here() -> BusSettings {
    BusSettings { kafka_topic_partitions: 4, ..settings(&brokers()) }
}

/// A topic of its own with four partitions.
fn topic() -> Arc<dyn Topic> {
    KafkaBus::new(&here(), "test").unwrap().topic(&name("suite"))
}

mod every_bus {
    crate::bus::suite::bus_suite!(super::topic(), ignore = "needs the real engines: make test");
}
