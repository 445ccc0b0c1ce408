//! A native supplier controlled by the test.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::within;

/// Settings for a supplier inside the test: a busy or waiting test answers no pings meanwhile, and
/// must not be taken for a lost supplier.
pub const PATIENT: [(&str, &str); 2] = [
    ("SUPPLIER_READ_TIMEOUT", "2m"),
    ("SUPPLIER_STALE_AFTER", "2m"),
];

/// A supplier that accepts connections of the platform's feed.
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

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The value for `SUPPLIER_URLS`.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address())
    }

    /// Accepts the feed's next connection, before any handshake.
    pub async fn accept_raw(&self) -> TcpStream {
        within("a connection of the feed", self.listener.accept())
            .await
            .unwrap()
            .0
    }

    /// Accepts the feed's next connection, without a deadline.
    pub async fn accept_whenever(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// Accepts the feed's next connection.
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
            "the feed reads a frame",
            self.socket.send(Message::text(frame.into())),
        )
        .await
        .unwrap();
    }

    /// Answers pings until the future is ready: the source stays live however slow the machine is.
    pub async fn live_until<T>(&mut self, condition: impl Future<Output = T>) -> T {
        tokio::select! {
            () = self.serve_pings() => panic!("the feed has disconnected"),
            value = condition => value,
        }
    }

    /// Answers pings until the feed disconnects. For long tests: spawn it, or select on it.
    pub async fn serve_pings(&mut self) {
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}
