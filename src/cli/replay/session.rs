//! One client of the replay server: its requests and its subscribed stream.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::Speed;
use super::playback::{Playback, Subscription};
use super::recording::Recording;
use crate::domain::json;

/// Large enough for a request with thousands of market ids.
const MAX_REQUEST: usize = 256 * 1024;
/// Messages that are due together are written together, up to about this size.
const WRITE_CHUNK: usize = 64 * 1024;
/// How long a client may stay connected without a subscription.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(15);
/// The exchange's limits of `heartbeatMs`.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 500..=5_000;

/// The settings shared by all clients.
#[derive(Debug)]
pub(super) struct Served {
    /// The recording.
    pub recording: Arc<Recording>,
    /// The speed of playback.
    pub speed: Speed,
    /// Whether playback restarts after the end.
    pub looping: bool,
    /// How long a client may read nothing before it is closed.
    pub write_timeout: Duration,
}

/// A connected client.
pub(super) struct Session {
    served: Arc<Served>,
    requests: FramedRead<ReadHalf<TcpStream>, LinesCodec>,
    writer: WriteHalf<TcpStream>,
    /// Text to write next; never much larger than a chunk.
    out: String,
    authenticated: bool,
    playback: Option<Playback>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    op: String,
    id: Option<i64>,
    market_filter: Option<MarketFilter>,
    heartbeat_ms: Option<u64>,
    segmentation_enabled: Option<bool>,
    initial_clk: Option<String>,
    clk: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MarketFilter {
    market_ids: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    status_code: &'static str,
    connection_closed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
}

/// Why a request is rejected: the wire error code and a message.
struct Failure(&'static str, String);

impl Session {
    /// Creates the session of a new client.
    pub(super) fn new(served: Arc<Served>, stream: TcpStream) -> Session {
        let (read, writer) = tokio::io::split(stream);
        let requests = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_REQUEST));
        Session {
            served,
            requests,
            writer,
            out: String::new(),
            authenticated: false,
            playback: None,
        }
    }

    /// Serves the client until it disconnects, is rejected or stops reading.
    pub(super) async fn run(mut self, connection_id: &str) -> io::Result<()> {
        self.push(&format!(
            "{{\"op\":\"connection\",\"connectionId\":\"{connection_id}\"}}"
        ));
        let subscribe_by = Instant::now() + SUBSCRIBE_LIMIT;
        loop {
            self.gather();
            self.write().await?;
            let wakes_at = self
                .playback
                .as_mut()
                .map_or(subscribe_by, Playback::wakes_at);
            tokio::select! {
                biased;
                line = self.requests.next() => match line {
                    Some(Ok(line)) => {
                        if let Err(id_and_failure) = self.on_line(&line) {
                            return self.refuse(id_and_failure).await;
                        }
                    }
                    Some(Err(error)) => {
                        return self.refuse((None, Failure("INVALID_INPUT", error.to_string()))).await;
                    }
                    None => return Ok(()),
                },
                () = sleep_until(wakes_at) => {
                    if self.playback.is_none() {
                        let failure = Failure("TIMEOUT", "no subscription within 15 s".to_owned());
                        return self.refuse((None, failure)).await;
                    }
                }
            }
        }
    }

    /// Moves due messages to the output, or a heartbeat if none is due.
    fn gather(&mut self) {
        let Some(playback) = &mut self.playback else {
            return;
        };
        let now = Instant::now();
        while self.out.len() < WRITE_CHUNK {
            let Some(message) = playback
                .next_message(now)
                .or_else(|| playback.heartbeat(now))
            else {
                break;
            };
            self.out.push_str(&message);
            self.out.push_str("\r\n");
        }
    }

    /// Writes the output. A slow client is waited for; a client that reads nothing times out.
    async fn write(&mut self) -> io::Result<()> {
        let mut rest = self.out.as_bytes();
        while !rest.is_empty() {
            let write = timeout(self.served.write_timeout, self.writer.write(rest));
            let written = write.await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")
            })??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = rest.get(written..).unwrap_or_default();
        }
        self.out.clear();
        Ok(())
    }

    fn push(&mut self, message: &str) {
        self.out.push_str(message);
        self.out.push_str("\r\n");
    }

    fn on_line(&mut self, line: &str) -> Result<(), (Option<i64>, Failure)> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let request: Request = json::from_str(line)
            .map_err(|error| (None, Failure("INVALID_INPUT", error.to_string())))?;
        let id = request.id;
        self.on_request(request).map_err(|failure| (id, failure))
    }

    fn on_request(&mut self, request: Request) -> Result<(), Failure> {
        let id = request.id;
        match request.op.as_str() {
            "authentication" => self.authenticated = true,
            "heartbeat" | "marketSubscription" if !self.authenticated => {
                return Err(Failure("NOT_AUTHORIZED", "authenticate first".to_owned()));
            }
            "heartbeat" => {}
            "marketSubscription" => self.playback = Some(self.subscribe(request)?),
            _ => {
                let supported =
                    "supported operations are authentication, marketSubscription and heartbeat";
                return Err(Failure("INVALID_REQUEST", supported.to_owned()));
            }
        }
        self.push_status(id, None);
        Ok(())
    }

    fn subscribe(&self, request: Request) -> Result<Playback, Failure> {
        let clocks = match (request.initial_clk, request.clk) {
            (Some(initial), Some(clk)) => Some((initial, clk)),
            (None, None) => None,
            _ => {
                return Err(Failure(
                    "INVALID_CLOCK",
                    "initialClk and clk must be sent together".to_owned(),
                ));
            }
        };
        let markets = request
            .market_filter
            .and_then(|filter| filter.market_ids)
            .filter(|ids| !ids.is_empty());
        let heartbeat = request.heartbeat_ms.unwrap_or(*HEARTBEAT_MS.end());
        let subscription = Subscription {
            id: request.id.unwrap_or(0),
            markets: markets.map(HashSet::from_iter),
            heartbeat: Duration::from_millis(
                heartbeat.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end()),
            ),
            segmented: request.segmentation_enabled.unwrap_or(false),
            clocks,
        };
        let Served {
            recording,
            speed,
            looping,
            ..
        } = &*self.served;
        Playback::start(
            recording.clone(),
            *speed,
            *looping,
            subscription,
            Instant::now(),
        )
        .map_err(|_| {
            Failure(
                "INVALID_CLOCK",
                "these clocks belong to another recording".to_owned(),
            )
        })
    }

    fn push_status(&mut self, id: Option<i64>, failure: Option<&Failure>) {
        let status = Status {
            op: "status",
            id,
            status_code: if failure.is_some() {
                "FAILURE"
            } else {
                "SUCCESS"
            },
            connection_closed: failure.is_some(),
            error_code: failure.map(|Failure(code, _)| *code),
            error_message: failure.map(|Failure(_, message)| message.as_str()),
        };
        // Serializing strings and numbers cannot fail.
        self.push(&serde_json::to_string(&status).unwrap_or_default());
    }

    /// Sends the reason and closes the connection.
    async fn refuse(mut self, (id, failure): (Option<i64>, Failure)) -> io::Result<()> {
        self.push_status(id, Some(&failure));
        self.write().await?;
        self.writer.shutdown().await
    }
}
