//! A handle to an accepted connection, to end it from outside.

use std::any::Any;
use std::net::Shutdown;
use std::sync::Arc;

use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use log::debug;
use socket2::{SockRef, Socket};

/// A second handle to a client's socket. Needed because a client that stops reading freezes the session that would
/// close it.
#[derive(Clone, Debug)]
pub struct ConnectionHandle(Arc<Socket>);

impl ConnectionHandle {
    /// Ends the connection at once, without a close frame.
    pub fn close(&self) {
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
    match SockRef::from(stream).try_clone() {
        Ok(socket) => drop(data.insert(ConnectionHandle(Arc::new(socket)))),
        Err(error) => debug!("no second handle to the connection: {error}"),
    }
}
