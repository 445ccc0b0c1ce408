//! `sports-bet watch`: a terminal client of `/ws/odds` that prints each change as a line and reconnects by itself.

mod client;
pub mod line;
pub mod view;

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use url::Url;

use self::client::{Plan, Watcher};
use crate::domain::backoff::BackoffPolicy;
use crate::domain::ids::EventId;

/// Prints each change of the odds of some events as a line
///
/// A line shows the time of the change (UTC), the event, its teams, the market and each price; ▲ and ▼ say which way a
/// price has moved since it was last printed (in colour on a terminal, unless NO_COLOR is set). The first lines are the
/// odds as they are now. Lines go to standard output, everything else to standard error. A lost connection is made
/// again, for as long as it takes; Ctrl-C ends it.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Events to watch, as MATCH_001. One that is not known yet is shown as soon as it is
    #[arg(required = true, value_name = "EVENT")]
    pub events: Vec<EventId>,
    /// The server's WebSocket address, ws:// or wss://
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws/odds")]
    pub url: Url,
    /// End after so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print each message of the server as it came
    #[arg(long)]
    pub json: bool,
}

/// Why watching ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The address is no WebSocket address.
    #[error("--url {url}: a ws:// or wss:// address is wanted, not {scheme}://")]
    NotWebSocket {
        /// The address, without credentials.
        url: String,
        /// Its scheme.
        scheme: String,
    },
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

/// Watches until `--count` lines are printed, nobody reads them any more, or Ctrl-C.
pub async fn run(args: WatchArgs) -> Result<(), WatchError> {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = std::io::stdout().is_terminal() && !no_colour;
    let watcher = Watcher::new(plan(args, colour)?, std::io::stdout(), std::io::stderr());
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

fn plan(args: WatchArgs, colour: bool) -> Result<Plan, WatchError> {
    let name = without_credentials(&args.url);
    if !matches!(args.url.scheme(), "ws" | "wss") {
        return Err(WatchError::NotWebSocket { url: name, scheme: args.url.scheme().to_owned() });
    }
    let mut events: Vec<EventId> = Vec::new();
    for event in args.events {
        if !events.contains(&event) {
            events.push(event);
        }
    }
    Ok(Plan {
        url: args.url,
        name,
        events,
        count: args.count,
        json: args.json,
        colour,
        silence_limit: Duration::from_secs(60),
        connect_limit: Duration::from_secs(10),
        ask_again_after: Duration::from_secs(1),
        backoff: BackoffPolicy { first: Duration::from_millis(200), most: Duration::from_secs(10) },
    })
}

/// An address as it may be shown.
fn without_credentials(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for an address that cannot have credentials.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.to_string()
}

#[cfg(test)]
mod tests;
