//! Carries the frames of a supplier: WebSocket for the native format, CRLF-delimited lines over TCP
//! or TLS for Betfair.
//!
//! Reading is lazy. Apart from small fixed buffers nothing is read from the socket unless `inbound`
//! is polled, so a feed that waits for the bus slows its supplier down through TCP backpressure.

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use futures_util::{FutureExt, Sink, SinkExt};
use http::header::AUTHORIZATION;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, Decoder, FramedRead};
use url::{Host, Url};

use super::Endpoint;
use crate::config::address::{self, Login};
use crate::config::settings::SupplierSettings;
use crate::runtime::tls::{self, TlsSetupError};
use crate::telemetry::role;

/// An item received from a supplier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A frame for the decoder.
    Frame(Bytes),
    /// A ping or pong, which shows that the supplier is alive.
    Alive,
}

/// An item to send to a supplier.
pub enum Outbound {
    /// A frame from the decoder. May contain credentials, so the type has no `Debug`.
    Text(String),
    /// A ping. Ignored for Betfair: its stream has no pings and sends heartbeats unprompted.
    Ping,
}

/// A connection to a supplier. It closes when `inbound` is dropped.
pub struct Connection {
    /// Received items. An error is the last item; an end without an error means that the supplier
    /// closed the connection.
    pub inbound: BoxStream<'static, Result<Inbound, TransportError>>,
    /// The short queue of the writer. If the supplier accepts no data, the writer ends the
    /// connection.
    pub outbound: mpsc::Sender<Outbound>,
}

/// Why a connection failed or ended.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The connection was not established in time.
    #[error("no connection within {}", humantime::format_duration(*.0))]
    ConnectTimeout(Duration),
    /// The TCP connection failed.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// TLS cannot be configured.
    #[error(transparent)]
    TlsSetup(#[from] TlsSetupError),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server rejected the WebSocket upgrade.
    #[error("WebSocket handshake: {0}")]
    Handshake(tungstenite::Error),
    /// A frame exceeds the size limit.
    #[error("a frame is larger than {0} bytes (SUPPLIER_MAX_FRAME)")]
    FrameTooLarge(usize),
    /// Reading failed.
    #[error("connection lost: {0}")]
    Read(String),
    /// Writing failed.
    #[error("cannot write: {0}")]
    Write(String),
    /// The supplier accepted no data in time.
    #[error("the supplier accepted no data for {}", humantime::format_duration(*.0))]
    WriteTimeout(Duration),
}

impl TransportError {
    /// All values of [`TransportError::reason`].
    pub const REASONS: [&str; 8] = [
        "connect_timeout",
        "connect",
        "tls",
        "handshake",
        "frame_too_large",
        "read",
        "write",
        "write_timeout",
    ];

    /// A fixed code for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            TransportError::ConnectTimeout(_) => "connect_timeout",
            TransportError::Connect(_) => "connect",
            TransportError::TlsSetup(_) | TransportError::Tls(_) => "tls",
            TransportError::Handshake(_) => "handshake",
            TransportError::FrameTooLarge(_) => "frame_too_large",
            TransportError::Read(_) => "read",
            TransportError::Write(_) => "write",
            TransportError::WriteTimeout(_) => "write_timeout",
        }
    }
}

/// The capacity of the writer's queue. A feed sends pings and a few requests, not a stream.
const OUTBOUND_QUEUE: usize = 16;
/// How long a supplier that sent a close frame has to close the connection itself.
const CLOSE_GRACE: Duration = Duration::from_millis(500);
const READ_BUFFER: usize = 16 * 1024;
const WRITE_BUFFER: usize = 16 * 1024;

/// Connects, and performs the TLS handshake and the upgrade if the endpoint needs them, all within
/// the read timeout.
pub async fn connect(
    endpoint: &Endpoint,
    settings: &SupplierSettings,
) -> Result<Connection, TransportError> {
    let limit = settings.supplier_read_timeout;
    timeout(limit, open(endpoint, settings))
        .await
        .map_err(|_| TransportError::ConnectTimeout(limit))?
}

async fn open(
    endpoint: &Endpoint,
    settings: &SupplierSettings,
) -> Result<Connection, TransportError> {
    match endpoint {
        Endpoint::Native(url) => {
            let host = match url.host() {
                Some(Host::Ipv6(address)) => address.to_string(),
                Some(host) => host.to_string(),
                None => {
                    return Err(TransportError::Connect(io::Error::other(
                        "the URL has no host",
                    )));
                }
            };
            let secure = url.scheme() == "wss";
            let port = url
                .port_or_known_default()
                .unwrap_or(if secure { 443 } else { 80 });
            let io = open_io(&host, port, secure, settings).await?;
            open_websocket(url, io, settings).await
        }
        Endpoint::Betfair { host, port, tls } => {
            let io = open_io(host, *port, *tls, settings).await?;
            Ok(open_lines(io, settings))
        }
    }
}

