//! The stream of an accepted connection: limits how far reading runs ahead of the responses, and
//! detects a client that accepts nothing.

mod transport;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use self::transport::{Transport, Wire};
use super::connections::{Connection, Connections, Phase};

/// Bytes read before the server parses the requests in them. Without this limit it buffers 128 KiB
/// and decodes all of it at once: thousands of pipelined requests.
const READ_RUN: usize = 4_096;

/// A stream that reports to its [`Connection`].
pub(super) struct GuardedStream {
    transport: Transport,
    connection: Rc<Connection>,
    table: Rc<Connections>,
    /// Bytes read since the last pause.
    run: usize,
}

impl GuardedStream {
    pub(super) fn new(transport: Transport, table: Rc<Connections>) -> GuardedStream {
        GuardedStream {
            connection: transport.connection().clone(),
            transport,
            table,
            run: 0,
        }
    }

    pub(super) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Sends the final response of an encrypted connection that the server has ended, if there is
    /// room for it immediately. Returns whether the connection has ended.
    fn send_final_response(&mut self, context: &mut Context<'_>) -> bool {
        let Some(response) = self.connection.take_final_response() else {
            return false;
        };
        let mut transport = Pin::new(&mut self.transport);
        let sent = transport.as_mut().poll_write(context, response.as_bytes());
        if !matches!(sent, Poll::Ready(Err(_))) {
            let _ = transport.as_mut().poll_flush(context);
            let _ = transport.poll_shutdown(context);
        }
        true
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.send_final_response(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let Some(limit) = this.connection.read_limit(context.waker()) else {
            return Poll::Pending;
        };
        if this.connection.phase() == Phase::Upgraded {
            return Pin::new(&mut this.transport).poll_read(context, into);
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
        let polled = Pin::new(&mut this.transport).poll_read(context, &mut part);
        if !matches!(polled, Poll::Ready(Ok(()))) {
            this.run = 0;
            return polled;
        }
        let read = part.filled().len();
        this.run += read;
        if let Err(ended) = this.connection.received(part.filled()) {
            this.table.end(&this.connection, ended);
            this.send_final_response(context);
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
        Pin::new(&mut self.get_mut().transport).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(context)
    }
}
