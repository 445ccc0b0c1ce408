//! Every metric, in one struct per role. Doc comments are the help texts. No label grows with
//! events or users, and known label values exist from the start, at 0: a rate cannot be computed
//! over a series that does not exist yet.
//!
//! Label values that the domain defines are listed here; the wiring of a role adds those of other
//! modules with [`create_series`].

mod access;
mod bets;
mod books;
mod confirmation;
mod gateway;
mod grpc;
mod ingest;
mod odds;
mod outbox;
mod processor;
mod registry;
mod settlement;
mod simulator;
mod tls;
mod wallet;

pub use self::access::AccessMetrics;
pub use self::bets::BetsMetrics;
pub use self::books::BookMetrics;
pub use self::confirmation::ConfirmationMetrics;
pub use self::gateway::GatewayMetrics;
pub use self::grpc::GrpcMetrics;
pub use self::ingest::IngestMetrics;
pub use self::odds::OddsMetrics;
pub use self::outbox::{OutboxMetrics, OutboxStage};
pub use self::processor::ProcessorMetrics;
pub use self::registry::create_series;
pub use self::settlement::SettlementMetrics;
pub use self::simulator::SimulatorMetrics;
pub use self::tls::TlsMetrics;
pub use self::wallet::WalletMetrics;
