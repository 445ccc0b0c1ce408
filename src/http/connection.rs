//! A handle to an accepted connection, to end it from outside.

use std::any::Any;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use log::debug;
use socket2::{SockRef, Socket};

/// A second handle to a client's socket. Needed because a client that stops reading freezes the session that would
/// close it.
#[derive(Clone, Debug)]
pub struct ConnectionHandle(Arc<Socket>);

impl ConnectionHandle {
    /// A second handle to a stream.
    pub fn of(stream: &TcpStream) -> std::io::Result<ConnectionHandle> {
        Ok(ConnectionHandle(Arc::new(SockRef::from(stream).try_clone()?)))
    }

    /// Ends the connection at once, without a close frame.
    pub fn close(&self) {
        // Without lingering: the kernel must not hold what a client will never take.
        let _ = self.0.set_linger(Some(Duration::ZERO));
        if let Err(error) = self.0.shutdown(Shutdown::Both) {
            debug!("connection was closed already: {error}");
        }
    }
}

/// To be given to `HttpServer::on_connect`: sets TCP_NODELAY and keeps a [`ConnectionHandle`] with the connection.
pub fn keep_handle(connection: &dyn Any, data: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<TcpStream>() else { return };
    if let Err(error) = stream.set_nodelay(true) {
        debug!("TCP_NODELAY not set: {error}");
    }
    match ConnectionHandle::of(stream) {
        Ok(handle) => drop(data.insert(handle)),
        Err(error) => debug!("no second handle to the connection: {error}"),
    }
}
