//! `sports-bet watch`: a terminal client of `/ws/odds` that prints each change as a line and
//! reconnects by itself.

mod client;
pub mod line;
pub mod style;
pub mod view;

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use self::client::{WatchOptions, Watcher};
use self::style::Style;
use super::exit;
use crate::config::address::SecretUrl;
use crate::config::values::websocket_url;
use crate::domain::ids::EventId;
use crate::runtime::backoff::BackoffPolicy;

/// Prints each change of the odds of some events as a line
///
/// A line shows the time of the change (UTC), the event, its teams, the market and each price; an
/// arrow says which way a price has moved since it was last printed. The first lines are the odds
/// as they are now. Lines go to standard output, everything else to standard error. A lost
/// connection is made again, for as long as it takes; Ctrl-C ends it.
///
/// On a terminal a long line is continued below, indented, and arrows have colours, unless NO_COLOR
/// is set or TERM is dumb. Where the locale (LC_ALL, LC_CTYPE, LANG) is not UTF-8 everything is
/// ASCII: ^ and v are the arrows, other letters become ?, and --json escapes them.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Events to watch, as MATCH_001. One that is not known yet is shown as soon as it is
    #[arg(required = true, value_name = "EVENT")]
    pub events: Vec<EventId>,
    /// The server's WebSocket address, ws:// or wss://; user:password@ in it is sent as HTTP Basic
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws/odds", value_parser = websocket_url)]
    pub url: SecretUrl,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print each message of the server as it came
    #[arg(long)]
    pub json: bool,
}

/// Why watching ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The server is there, but does not take WebSocket clients at this address.
    #[error("{url} answered {status}: no WebSocket is served there, or not to this client")]
    Refused {
        /// The address, without credentials.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// Standard output takes no more.
    #[error("standard output: {0}")]
    Output(#[source] std::io::Error),
}

impl WatchError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            WatchError::Refused { .. } => exit::FAILED,
            WatchError::Output(_) => exit::OUTPUT,
        }
    }
}

/// Watches until `--count` changes are printed, nobody reads them any more, or Ctrl-C.
pub async fn run(args: WatchArgs) -> Result<(), WatchError> {
    let is_terminal = std::io::stdout().is_terminal();
    let watcher = Watcher::new(
        plan(args, Style::of(is_terminal, &variable)),
        std::io::stdout(),
        std::io::stderr(),
    );
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // It cannot be listened for; then it ends the process without us.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = watcher.watch() => ended,
        () = interrupt => Ok(()),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn plan(args: WatchArgs, style: Style) -> WatchOptions {
    let mut events: Vec<EventId> = Vec::new();
    for event in args.events {
        if !events.contains(&event) {
            events.push(event);
        }
    }
    WatchOptions {
        url: args.url,
        events,
        count: args.count,
        json: args.json,
        style,
        silence_limit: Duration::from_secs(60),
        connect_limit: Duration::from_secs(10),
        ask_again_after: Duration::from_secs(1),
        backoff: BackoffPolicy {
            first: Duration::from_millis(200),
            most: Duration::from_secs(10),
        },
    }
}

#[cfg(test)]
mod tests;
