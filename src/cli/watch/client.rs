//! The connection: subscribe, print what comes, and connect again when it is lost.

use std::io::{self, Write};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::WatchError;
use super::line::{line, printable};
use super::style::Style;
use super::view::{View, ViewEvent};
use crate::config::address::SecretUrl;
use crate::domain::ids::EventId;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::supplier::transport::upgrade_request;

/// The largest message that is taken: a snapshot of very many markets.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What is to be watched, and how.
pub(super) struct WatchOptions {
    pub url: SecretUrl,
    pub events: Vec<EventId>,
    /// End after so many lines.
    pub count: Option<u64>,
    pub json: bool,
    pub style: Style,
    /// A server that sends nothing for so long, not even a ping, is connected to anew.
    pub silence_limit: Duration,
    pub connect_limit: Duration,
    /// How soon a snapshot that could not be had is asked for again.
    pub ask_again_after: Duration,
    pub backoff: BackoffPolicy,
}

/// Why a connection is no more.
#[derive(Debug, thiserror::Error)]
enum ConnectionLoss {
    #[error("cannot connect: {0}")]
    Connect(tungstenite::Error),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    NoAnswer(Duration),
    #[error("the connection broke: {0}")]
    Broken(tungstenite::Error),
    #[error("the server closed the connection{0}")]
    Closed(String),
    #[error("the server was silent for {}", humantime::format_duration(*.0))]
    Silent(Duration),
}

/// Why a conversation ended.
enum Ending {
    /// Enough lines are printed, or nobody reads them any more.
    Done,
    /// It is to be taken up again.
    Lost(ConnectionLoss),
}

#[derive(Serialize)]
struct Subscribe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "eventId")]
    event_id: &'a EventId,
}

/// A client that prints lines to `O` and everything else to `N`.
pub(super) struct Watcher<O, N> {
    plan: WatchOptions,
    view: View,
    out: O,
    notices: N,
    printed: u64,
    backoff: Backoff,
    /// Whether the server has ever said anything.
    ever_heard: bool,
    /// Whether the loss that lasts now was told.
    loss_told: bool,
}

impl<O: Write, N: Write> Watcher<O, N> {
    pub(super) fn new(plan: WatchOptions, out: O, notices: N) -> Watcher<O, N> {
        let backoff = Backoff::new(plan.backoff, fastrand::u64(..));
        let view = View::new(&plan.events);
        Watcher {
            plan,
            view,
            out,
            notices,
            printed: 0,
            backoff,
            ever_heard: false,
            loss_told: false,
        }
    }

    /// Watches until there is nothing more to do.
    pub(super) async fn watch(mut self) -> Result<(), WatchError> {
        loop {
            let ending = match self.connect().await {
                Ok(socket) => self.converse(socket).await?,
                Err(ConnectionLoss::Connect(tungstenite::Error::Http(response)))
                    if self.is_final(response.status().as_u16()) =>
                {
                    return Err(WatchError::Refused {
                        url: self.plan.url.to_string(),
                        status: response.status().as_u16(),
                    });
                }
                Err(loss) => Ending::Lost(loss),
            };
            let Ending::Lost(loss) = ending else {
                return Ok(());
            };
            if !self.loss_told {
                self.loss_told = true;
                self.notice(&format!("{}: {loss}; connecting again", self.plan.url));
            }
            sleep(self.backoff.next_delay()).await;
        }
    }

    /// A server that has never served us and says that we are wrong will say so again.
    fn is_final(&self, status: u16) -> bool {
        !self.ever_heard && (400..500).contains(&status) && ![408, 425, 429].contains(&status)
    }