/// A TCP or TLS stream.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn open_io(
    host: &str,
    port: u16,
    tls: bool,
    settings: &SupplierSettings,
) -> Result<Box<dyn Io>, TransportError> {
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(TransportError::Connect)?;
    stream.set_nodelay(true).map_err(TransportError::Connect)?;
    if !tls {
        return Ok(Box::new(stream));
    }
    let ca_file = settings.supplier_ca_file.clone();
    let config = tokio::task::spawn_blocking(role::carry(move || {
        tls::client_config("SUPPLIER_CA_FILE", ca_file.as_deref())
    }))
    .await
    .map_err(|error| TransportError::Tls(error.to_string()))??;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        TransportError::Tls(format!("`{host}` is neither a host name nor an IP address"))
    })?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| explain_tls(&error))?;
    Ok(Box::new(stream))
}

/// Adds the most likely cause to a failed TLS handshake.
fn explain_tls(error: &io::Error) -> TransportError {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    TransportError::Tls(match cause {
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("the server does not speak TLS on this port ({error})")
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!(
                "the server's certificate is not trusted ({error}); add its authority with SUPPLIER_CA_FILE"
            )
        }
        _ => error.to_string(),
    })
}

async fn open_websocket(
    url: &Url,
    io: Box<dyn Io>,
    settings: &SupplierSettings,
) -> Result<Connection, TransportError> {
    let max = max_frame(settings);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(max))
        .max_frame_size(Some(max));
    let request = upgrade_request(url).map_err(TransportError::Handshake)?;
    let (socket, _) = tokio_tungstenite::client_async_with_config(request, io, Some(config))
        .await
        .map_err(TransportError::Handshake)?;
    let (sink, stream) = socket.split();
    let (outbound, queue) = mpsc::channel(OUTBOUND_QUEUE);
    let writer = Writer::start(write_messages(sink, queue, settings.supplier_read_timeout).boxed());
    let inbound = until_closed(stream.boxed())
        .filter_map(move |message| async move { read_message(message, max) });
    Ok(Connection {
        inbound: guarded(inbound.boxed(), writer),
        outbound,
    })
}

