//! A handle to an accepted connection, to close it from outside.

use std::cell::Cell;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use log::debug;
use socket2::{SockRef, Socket};

use crate::domain::streaming::protocol::CloseReason;

/// Why the bytes of a client ended early. Shared with the session, which closes for this reason.
pub(crate) type Violation = Rc<Cell<Option<CloseReason>>>;

/// Maximum number of unsent bytes that the kernel buffers for a connection.
const MAX_UNSENT: u32 = 16 * 1024;

/// A second handle to a client's socket. Needed because a client that stops reading freezes the
/// session that would close it.
#[derive(Clone, Debug)]
pub struct ConnectionHandle(Arc<Socket>);

impl ConnectionHandle {
    /// Creates a second handle to a stream.
    pub fn of(stream: &TcpStream) -> std::io::Result<ConnectionHandle> {
        Ok(ConnectionHandle(Arc::new(
            SockRef::from(stream).try_clone()?,
        )))
    }

    /// Closes the connection immediately, without a close frame.
    pub fn close(&self) {
        // No lingering: the kernel must not keep data that the client will never read.
        let _ = self.0.set_linger(Some(Duration::ZERO));
        if let Err(error) = self.0.shutdown(Shutdown::Both) {
            debug!("connection already closed: {error}");
        }
    }

    /// Ends the bytes of the client. This wakes the task that reads them.
    pub fn stop_reading(&self) {
        if let Err(error) = self.0.shutdown(Shutdown::Read) {
            debug!("connection already closed: {error}");
        }
    }

    /// Removes the limit on unsent bytes. A session has its own queue and limits.
    pub fn lift_unsent_limit(&self) {
        if let Err(error) = self.0.set_tcp_notsent_lowat(0) {
            debug!("TCP_NOTSENT_LOWAT not lifted: {error}");
        }
    }

    /// Closes the connection in order, after a final response that is sent only if there is room
    /// for it immediately.
    pub fn close_with(&self, answer: &[u8]) {
        if let Err(error) = self
            .0
            .send(answer)
            .and_then(|_| self.0.shutdown(Shutdown::Both))
        {
            debug!("final response not sent: {error}");
            self.close();
        }
    }
}

/// Sets the socket options of an accepted connection.
pub(crate) fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!("TCP_NODELAY not set: {error}");
    }
    // Limit what the kernel buffers for a client that does not read; writability then shows whether
    // it reads.
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT) {
        debug!("TCP_NOTSENT_LOWAT not set: {error}");
    }
}
