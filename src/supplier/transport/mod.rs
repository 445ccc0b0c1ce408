//! Carries the frames of a supplier: WebSocket for the native format, CRLF-delimited lines over TCP
//! or TLS for Betfair.
//!
//! Reading is lazy. Apart from small fixed buffers nothing is read from the socket unless `inbound`
//! is polled, so a feed that waits for the bus slows its supplier down through TCP backpressure.

mod io;
mod lines;
mod websocket;
mod writer;

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use strum::{IntoStaticStr, VariantNames};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;
use url::Host;

pub(crate) use self::websocket::upgrade_request;
use super::Endpoint;
use crate::config::settings::SupplierSettings;
use crate::runtime::tls::TlsSetupError;

/// The capacity of the writer's queue. A feed sends pings and a few requests, not a stream.
const OUTBOUND_QUEUE: usize = 16;
/// The size of the buffer of unread bytes.
const READ_BUFFER: usize = 16 * 1024;

/// An item received from a supplier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// A frame for the decoder.
    Frame(Bytes),
    /// A ping or pong, which shows that the supplier is alive.
    Alive,
}

/// An item to send to a supplier.
pub(crate) enum Outbound {
    /// A frame from the decoder. May contain credentials, so the type has no `Debug`.
    Text(String),
    /// A ping. Ignored for Betfair: its stream has no pings and sends heartbeats unprompted.
    Ping,
}

/// A connection to a supplier. It closes when `inbound` is dropped.
pub(crate) struct Connection {
    /// Received items. An error is the last item; an end without an error means that the supplier
    /// closed the connection.
    pub inbound: BoxStream<'static, Result<Inbound, TransportError>>,
    /// The short queue of the writer. If the supplier accepts no data, the writer ends the
    /// connection.
    pub outbound: mpsc::Sender<Outbound>,
}

/// Why a connection failed or ended.
#[derive(Debug, IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum TransportError {
    /// The connection was not established in time.
    #[error("no connection within {}", humantime::format_duration(*.0))]
    ConnectTimeout(Duration),
    /// The TCP connection failed.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// TLS cannot be configured.
    #[error(transparent)]
    #[strum(to_string = "tls")]
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
    /// A fixed code for metrics.
    pub fn reason(&self) -> &'static str {
        self.into()
    }
}

/// Connects, and performs the TLS handshake and the upgrade if the endpoint needs them, all within
/// the read timeout.
pub(crate) async fn connect(
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
                    return Err(TransportError::Connect(std::io::Error::other(
                        "the URL has no host",
                    )));
                }
            };
            let secure = url.scheme() == "wss";
            let port = url
                .port_or_known_default()
                .unwrap_or(if secure { 443 } else { 80 });
            let io = io::open(&host, port, secure, settings).await?;
            websocket::open(url, io, settings).await
        }
        Endpoint::Betfair { host, port, tls } => {
            let io = io::open(host, *port, *tls, settings).await?;
            Ok(lines::open(io, settings))
        }
    }
}

fn max_frame(settings: &SupplierSettings) -> usize {
    usize::try_from(settings.supplier_max_frame.as_u64()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
