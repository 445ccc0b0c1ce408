//! Every setting: a struct a concern. A field's name is its flag and, in capitals, its environment
//! variable.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use secrecy::SecretString;

use super::address::SecretUrl;
use super::endpoint::Endpoint;
use crate::domain::wallet::amount::Amount;

use super::limits::LimitSettings;
use super::values::{
    amount, currency, deployment, duration, duration_above_a_second, duration_above_zero,
    exact_origin, host_name, http_url, ip_address, log_filter, origin, port, rate, secret, share,
    size, supplier_url, topic, whole,
};

/// A part of the platform that can run in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Role {
    /// A supplier for development: streams odds that move, and confirms bets.
    Simulator,
    /// Reads the suppliers and publishes to the bus.
    Ingest,
    /// Reads the bus, keeps the books, writes the cache and the database.
    Processor,
    /// Serves odds to clients: REST and WebSocket.
    Odds,
    /// Keeps users' money: REST.
    Wallet,
    /// Takes bets: REST.
    Bets,
    /// Has bets confirmed by the supplier.
    Confirmation,
}

impl Role {
    /// Every role, suppliers first.
    pub const ALL: [Role; 7] = [
        Role::Simulator,
        Role::Ingest,
        Role::Processor,
        Role::Odds,
        Role::Wallet,
        Role::Bets,
        Role::Confirmation,
    ];

    /// The role's name on the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Role::Simulator => "simulator",
            Role::Ingest => "ingest",
            Role::Processor => "processor",
            Role::Odds => "odds",
            Role::Wallet => "wallet",
            Role::Bets => "bets",
            Role::Confirmation => "confirmation",
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Everything that `serve` can be told.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// A role that this process runs; repeat it, or give several with commas. All of them by
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
    pub money: MoneySettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub confirmation: ConfirmationSettings,
}

/// The process itself.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Process")]
pub struct ProcessSettings {
    /// Address that every port binds to; 0.0.0.0 is reachable from other machines
    #[arg(long, env, default_value = "127.0.0.1", value_parser = ip_address)]
    pub bind_address: IpAddr,
    /// Names that clients call the REST and WebSocket ports by (header Host), with commas; * for
    /// any. IP addresses, names without a dot and those under localhost, internal, svc, local,
    /// home.arpa or test are always taken. Unless set, odds take any other name too, and wallets,
    /// bets and the simulator take none
    #[arg(long, env, value_delimiter = ',', value_parser = host_name)]
    pub allowed_hosts: Vec<String>,
    /// Foreign origins whose pages may move money, place bets and open /ws/odds, with commas, as
    /// `https://example.com`. A page may do so whose host is the one it calls, and so may clients
    /// that are no browsers
    #[arg(long, env, value_delimiter = ',', value_parser = exact_origin)]
    pub allowed_origins: Vec<String>,
    /// Log lines for people, or JSON for machines
    #[arg(long, env, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace or off, also by module, as
    /// info,sports_bet_platform::bus=debug
    #[arg(long, env, default_value = "info", value_parser = log_filter)]
    pub rust_log: String,
    /// How long a stop may take before whatever still runs is cut off
    #[arg(long, env, value_parser = duration_above_zero, default_value = "8s")]
    pub shutdown_timeout: Duration,
}

/// Ports; 0 takes a free one.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Ports (0 takes a free one)")]
pub struct PortSettings {
    /// REST and /ws/odds, for clients
    #[arg(long, env, default_value_t = 8080, value_parser = port)]
    pub http_port_odds: u16,
    /// The simulator's /ws and /supplier/confirm
    #[arg(long, env, default_value_t = 8081, value_parser = port)]
    pub http_port_supplier: u16,
    /// REST of the wallets
    #[arg(long, env, default_value_t = 8082, value_parser = port)]
    pub http_port_wallet: u16,
    /// REST of the bets
    #[arg(long, env, default_value_t = 8083, value_parser = port)]
    pub http_port_bet: u16,
    /// Health and metrics of the simulator
    #[arg(long, env, default_value_t = 9094, value_parser = port)]
    pub metrics_port_supplier: u16,
    /// Health and metrics of odds
    #[arg(long, env, default_value_t = 9095, value_parser = port)]
    pub metrics_port_odds: u16,
    /// Health and metrics of ingest
    #[arg(long, env, default_value_t = 9096, value_parser = port)]
    pub metrics_port_ingest: u16,
    /// Health and metrics of the processor
    #[arg(long, env, default_value_t = 9097, value_parser = port)]
    pub metrics_port_processor: u16,
    /// Health and metrics of wallet
    #[arg(long, env, default_value_t = 9098, value_parser = port)]
    pub metrics_port_wallet: u16,
    /// Health and metrics of bets
    #[arg(long, env, default_value_t = 9099, value_parser = port)]
    pub metrics_port_bet: u16,
    /// Health and metrics of confirmation
    #[arg(long, env, default_value_t = 9100, value_parser = port)]
    pub metrics_port_confirmation: u16,
}

