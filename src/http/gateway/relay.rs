//! Copies the bytes of a WebSocket between client and service until one of them ends. Both ends
//! then end.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use actix_web::error::PayloadError;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use strum::{IntoStaticStr, VariantNames};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::frames::{ServerFrames, close_frame};

/// Bytes read from the service at once.
const READ: usize = 8 * 1024;
/// How long the service may take to notice that its client is gone.
const GRACE: Duration = Duration::from_secs(2);
/// Close code of an endpoint that goes away, as the service's own: clients connect again.
const GOING_AWAY: u16 = 1_001;

/// Why a forwarded socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Ended {
    /// The service has sent a close frame.
    Closed,
    /// The client broke off.
    Client,
    /// The service broke off.
    Service,
    /// The client took nothing.
    SlowClient,
    /// The service took nothing.
    SlowService,
    /// The gateway stops.
    Stopping,
}

/// The end of a forwarded socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Why it ended.
    pub reason: Ended,
    /// Whether the client gets a close frame or is gone. Otherwise it must be cut off.
    pub is_clean: bool,
}

/// The two ends of a forwarded socket.
pub(super) struct Relay<C, S> {
    /// The bytes of the client.
    pub client: C,
    /// The bytes for the client. The socket of the client ends when it is dropped.
    pub to_client: mpsc::Sender<Bytes>,
    /// The connection to the service.
    pub service: S,
    /// How long the client may take nothing.
    pub slow_client: Duration,
    /// How long the service may take nothing.
    pub slow_service: Duration,
    /// Becomes true when the gateway stops.
    pub stopping: watch::Receiver<bool>,
}

impl<C, S> Relay<C, S>
where
    C: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Copies until an end, and tells the client if the service cannot.
    pub(super) async fn run(self) -> End {
        let Relay {
            client,
            to_client,
            service,
            slow_client,
            slow_service,
            mut stopping,
        } = self;
        let mut frames = ServerFrames::default();
        let is_client_gone = Cell::new(false);
        let (from_service, to_service) = tokio::io::split(service);
        let reason = tokio::select! {
            reason = copy_to_client(from_service, &to_client, &mut frames, slow_client) => reason,
            reason = copy_to_service(client, to_service, slow_service, &is_client_gone) => reason,
            () = to_client.closed() => Ended::Client,
            _ = stopping.wait_for(|stopping| *stopping) => Ended::Stopping,
        };
        let reason = match reason {
            // After a close frame both sides end their connections.
            Ended::Service | Ended::Client if frames.has_close() => Ended::Closed,
            Ended::Service if is_client_gone.get() => Ended::Client,
            reason => reason,
        };
        let is_clean = match reason {
            Ended::Closed | Ended::Client => true,
            Ended::SlowClient => false,
            Ended::Service | Ended::SlowService => {
                close(&to_client, &frames, "the service is unavailable")
            }
            Ended::Stopping => close(&to_client, &frames, "the gateway stops"),
        };
        End { reason, is_clean }
    }
}

/// Sends a close frame in place of the service. Fails within a frame, or if the client is behind.
fn close(to_client: &mpsc::Sender<Bytes>, frames: &ServerFrames, reason: &'static str) -> bool {
    let frame = || Bytes::from(close_frame(GOING_AWAY, reason));
    frames.has_close() || frames.is_between_frames() && to_client.try_send(frame()).is_ok()
}

/// Copies what the service sends.
async fn copy_to_client(
    mut service: impl AsyncRead + Unpin,
    to_client: &mpsc::Sender<Bytes>,
    frames: &mut ServerFrames,
    limit: Duration,
) -> Ended {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        if !matches!(service.read_buf(&mut buffer).await, Ok(1..)) {
            return Ended::Service;
        }
        let bytes = buffer.split().freeze();
        frames.feed(&bytes);
        // The timer is needed only for a client that is behind.
        let sent = match to_client.try_send(bytes) {
            Ok(()) => continue,
            Err(TrySendError::Closed(_)) => return Ended::Client,
            Err(TrySendError::Full(bytes)) => timeout(limit, to_client.send(bytes)).await,
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ended::Client,
            Err(_) => return Ended::SlowClient,
        }
    }
}

/// Copies what the client sends.
async fn copy_to_service(
    mut client: impl Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    mut service: impl AsyncWrite + Unpin,
    limit: Duration,
    is_client_gone: &Cell<bool>,
) -> Ended {
    while let Some(Ok(bytes)) = client.next().await {
        match timeout(limit, write(&mut service, &bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ended::Service,
            Err(_) => return Ended::SlowService,
        }
    }
    is_client_gone.set(true);
    // The service ends the session, and its last bytes may still be on the way.
    let _ = service.shutdown().await;
    tokio::time::sleep(GRACE).await;
    Ended::Client
}

async fn write(service: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    service.write_all(bytes).await?;
    service.flush().await
}

#[cfg(test)]
mod tests;
