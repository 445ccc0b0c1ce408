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
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::frames::{ServerFrames, close_frame};
use crate::domain::streaming::drain_plan::notice_of;
use crate::domain::streaming::protocol::{reconnect_message, text_frame};

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

/// How the forwarded sockets end when the gateway stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketsEnd {
    /// They stay open.
    Open,
    /// Each ends at a random moment of this time, and its client is told before.
    Within(Duration),
    /// All end now.
    Now,
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
    /// How the socket ends when the gateway stops.
    pub stopping: watch::Receiver<SocketsEnd>,
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
            stopping,
        } = self;
        let mut frames = ServerFrames::default();
        let is_client_gone = Cell::new(false);
        let notice = Notice::default();
        let (from_service, to_service) = tokio::io::split(service);
        let reason = tokio::select! {
            reason = copy_to_client(from_service, &to_client, &mut frames, slow_client, &notice) => reason,
            reason = copy_to_service(client, to_service, slow_service, &is_client_gone) => reason,
            () = to_client.closed() => Ended::Client,
            () = end_due(stopping, &notice) => Ended::Stopping,
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

/// A message of the gateway to the client, sent between two of the service's.
#[derive(Default)]
struct Notice {
    /// The frame, until it is sent.
    frame: Cell<Option<Bytes>>,
    added: Notify,
}

impl Notice {
    fn send_reconnect(&self, within: Duration) {
        let frame = text_frame(&reconnect_message(within));
        self.frame.set(Some(frame));
        self.added.notify_one();
    }

    /// Sends the message if it fits between those of the service. A client that is behind is not
    /// told: it is closed like the others.
    fn send_pending(&self, to_client: &mpsc::Sender<Bytes>, frames: &ServerFrames) {
        if frames.is_between_messages()
            && let Some(frame) = self.frame.take()
        {
            let _ = to_client.try_send(frame);
        }
    }
}

/// Waits until the socket must end because the gateway stops. Its client is told before, if there is
/// time. A socket that is opened later ends at once.
async fn end_due(mut stopping: watch::Receiver<SocketsEnd>, notice: &Notice) {
    // Opened while the gateway drains.
    if *stopping.borrow() != SocketsEnd::Open {
        return;
    }
    let end = stopping.wait_for(|end| *end != SocketsEnd::Open).await;
    let Ok(SocketsEnd::Within(spread)) = end.map(|end| *end) else {
        return;
    };
    let last = notice_of(spread);
    let spread_out = async {
        sleep((spread - last).mul_f64(fastrand::f64())).await;
        notice.send_reconnect(last);
        sleep(last).await;
    };
    tokio::select! {
        () = spread_out => {}
        _ = stopping.wait_for(|end| *end == SocketsEnd::Now) => {}
    }
}

/// Copies what the service sends.
async fn copy_to_client(
    mut service: impl AsyncRead + Unpin,
    to_client: &mpsc::Sender<Bytes>,
    frames: &mut ServerFrames,
    limit: Duration,
    notice: &Notice,
) -> Ended {
    let mut buffer = BytesMut::new();
    loop {
        notice.send_pending(to_client, frames);
        buffer.reserve(READ);
        let read = tokio::select! {
            read = service.read_buf(&mut buffer) => read,
            () = notice.added.notified() => continue,
        };
        if !matches!(read, Ok(1..)) {
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
