//! `sports-bet watch`: a terminal client of `/ws/odds` that prints one line per change and
//! reconnects automatically.

mod client;
pub(crate) mod line;
pub(crate) mod style;
mod subscribe;
pub(crate) mod view;

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use self::client::{WatchOptions, Watcher};
use self::style::Style;
use super::exit;
use crate::config::address::SecretUrl;
use crate::config::values::websocket_url;
use crate::domain::ids::EventId;
use crate::runtime::backoff::BackoffPolicy;

/// Subscribes to events and prints one line per change
///
/// A line shows the time of the change (UTC), the event, its teams, the market and each price; an
/// arrow shows whether a price has moved up or down since it was last printed. The first lines show
/// the current odds. Lines go to standard output, everything else to standard error. A lost
/// connection is retried until it succeeds, and then only what was missed is sent; Ctrl-C stops the
/// program.
///
/// On a terminal, long lines wrap with an indent and arrows are coloured, unless NO_COLOR is set or
/// TERM is dumb. If the locale (LC_ALL, LC_CTYPE, LANG) is not UTF-8, the output is ASCII: the
/// arrows are ^ and v, other letters become ?, and --json escapes them.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Events to watch, for example MATCH_001. An event that is still unknown is shown as soon as
    /// its odds arrive
    #[arg(required = true, value_name = "EVENT")]
    pub events: Vec<EventId>,
    /// WebSocket URL of the server, ws:// or wss://; user:password@ in it is sent as HTTP Basic
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws/odds", value_parser = websocket_url)]
    pub url: SecretUrl,
    /// Token or API key, sent as `Authorization: Bearer` in the place of a login in the URL. Prefer
    /// the variable: other users of this machine can see flags
    #[arg(long, env = "SPORTS_BET_TOKEN", hide_env_values = true, value_parser = credential)]
    pub token: Option<SecretString>,
    /// Stop after this many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Let the server hold changes back for up to this long, and send only the latest of each
    /// market; a suspension is always sent at once
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=120_000))]
    pub conflate_ms: Option<u32>,
    /// Print each server message unchanged
    #[arg(long)]
    pub json: bool,
}

/// Why watching failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The server is reachable, but does not accept WebSocket clients at this address.
    #[error(
        "{url} answered {status}: the URL is not a WebSocket endpoint, or this client is not allowed"
    )]
    Refused {
        /// The address, without credentials.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server's certificate is not trusted.
    #[error(
        "{url}: the server's certificate is not trusted: {cause}; SSL_CERT_FILE names a PEM file with the authorities to trust instead of the system's"
    )]
    Untrusted {
        /// The address, without credentials.
        url: String,
        /// The fault.
        cause: String,
    },
    /// The server has ended the session, and would end the next one too.
    #[error("{url} ended the session{reason}: this client is not allowed")]
    Ended {
        /// The address, without credentials.
        url: String,
        /// The close code and its text.
        reason: String,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] std::io::Error),
}

impl WatchError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            WatchError::Refused { .. }
            | WatchError::Untrusted { .. }
            | WatchError::Ended { .. } => exit::FAILED,
            WatchError::Output(_) => exit::OUTPUT,
        }
    }
}

/// Watches until `--count` changes are printed, the output is closed, or Ctrl-C.
pub async fn run(args: WatchArgs) -> Result<(), WatchError> {
    let is_terminal = std::io::stdout().is_terminal();
    let watcher = Watcher::new(
        options(args, Style::of(is_terminal, &variable)),
        std::io::stdout(),
        std::io::stderr(),
    );
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // The handler cannot be installed; Ctrl-C then ends the process by default.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = watcher.watch() => ended,
        () = interrupt => Ok(()),
    }
}

/// Parses a token or an API key. It has to fit into a header.
fn credential(text: &str) -> Result<SecretString, String> {
    let is_credential = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_credential
        .then(|| SecretString::from(text))
        .ok_or_else(|| "a token or an API key, without white space".to_owned())
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn options(args: WatchArgs, style: Style) -> WatchOptions {
    let mut events: Vec<EventId> = Vec::new();
    for event in args.events {
        if !events.contains(&event) {
            events.push(event);
        }
    }
    WatchOptions {
        url: args.url,
        token: args.token,
        events,
        count: args.count,
        conflate_ms: args.conflate_ms,
        json: args.json,
        style,
        silence_limit: Duration::from_secs(60),
        connect_limit: Duration::from_secs(10),
        retry_after: Duration::from_secs(1),
        backoff: BackoffPolicy {
            first: Duration::from_millis(200),
            most: Duration::from_secs(10),
        },
    }
}

#[cfg(test)]
mod tests;
