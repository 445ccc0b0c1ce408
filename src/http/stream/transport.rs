//! The bytes of a connection below HTTP: a socket, with or without TLS.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::http::connections::Connection;

/// The socket of a connection. Reports whether the client takes bytes, which a stream with TLS would
/// hide behind its own buffer.
pub(in crate::http) struct Wire {
    stream: TcpStream,
    connection: Rc<Connection>,
}

impl Wire {
    pub(in crate::http) fn new(stream: TcpStream, connection: Rc<Connection>) -> Wire {
        Wire { stream, connection }
    }

    /// The socket itself.
    pub(in crate::http) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// The connection that the socket belongs to.
    pub(in crate::http) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.connection.stream_dropped();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, into);
        let read = into.filled().len() - before;
        if !this.connection.may_continue_handshake(read) {
            let cause = "the TLS handshake is too large";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, cause)));
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        match &polled {
            Poll::Ready(Ok(_)) => this.connection.sent(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => this.connection.blocked(),
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// What carries the requests and responses of a connection.
pub(in crate::http) enum Transport {
    /// Without TLS.
    Plain(Wire),
    /// With TLS, after the handshake.
    Tls(Box<TlsStream<Wire>>),
}

impl Transport {
    /// The connection that it belongs to.
    pub(super) fn connection(&self) -> &Rc<Connection> {
        match self {
            Transport::Plain(wire) => wire.connection(),
            Transport::Tls(stream) => stream.get_ref().0.connection(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(wire) => Pin::new(wire).poll_read(context, into),
            Transport::Tls(stream) => match Pin::new(stream).poll_read(context, into) {
                // The end of a request follows from HTTP, so a client need not announce the end of
                // its bytes.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                polled => polled,
            },
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(wire) => Pin::new(wire).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(wire) => Pin::new(wire).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(wire) => Pin::new(wire).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
