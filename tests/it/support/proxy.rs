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

/// A direction of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From those who connect to the server.
    ToServer,
    /// From the server to those who connected.
    FromServer,
}

impl Direction {
    /// Both directions.
    pub const BOTH: &'static [Direction] = &[Direction::ToServer, Direction::FromServer];
}

/// A proxy for a network that can be cut in one or both directions: then no byte passes there, and
/// no connection is closed. New connections are made but not passed on. What was sent meanwhile
/// arrives when the network is back, as with TCP.
pub struct CuttableTcpProxy {
    address: SocketAddr,
    cut: watch::Sender<&'static [Direction]>,
    open: JoinHandle<()>,
}

impl CuttableTcpProxy {
    /// Forwards to `to`, a `host:port`.
    pub async fn to(to: &str) -> CuttableTcpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = to.to_owned();
        let (cut, network) = watch::channel(&[][..]);
        let open = tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                tokio::spawn(forward(inside, to.clone(), network.clone()));
            }
        });
        CuttableTcpProxy { address, cut, open }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the network in these directions.
    pub fn cut(&self, directions: &'static [Direction]) {
        self.cut.send_replace(directions);
    }

    /// Ends the cut.
    pub fn restore(&self) {
        self.cut.send_replace(&[]);
    }
}

impl Drop for CuttableTcpProxy {
    fn drop(&mut self) {
        self.open.abort();
    }
}

/// The directions in which a network is cut.
type Network = watch::Receiver<&'static [Direction]>;

async fn forward(inside: TcpStream, to: String, mut network: Network) {
    // A handshake needs both directions.
    if network.wait_for(|cut| cut.is_empty()).await.is_err() {
        return;
    }
    let Ok(outside) = TcpStream::connect(&to).await else {
        return;
    };
    let (from_inside, to_inside) = inside.into_split();
    let (from_outside, to_outside) = outside.into_split();
    tokio::join!(
        pass(
            from_inside,
            to_outside,
            network.clone(),
            Direction::ToServer
        ),
        pass(from_outside, to_inside, network, Direction::FromServer),
    );
}

/// Copies bytes while the network is not cut in this direction. Ends with the proxy.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut network: Network,
    direction: Direction,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        let passes = |cut: &&[Direction]| !cut.contains(&direction);
        if network.wait_for(passes).await.is_err() {
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

#[tokio::test]
async fn one_way_cut_holds_one_direction() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = CuttableTcpProxy::to(&server.local_addr().unwrap().to_string()).await;
    let mut client = TcpStream::connect(network.address()).await.unwrap();
    let (mut served, _) = server.accept().await.unwrap();
    let mut byte = [0];
    network.cut(&[Direction::FromServer]);
    served.write_all(b"a").await.unwrap();
    client.write_all(b"b").await.unwrap();
    served.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b");
    let error = client.try_read(&mut byte).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    network.restore();
    client.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"a");
}
