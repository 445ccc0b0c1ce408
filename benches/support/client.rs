//! A client of `/ws/odds` that parses frames by hand in the calling thread, so that it costs less
//! than what it measures.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use sports_bet_platform::domain::timestamp::Timestamp;

use super::Outcome;

/// Bytes per read.
const READ_AT_ONCE: usize = 16_384;
/// Maximum wait for a frame.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// A client's WebSocket connection.
pub struct Client<S = TcpStream> {
    pub stream: S,
    bytes: Vec<u8>,
    taken: usize,
}

impl Client<TcpStream> {
    /// Connects and upgrades to WebSocket.
    pub fn connect(address: SocketAddr) -> Outcome<Client> {
        Client::upgrade(TcpStream::connect(address)?, address, "/ws/odds")
    }

    /// Connects with small buffers, so that the connection stalls early.
    pub fn connect_narrow(address: SocketAddr) -> Outcome<Client> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(4_096)?;
        socket.set_tcp_mss(536)?;
        socket.connect(&SockAddr::from(address))?;
        Client::upgrade(socket.into(), address, "/ws/odds")
    }

    /// Reads frames from a connection without an upgrade.
    pub fn on(stream: TcpStream) -> Outcome<Client> {
        stream.set_nodelay(true)?;
        Ok(Client {
            stream,
            bytes: Vec::new(),
            taken: 0,
        })
    }

    fn upgrade(stream: TcpStream, address: SocketAddr, path: &str) -> Outcome<Client> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_LIMIT))?;
        Client::upgrade_on(stream, address, path)
    }
}

impl<S: Read + Write> Client<S> {
    /// Upgrades a connection to WebSocket.
    pub fn upgrade_on(mut stream: S, address: SocketAddr, path: &str) -> Outcome<Client<S>> {
        write_upgrade(&mut stream, address, path)?;
        let mut client = Client {
            stream,
            bytes: Vec::new(),
            taken: 0,
        };
        loop {
            if let Some(end) = client
                .bytes
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                client.taken = end + 4;
                return Ok(client);
            }
            client.read_more()?;
        }
    }

    /// Subscribes to an event and reads its snapshot.
    pub fn subscribe(&mut self, event: &str) -> Outcome<()> {
        self.send(&format!(r#"{{"type":"subscribe","eventId":"{event}"}}"#))?;
        while !self.next()?.starts_with(br#"{"type":"snapshot""#) {}
        Ok(())
    }

    /// Sends a text of at most 125 bytes.
    pub fn send(&mut self, text: &str) -> Outcome<()> {
        Ok(self.stream.write_all(&masked(text)?)?)
    }

    /// The payload of the next frame.
    pub fn next(&mut self) -> Outcome<&[u8]> {
        loop {
            if let Some((start, end)) = frame(&self.bytes[self.taken..]) {
                let start = self.taken + start;
                let end = self.taken + end;
                self.taken = end;
                return Ok(&self.bytes[start..end]);
            }
            self.read_more()?;
        }
    }

    /// Skips this many frames.
    pub fn skip(&mut self, frames: usize) -> Outcome<()> {
        for _ in 0..frames {
            self.next()?;
        }
        Ok(())
    }

    fn read_more(&mut self) -> Outcome<()> {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..self.taken);
        }
        self.taken = 0;
        let mut buffer = [0; READ_AT_ONCE];
        match self.stream.read(&mut buffer)? {
            0 => Err("the server has closed the connection".into()),
            read => {
                self.bytes.extend_from_slice(&buffer[..read]);
                // There are ten thousand clients, so the buffer grown for a long frame is released.
                if self.bytes.capacity() > 4 * READ_AT_ONCE {
                    self.bytes.shrink_to(READ_AT_ONCE);
                }
                Ok(())
            }
        }
    }
}

/// Requests the upgrade to WebSocket.
pub fn request_upgrade(stream: &mut TcpStream, address: SocketAddr, path: &str) -> Outcome<()> {
    stream.set_nodelay(true)?;
    write_upgrade(stream, address, path)
}

fn write_upgrade(stream: &mut impl Write, address: SocketAddr, path: &str) -> Outcome<()> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    Ok(stream.write_all(request.as_bytes())?)
}

/// A client's frame with a text of at most 125 bytes, masked with zeros.
pub fn masked(text: &str) -> Outcome<Vec<u8>> {
    let length = u8::try_from(text.len())
        .ok()
        .filter(|length| *length < 126)
        .ok_or("too long")?;
    Ok([&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat())
}

/// Start and end of the payload of the first complete server frame.
pub fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (start, length) = match *bytes.get(1)? {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?)),
        ),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(*bytes.get(2..10)?.first_chunk()?)).ok()?,
        ),
        length => (2, usize::from(length)),
    };
    (bytes.len() >= start + length).then_some((start, start + length))
}

/// The `updated_at` of an update, in microseconds since the epoch. `None` if it has none.
pub fn updated_at(content: &[u8]) -> Option<i64> {
    content
        .starts_with(br#"{"type":"update""#)
        .then(|| due_of(content))?
}

/// The `updated_at` in any text that contains an update.
pub fn due_of(content: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(content).ok()?;
    let (_, rest) = text.split_once(r#""updated_at":""#)?;
    Some(rest.split('"').next()?.parse::<Timestamp>().ok()?.micros())
}
