//! Limits on what clients of every port may send, keep open and leave unread.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use ipnet::IpNet;

use super::values::{duration_above_a_second, network, size, whole};

/// Limits of every HTTP port and of WebSocket clients.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits of clients")]
pub struct LimitSettings {
    /// Timeout for the first byte of a new connection and for the head of a request
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "10s")]
    pub http_head_timeout: Duration,
    /// Timeout for the body of a request
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "10s")]
    pub http_body_timeout: Duration,
    /// How long a client may read nothing of a response before it is disconnected
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "30s")]
    pub http_write_timeout: Duration,
    /// How long an idle connection is kept open for its next request; at most 10s on health and
    /// metrics ports
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "75s")]
    pub http_keep_alive: Duration,
    /// Maximum connections per REST port, not counting WebSockets. Above it, the connections that
    /// have waited longest for their client are closed
    #[arg(long, env, default_value_t = 2_048, value_parser = whole(16_usize, 1_000_000))]
    pub http_max_connections: usize,
    /// Maximum connections per client address and port, not counting WebSockets; 0 for no limit.
    /// 256 by default, with loopback exempt
    #[arg(long, env, value_parser = whole(0_usize, 1_000_000))]
    pub http_max_connections_per_address: Option<usize>,
    /// Maximum sessions per client address; 0 for no limit. 1000 by default, with loopback exempt
    #[arg(long, env, value_parser = whole(0_usize, 10_000_000))]
    pub ws_max_sessions_per_address: Option<usize>,
    /// Trusted reverse proxies, as addresses or networks, comma-separated. Their connections are
    /// not limited by address; their clients are identified by X-Forwarded-For, or else by Forwarded;
    /// the proxy must append to one of them
    #[arg(long, env, value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Maximum bytes per second from one session; a session that exceeds it is closed. Two messages
    /// of the maximum size are always allowed
    #[arg(long, env, default_value = "256KiB", value_parser = size(ByteSize::kib(1), ByteSize::gib(1)))]
    pub ws_max_bytes_per_second: ByteSize,
    /// Timeout from the first to the last byte of a client message
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "10s")]
    pub ws_message_timeout: Duration,
    /// Maximum total size of unfinished messages over all sessions; a session that would exceed it
    /// is closed
    #[arg(long, env, default_value = "64MiB", value_parser = size(ByteSize::kib(64), ByteSize::gib(64)))]
    pub ws_max_unfinished: ByteSize,
    /// Maximum snapshot bytes per second sent to one session, after a burst of eight times as much;
    /// above it, further subscriptions are rejected
    #[arg(long, env, default_value = "1MiB", value_parser = size(ByteSize::kib(1), ByteSize::gib(1)))]
    pub ws_max_snapshot_bytes_per_second: ByteSize,
}
