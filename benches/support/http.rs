//! A keep-alive HTTP connection with blocking requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::Outcome;

/// Maximum wait for a response.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// A keep-alive connection.
pub struct Connection {
    pub stream: TcpStream,
}

impl Connection {
    /// Opens a connection.
    pub fn open(address: SocketAddr) -> Outcome<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_LIMIT))?;
        Ok(Connection { stream })
    }

    /// Sends a request and reads the whole response: head and body.
    pub fn ask(&mut self, request: &[u8]) -> Outcome<Vec<u8>> {
        self.stream.write_all(request)?;
        let mut answer = Vec::new();
        loop {
            let mut buffer = [0; 4_096];
            let read = self.stream.read(&mut buffer)?;
            answer.extend_from_slice(&buffer[..read]);
            if read == 0 {
                return Err(format!("closed after `{}`", String::from_utf8_lossy(&answer)).into());
            }
            let Some(end) = end_of_head(&answer) else {
                continue;
            };
            if answer.len() >= end + length_of_body(&answer[..end]) {
                return Ok(answer);
            }
        }
    }

    /// `POST`s JSON; fails if the status is not 200.
    pub fn post(&mut self, post: &Post) -> Outcome<()> {
        let Post { path, body, token } = post;
        let token = token
            .as_ref()
            .map(|token| format!("Authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{token}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.ask(request.as_bytes())?;
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(format!("POST {path} {body}: {}", String::from_utf8_lossy(&answer)).into());
        }
        Ok(())
    }
}

/// A request with a JSON body.
pub struct Post {
    pub path: &'static str,
    pub body: String,
    /// The token of its caller.
    pub token: Option<Arc<str>>,
}

impl Post {
    /// A request without a token.
    pub fn new(path: &'static str, body: String) -> Post {
        Post {
            path,
            body,
            token: None,
        }
    }
}

/// Where the body begins, once the head is complete.
pub fn end_of_head(answer: &[u8]) -> Option<usize> {
    answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|end| end + 4)
}

fn length_of_body(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).unwrap_or_default();
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length
        .and_then(|(_, length)| length.parse().ok())
        .unwrap_or(0)
}
