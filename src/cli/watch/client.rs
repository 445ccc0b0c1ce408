//! The connection: subscribes, prints messages, and reconnects after a loss.

use std::io::{self, Write};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::WatchError;
use super::line::{line, printable};
use super::style::Style;
use super::subscribe::subscribe;
use super::view::{View, ViewEvent};
use crate::config::address::SecretUrl;
use crate::domain::ids::EventId;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::supplier::transport::upgrade_request;
use crate::telemetry::redact::Redaction;

/// Maximum message size: a snapshot of very many markets.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Which events to watch, and how.
pub(super) struct WatchOptions {
    pub url: SecretUrl,
    /// Sent in the place of a login in the URL.
    pub token: Option<SecretString>,
    pub events: Vec<EventId>,
    /// Stop after this many lines.
    pub count: Option<u64>,
    pub conflate_ms: Option<u32>,
    pub json: bool,
    pub style: Style,
    /// How long the server may be silent, without even a ping, before the client reconnects.
    pub silence_limit: Duration,
    pub connect_limit: Duration,
    /// Delay before an unavailable snapshot is requested again.
    pub retry_after: Duration,
    pub backoff: BackoffPolicy,
}

/// Why a connection was lost.
#[derive(Debug, thiserror::Error)]
enum ConnectionLoss {
    #[error("cannot connect: {0}")]
    Connect(tungstenite::Error),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    NoAnswer(Duration),
    #[error("connection lost: {0}")]
    Broken(tungstenite::Error),
    #[error("the server closed the connection{0}")]
    Closed(String),
    #[error("the server ended the session{0}")]
    Ended(String),
    #[error("the server sent nothing for {}", humantime::format_duration(*.0))]
    Silent(Duration),
}

/// Why a session with the server ended.
enum Ending {
    /// Enough lines are printed, or the reader closed the output.
    Done,
    /// The connection was lost; reconnect.
    Lost(ConnectionLoss),
    /// The server stops; connect elsewhere at once.
    Moving,
}

/// What a message of the server asks for.
#[derive(Default)]
struct Requests {
    /// The events whose snapshot must be requested again.
    again: Vec<EventId>,
    /// Within which time the client has to connect elsewhere.
    reconnect: Option<Duration>,
}

/// What a session does later.
#[derive(Default)]
struct Plan {
    /// Events whose snapshot was unavailable or not allowed yet, and when to request it again.
    retry: Option<(Instant, Vec<EventId>)>,
    /// When to connect elsewhere.
    moving_at: Option<Instant>,
}

/// A client that prints changes to `O` and notices to `N`.
pub(super) struct Watcher<O, N> {
    options: WatchOptions,
    view: View,
    out: O,
    notices: N,
    printed: u64,
    backoff: Backoff,
    /// Whether the server has ever sent a message.
    ever_connected: bool,
    /// Whether the current connection loss was reported.
    loss_reported: bool,
}

impl<O: Write, N: Write> Watcher<O, N> {
    pub(super) fn new(options: WatchOptions, out: O, notices: N) -> Watcher<O, N> {
        let backoff = Backoff::new(options.backoff, fastrand::u64(..));
        let view = View::new(&options.events);
        Watcher {
            options,
            view,
            out,
            notices,
            printed: 0,
            backoff,
            ever_connected: false,
            loss_reported: false,
        }
    }

    /// Watches until `--count` is reached, the output is closed, or the server rejects the client.
    pub(super) async fn watch(mut self) -> Result<(), WatchError> {
        loop {
            let ending = match self.connect().await {
                Ok(socket) => match self.run_session(socket).await? {
                    Ending::Lost(ConnectionLoss::Ended(reason)) => {
                        return Err(WatchError::Ended {
                            url: self.options.url.to_string(),
                            reason: self.redact(&reason),
                        });
                    }
                    ending => ending,
                },
                Err(ConnectionLoss::Connect(tungstenite::Error::Http(response)))
                    if self.is_final(response.status().as_u16()) =>
                {
                    return Err(WatchError::Refused {
                        url: self.options.url.to_string(),
                        status: response.status().as_u16(),
                    });
                }
                Err(ConnectionLoss::Connect(tungstenite::Error::Io(error)))
                    if !self.ever_connected && is_untrusted(&error) =>
                {
                    return Err(WatchError::Untrusted {
                        url: self.options.url.to_string(),
                        cause: error.to_string(),
                    });
                }
                Err(loss) => Ending::Lost(loss),
            };
            let loss = match ending {
                Ending::Done => return Ok(()),
                Ending::Moving => continue,
                Ending::Lost(loss) => loss,
            };
            if !self.loss_reported {
                self.loss_reported = true;
                self.notice(&format!("{}: {loss}; reconnecting", self.options.url));
            }
            sleep(self.backoff.next_delay()).await;
        }
    }

