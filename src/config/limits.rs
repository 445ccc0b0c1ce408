//! Settings of what any client of any port may send, hold and leave unread.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use ipnet::IpNet;

use super::values::{duration_above_a_second, network, size, whole};

/// Limits of every HTTP port and of WebSocket clients.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits of clients")]
pub struct LimitSettings {
    /// How long the head of a request may take, and the first byte of a new connection
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "10s")]
    pub http_head_timeout: Duration,
    /// How long the body of a request may take
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "10s")]
    pub http_body_timeout: Duration,
    /// A client that takes nothing of an answer for this long is disconnected
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "30s")]
    pub http_write_timeout: Duration,
    /// How long an idle connection waits for its next request; at most 10s on health and metrics
    /// ports
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "75s")]
    pub http_keep_alive: Duration,
    /// Connections of each REST port that are no WebSockets. Above it the connections that wait
    /// longest for their client are closed
    #[arg(long, env, default_value_t = 2_048, value_parser = whole(16_usize, 1_000_000))]
    pub http_max_connections: usize,
    /// Connections of one client address to each port, WebSockets not counted; 0 for any number.
    /// 256 by default, loopback exempt
    #[arg(long, env, value_parser = whole(0_usize, 1_000_000))]
    pub http_max_connections_per_address: Option<usize>,
    /// Sessions of one client address; 0 for any number. 1000 by default, loopback exempt
    #[arg(long, env, value_parser = whole(0_usize, 10_000_000))]
    pub ws_max_sessions_per_address: Option<usize>,
    /// Reverse proxies, as addresses or networks, with commas. Their connections are not limited by
    /// address, and their clients are known by X-Forwarded-For, which the proxy must set
    #[arg(long, env, value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Bytes a session may send within a second; more closes it. Two messages of the largest size
    /// are always allowed
    #[arg(long, env, default_value = "256KiB", value_parser = size(ByteSize::kib(1), ByteSize::gib(1)))]
    pub ws_max_bytes_per_second: ByteSize,
    /// How long a message of a session may take from its first byte to its last
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "10s")]
    pub ws_message_timeout: Duration,
    /// Bytes of unfinished messages, of all sessions together; a session that needs more is closed
    #[arg(long, env, default_value = "64MiB", value_parser = size(ByteSize::kib(64), ByteSize::gib(64)))]
    pub ws_max_unfinished: ByteSize,
    /// Bytes of snapshots a session is sent per second, after a burst of eight times as many;
    /// further subscriptions are refused until then
    #[arg(long, env, default_value = "1MiB", value_parser = size(ByteSize::kib(1), ByteSize::gib(1)))]
    pub ws_max_snapshot_bytes_per_second: ByteSize,
}
