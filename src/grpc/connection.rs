//! Accepted connections: admits them, completes their TLS handshakes, and ends those that do not
//! begin HTTP/2 in time.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use log::debug;
use prometheus::IntCounterVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::admission::Peer;
use crate::http::addresses::Addresses;
use crate::http::connections::Ended;
use crate::runtime::connection::prepare;
use crate::runtime::permits::AddressPermit;
use crate::runtime::tls::server::ServerCertificate;

/// The length of the first bytes of every HTTP/2 connection.
const PREFACE: usize = 24;
/// Maximum number of encrypted bytes that a stream keeps in addition to those in the kernel.
const MAX_UNSENT: usize = 16 * 1024;

/// Admits the connections of a server.
#[derive(Clone)]
pub(super) struct Acceptor {
    /// Connections by address, in common with REST.
    pub addresses: Addresses,
    /// The connections of the server.
    pub connections: Arc<Semaphore>,
    /// Clients must speak TLS if there is one.
    pub certificate: Option<Arc<ServerCertificate>>,
    /// Time for the handshake, and for the first bytes of HTTP/2.
    pub head_timeout: Duration,
    /// Connections ended by the server, by reason.
    pub ended: IntCounterVec,
}

/// What a connection takes from the limits. Returned when dropped.
struct Permits {
    _connection: OwnedSemaphorePermit,
    _address: Option<AddressPermit>,
}

impl Acceptor {
    /// Admits a connection. `None` if a limit is reached.
    pub(super) fn admit(&self, stream: &TcpStream) -> Option<Admitted> {
        prepare(stream);
        let peer = stream.peer_addr().ok()?.ip().to_canonical();
        let Ok(connection) = self.connections.clone().try_acquire_owned() else {
            self.count(Ended::Crowded);
            return None;
        };
        let Ok(address) = self.addresses.take_connection(peer) else {
            self.count(Ended::Address);
            return None;
        };
        let permits = Permits {
            _connection: connection,
            _address: address,
        };
        Some(Admitted { peer, permits })
    }

    /// Completes the handshake of an admitted connection.
    pub(super) async fn open(self, stream: TcpStream, admitted: Admitted) -> Option<Connection> {
        let transport = match &self.certificate {
            None => Transport::Plain(stream),
            Some(certificate) => self.handshake(stream, certificate).await?,
        };
        Some(Connection {
            transport,
            peer: admitted.peer,
            preface: Some(Preface {
                missing: PREFACE,
                deadline: Box::pin(sleep(self.head_timeout)),
            }),
            ended: self.ended,
            _permits: admitted.permits,
        })
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        certificate: &ServerCertificate,
    ) -> Option<Transport> {
        let acceptor = TlsAcceptor::from(certificate.grpc_config());
        let accepting = acceptor.accept_with(stream, |tls| tls.set_buffer_limit(Some(MAX_UNSENT)));
        match timeout(self.head_timeout, accepting).await {
            Ok(Ok(stream)) => Some(Transport::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                // Other errors come from clients that went away.
                if error.kind() == io::ErrorKind::InvalidData {
                    debug!("TLS handshake failed: {error}");
                    self.count(Ended::HandshakeFailed);
                }
                None
            }
            Err(_) => {
                self.count(Ended::Handshake);
                None
            }
        }
    }

    fn count(&self, ended: Ended) {
        self.ended.with_label_values(&[ended.label()]).inc();
    }
}

/// A connection that was admitted.
pub(super) struct Admitted {
    peer: IpAddr,
    permits: Permits,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Counts the first bytes of a client until there are enough.
struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

/// A connection that is ready for HTTP/2.
pub(super) struct Connection {
    transport: Transport,
    peer: IpAddr,
    /// `None` once the client has begun HTTP/2.
    preface: Option<Preface>,
    ended: IntCounterVec,
    _permits: Permits,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer(self.peer)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let polled = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, into),
        };
        let Some(preface) = &mut this.preface else {
            return polled;
        };
        preface.missing = preface.missing.saturating_sub(into.filled().len() - before);
        if preface.missing == 0 {
            this.preface = None;
        } else if polled.is_pending() && preface.deadline.as_mut().poll(context).is_ready() {
            let label = Ended::Preface.label();
            this.ended.with_label_values(&[label]).inc();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
