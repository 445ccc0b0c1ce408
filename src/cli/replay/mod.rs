//! Serves recordings as the Betfair Exchange Stream API does, so that a supplier can be seen again
//! at any speed.

pub mod playback;
pub mod recording;
pub mod server;
mod session;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub use server::{ReplayHandle, serve, start};

/// What `replay` can be told.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// How the recordings are written and served
    #[arg(long, value_enum, default_value = "betfair")]
    pub format: ReplayFormat,
    /// How many times as fast as recorded, as 10 or 0.5; max: as fast as it is read
    #[arg(long, default_value = "1")]
    pub speed: Speed,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8085")]
    pub listen: SocketAddr,
    /// Start again after the end, with times that go on
    #[arg(long = "loop")]
    pub looping: bool,
    /// Recordings, one message a line. Each starts with the replay, whenever it was recorded
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// How recordings are written and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplayFormat {
    /// Exchange Stream messages (mcm), one a line; served over TCP for betfair:// suppliers
    Betfair,
}

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded.
    Times(f64),
    /// As fast as it is read.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Speed, String> {
        match (text, text.parse::<f64>()) {
            ("max", _) => Ok(Speed::Max),
            (_, Ok(times)) if (0.001..=1_000_000.0).contains(&times) => Ok(Speed::Times(times)),
            _ => Err("a number from 0.001 to 1000000, or max, is wanted".to_owned()),
        }
    }
}

/// How a replay server is set up.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// The recordings.
    pub files: Vec<PathBuf>,
    /// How fast they are played.
    pub speed: Speed,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// Whether they start again after their end.
    pub looping: bool,
    /// A client that takes nothing for so long is closed.
    pub write_timeout: Duration,
}

impl ReplayConfig {
    /// Plays `files` once, as fast as they are read, on a free port of this machine.
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

/// Long enough for a client that waits for its own database.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A recording cannot be opened or read.
    #[error("{}: {cause}", file.display())]
    File {
        /// The recording.
        file: PathBuf,
        /// What is wrong.
        cause: std::io::Error,
    },
    /// A line of a recording cannot be read.
    #[error("{}, line {line}: {cause}", file.display())]
    Line {
        /// The recording.
        file: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// A recording without a message.
    #[error("{} holds no message", file.display())]
    Empty {
        /// The recording.
        file: PathBuf,
    },
    /// A change cannot be written anew.
    #[error("a change of a market cannot be rewritten: {0}")]
    Rewrite(serde_json::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {cause}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What is wrong.
        cause: std::io::Error,
    },
    /// Signals cannot be awaited, or the files' thread ended.
    #[error("the system refuses: {0}")]
    System(std::io::Error),
}
