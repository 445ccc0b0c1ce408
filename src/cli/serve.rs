//! The command `serve`: starts the platform, prints its addresses, and stops it on a signal.

use std::time::{Duration, Instant};

use futures_util::future::select_all;
use log::{error, info, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::config::input::EffectiveSetting;
use crate::config::settings::Role;
use crate::platform::{Addresses, Platform, StartError};
use crate::runtime::tls::TlsSetupError;
use crate::telemetry::trace::{TraceError, TraceExport};
use crate::telemetry::{logging, version};

/// The odds port that `watch` connects to by default.
const DEFAULT_ODDS_PORT: u16 = 8080;

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The platform failed to start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The export of traces failed to start.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// TLS to the collector of traces cannot be configured.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The handlers of the stop signals cannot be installed.
    #[error("cannot install signal handlers: {0}")]
    Signals(#[from] std::io::Error),
    /// The limit of open files is lower than the roles need.
    #[error(
        "the limit of open files is {limit} (ulimit -n, RLIMIT_NOFILE), but these roles need at least {needed}; raise it"
    )]
    OpenFiles {
        /// The hard limit of open files.
        limit: u64,
        /// The number of files that the roles need.
        needed: u64,
    },
    /// An essential actor ended; a restart of the process helps.
    #[error("the actor `{0}` ended unexpectedly; the process exits so that it can be restarted")]
    ActorEnded(&'static str),
    /// Some work was cut off by the shutdown timeout.
    #[error("stopped, but some work was not finished within the shutdown timeout")]
    CutOff,
}

/// The signals that stop the process gracefully. There is no configuration to reload and no log
/// file to reopen, so SIGHUP, which a closing terminal sends, stops the process like SIGTERM. The
/// default action of SIGQUIT would dump core and cut off all work.
const STOP_SIGNALS: [(SignalKind, &str); 4] = [
    (SignalKind::terminate(), "SIGTERM"),
    (SignalKind::interrupt(), "SIGINT"),
    (SignalKind::hangup(), "SIGHUP"),
    (SignalKind::quit(), "SIGQUIT"),
];

/// The signal of orchestrators and supervisors. It gives clients time to move to another process; a
/// person at a terminal does not wait for that.
const DRAIN_SIGNAL: &str = "SIGTERM";

