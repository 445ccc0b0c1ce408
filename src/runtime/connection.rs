//! A handle to an accepted connection, to end it from outside.

use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use log::debug;
use socket2::{SockRef, Socket};

/// Unsent bytes that the kernel holds of a connection.
const MAX_UNSENT: u32 = 16 * 1024;

/// A second handle to a client's socket. Needed because a client that stops reading freezes the
/// session that would close it.
#[derive(Clone, Debug)]
pub struct ConnectionHandle(Arc<Socket>);

impl ConnectionHandle {
    /// A second handle to a stream.
    pub fn of(stream: &TcpStream) -> std::io::Result<ConnectionHandle> {
        Ok(ConnectionHandle(Arc::new(
            SockRef::from(stream).try_clone()?,
        )))
    }

    /// Ends the connection at once, without a close frame.
    pub fn close(&self) {
        // Without lingering: the kernel must not hold what a client will never take.
        let _ = self.0.set_linger(Some(Duration::ZERO));
        if let Err(error) = self.0.shutdown(Shutdown::Both) {
            debug!("connection was closed already: {error}");
        }
    }

    /// Lets the kernel hold as much as it wants again. A session has a queue and limits of its own.
    pub fn lift_unsent_limit(&self) {
        if let Err(error) = self.0.set_tcp_notsent_lowat(0) {
            debug!("TCP_NOTSENT_LOWAT not lifted: {error}");
        }
    }

    /// Ends the connection in order, with a last answer that is sent only if there is room for it
    /// at once.
    pub fn close_with(&self, answer: &[u8]) {
        if let Err(error) = self
            .0
            .send(answer)
            .and_then(|_| self.0.shutdown(Shutdown::Both))
        {
            debug!("no last answer: {error}");
            self.close();
        }
    }
}

/// Sets the options of an accepted connection.
pub fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!("TCP_NODELAY not set: {error}");
    }
    // The kernel takes no megabytes ahead of a client that does not read, and writing shows whether
    // it reads.
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT) {
        debug!("TCP_NOTSENT_LOWAT not set: {error}");
    }
}