/// How Kafka is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KafkaSecurity {
    /// In the clear, without a login.
    Plaintext,
    /// TLS, without a login.
    Ssl,
    /// In the clear, with a login.
    #[value(name = "sasl_plaintext")]
    SaslPlaintext,
    /// TLS, with a login.
    #[value(name = "sasl_ssl")]
    SaslSsl,
}

/// How a login to Kafka is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KafkaMechanism {
    /// Name and password as they are.
    Plain,
    /// A challenge with SHA-256.
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// A challenge with SHA-512.
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

/// The bus.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Bus")]
pub struct BusSettings {
    /// Kafka's addresses, host:port with commas; none: the embedded bus
    #[arg(long, env)]
    pub kafka_brokers: Option<String>,
    /// Topic of the updates
    #[arg(long, env, default_value = "odds_updates", value_parser = topic)]
    pub kafka_topic_odds: String,
    /// Topic of what could not be read; the topic's name + _dlq by default
    #[arg(long, env, value_parser = topic)]
    pub kafka_topic_odds_dlq: Option<String>,
    /// Topic of the bets that were placed
    #[arg(long, env, default_value = "bet_placed", value_parser = topic)]
    pub kafka_topic_bet_placed: String,
    /// Topic of what could not be read, or not be published, of those
    #[arg(long, env, default_value = "bet_placed_dlq", value_parser = topic)]
    pub kafka_topic_bet_placed_dlq: String,
    /// Topic of the bets that were decided
    #[arg(long, env, default_value = "bet_confirmed", value_parser = topic)]
    pub kafka_topic_bet_confirmed: String,
    /// Topic of what could not be published of those
    #[arg(long, env, default_value = "bet_confirmed_dlq", value_parser = topic)]
    pub kafka_topic_bet_confirmed_dlq: String,
    /// Partitions of a topic that is made because it is missing; topics that are there stay as they
    /// are
    #[arg(long, env, default_value_t = 12, value_parser = whole(1_u32, 10_000))]
    pub kafka_topic_partitions: u32,
    /// Replicas of a topic that is made because it is missing; the brokers' default unless said
    #[arg(long, env, value_parser = whole(1_u16, 100))]
    pub kafka_topic_replication: Option<u16>,
    /// Consumer group of the live path: books, cache, clients
    #[arg(long, env, default_value = "odds-live", value_parser = topic)]
    pub kafka_group_live: String,
    /// Consumer group of the store path: database
    #[arg(long, env, default_value = "odds-processor", value_parser = topic)]
    pub kafka_group_store: String,
    /// Consumer group that has bets confirmed
    #[arg(long, env, default_value = "bet-confirmation", value_parser = topic)]
    pub kafka_group_confirmation: String,
    /// A consumer that Kafka has not heard of for so long has its partitions given to another
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub kafka_session_timeout: Duration,
    /// How to talk to Kafka; ssl and sasl_ssl need a binary with a tls- feature
    #[arg(long, env, value_enum, default_value = "plaintext")]
    pub kafka_security_protocol: KafkaSecurity,
    /// How to log in to Kafka; SCRAM needs a binary with a tls- feature
    #[arg(long, env, value_enum, default_value = "plain")]
    pub kafka_sasl_mechanism: KafkaMechanism,
    /// Name to log in to Kafka with
    #[arg(long, env)]
    pub kafka_sasl_username: Option<String>,
    /// Password to log in to Kafka with
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub kafka_sasl_password: Option<SecretString>,
    /// PEM file of the certificate authorities that Kafka is trusted by; the system's by default
    #[arg(long, env)]
    pub kafka_ca_file: Option<PathBuf>,
    /// How many records the embedded bus holds until every group has done them; then publishers
    /// wait
    #[arg(long, env, default_value_t = 10_000, value_parser = whole(1_usize, 10_000_000))]
    pub embedded_bus_capacity: usize,
    /// Partitions of the embedded bus
    #[arg(long, env, default_value_t = 4, value_parser = whole(1_u32, 1024))]
    pub embedded_bus_partitions: u32,
    /// How many records a consumer takes at a time
    #[arg(long, env, default_value_t = 500, value_parser = whole(1_usize, 100_000))]
    pub bus_batch_size: usize,
}

