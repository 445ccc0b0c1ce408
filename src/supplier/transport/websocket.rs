//! WebSocket, for the native format.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use futures_util::{FutureExt, Sink, SinkExt};
use http::header::AUTHORIZATION;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

use super::io::Io;
use super::writer::{Writer, until_failed};
use super::{
    Connection, Inbound, OUTBOUND_QUEUE, Outbound, READ_BUFFER, TransportError, max_frame,
};
use crate::config::address::{self, Login};
use crate::config::settings::SupplierSettings;

/// How long a supplier that sent a close frame has to close the connection itself.
const CLOSE_GRACE: Duration = Duration::from_millis(500);
const WRITE_BUFFER: usize = 16 * 1024;

/// Upgrades a connection.
pub(super) async fn open(
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
        inbound: until_failed(inbound.boxed(), writer),
        outbound,
    })
}

/// The request that opens a WebSocket. Credentials in the address are sent as HTTP Basic
/// authentication; tungstenite would drop them.
pub(crate) fn upgrade_request(url: &Url) -> Result<Request, tungstenite::Error> {
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
