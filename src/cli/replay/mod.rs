//! Serves recordings over the Betfair Exchange Stream API, so that a supplier's stream can be
//! replayed at any speed.

pub(crate) mod playback;
pub(crate) mod recording;
pub(crate) mod server;
mod session;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub use server::{ReplayHandle, serve, start};

/// The arguments of `replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// Format in which the recordings are stored and served
    #[arg(long, value_enum, default_value = "betfair")]
    pub format: ReplayFormat,
    /// Speed relative to the recording, for example 10 or 0.5; max: as fast as the client reads
    #[arg(long, default_value = "1")]
    pub speed: Speed,
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8085")]
    pub listen: SocketAddr,
    /// Restart after the end, with timestamps that keep increasing
    #[arg(long = "loop")]
    pub looping: bool,
    /// Recordings, one message per line. All start together, regardless of when they were recorded
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// The format in which recordings are stored and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplayFormat {
    /// Exchange Stream messages (mcm), one per line; served over TCP for betfair:// suppliers
    Betfair,
}

/// The speed of playback.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Relative to the recorded speed.
    Times(f64),
    /// As fast as the client reads.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Speed, String> {
        match (text, text.parse::<f64>()) {
            ("max", _) => Ok(Speed::Max),
            (_, Ok(times)) if (0.001..=1_000_000.0).contains(&times) => Ok(Speed::Times(times)),
            _ => Err("a number from 0.001 to 1000000, or max".to_owned()),
        }
    }
}

/// The configuration of a replay server.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// The recording files.
    pub files: Vec<PathBuf>,
    /// The speed of playback.
    pub speed: Speed,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Whether playback restarts after the end.
    pub looping: bool,
    /// How long a client may read nothing before it is closed.
    pub write_timeout: Duration,
}

impl ReplayConfig {
    /// Plays `files` once at maximum speed, on a free port of this machine.
    pub fn at_once(files: Vec<PathBuf>) -> ReplayConfig {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        ReplayConfig {
            files,
            speed: Speed::Max,
            listen,
            looping: false,
            write_timeout: WRITE_TIMEOUT,
        }
    }
}

impl From<ReplayArgs> for ReplayConfig {
    fn from(args: ReplayArgs) -> ReplayConfig {
        let ReplayArgs {
            format: ReplayFormat::Betfair,
            speed,
            listen,
            looping,
            files,
        } = args;
        ReplayConfig {
            files,
            speed,
            listen,
            looping,
            write_timeout: WRITE_TIMEOUT,
        }
    }
}

/// Long enough for a client that is waiting for its own database.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A recording cannot be opened or read.
    #[error("{}: {cause}", file.display())]
    File {
        /// The recording.
        file: PathBuf,
        /// The I/O error.
        cause: std::io::Error,
    },
    /// A line of a recording cannot be parsed.
    #[error("{}, line {line}: {cause}", file.display())]
    Line {
        /// The recording.
        file: PathBuf,
        /// The line number, starting at 1.
        line: usize,
        /// The parse error.
        cause: String,
    },
    /// A recording contains no message.
    #[error("{} contains no message", file.display())]
    Empty {
        /// The recording.
        file: PathBuf,
    },
    /// A market change cannot be rewritten as an image.
    #[error("cannot rewrite a market change: {0}")]
    Rewrite(serde_json::Error),
    /// The server cannot listen on the address.
    #[error("cannot listen on {addr}: {cause}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The I/O error.
        cause: std::io::Error,
    },
    /// Signal handlers cannot be installed, or the loader thread ended.
    #[error("system error: {0}")]
    System(std::io::Error),
}