    async fn connect(&self) -> Result<Socket, ConnectionLoss> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .max_write_buffer_size(1024 * 1024);
        let opening = async {
            let request =
                upgrade_request(self.plan.url.expose()).map_err(ConnectionLoss::Connect)?;
            let (mut socket, _) = connect_async_with_config(request, Some(config), true)
                .await
                .map_err(ConnectionLoss::Connect)?;
            for event in &self.plan.events {
                socket
                    .feed(subscribe(event))
                    .await
                    .map_err(ConnectionLoss::Broken)?;
            }
            socket.flush().await.map_err(ConnectionLoss::Broken)?;
            Ok(socket)
        };
        let limit = self.plan.connect_limit;
        timeout(limit, opening)
            .await
            .unwrap_or(Err(ConnectionLoss::NoAnswer(limit)))
    }

    async fn converse(&mut self, mut socket: Socket) -> Result<Ending, WatchError> {
        let mut silent_at = Instant::now() + self.plan.silence_limit;
        // Events whose snapshot could not be had, and when to ask for them again.
        let mut ask_again: Option<(Instant, Vec<EventId>)> = None;
        loop {
            let ask_at = ask_again.as_ref().map_or(silent_at, |(at, _)| *at);
            let message = tokio::select! {
                // In this order: a server that never pauses must not keep us from asking.
                biased;
                () = sleep_until(ask_at), if ask_again.is_some() => {
                    for event in ask_again.take().into_iter().flat_map(|(_, events)| events) {
                        if let Err(error) = socket.send(subscribe(&event)).await {
                            return Ok(Ending::Lost(ConnectionLoss::Broken(error)));
                        }
                    }
                    continue;
                }
                message = timeout_at(silent_at, socket.next()) => message,
            };
            let text = match message {
                Err(_) => {
                    return Ok(Ending::Lost(ConnectionLoss::Silent(
                        self.plan.silence_limit,
                    )));
                }
                Ok(None) => return Ok(Ending::Lost(ConnectionLoss::Closed(String::new()))),
                Ok(Some(Err(error))) => return Ok(Ending::Lost(ConnectionLoss::Broken(error))),
                Ok(Some(Ok(Message::Close(frame)))) => {
                    return Ok(Ending::Lost(ConnectionLoss::Closed(closing_words(frame))));
                }
                Ok(Some(Ok(Message::Text(text)))) => Some(text),
                // Pings are answered by the next look at the socket.
                Ok(Some(Ok(_))) => None,
            };
            silent_at = Instant::now() + self.plan.silence_limit;
            let Some(text) = text else { continue };
            self.heard();
            let refused = match self.show(text.as_str()) {
                Ok(refused) => refused,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ending::Done),
                Err(error) => return Err(WatchError::Output(error)),
            };
            if self.plan.count.is_some_and(|count| self.printed >= count) {
                return Ok(Ending::Done);
            }
            if !refused.is_empty() {
                let (_, events) = ask_again.get_or_insert_with(|| {
                    (Instant::now() + self.plan.ask_again_after, Vec::new())
                });
                events.extend(
                    refused
                        .into_iter()
                        .filter(|event| self.plan.events.contains(event)),
                );
                // Each stands once: the list is no longer than that of the events.
                events.sort();
                events.dedup();
            }
        }
    }

    /// The server speaks: a loss is over, and the next one is told again.
    fn heard(&mut self) {
        if self.loss_told {
            self.loss_told = false;
            self.notice(&format!("{}: connected", self.plan.url));
        }
        self.ever_heard = true;
        if self.backoff.failures() > 0 {
            self.backoff.reset();
        }
    }

    /// Prints what a message says; gives the events whose snapshot is to be asked for again.
    fn show(&mut self, text: &str) -> io::Result<Vec<EventId>> {
        if self.plan.json {
            let text = self.plan.style.json(text).into_owned();
            self.print(&text)?;
        }
        let said = self.view.take(text).unwrap_or_else(|error| {
            self.notice(&error.to_string());
            Vec::new()
        });
        let mut ask_again = Vec::new();
        for one in said {
            match one {
                ViewEvent::Refused {
                    code,
                    message,
                    event_id,
                } => {
                    if !self.plan.json {
                        self.notice(&format!("{code}: {message}"));
                    }
                    ask_again.extend(event_id.filter(|_| code == "SNAPSHOT_UNAVAILABLE"));
                }
                ViewEvent::Change(change) if !self.plan.json => {
                    let style = self.plan.style;
                    self.print(&line(&change, style, style.width()))?;
                }
                ViewEvent::NothingKnown(event) if !self.plan.json => {
                    self.notice(&format!(
                        "{event}: nothing is known of it yet; its odds are shown when they come"
                    ));
                }
                ViewEvent::Stale(is_stale) if !self.plan.json => {
                    let notice = if is_stale {
                        "prices may be old from here on"
                    } else {
                        "prices are live again"
                    };
                    self.notice(&format!("{}: {notice}", self.plan.url));
                }
                ViewEvent::Change(_) | ViewEvent::NothingKnown(_) | ViewEvent::Stale(_) => {}
            }
        }
        Ok(ask_again)
    }

    fn print(&mut self, line: &str) -> io::Result<()> {
        if self.plan.count.is_some_and(|count| self.printed >= count) {
            return Ok(());
        }
        self.out.write_all(format!("{line}\n").as_bytes())?;
        self.out.flush()?;
        self.printed += 1;
        Ok(())
    }

    /// Says something beside the lines. Where nobody listens, nothing is to be done.
    fn notice(&mut self, text: &str) {
        // A server may repeat what it was sent.
        let text = self.plan.url.redaction().apply(text);
        let _ = writeln!(
            self.notices,
            "watch: {}",
            self.plan.style.text(&printable(&text))
        );
    }
}

fn subscribe(event_id: &EventId) -> Message {
    // Writing two strings to memory has no way to fail.
    Message::text(
        serde_json::to_string(&Subscribe {
            kind: "subscribe",
            event_id,
        })
        .unwrap_or_default(),
    )
}

fn closing_words(frame: Option<CloseFrame>) -> String {
    match frame {
        Some(frame) if frame.reason.is_empty() => format!(" ({})", u16::from(frame.code)),
        Some(frame) => format!(" ({} {})", u16::from(frame.code), frame.reason),
        None => String::new(),
    }
}