impl BusSettings {
    /// The name of the topic of what could not be read.
    pub fn dead_letter_topic(&self) -> String {
        self.kafka_topic_odds_dlq
            .clone()
            .unwrap_or_else(|| format!("{}_dlq", self.kafka_topic_odds))
    }
}

/// The cache and the books.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cache and books")]
pub struct CacheSettings {
    /// Redis, as redis://user:password@host:6379/0, rediss:// for TLS; none: the embedded cache
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub redis_url: Option<SecretString>,
    /// Redis as host:port, read where REDIS_URL is not set (the original's name)
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub redis_addr: Option<SecretString>,
    /// PEM file of further certificate authorities for rediss://, beside the system's
    #[arg(long, env)]
    pub redis_ca_file: Option<PathBuf>,
    /// Channel of the broadcast
    #[arg(long, env, default_value = "odds_updates_broadcast")]
    pub redis_pubsub_channel: String,
    /// Name of this deployment, part of its own channel and of its broadcasts; the same in all its
    /// processes. db and the number of the Redis database by default, as db0
    #[arg(long, env, value_parser = deployment)]
    pub deployment: Option<String>,
    /// Whether to publish on and listen to REDIS_PUBSUB_CHANNEL itself too, for services of the
    /// original and earlier versions; false: only the deployment's own channel
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub redis_original_channel: bool,
    /// Where no processor is heard for so long, odds says that prices may be stale; each speaks at
    /// least once a second
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "5s")]
    pub feed_stale_after: Duration,
    /// How long the hot copy outlives an event's last change
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1h")]
    pub cache_ttl: Duration,
    /// An event's book leaves memory after so long without a change or a reader; the database keeps
    /// its state
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10m")]
    pub book_idle_limit: Duration,
}

/// The database.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
pub struct StoreSettings {
    /// PostgreSQL, as postgres://user:password@host:5432/name?sslmode=verify-full, or a SQLite
    /// file, as data/sports-bet.db or sqlite://data/sports-bet.db
    #[arg(long, env, hide_env_values = true, value_parser = secret, default_value = "data/sports-bet.db")]
    pub database_url: SecretString,
    /// PostgreSQL, read where DATABASE_URL is not set (the original's name)
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub postgres_dsn: Option<SecretString>,
    /// A replica of PostgreSQL that the role odds reads from; DATABASE_URL by default
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub database_ro_url: Option<SecretString>,
    /// Connections that read PostgreSQL, at most, of each role, and as many that move money; those
    /// that write odds are three more
    #[arg(long, env, default_value_t = 8, value_parser = whole(1_u32, 1_000))]
    pub database_pool_size: u32,
    /// How long a batch of writes waits to fill up
    #[arg(long, env, value_parser = duration, default_value = "5ms")]
    pub store_batch_wait: Duration,
    /// History older than this is removed
    #[arg(long, env, value_parser = duration_above_zero, default_value = "30days")]
    pub history_retention: Duration,
    /// Dead letters (what could not be read) older than this are removed
    #[arg(long, env, value_parser = duration_above_zero, default_value = "30days")]
    pub dead_letter_retention: Duration,
}

