//! What the clients of a server may keep waiting, and for how long.

use std::time::Duration;

/// What the clients of one server may keep waiting, and for how long.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Timeout for the TLS handshake, for the rest of a request's head once it has begun, and for the
    /// first byte of a new connection.
    pub head: Duration,
    /// Timeout for a request's body.
    pub body: Duration,
    /// Timeout for the next request.
    pub keep_alive: Duration,
    /// Timeout for the client to accept any of the written bytes.
    pub write: Duration,
    /// Timeout for the end of a WebSocket message that has begun.
    pub message: Duration,
    /// Maximum number of connections of this server that are not WebSockets. Beyond it, those that
    /// have waited longest are closed.
    pub most: usize,
    /// Whether connections are closed to admit new ones however short they have waited: for ports
    /// that must always answer.
    pub always_admits: bool,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            write: Duration::from_secs(30),
            message: Duration::from_secs(10),
            most: 2_048,
            always_admits: false,
        }
    }
}
