//! Every setting, one struct per concern. A field's name is its flag and, in capitals, its
//! environment variable.

mod access;
mod bus;
mod clients;
mod gateway;
mod grpc;
mod limits;
mod money;
mod process;
mod settlement;
mod storage;
mod suppliers;
mod tls;
mod tracing;

use clap::{Args, ValueEnum};
use strum::{EnumCount, IntoStaticStr};

pub(crate) use self::access::MIN_TOKEN_SECRET;
pub use self::access::{AccessSettings, AuthMode};
pub use self::bus::{BusSettings, KafkaMechanism, KafkaSecurity};
pub use self::clients::ClientSettings;
pub use self::gateway::GatewaySettings;
pub use self::grpc::GrpcSettings;
pub use self::limits::{RateLimitSettings, RequestRate};
pub use self::money::{ConfirmationSettings, MoneySettings};
pub use self::process::{PortSettings, ProcessSettings};
pub use self::settlement::SettlementSettings;
pub use self::storage::{CacheSettings, OddsFeed, StoreSettings};
pub use self::suppliers::{SimulatedMarket, SimulatorSettings, SupplierSettings};
pub use self::tls::TlsSettings;
pub use self::tracing::TracingSettings;
use super::limits::LimitSettings;

/// A part of the platform that can run in its own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(EnumCount, IntoStaticStr, ValueEnum)]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// A supplier for development: streams moving odds and confirms bets.
    Simulator,
    /// Reads supplier feeds and publishes them to the bus.
    Ingest,
    /// Reads the bus, maintains the books, writes the cache and the database.
    Processor,
    /// Serves odds to clients: REST and WebSocket.
    Odds,
    /// Manages users' money: REST.
    Wallet,
    /// Accepts bets: REST.
    Bets,
    /// Sends placed bets to the supplier for confirmation.
    Confirmation,
    /// Pays bets by the results of their markets.
    Settlement,
    /// Serves odds, wallets and bets under one address: REST and WebSocket.
    Gateway,
}

impl Role {
    /// Every role, suppliers first.
    pub const ALL: [Role; Role::COUNT] = [
        Role::Simulator,
        Role::Ingest,
        Role::Processor,
        Role::Odds,
        Role::Wallet,
        Role::Bets,
        Role::Confirmation,
        Role::Settlement,
        Role::Gateway,
    ];

    /// The roles with a port for clients, which accepts only TLS if a certificate is set.
    pub const WITH_CLIENTS: [Role; 4] = [Role::Odds, Role::Wallet, Role::Bets, Role::Gateway];
    /// The roles whose clients are callers: they are authenticated, if AUTH is required.
    pub const WITH_CALLERS: [Role; 3] = [Role::Odds, Role::Wallet, Role::Bets];

    /// The role's name on the command line and in logs.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The settings of `serve`.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// A role to run in this process; repeat the flag or separate several with commas. All roles by
    /// default
    #[arg(
        long = "role",
        env = "ROLE",
        value_name = "ROLE",
        value_enum,
        value_delimiter = ',',
        help_heading = "Process"
    )]
    pub roles: Vec<Role>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub process: ProcessSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ports: PortSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub grpc: GrpcSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub access: AccessSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bus: BusSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub suppliers: SupplierSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub simulator: SimulatorSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub clients: ClientSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub rate_limits: RateLimitSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub money: MoneySettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub confirmation: ConfirmationSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub settlement: SettlementSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub gateway: GatewaySettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tracing: TracingSettings,
}