    /// Whether a client error is final: if the server has never sent a message, or does not accept
    /// the credential any more, a retry gives the same result.
    fn is_final(&self, status: u16) -> bool {
        let is_lasting = (400..500).contains(&status) && ![408, 425, 429].contains(&status);
        is_lasting && (!self.ever_connected || status == 401)
    }

    fn request(&self) -> Result<Request, tungstenite::Error> {
        let mut request = upgrade_request(self.options.url.expose())?;
        if let Some(token) = &self.options.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
                .map_err(|_| tungstenite::Error::Io(io::Error::other("the token is not ASCII")))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<Socket, ConnectionLoss> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .max_write_buffer_size(1024 * 1024);
        let opening = async {
            let request = self.request().map_err(ConnectionLoss::Connect)?;
            let (mut socket, _) = connect_async_with_config(request, Some(config), true)
                .await
                .map_err(ConnectionLoss::Connect)?;
            for message in self.subscribe(&self.options.events) {
                socket.feed(message).await.map_err(ConnectionLoss::Broken)?;
            }
            socket.flush().await.map_err(ConnectionLoss::Broken)?;
            Ok(socket)
        };
        let limit = self.options.connect_limit;
        timeout(limit, opening)
            .await
            .unwrap_or(Err(ConnectionLoss::NoAnswer(limit)))
    }

    async fn run_session(&mut self, mut socket: Socket) -> Result<Ending, WatchError> {
        self.view.connected();
        let mut limit = self.options.silence_limit;
        let mut silent_at = Instant::now() + limit;
        let mut plan = Plan::default();
        loop {
            let retry_at = plan.retry.as_ref().map_or(silent_at, |(at, _)| *at);
            let message = tokio::select! {
                // Biased: a server that never pauses must not prevent the new request.
                biased;
                () = sleep_until(plan.moving_at.unwrap_or(silent_at)), if plan.moving_at.is_some() => {
                    return Ok(Ending::Moving);
                }
                () = sleep_until(retry_at), if plan.retry.is_some() => {
                    let events = plan.retry.take().map(|(_, events)| events).unwrap_or_default();
                    for message in self.subscribe(&events) {
                        if let Err(error) = socket.send(message).await {
                            return Ok(Ending::Lost(ConnectionLoss::Broken(error)));
                        }
                    }
                    continue;
                }
                message = timeout_at(silent_at, socket.next()) => message,
            };
            let received = match message {
                Err(_) => Err(ConnectionLoss::Silent(limit)),
                Ok(None) => Err(ConnectionLoss::Closed(String::new())),
                Ok(Some(message)) => text_of(message),
            };
            let text = match received {
                Ok(text) => text,
                Err(loss) => return Ok(Ending::Lost(loss)),
            };
            silent_at = Instant::now() + limit;
            let Some(text) = text else { continue };
            self.on_message();
            let requests = match self.show(text.as_str()) {
                Ok(requests) => requests,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ending::Done),
                Err(error) => return Err(WatchError::Output(error)),
            };
            limit = self.view.silence_limit(self.options.silence_limit);
            silent_at = Instant::now() + limit;
            if self
                .options
                .count
                .is_some_and(|count| self.printed >= count)
            {
                return Ok(Ending::Done);
            }
            self.plan(requests, &mut plan);
        }
    }

    /// Adds what a message asks for to what is done later.
    fn plan(&self, requests: Requests, plan: &mut Plan) {
        // At a random time, so that not all clients of the server move at once.
        if let Some(within) = requests.reconnect {
            plan.moving_at = Some(Instant::now() + within.mul_f64(fastrand::f64()));
        }
        if requests.again.is_empty() {
            return;
        }
        let retry_at = Instant::now() + self.options.retry_after;
        let (_, events) = plan.retry.get_or_insert((retry_at, Vec::new()));
        let wanted = |event: &EventId| self.options.events.contains(event);
        events.extend(requests.again.into_iter().filter(wanted));
        // Without duplicates, so the list is never longer than the events.
        events.sort();
        events.dedup();
    }

    /// A message arrived: a connection loss is over, and the next loss is reported again.
    fn on_message(&mut self) {
        if self.loss_reported {
            self.loss_reported = false;
            self.notice(&format!("{}: connected", self.options.url));
        }
        self.ever_connected = true;
        if self.backoff.failures() > 0 {
            self.backoff.reset();
        }
    }

    /// Prints the changes in a message. Returns what the client has to do.
    fn show(&mut self, text: &str) -> io::Result<Requests> {
        if self.options.json {
            let text = self.options.style.json(text).into_owned();
            self.print(&text)?;
        }
        let view_events = self.view.take(text).unwrap_or_else(|error| {
            self.notice(&error.to_string());
            Vec::new()
        });
        let mut requests = Requests::default();
        for view_event in view_events {
            if let ViewEvent::Reconnect(within) = &view_event {
                requests.reconnect = Some(*within);
            }
            match view_event {
                ViewEvent::Refused {
                    code,
                    message,
                    event_id,
                } => {
                    if !self.options.json {
                        self.notice(&format!("{code}: {message}"));
                    }
                    match code.as_str() {
                        "SNAPSHOT_UNAVAILABLE" => requests.again.extend(event_id),
                        // It may concern many events, and names at most one of them.
                        "RATE_LIMITED" => requests.again.extend(self.view.awaited().cloned()),
                        _ => {}
                    }
                }
                ViewEvent::Change(change) if !self.options.json => {
                    let style = self.options.style;
                    self.print(&line(&change, style, style.width()))?;
                }
                other if !self.options.json => {
                    if let Some(notice) = self.notice_of(&other) {
                        self.notice(&notice);
                    }
                }
                // The server's messages were printed.
                _ => {}
            }
        }
        Ok(requests)
    }

    /// The notice of an event that is not printed as a line.
    fn notice_of(&self, view_event: &ViewEvent) -> Option<String> {
        let notice = match view_event {
            ViewEvent::Change(_) | ViewEvent::Refused { .. } => return None,
            ViewEvent::Reconnect(_) => {
                format!("{}: the server stops; connecting again", self.options.url)
            }
            ViewEvent::NothingKnown(event) => {
                format!("{event}: unknown so far; its odds are shown when they arrive")
            }
            ViewEvent::Resumed(event, markets) => {
                format!("{event}: resumed: {markets} markets changed")
            }
            ViewEvent::Replaced(event) => {
                format!("{event}: not resumed: the server sent every market")
            }
            ViewEvent::SourceStale(source, true) => {
                format!("source {source} is lost: its markets are suspended")
            }
            ViewEvent::SourceStale(source, false) => format!("source {source} is live again"),
            ViewEvent::Stale(true) => {
                format!("{}: prices may be stale from now on", self.options.url)
            }
            ViewEvent::Stale(false) => format!("{}: prices are live again", self.options.url),
        };
        Some(notice)
    }

    fn subscribe(&self, events: &[EventId]) -> impl Iterator<Item = Message> {
        subscribe(events, &self.view, self.options.conflate_ms)
    }

    fn print(&mut self, line: &str) -> io::Result<()> {
        if self
            .options
            .count
            .is_some_and(|count| self.printed >= count)
        {
            return Ok(());
        }
        self.out.write_all(format!("{line}\n").as_bytes())?;
        self.out.flush()?;
        self.printed += 1;
        Ok(())
    }

    /// Removes secrets: a server may echo what it was sent.
    fn redact(&self, text: &str) -> String {
        let token = self.options.token.as_ref().map(ExposeSecret::expose_secret);
        let text = self.options.url.redaction().apply(text);
        Redaction::of(token).apply(&text)
    }

    /// Prints a notice next to the lines. A failure is ignored: nobody reads them.
    fn notice(&mut self, text: &str) {
        let text = self.redact(text);
        let _ = writeln!(
            self.notices,
            "watch: {}",
            self.options.style.text(&printable(&text))
        );
    }
}