/// The suppliers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Suppliers")]
pub struct SupplierSettings {
    /// Suppliers, with commas: ws:// wss:// for the native form (user:password@ is sent as HTTP
    /// Basic), betfair:// betfairs:// for the Exchange Stream over TCP or TLS. The simulator of
    /// this process by default, else ws://127.0.0.1:8081/ws
    #[arg(long, env, hide_env_values = true, value_delimiter = ',', value_parser = supplier_url)]
    pub supplier_urls: Vec<Endpoint>,
    /// One supplier, read where SUPPLIER_URLS is not set (the original's name)
    #[arg(long, env, hide_env_values = true, value_parser = supplier_url)]
    pub supplier_ws_url: Option<Endpoint>,
    /// A supplier that sends nothing for so long, not even a pong, is connected to anew
    #[arg(long, env, value_parser = duration_above_zero, default_value = "15s")]
    pub supplier_read_timeout: Duration,
    /// A supplier that has said nothing for so long, connected or not, has its open markets
    /// suspended until it speaks again
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub supplier_stale_after: Duration,
    /// How often a native supplier is pinged
    #[arg(long, env, value_parser = duration_above_zero, default_value = "5s")]
    pub supplier_ping_interval: Duration,
    /// Delay before the first reconnect; it doubles with each failure, and is jittered
    #[arg(long, env, value_parser = duration_above_zero, default_value = "200ms")]
    pub supplier_reconnect_min: Duration,
    /// The reconnect delay grows up to this
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub supplier_reconnect_max: Duration,
    /// The largest frame of a supplier
    #[arg(long, env, default_value = "1MiB", value_parser = size(ByteSize::kib(1), ByteSize::mib(64)))]
    pub supplier_max_frame: ByteSize,
    /// An update whose time is further ahead of the clock is refused, from a supplier, Kafka, Redis
    /// or the database: it would shut out every later one. The same in all processes of a
    /// deployment
    #[arg(long, env, value_parser = duration, default_value = "5m")]
    pub supplier_max_clock_skew: Duration,
    /// Betfair application key
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub betfair_app_key: Option<SecretString>,
    /// Betfair session token
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub betfair_session_token: Option<SecretString>,
    /// Only these Betfair markets, with commas; none: all that the stream offers
    #[arg(long, env, value_delimiter = ',')]
    pub betfair_market_ids: Vec<String>,
    /// PEM file of further certificate authorities for wss:// and betfairs://, beside the system's
    #[arg(long, env)]
    pub supplier_ca_file: Option<PathBuf>,
}

/// A kind of market that the simulator offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SimulatedMarket {
    /// Home, draw, away.
    #[value(name = "1x2")]
    OneXTwo,
    /// Total goals over/under 1.5, 2.5 and 3.5.
    #[value(name = "total_goals")]
    TotalGoals,
    /// Both teams to score.
    #[value(name = "btts")]
    BothTeamsToScore,
}

/// The simulator.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Simulator")]
pub struct SimulatorSettings {
    /// How many events; the first four are the original's
    #[arg(long, env, default_value_t = 12, value_parser = whole(1_usize, 100_000))]
    pub simulator_events: usize,
    /// Updates a second, in all
    #[arg(long, env, default_value_t = 8.0, value_parser = rate)]
    pub simulator_rate: f64,
    /// The same seed gives the same walk again; a random one by default
    #[arg(long, env, value_parser = whole(0, u64::MAX))]
    pub simulator_seed: Option<u64>,
    /// Markets of each event. The original can read only 1x2
    #[arg(long, env, value_enum, value_delimiter = ',', default_value = "1x2")]
    pub simulator_markets: Vec<SimulatedMarket>,
    /// Of all bets so many are rejected, 0 to 1; the same bet always gets the same answer
    #[arg(long, env, default_value_t = 0.2, value_parser = share)]
    pub simulator_confirm_reject_share: f64,
    /// How long the answer to a bet takes
    #[arg(long, env, value_parser = duration, default_value = "0s")]
    pub simulator_confirm_delay: Duration,
    /// Of all questions about bets so many get no answer, 0 to 1; the bet is in the supplier's
    /// books all the same
    #[arg(long, env, default_value_t = 0.0, value_parser = share)]
    pub simulator_confirm_silent_share: f64,
    /// Of all questions about bets so many get an answer that cannot be read, 0 to 1; the bet is in
    /// the supplier's books all the same
    #[arg(long, env, default_value_t = 0.0, value_parser = share)]
    pub simulator_confirm_garbage_share: f64,
    /// Of all questions about bets so many get a 500, 0 to 1; the bet is not in the supplier's
    /// books
    #[arg(long, env, default_value_t = 0.0, value_parser = share)]
    pub simulator_confirm_error_share: f64,
}