/// Listens for [`STOP_SIGNALS`].
struct StopSignals(Vec<(Signal, &'static str)>);

impl StopSignals {
    fn listen() -> std::io::Result<StopSignals> {
        let listeners = STOP_SIGNALS
            .into_iter()
            .map(|(kind, name)| Ok((signal(kind)?, name)));
        listeners.collect::<std::io::Result<_>>().map(StopSignals)
    }

    /// Waits for the next signal and returns its name.
    async fn next(&mut self) -> &'static str {
        let waits = self
            .0
            .iter_mut()
            .map(|(signal, name)| Box::pin(async { signal.recv().await.map(|()| *name) }));
        let (received, ..) = select_all(waits).await;
        // The channel of a signal is never closed.
        received.unwrap_or("a signal")
    }

    /// Waits for a forced stop: a second signal ends the process immediately. SIGHUP does not count:
    /// a closing terminal and some supervisors send it together with another signal.
    async fn forced_stop(&mut self) {
        loop {
            let name = self.next().await;
            if name != "SIGHUP" {
                warn!(signal = name; "stopping immediately; unfinished work is cut off");
                return;
            }
        }
    }
}

/// Starts the export of traces, if it is configured. Must be called before the actix system starts.
pub fn start_traces(config: &Config) -> Result<Option<TraceExport>, ServeError> {
    match config.trace_options()? {
        Some(options) => Ok(Some(TraceExport::start(options)?)),
        None => Ok(None),
    }
}

/// Serves until a signal stops it. Must be called within an actix system.
pub async fn run(config: Config) -> Result<(), ServeError> {
    let started = Instant::now();
    let about = About::of(&config);
    about.log_start();
    check_open_files(&config)?;
    let mut signals = StopSignals::listen()?;
    let platform = Platform::start(&config).await?;
    let mut lines = startup_lines(platform.addresses(), config.has_tls(), &program());
    // Before the last line, which says that all ports are open.
    lines.insert(lines.len().saturating_sub(1), start_line(&config));
    lines.iter().for_each(|line| info!("{line}"));
    actix::spawn(async {
        let mut minutes = tokio::time::interval(Duration::from_secs(60));
        loop {
            minutes.tick().await;
            logging::report_left_out();
        }
    });
    let (ended, drains) = tokio::select! {
        name = signals.next() => {
            info!(signal = name; "stopping");
            (None, name == DRAIN_SIGNAL)
        }
        actor = platform.ended() => {
            error!(actor = actor; "actor ended unexpectedly");
            (Some(actor), false)
        }
    };
    let stopping = async {
        let ended = if drains { drain(&platform).await } else { None };
        (platform.stop().await, ended)
    };
    let (stopped_in_time, ended_later) = tokio::select! {
        stopped = stopping => stopped,
        () = signals.forced_stop() => (false, None),
    };
    match ended.or(ended_later) {
        Some(actor) => Err(ServeError::ActorEnded(actor)),
        None if !stopped_in_time => Err(ServeError::CutOff),
        None => {
            about.log_stop(started.elapsed());
            Ok(())
        }
    }
}

/// Lets the clients move to another process. Returns the name of an actor that ends during the drain,
/// after which there is nothing to wait for.
async fn drain(platform: &Platform) -> Option<&'static str> {
    tokio::select! {
        () = platform.drain() => None,
        actor = platform.ended() => {
            error!(actor = actor; "actor ended unexpectedly");
            Some(actor)
        }
    }
}

/// What runs: logged at the start and at the end.
struct About {
    role: String,
    /// The settings that differ from the defaults, secrets masked.
    settings: String,
}

impl About {
    fn of(config: &Config) -> About {
        let defaults = Config::from_variables(&[]).map(|config| config.shown);
        let defaults = defaults.unwrap_or_default();
        let is_default = |setting: &EffectiveSetting| {
            let mut defaults = defaults.iter();
            defaults.any(|it| it.variable == setting.variable && it.value == setting.value)
        };
        let changed = config.shown.iter().filter(|setting| !is_default(setting));
        let settings: Vec<String> = changed
            .map(|setting| format!("{}={}", setting.variable, shell_word(&setting.value)))
            .collect();
        About {
            role: config.role_names(),
            settings: settings.join(" "),
        }
    }

    fn log_start(&self) {
        let About { role, settings } = self;
        info!(
            version = version::VERSION, commit = version::COMMIT, tls = version::TLS,
            roles = role, settings = settings;
            "starting"
        );
    }

    fn log_stop(&self, uptime: Duration) {
        let About { role, settings } = self;
        let uptime = humantime::format_duration(Duration::from_secs(uptime.as_secs()));
        info!(
            version = version::VERSION, commit = version::COMMIT, tls = version::TLS,
            roles = role, settings = settings, uptime:%;
            "stopped"
        );
    }
}

/// The roles and engines in use. Without this line, a misspelt address that selects an embedded
/// engine would go unnoticed.
fn start_line(config: &Config) -> String {
    let roles: Vec<_> = config.roles.iter().map(|role| role.name()).collect();
    let [bus, cache, database] = config.engines.names();
    format!(
        "running: roles {}; bus: {bus}; cache: {cache}; database: {database}",
        roles.join(", ")
    )
}

/// The command to run this program again. A path is repeated as typed, because the bare name may
/// not be on the PATH.
fn program() -> String {
    let called = std::env::args().next().filter(|called| !called.is_empty());
    shell_word(&called.unwrap_or_else(|| "sports-bet".to_owned()))
}

