//! Ports that are known before anybody listens on them.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A free port, reserved while this value lives: a socket is bound to it without listening.
/// Connections are refused unless somebody listens on it.
pub struct ReservedPort {
    /// The reserved address.
    pub address: SocketAddr,
    _holder: TcpSocket,
}

impl ReservedPort {
    /// Reserves a free port.
    pub fn take() -> ReservedPort {
        let holder = TcpSocket::new_v4().unwrap();
        holder.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // Set after binding: with it, the system could choose a port of another socket that reuses
        // addresses.
        holder.set_reuseaddr(true).unwrap();
        ReservedPort {
            address: holder.local_addr().unwrap(),
            _holder: holder,
        }
    }
}

#[tokio::test]
async fn reserved_port_accepts_repeated_listeners() {
    let reserved = ReservedPort::take();
    for _ in 0..2 {
        tokio::net::TcpStream::connect(reserved.address)
            .await
            .unwrap_err();
        // Listening is possible for sockets that reuse addresses, as all servers do.
        let listener = TcpListener::bind(reserved.address).await.unwrap();
        tokio::net::TcpStream::connect(reserved.address)
            .await
            .unwrap();
        drop(listener);
    }
}