/// The clients of `/ws/odds` and REST.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Clients")]
pub struct ClientSettings {
    /// The largest message of a client
    #[arg(long, env, default_value = "64KiB", value_parser = size(ByteSize::kib(1), ByteSize::mib(16)))]
    pub ws_max_message: ByteSize,
    /// Subscriptions a session may hold
    #[arg(long, env, default_value_t = 200, value_parser = whole(1_usize, 1_000_000))]
    pub ws_max_subscriptions: usize,
    /// Sessions in all
    #[arg(long, env, default_value_t = 10_000, value_parser = whole(1_usize, 10_000_000))]
    pub ws_max_sessions: usize,
    /// Messages a session may send within a second
    #[arg(long, env, default_value_t = 250, value_parser = whole(1_u32, 1_000_000))]
    pub ws_max_messages_per_second: u32,
    /// How often a client is pinged
    #[arg(long, env, value_parser = duration_above_zero, default_value = "30s")]
    pub ws_ping_interval: Duration,
    /// A client that says nothing for so long, not even a pong, is closed at the next ping
    #[arg(long, env, value_parser = duration_above_zero, default_value = "45s")]
    pub ws_silence_limit: Duration,
    /// Deliveries that wait for one session before it counts as slow
    #[arg(long, env, default_value_t = 64, value_parser = whole(1_usize, 1_000_000))]
    pub ws_session_queue: usize,
    /// Database reads for clients (books, lists, history) that wait at a time; more are refused
    /// with 503 ODDS_UNAVAILABLE or SNAPSHOT_UNAVAILABLE
    #[arg(long, env, default_value_t = 1_000, value_parser = whole(1_usize, 100_000))]
    pub client_read_queue: usize,
    /// An event that does not exist is not looked up in the database again for this long, unless an
    /// update of it arrives
    #[arg(long, env, value_parser = duration_above_zero, default_value = "3s")]
    pub unknown_event_ttl: Duration,
    /// A slow client that takes nothing for so long is closed
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub slow_client_limit: Duration,
    /// Origins whose pages may open /ws/odds, with commas, as `https://example.com`; * for any.
    /// By default a page may whose host is the one it calls; clients that send no Origin always may
    #[arg(long, env, value_delimiter = ',', value_parser = origin)]
    pub ws_allowed_origins: Vec<String>,
    /// Worker threads of the odds server; one a core by default
    #[arg(long, env, value_parser = whole(1_usize, 1024))]
    pub http_workers_odds: Option<usize>,
}

/// Wallets and bets.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Wallets and bets")]
pub struct MoneySettings {
    /// The one currency of this deployment; amounts are whole cents of it
    #[arg(long, env, default_value = "BRL", value_parser = currency)]
    pub currency: String,
    /// A reservation that nobody committed or refunded for so long expires; one that is held for a
    /// bet ends with the bet
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1h")]
    pub reservation_ttl: Duration,
    /// How often the whole ledger is held against itself, as `sports-bet ledger verify` does
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10m")]
    pub ledger_verify_interval: Duration,
    /// The lowest stake, in cents
    #[arg(long, env, default_value = "50", value_parser = amount)]
    pub bet_min_stake_cents: Amount,
    /// The highest stake, in cents
    #[arg(long, env, default_value = "1000000", value_parser = amount)]
    pub bet_max_stake_cents: Amount,
    /// The highest payout, the stake included, in cents
    #[arg(long, env, default_value = "100000000", value_parser = amount)]
    pub bet_max_payout_cents: Amount,
    /// A bet that the supplier has not answered for so long is rejected, and its stake given back
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub bet_confirm_deadline: Duration,
}

/// Confirmation of bets.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Confirmation")]
pub struct ConfirmationSettings {
    /// Where the supplier confirms bets, http:// or https://, with user:password@ where it wants a
    /// login; the simulator of this process by default, else http://127.0.0.1:8081
    #[arg(long, env, hide_env_values = true, value_parser = http_url)]
    pub supplier_url: Option<SecretUrl>,
    /// How long one question to the supplier may take
    #[arg(long, env, value_parser = duration_above_zero, default_value = "2s")]
    pub bet_confirm_timeout: Duration,
    /// How many bets are being confirmed at once
    #[arg(long, env, default_value_t = 512, value_parser = whole(1_usize, 10_000))]
    pub bet_confirm_concurrency: usize,
    /// Delay before the first question again; it doubles with each failure, and is jittered
    #[arg(long, env, value_parser = duration_above_zero, default_value = "100ms")]
    pub bet_confirm_retry_min: Duration,
    /// The delay grows up to this
    #[arg(long, env, value_parser = duration_above_zero, default_value = "2s")]
    pub bet_confirm_retry_max: Duration,
    /// So many failures in a row open the breaker: nobody is asked for a while
    #[arg(long, env, default_value_t = 20, value_parser = whole(1_u32, 100_000))]
    pub bet_confirm_breaker_failures: u32,
    /// How long the breaker stays open before one question is tried
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1s")]
    pub bet_confirm_breaker_pause: Duration,
}
