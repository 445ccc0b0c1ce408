//! A service behind the gateway that the test plays, byte by byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::within;

pub struct FakeService {
    listener: TcpListener,
}

/// A request that has arrived.
pub struct Arrived {
    pub stream: TcpStream,
    /// The head, with its names in lower case, as they are on the wire.
    pub head: String,
    /// What came after the head.
    pub body: Vec<u8>,
}

impl FakeService {
    pub async fn start() -> FakeService {
        FakeService {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next request on a new connection. Connections of the readiness check are skipped.
    pub async fn request(&self) -> Arrived {
        within("a request of the gateway", async {
            loop {
                let (stream, _) = self.listener.accept().await.unwrap();
                if let Some(arrived) = Arrived::read(stream).await {
                    return arrived;
                }
            }
        })
        .await
    }

    /// Answers every request with these bytes, until the test ends.
    pub fn answer_all(self, answer: &'static str) {
        tokio::spawn(async move {
            loop {
                let mut arrived = self.request().await;
                arrived.send(answer).await;
            }
        });
    }
}

impl Arrived {
    async fn read(mut stream: TcpStream) -> Option<Arrived> {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let body = bytes.split_off(end + 4);
                let head = String::from_utf8(bytes).unwrap();
                return Some(Arrived { stream, head, body });
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Reads the body up to this length.
    pub async fn read_body(&mut self, length: usize) {
        within("the body", async {
            while self.body.len() < length {
                assert!(self.stream.read_buf(&mut self.body).await.unwrap() > 0);
            }
        })
        .await;
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("the gateway reads", self.stream.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// The values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(other, _)| *other == name)
            .map(|(_, value)| value)
            .collect()
    }
}
