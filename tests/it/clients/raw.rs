//! A client that writes its frames by hand, valid or invalid, and reads at the pace of the test.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::within;

pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With a close frame that has this code.
    Closed(u16),
    /// With a close frame without a code.
    ClosedWithoutCode,
    /// Without a close frame.
    BrokenOff,
}

/// A frame of the server.
#[derive(Debug)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// The number after `"name":` in a text, without parsing all of it.
    pub fn number(&self, name: &str) -> u64 {
        let text = self.text();
        let rest = text
            .split_once(&format!("\"{name}\":"))
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .1;
        rest.split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}

/// A masked frame whose first byte is `first`: FIN and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = head(first, 0x80, payload.len() as u64);
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// An unmasked frame, which only a server may send.
pub fn unmasked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [head(first, 0, payload.len() as u64), payload.to_vec()].concat()
}

/// The head of a masked frame that announces `length` bytes, without the payload.
pub fn announcement(first: u8, length: u64) -> Vec<u8> {
    [head(first, 0x80, length), vec![0; 4]].concat()
}

/// A text message in one frame.
pub fn text(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

fn head(first: u8, masked: u8, length: u64) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..=125 => head.push(masked | length as u8),
        126..=0xffff => {
            head.push(masked | 126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(masked | 127);
            head.extend(length.to_be_bytes());
        }
    }
    head
}

pub struct RawClient {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    read: usize,
}

impl RawClient {
    pub async fn connect(address: SocketAddr) -> RawClient {
        let stream = TcpStream::connect(address).await.unwrap();
        RawClient::handshake(stream, address, "/ws/odds").await
    }

    /// A client with small receive buffers.
    pub async fn connect_narrow(address: SocketAddr) -> RawClient {
        RawClient::connect_narrow_to(address, "/ws/odds").await
    }

    /// A client of this path with small receive buffers.
    pub async fn connect_narrow_to(address: SocketAddr, path: &str) -> RawClient {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        // Small segments also keep the server's send buffer small: together they hold about 100 kB.
        SockRef::from(&socket).set_tcp_mss(536).unwrap();
        RawClient::handshake(socket.connect(address).await.unwrap(), address, path).await
    }

    async fn handshake(stream: TcpStream, address: SocketAddr, path: &str) -> RawClient {
        stream.set_nodelay(true).unwrap();
        let mut client = RawClient {
            stream,
            buffer: Vec::new(),
            read: 0,
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.send(request.as_bytes()).await;
        let head = within("the handshake's answer", async {
            loop {
                if let Some(end) = client
                    .buffer
                    .windows(4)
                    .position(|four| four == b"\r\n\r\n")
                {
                    return client.buffer.drain(..end + 4).collect::<Vec<u8>>();
                }
                assert!(client.read_some().await, "closed within the handshake");
            }
        })
        .await;
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(
            head.to_lowercase()
                .contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{head}"
        );
        client
    }

    /// Sends raw bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        within("the server reads bytes", self.stream.write_all(bytes))
            .await
            .unwrap();
    }

    /// Another handle of the connection, to write while this one reads.
    pub fn writer(&self) -> TcpStream {
        let owned = self.stream.as_fd().try_clone_to_owned().unwrap();
        TcpStream::from_std(std::net::TcpStream::from(owned)).unwrap()
    }

    /// Subscribes and reads the snapshot.
    pub async fn subscribe(&mut self, event: &str) {
        self.send(&text(&format!(
            r#"{{"type":"subscribe","eventId":"{event}"}}"#
        )))
        .await;
        let snapshot = self.next_text().await;
        assert!(
            snapshot.text().starts_with(r#"{"type":"snapshot""#),
            "{}",
            snapshot.text()
        );
    }

    /// The next frame; `None` if the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame of the server", async {
            loop {
                if let Some(frame) = self.take_frame() {
                    return Some(frame);
                }
                if !self.read_some().await {
                    return None;
                }
            }
        })
        .await
    }

    /// The next text; pings are skipped and not answered.
    pub async fn next_text(&mut self) -> Frame {
        loop {
            match self.next().await {
                Some(frame) if frame.opcode == TEXT => return frame,
                Some(frame) if frame.opcode == CLOSE => {
                    panic!("closed instead of a text: {:?}", frame.payload)
                }
                Some(_) => {}
                None => panic!("broken off instead of a text"),
            }
        }
    }

    /// Reads until the connection has ended, including the server's TCP side. Closes its own side
    /// after a close frame.
    pub async fn end(&mut self) -> End {
        let mut end = End::BrokenOff;
        while let Some(frame) = self.next().await {
            if frame.opcode == CLOSE {
                let code = frame
                    .payload
                    .first_chunk()
                    .map(|code| u16::from_be_bytes(*code));
                end = code.map_or(End::ClosedWithoutCode, End::Closed);
                let _ = self.stream.shutdown().await;
            }
        }
        end
    }

    async fn read_some(&mut self) -> bool {
        self.buffer.drain(..std::mem::take(&mut self.read));
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let bytes = &self.buffer[self.read..];
        let first = *bytes.first()?;
        let second = *bytes.get(1)?;
        let (start, length) = match second {
            126 => (
                4,
                usize::from(u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?)),
            ),
            127 => (
                10,
                u64::from_be_bytes(*bytes.get(2..10)?.first_chunk()?) as usize,
            ),
            length => (2, usize::from(length)),
        };
        assert!(
            first & FIN != 0 && first & 0x70 == 0,
            "the server sends whole frames"
        );
        let payload = bytes.get(start..start + length)?.to_vec();
        self.read += start + length;
        Some(Frame {
            opcode: first & 0xf,
            payload,
        })
    }
}
