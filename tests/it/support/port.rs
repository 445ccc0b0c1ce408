//! Ports that are known before anybody listens on them.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A free port of this machine, given to nobody else while this lives: a socket holds it, and does
/// not listen. Who connects is refused until somebody listens, and again when nobody does any more.
pub struct ReservedPort {
    /// Its address.
    pub address: SocketAddr,
    _holder: TcpSocket,
}

impl ReservedPort {
    /// Takes one.
    pub fn take() -> ReservedPort {
        let holder = TcpSocket::new_v4().unwrap();
        holder.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // Only now: a port that was chosen with it may be another's who reuses addresses too.
        holder.set_reuseaddr(true).unwrap();
        ReservedPort {
            address: holder.local_addr().unwrap(),
            _holder: holder,
        }
    }
}

#[tokio::test]
async fn a_reserved_port_can_be_listened_on_again_and_again() {
    let reserved = ReservedPort::take();
    for _ in 0..2 {
        tokio::net::TcpStream::connect(reserved.address)
            .await
            .unwrap_err();
        // Whoever reuses addresses may, as every server does.
        let listener = TcpListener::bind(reserved.address).await.unwrap();
        tokio::net::TcpStream::connect(reserved.address)
            .await
            .unwrap();
        drop(listener);
    }
}