fn shell_word(text: &str) -> String {
    let is_plain = text
        .chars()
        .all(|letter| letter.is_alphanumeric() || "/._-+@%:,=~".contains(letter));
    if is_plain {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The addresses, and commands to try, one per line. With TLS the ports for clients accept nothing
/// else.
fn startup_lines(addresses: &Addresses, has_tls: bool, program: &str) -> Vec<String> {
    let (http, ws) = if has_tls {
        ("https", "wss")
    } else {
        ("http", "ws")
    };
    let mut lines = Vec::new();
    if let Some(odds) = addresses.odds {
        let url = if odds.port() == DEFAULT_ODDS_PORT && !has_tls {
            String::new()
        } else {
            format!(" --url {ws}://{odds}/ws/odds")
        };
        lines.push(format!(
            "REST at {http}://{odds}/v1/events, WebSocket at {ws}://{odds}/ws/odds"
        ));
        lines.push(format!(
            "try:  curl {http}://{odds}/v1/events/MATCH_001/odds"
        ));
        lines.push(format!("try:  {program} watch MATCH_001{url}"));
    }
    if let Some(simulator) = addresses.simulator {
        lines.push(format!(
            "simulator at ws://{simulator}/ws and http://{simulator}/supplier/confirm"
        ));
    }
    if let (Some(wallet), Some(bets)) = (addresses.wallet, addresses.bets) {
        lines.push(format!(
            "wallets at {http}://{wallet}/wallet, bets at {http}://{bets}/bets"
        ));
    } else if let Some(wallet) = addresses.wallet {
        lines.push(format!("wallets at {http}://{wallet}/wallet"));
    } else if let Some(bets) = addresses.bets {
        lines.push(format!("bets at {http}://{bets}/bets"));
    }
    if let Some(gateway) = addresses.gateway {
        lines.push(format!(
            "gateway at {http}://{gateway}: /api/odds, /api/wallet and /api/bets"
        ));
    }
    let grpc = addresses.grpc.iter();
    let grpc: Vec<_> = grpc
        .map(|(role, address)| format!("{} at {address}", role.name()))
        .collect();
    if !grpc.is_empty() {
        lines.push(format!("gRPC: {}", grpc.join(", ")));
    }
    let health = Role::ALL
        .iter()
        .filter_map(|role| Some((role, addresses.health.get(role)?)));
    let health: Vec<_> = health
        .map(|(role, address)| format!("{} http://{address}", role.name()))
        .collect();
    lines.push(format!("/healthz and /metrics: {}", health.join(", ")));
    lines
}

/// Raises the soft limit of open files to the hard limit: it is far too low on most systems, and
/// each client needs two files. Worker threads cannot start without files, so a limit that is too
/// low for the roles is an error.
fn check_open_files(config: &Config) -> Result<(), ServeError> {
    let limit = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => limit,
        Err(failure) => {
            warn!("cannot raise the limit of open files: {failure}");
            return Ok(());
        }
    };
    let needed = needed_files(
        config,
        std::thread::available_parallelism().map_or(1, |cores| cores.get()) as u64,
    );
    log::debug!(limit = limit, needed = needed; "open file limit checked");
    if limit < needed {
        Err(ServeError::OpenFiles { limit, needed })
    } else {
        Ok(())
    }
}

/// The number of open files that the roles need before the first client connects. It is one and a
/// half times the measured number, to leave room for some clients.
fn needed_files(config: &Config, cores: u64) -> u64 {
    /// Files of the process, its log, the database file and the signals.
    const PROCESS: u64 = 32;
    /// Files of a role: actor threads, health and metrics port, and engine connections.
    const ROLE: u64 = 20;
    /// Files of a worker thread of a REST port.
    const WORKER: u64 = 6;
    let workers = |role: Role| match role {
        Role::Odds => config
            .settings
            .clients
            .http_workers_odds
            .map_or(cores, |workers| workers as u64),
        Role::Wallet | Role::Bets | Role::Gateway => cores,
        Role::Simulator => 1,
        Role::Ingest | Role::Processor | Role::Confirmation | Role::Settlement => 0,
    };
    let grpc_workers = |role: Role| match role {
        _ if !config.settings.grpc.grpc => 0,
        Role::Odds => workers(role),
        Role::Wallet | Role::Bets => 1,
        _ => 0,
    };
    let roles = config
        .roles
        .iter()
        .map(|role| ROLE + WORKER * (workers(*role) + grpc_workers(*role)));
    PROCESS + 2 * u64::from(config.settings.store.database_pool_size) + roles.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_lines_name_addresses_and_commands() {
        let mut addresses = Addresses {
            odds: "127.0.0.1:8080".parse().ok(),
            simulator: "127.0.0.1:8081".parse().ok(),
            wallet: "127.0.0.1:8082".parse().ok(),
            bets: "127.0.0.1:8083".parse().ok(),
            gateway: "127.0.0.1:8000".parse().ok(),
            ..Addresses::default()
        };
        addresses
            .health
            .insert(Role::Odds, "127.0.0.1:9095".parse().unwrap());
        addresses
            .health
            .insert(Role::Ingest, "127.0.0.1:9096".parse().unwrap());
        insta::assert_snapshot!(startup_lines(&addresses, false, "sports-bet").join("\n"), @r"
        REST at http://127.0.0.1:8080/v1/events, WebSocket at ws://127.0.0.1:8080/ws/odds
        try:  curl http://127.0.0.1:8080/v1/events/MATCH_001/odds
        try:  sports-bet watch MATCH_001
        simulator at ws://127.0.0.1:8081/ws and http://127.0.0.1:8081/supplier/confirm
        wallets at http://127.0.0.1:8082/wallet, bets at http://127.0.0.1:8083/bets
        gateway at http://127.0.0.1:8000: /api/odds, /api/wallet and /api/bets
        /healthz and /metrics: ingest http://127.0.0.1:9096, odds http://127.0.0.1:9095
        ");
        insta::assert_snapshot!(startup_lines(&addresses, true, "sports-bet").join("\n"), @r"
        REST at https://127.0.0.1:8080/v1/events, WebSocket at wss://127.0.0.1:8080/ws/odds
        try:  curl https://127.0.0.1:8080/v1/events/MATCH_001/odds
        try:  sports-bet watch MATCH_001 --url wss://127.0.0.1:8080/ws/odds
        simulator at ws://127.0.0.1:8081/ws and http://127.0.0.1:8081/supplier/confirm
        wallets at https://127.0.0.1:8082/wallet, bets at https://127.0.0.1:8083/bets
        gateway at https://127.0.0.1:8000: /api/odds, /api/wallet and /api/bets
        /healthz and /metrics: ingest http://127.0.0.1:9096, odds http://127.0.0.1:9095
        ");
        addresses.odds = "127.0.0.1:41234".parse().ok();
        assert!(
            startup_lines(&addresses, false, "sports-bet")[2]
                .ends_with("watch MATCH_001 --url ws://127.0.0.1:41234/ws/odds")
        );
    }

    #[test]
    fn suggested_command_repeats_typed_path() {
        assert_eq!(
            shell_word("target/debug/sports-bet"),
            "target/debug/sports-bet"
        );
        assert_eq!(shell_word("/opt/my apps/it's"), "'/opt/my apps/it'\\''s'");
        let addresses = Addresses {
            odds: "127.0.0.1:8080".parse().ok(),
            ..Addresses::default()
        };
        assert_eq!(
            startup_lines(&addresses, false, "./sports-bet")[2],
            "try:  ./sports-bet watch MATCH_001"
        );
    }

    #[test]
    fn start_line_names_roles_and_engines() {
        let config = Config::from_variables(&[
            ("ROLE", "wallet"),
            ("REDIS_URL", "redis://:hunter2@r"),
            ("DATABASE_URL", "postgres://u:hunter2@h/x"),
        ]);
        assert_eq!(
            start_line(&config.unwrap()),
            "running: roles wallet; bus: embedded; cache: Redis; database: PostgreSQL"
        );
    }
}