/// Whether the server's certificate is not accepted, or this client has no authority to trust.
fn is_untrusted(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let is_rejected = matches!(cause, Some(rustls::Error::InvalidCertificate(_)));
    // What is not found are the certificates of authorities: no other step opens a file.
    is_rejected || error.kind() == io::ErrorKind::NotFound
}

/// The text of a message, or why the connection is lost. Other messages have none: pings are
/// answered when the socket is next polled.
fn text_of(
    message: Result<Message, tungstenite::Error>,
) -> Result<Option<Utf8Bytes>, ConnectionLoss> {
    match message {
        Err(error) => Err(ConnectionLoss::Broken(error)),
        Ok(Message::Close(frame)) => {
            let is_final = |frame: &CloseFrame| (3_500..4_000).contains(&u16::from(frame.code));
            let is_final = frame.as_ref().is_some_and(is_final);
            let reason = close_reason(frame);
            Err(if is_final {
                ConnectionLoss::Ended(reason)
            } else {
                ConnectionLoss::Closed(reason)
            })
        }
        Ok(Message::Text(text)) => Ok(Some(text)),
        Ok(_) => Ok(None),
    }
}

fn close_reason(frame: Option<CloseFrame>) -> String {
    match frame {
        Some(frame) if frame.reason.is_empty() => format!(" ({})", u16::from(frame.code)),
        Some(frame) => format!(" ({} {})", u16::from(frame.code), frame.reason),
        None => String::new(),
    }
}
