//! TCP proxies in front of an engine: refusing connections until opened, or slow.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// A proxy that refuses connections until it is opened.
pub struct TcpProxy {
    address: SocketAddr,
    /// The `host:port` it forwards to.
    to: String,
    open: Option<JoinHandle<()>>,
}

/// Ports below the system's ephemeral range, so that no other process takes the port by chance
/// while the proxy is closed.
const PORTS: std::ops::Range<u16> = 27_000..28_000;

impl TcpProxy {
    /// A closed proxy. `to` is the `host:port` that it forwards to once it is open.
    pub async fn closed(to: &str) -> TcpProxy {
        for _ in 0..100 {
            let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(PORTS)));
            if TcpListener::bind(address).await.is_ok() {
                return TcpProxy {
                    address,
                    to: to.to_owned(),
                    open: None,
                };
            }
        }
        panic!("no free port in {PORTS:?}");
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts accepting connections.
    pub fn open(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(64).unwrap();
        let to = self.to.clone();
        self.open = Some(tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let Ok(mut outside) = TcpStream::connect(&to).await else {
                    continue;
                };
                tokio::spawn(async move {
                    tokio::io::copy_bidirectional(&mut inside, &mut outside).await
                });
            }
        }));
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.abort();
        }
    }
}

/// A proxy that delays the responses of an engine.
pub struct SlowTcpProxy {
    address: SocketAddr,
    open: JoinHandle<()>,
}

impl SlowTcpProxy {
    /// Forwards to `to`, a `host:port`; every response takes `delay` longer.
    pub async fn to(to: &str, delay: Duration) -> SlowTcpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = to.to_owned();
        let open = tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                let Ok(outside) = TcpStream::connect(&to).await else {
                    continue;
                };
                let (ask, answer) = inside.into_split();
                let (answers, asks) = outside.into_split();
                tokio::spawn(delayed(ask, asks, Duration::ZERO));
                tokio::spawn(delayed(answers, answer, delay));
            }
        });
        SlowTcpProxy { address, open }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SlowTcpProxy {
    fn drop(&mut self) {
        self.open.abort();
    }
}

/// Copies bytes, each chunk `delay` after it arrived.
async fn delayed(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) {
    let (send, mut sent) = mpsc::channel::<(Instant, Vec<u8>)>(1_024);
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if send
                .send((Instant::now() + delay, buffer[..count].to_vec()))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    while let Some((at, bytes)) = sent.recv().await {
        sleep_until(at).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
