//! A port that leads nowhere until it is opened, and then to an engine.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// A closed port: whoever connects is refused.
pub struct Gate {
    address: SocketAddr,
    /// Where it leads.
    to: String,
    open: Option<JoinHandle<()>>,
}

/// Ports below those that the system hands out: while the gate is closed, nobody gets its port by chance.
const PORTS: std::ops::Range<u16> = 27_000..28_000;

impl Gate {
    /// Closed. `to` is the `host:port` that it leads to once it is open.
    pub async fn closed(to: &str) -> Gate {
        for _ in 0..100 {
            let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(PORTS)));
            if TcpListener::bind(address).await.is_ok() {
                return Gate { address, to: to.to_owned(), open: None };
            }
        }
        panic!("no free port in {PORTS:?}");
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens it.
    pub fn open(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(64).unwrap();
        let to = self.to.clone();
        self.open = Some(tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let Ok(mut outside) = TcpStream::connect(&to).await else { continue };
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut inside, &mut outside).await });
            }
        }));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.abort();
        }
    }
}
