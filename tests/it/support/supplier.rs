//! A native supplier that a test holds in its hands.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::within;

/// Settings of a platform whose supplier lives in the test: a test that is held up, or waits for
/// something else and answers no pings meanwhile, must not be taken for a supplier that is gone.
pub const PATIENT: [(&str, &str); 2] = [
    ("SUPPLIER_READ_TIMEOUT", "2m"),
    ("SUPPLIER_STALE_AFTER", "2m"),
];

/// A supplier that waits for the platform's feed.
pub struct FakeSupplier {
    listener: TcpListener,
}

/// A connection of the feed.
pub struct SupplierLink {
    /// The socket, for tests of the protocol itself.
    pub socket: WebSocketStream<TcpStream>,
}

impl FakeSupplier {
    /// Listens on a free port.
    pub async fn start() -> FakeSupplier {
        FakeSupplier {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// What goes into `SUPPLIER_URLS`.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address())
    }

    /// The feed's next connection, before any handshake.
    pub async fn accept_raw(&self) -> TcpStream {
        within("a connection of the feed", self.listener.accept())
            .await
            .unwrap()
            .0
    }

    /// The feed's next connection, whenever it comes.
    pub async fn accept_whenever(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// The feed's next connection.
    pub async fn accept(&self) -> SupplierLink {
        let stream = self.accept_raw().await;
        let handshake = tokio_tungstenite::accept_async(stream);
        SupplierLink {
            socket: within("the feed's handshake", handshake).await.unwrap(),
        }
    }
}

impl SupplierLink {
    /// Sends a text frame.
    pub async fn send(&mut self, frame: impl Into<String>) {
        within(
            "the feed takes a frame",
            self.socket.send(Message::text(frame.into())),
        )
        .await
        .unwrap();
    }

    /// Answers pings until the feed goes. To be spawned, or selected on, where a test is long.
    pub async fn serve_pings(&mut self) {
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}
