//! TCP proxies: refusing connections until opened, slow, or with a network that can be cut.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
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

/// A proxy for a network that can be cut: then no byte passes in either direction, and no
/// connection is closed. What was sent meanwhile arrives when the network is back, as with TCP.
pub struct CuttableTcpProxy {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
    open: JoinHandle<()>,
}

impl CuttableTcpProxy {
    /// Forwards to `to`, a `host:port`.
    pub async fn to(to: &str) -> CuttableTcpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = to.to_owned();
        let (is_cut, network) = watch::channel(false);
        let open = tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                tokio::spawn(forward(inside, to.clone(), network.clone()));
            }
        });
        CuttableTcpProxy {
            address,
            is_cut,
            open,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the network.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Ends the cut.
    pub fn restore(&self) {
        self.is_cut.send_replace(false);
    }
}

impl Drop for CuttableTcpProxy {
    fn drop(&mut self) {
        self.open.abort();
    }
}

async fn forward(inside: TcpStream, to: String, mut network: watch::Receiver<bool>) {
    if network.wait_for(|is_cut| !is_cut).await.is_err() {
        return;
    }
    let Ok(outside) = TcpStream::connect(&to).await else {
        return;
    };
    let (from_inside, to_inside) = inside.into_split();
    let (from_outside, to_outside) = outside.into_split();
    tokio::join!(
        pass(from_inside, to_outside, network.clone()),
        pass(from_outside, to_inside, network),
    );
}

/// Copies bytes while the network is not cut. Ends with the proxy.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut network: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if network.wait_for(|is_cut| !is_cut).await.is_err() {
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
