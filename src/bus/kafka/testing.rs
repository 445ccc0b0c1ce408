//! Bus settings for tests.

use clap::Parser;

use crate::config::settings::BusSettings;

#[derive(Parser)]
struct Bus {
    #[command(flatten)]
    bus: BusSettings,
}

/// The defaults with these brokers.
pub(crate) fn settings(brokers: &str) -> BusSettings {
    let mut bus = Bus::parse_from(["test"]).bus;
    bus.kafka_brokers = Some(brokers.to_owned());
    bus
}

/// A unique name.
pub(crate) fn name(prefix: &str) -> String {
    format!("test-{prefix}-{:016x}", fastrand::u64(..))
}
