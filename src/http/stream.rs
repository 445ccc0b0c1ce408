//! The stream of an accepted connection: limits how far reading runs ahead of the responses, and
//! detects a client that accepts nothing.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::{Connection, Connections, Phase};

/// Bytes read before the server parses the requests in them. Without this limit it buffers 128 KiB
/// and decodes all of it at once: thousands of pipelined requests.
const READ_RUN: usize = 4_096;

/// A stream that reports to its [`Connection`].
pub(super) struct GuardedStream {
    stream: TcpStream,
    connection: Rc<Connection>,
    table: Rc<Connections>,
    /// Bytes read since the last pause.
    run: usize,
}

impl GuardedStream {
    pub(super) fn new(
        stream: TcpStream,
        connection: Rc<Connection>,
        table: Rc<Connections>,
    ) -> GuardedStream {
        GuardedStream {
            stream,
            connection,
            table,
            run: 0,
        }
    }

    pub(super) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }
}

impl Drop for GuardedStream {
    fn drop(&mut self) {
        self.connection.stream_dropped();
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(limit) = this.connection.read_limit(context.waker()) else {
            return Poll::Pending;
        };
        if this.connection.phase() == Phase::Upgraded {
            return Pin::new(&mut this.stream).poll_read(context, into);
        }
        if this.run >= READ_RUN {
            this.run = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = into.remaining().min(limit).min(READ_RUN - this.run);
        // Reads into a buffer on the stack. To limit the read in place, that much of the
        // connection's buffer would have to be initialized, and would then stay in memory.
        let mut part = [MaybeUninit::uninit(); READ_RUN];
        let mut part = ReadBuf::uninit(&mut part[..room]);
        let polled = Pin::new(&mut this.stream).poll_read(context, &mut part);
        if !matches!(polled, Poll::Ready(Ok(()))) {
            this.run = 0;
            return polled;
        }
        let read = part.filled().len();
        this.run += read;
        if let Err(ended) = this.connection.received(part.filled()) {
            this.table.end(&this.connection, ended);
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        into.put_slice(part.filled());
        polled
    }
}

impl AsyncWrite for GuardedStream {
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
