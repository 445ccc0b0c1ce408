//! The command `serve`: starts the platform, invites, and stops it when told.

use log::{error, info, warn};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::config::settings::Role;
use crate::platform::{Addresses, Platform, StartError};

/// Where `watch` connects unless told otherwise.
const DEFAULT_ODDS_PORT: u16 = 8080;

/// Why serving ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The signals that stop it cannot be listened for.
    #[error("signals cannot be listened for: {0}")]
    Signals(#[from] std::io::Error),
    /// An actor ended that nothing works without; a restart helps.
    #[error("the actor `{0}` has ended; the process stops, so that it can be started anew")]
    ActorEnded(&'static str),
    /// Something was cut off when it stopped.
    #[error("stopped, but not everything was finished in time")]
    CutOff,
}

/// Serves until SIGTERM or Ctrl-C. To be called within an actix system.
pub async fn run(config: Config) -> Result<(), ServeError> {
    raise_open_files();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let platform = Platform::start(&config).await?;
    let mut lines = invitation(platform.addresses(), &program());
    // In front of the last line, which says that everything listens.
    lines.insert(lines.len().saturating_sub(1), start_line(&config));
    lines.iter().for_each(|line| info!("{line}"));
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        actor = platform.ended() => Some(actor),
    };
    match ended {
        None => info!("stopping"),
        Some(actor) => error!("the actor `{actor}` has ended"),
    }
    let stopped_in_time = platform.stop().await;
    match ended {
        Some(actor) => Err(ServeError::ActorEnded(actor)),
        None if !stopped_in_time => Err(ServeError::CutOff),
        None => {
            info!("stopped");
            Ok(())
        }
    }
}

/// Which roles run, and on which engines: a misspelt address would otherwise run on an embedded one unnoticed.
fn start_line(config: &Config) -> String {
    let roles: Vec<_> = config.roles.iter().map(|role| role.name()).collect();
    let [bus, cache, database] = config.engines.names();
    format!("running: roles {}; bus: {bus}; cache: {cache}; database: {database}", roles.join(", "))
}

/// How this program was called. A path that was typed is typed again: the bare name may not be on the PATH.
fn program() -> String {
    let called = std::env::args().next().filter(|called| !called.is_empty());
    shell_word(&called.unwrap_or_else(|| "sports-bet".to_owned()))
}

fn shell_word(text: &str) -> String {
    let is_plain = text.chars().all(|letter| letter.is_alphanumeric() || "/._-+@%:,=~".contains(letter));
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// What a person may do now: a line each.
fn invitation(addresses: &Addresses, program: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(odds) = addresses.odds {
        let url = if odds.port() == DEFAULT_ODDS_PORT { String::new() } else { format!(" --url ws://{odds}/ws/odds") };
        lines.push(format!("REST at http://{odds}/v1/events, WebSocket at ws://{odds}/ws/odds"));
        lines.push(format!("try:  curl http://{odds}/v1/events/MATCH_001/odds"));
        lines.push(format!("try:  {program} watch MATCH_001{url}"));
    }
    if let Some(simulator) = addresses.simulator {
        lines.push(format!("simulator at ws://{simulator}/ws and http://{simulator}/supplier/confirm"));
    }
    if let (Some(wallet), Some(bets)) = (addresses.wallet, addresses.bets) {
        lines.push(format!("wallets at http://{wallet}/wallet, bets at http://{bets}/bets"));
    } else if let Some(wallet) = addresses.wallet {
        lines.push(format!("wallets at http://{wallet}/wallet"));
    } else if let Some(bets) = addresses.bets {
        lines.push(format!("bets at http://{bets}/bets"));
    }
    let health = Role::ALL.iter().filter_map(|role| Some((role, addresses.health.get(role)?)));
    let health: Vec<_> = health.map(|(role, address)| format!("{} http://{address}", role.name())).collect();
    lines.push(format!("/healthz and /metrics: {}", health.join(", ")));
    lines
}

/// A client takes two descriptors; the soft limit of most systems is far too low for a full stadium.
fn raise_open_files() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => log::debug!("up to {limit} open files"),
        Err(failure) => warn!("the limit of open files was not raised: {failure}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_invitation_names_every_address_and_lines_to_copy() {
        let mut addresses = Addresses {
            odds: "127.0.0.1:8080".parse().ok(),
            simulator: "127.0.0.1:8081".parse().ok(),
            wallet: "127.0.0.1:8082".parse().ok(),
            bets: "127.0.0.1:8083".parse().ok(),
            ..Addresses::default()
        };
        addresses.health.insert(Role::Odds, "127.0.0.1:9095".parse().unwrap());
        addresses.health.insert(Role::Ingest, "127.0.0.1:9096".parse().unwrap());
        insta::assert_snapshot!(invitation(&addresses, "sports-bet").join("\n"), @r"
        REST at http://127.0.0.1:8080/v1/events, WebSocket at ws://127.0.0.1:8080/ws/odds
        try:  curl http://127.0.0.1:8080/v1/events/MATCH_001/odds
        try:  sports-bet watch MATCH_001
        simulator at ws://127.0.0.1:8081/ws and http://127.0.0.1:8081/supplier/confirm
        wallets at http://127.0.0.1:8082/wallet, bets at http://127.0.0.1:8083/bets
        /healthz and /metrics: ingest http://127.0.0.1:9096, odds http://127.0.0.1:9095
        ");
        addresses.odds = "127.0.0.1:41234".parse().ok();
        assert!(
            invitation(&addresses, "sports-bet")[2].ends_with("watch MATCH_001 --url ws://127.0.0.1:41234/ws/odds")
        );
    }

    #[test]
    fn the_command_to_copy_is_the_one_that_was_typed() {
        assert_eq!(shell_word("target/debug/sports-bet"), "target/debug/sports-bet");
        assert_eq!(shell_word("/opt/my apps/it's"), "'/opt/my apps/it'\\''s'");
        let addresses = Addresses { odds: "127.0.0.1:8080".parse().ok(), ..Addresses::default() };
        assert_eq!(invitation(&addresses, "./sports-bet")[2], "try:  ./sports-bet watch MATCH_001");
    }

    #[test]
    fn the_start_line_names_roles_and_engines() {
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