/// The request that opens a WebSocket. Credentials in the address are sent as HTTP Basic
/// authentication; tungstenite would drop them.
pub fn upgrade_request(url: &Url) -> Result<Request, tungstenite::Error> {
    let mut request = address::without_login(url).as_str().into_client_request()?;
    if let Some(login) = Login::of(url) {
        let value = login
            .authorization()
            .map_err(|error| tungstenite::Error::Io(io::Error::other(error)))?;
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// The stream up to the supplier's close frame. Polling once more answers the close frame; a
/// supplier that keeps the connection open anyway is not waited for.
fn until_closed(
    stream: BoxStream<'static, Result<Message, tungstenite::Error>>,
) -> impl Stream<Item = Result<Message, tungstenite::Error>> + Send {
    futures_util::stream::unfold(stream, |mut stream| async move {
        let message = stream.next().await?;
        if matches!(message, Ok(Message::Close(_))) {
            // Any result means the end.
            let _ = timeout(CLOSE_GRACE, stream.next()).await;
            return None;
        }
        Some((message, stream))
    })
}

fn max_frame(settings: &SupplierSettings) -> usize {
    usize::try_from(settings.supplier_max_frame.as_u64()).unwrap_or(usize::MAX)
}

fn read_message(
    message: Result<Message, tungstenite::Error>,
    max: usize,
) -> Option<Result<Inbound, TransportError>> {
    match message {
        Ok(Message::Text(text)) => Some(Ok(Inbound::Frame(text.into()))),
        Ok(Message::Binary(bytes)) => Some(Ok(Inbound::Frame(bytes))),
        Ok(Message::Ping(_) | Message::Pong(_)) => Some(Ok(Inbound::Alive)),
        Ok(Message::Close(_) | Message::Frame(_)) => None,
        Err(tungstenite::Error::Capacity(_)) => Some(Err(TransportError::FrameTooLarge(max))),
        Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => None,
        Err(error) => Some(Err(TransportError::Read(error.to_string()))),
    }
}

async fn write_messages<S>(
    mut sink: S,
    mut queue: mpsc::Receiver<Outbound>,
    limit: Duration,
) -> Result<(), TransportError>
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    while let Some(outbound) = queue.recv().await {
        let message = match outbound {
            Outbound::Text(text) => Message::text(text),
            Outbound::Ping => Message::Ping(Bytes::new()),
        };
        let written = timeout(limit, sink.send(message))
            .await
            .map_err(|_| TransportError::WriteTimeout(limit))?;
        written.map_err(|error| TransportError::Write(error.to_string()))?;
    }
    Ok(())
}

fn open_lines(io: Box<dyn Io>, settings: &SupplierSettings) -> Connection {
    let max = max_frame(settings);
    let (read, write) = tokio::io::split(io);
    let (outbound, queue) = mpsc::channel(OUTBOUND_QUEUE);
    let writer = Writer::start(write_lines(write, queue, settings.supplier_read_timeout).boxed());
    let inbound =
        FramedRead::with_capacity(read, Lines::new(max), READ_BUFFER.min(max)).map(move |line| {
            match line {
                Ok(line) => Ok(Inbound::Frame(line)),
                Err(AnyDelimiterCodecError::MaxChunkLengthExceeded) => {
                    Err(TransportError::FrameTooLarge(max))
                }
                Err(AnyDelimiterCodecError::Io(error)) => {
                    Err(TransportError::Read(error.to_string()))
                }
            }
        });
    Connection {
        inbound: guarded(inbound.boxed(), writer),
        outbound,
    }
}

async fn write_lines(
    mut write: WriteHalf<Box<dyn Io>>,
    mut queue: mpsc::Receiver<Outbound>,
    limit: Duration,
) -> Result<(), TransportError> {
    while let Some(outbound) = queue.recv().await {
        let Outbound::Text(mut line) = outbound else {
            continue;
        };
        line.push_str("\r\n");
        let write_line = async {
            write.write_all(line.as_bytes()).await?;
            write.flush().await
        };
        let written = timeout(limit, write_line)
            .await
            .map_err(|_| TransportError::WriteTimeout(limit))?;
        written.map_err(|error| TransportError::Write(error.to_string()))?;
    }
    Ok(())
}

/// Lines of arbitrary bytes: `LinesCodec` would end the connection at the first line that is not
/// UTF-8.
struct Lines(AnyDelimiterCodec);

impl Lines {
    fn new(max: usize) -> Lines {
        // One more byte for the CR.
        Lines(AnyDelimiterCodec::new_with_max_length(
            b"\n".to_vec(),
            Vec::new(),
            max.saturating_add(1),
        ))
    }
}

impl Decoder for Lines {
    type Item = Bytes;
    type Error = AnyDelimiterCodecError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, AnyDelimiterCodecError> {
        let mut line = self.0.decode(buffer)?;
        if let Some(line) = line.as_mut().filter(|line| line.ends_with(b"\r")) {
            line.truncate(line.len() - 1);
        }
        Ok(line)
    }

    /// A line cut off by a lost connection is not a frame.
    fn decode_eof(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<Bytes>, AnyDelimiterCodecError> {
        let line = self.decode(buffer)?;
        if line.is_none() {
            buffer.clear();
        }
        Ok(line)
    }
}

/// The writing task. It is aborted with the connection, and reports the error if it ends the
/// connection itself.
struct Writer {
    task: JoinHandle<()>,
    failed: mpsc::Receiver<TransportError>,
}

impl Writer {
    fn start(writing: BoxFuture<'static, Result<(), TransportError>>) -> Writer {
        let (errors, failed) = mpsc::channel(1);
        let task = tokio::spawn(role::inherit(async move {
            if let Err(error) = writing.await {
                // The receiver is gone only if the connection has ended anyway.
                let _ = errors.send(error).await;
            }
        }));
        Writer { task, failed }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The stream until it ends, fails, or the writer fails.
fn guarded(
    stream: BoxStream<'static, Result<Inbound, TransportError>>,
    writer: Writer,
) -> BoxStream<'static, Result<Inbound, TransportError>> {
    let open = Some((stream, writer));
    futures_util::stream::unfold(open, |open| async move {
        let (mut stream, mut writer) = open?;
        tokio::select! {
            biased;
            Some(error) = writer.failed.recv() => Some((Err(error), None)),
            next = stream.next() => match next? {
                Ok(inbound) => Some((Ok(inbound), Some((stream, writer)))),
                Err(error) => Some((Err(error), None)),
            },
        }
    })
    .boxed()
}
