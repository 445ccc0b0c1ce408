//! Accepted connections: admits them, and completes their TLS handshakes.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use actix_http::error::DispatchError;
use actix_server::GracefulShutdownSignal;
use actix_web::rt::net::TcpStream;
use futures_util::future::{Either, LocalBoxFuture};
use log::debug;
use tokio_rustls::TlsAcceptor;

use super::connections::{ConnectionLimits, Connections, Ended};
use super::server::Bounds;
use super::stream::{GuardedStream, Transport, Wire};
use crate::runtime::connection::prepare;
use crate::runtime::tls::server::ServerCertificate;

/// The first byte of every TLS handshake.
const HANDSHAKE_RECORD: u8 = 22;
/// Maximum number of encrypted bytes that a stream keeps in addition to those in the kernel.
const MAX_UNSENT: usize = 16 * 1024;

/// A connection that is ready for requests, and its peer.
type Accepted = Result<(GuardedStream, Option<SocketAddr>), DispatchError>;

/// Accepts the connections of one server thread.
#[derive(Clone)]
pub(super) struct Acceptor {
    table: Rc<Connections>,
    /// Clients must speak TLS if there is one.
    certificate: Option<Arc<ServerCertificate>>,
    /// Ends handshakes when the server stops.
    stopping: GracefulShutdownSignal,
}

impl Acceptor {
    /// Starts the table of this thread's connections, with the limits of a thread.
    pub(super) fn start(
        bounds: &Bounds,
        limits: ConnectionLimits,
        stopping: GracefulShutdownSignal,
    ) -> Acceptor {
        Acceptor {
            table: Connections::start(limits, bounds.addresses.clone(), bounds.ended.clone()),
            certificate: bounds.certificate.clone(),
            stopping,
        }
    }

    /// Admits a connection, or ends it.
    pub(super) fn accept(
        &self,
        stream: TcpStream,
    ) -> Either<Ready<Accepted>, LocalBoxFuture<'static, Accepted>> {
        prepare(&stream);
        let peer = stream.peer_addr().ok();
        let Some(connection) = self.table.admit(&stream, self.certificate.is_some()) else {
            let refused = DispatchError::Io(io::ErrorKind::ConnectionRefused.into());
            return Either::Left(ready(Err(refused)));
        };
        let wire = Wire::new(stream, connection);
        let Some(certificate) = &self.certificate else {
            let stream = GuardedStream::new(Transport::Plain(wire), self.table.clone());
            return Either::Left(ready(Ok((stream, peer))));
        };
        let handshake = handshake(wire, certificate.clone(), self.table.clone());
        let stopping = self.stopping.clone();
        // Boxed, because every connection reserves space for this future.
        Either::Right(Box::pin(async move {
            tokio::select! {
                stream = handshake => Ok((stream?, peer)),
                () = stopping.notified() => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
            }
        }))
    }
}

/// Completes the handshake. Its deadline is that of the connection's first head.
async fn handshake(
    wire: Wire,
    certificate: Arc<ServerCertificate>,
    table: Rc<Connections>,
) -> io::Result<GuardedStream> {
    let connection = wire.connection().clone();
    let mut first = [0];
    if wire.socket().peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first != [HANDSHAKE_RECORD] {
        discard_request(wire.socket());
        table.end(&connection, Ended::PlainHttp);
        return Err(io::ErrorKind::InvalidData.into());
    }
    let acceptor = TlsAcceptor::from(certificate.config());
    let accepting = acceptor.accept_with(wire, |tls| tls.set_buffer_limit(Some(MAX_UNSENT)));
    let stream = accepting.await.inspect_err(|error| {
        // Other errors come from clients that went away.
        if error.kind() == io::ErrorKind::InvalidData {
            debug!("TLS handshake failed: {error}");
            table.count(Ended::HandshakeFailed);
        }
    })?;
    connection.handshake_done();
    Ok(GuardedStream::new(Transport::Tls(Box::new(stream)), table))
}

/// Reads what the client has sent: unread bytes would reset the connection before the client has
/// read the final response.
fn discard_request(socket: &TcpStream) {
    let mut request = [0; 4_096];
    if let Err(error) = socket.try_read(&mut request) {
        debug!("request not discarded: {error}");
    }
}
