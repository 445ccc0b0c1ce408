//! Helpers of the integration tests.

mod authority;
mod balancer;
mod client;
mod cluster;
mod collector;
mod database;
pub mod documents;
mod engines;
mod follower;
pub mod grpc;
mod platform;
mod port;
mod private;
mod process;
mod proxy;
mod steady;
mod supplier;
mod topic;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

pub use authority::{Authority, borrowed};
pub use balancer::LoadBalancer;
pub use client::{HttpAnswer, OddsClient, get_json, get_text, send, try_send};
pub use cluster::Cluster;
pub use collector::{Behaviour, Collector, QUIET, ReceivedSpan, Trace};
pub use database::{Database, records};
pub use engines::{Folder, are_real, kafka_admin};
pub use follower::Follower;
pub use platform::TestPlatform;
pub use port::ReservedPort;
pub use private::{PrivateEngine, free_port};
pub use process::{LoggedChild, ServerProcess, command};
pub use proxy::{CuttableTcpProxy, Direction, SlowTcpProxy, TcpProxy};
pub use steady::SteadySupplier;
pub use supplier::{FakeSupplier, PATIENT, SupplierLink};
pub use topic::{KeyAndPayload, OddsTopic, Positions, positions};

/// How long a test waits for an expected condition.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a future, and panics if it takes longer than the deadline.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("timed out after {DEADLINE:?}: {what}"),
    }
}

/// Polls until there is a value, and panics after the deadline.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(what, async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Sends bytes on a new connection, and returns everything received until it ends.
pub async fn raw(address: SocketAddr, request: impl AsRef<[u8]>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    // A server that rejects a request early may reset the connection; its response is still
    // readable.
    let _ = stream.write_all(request.as_ref()).await;
    let _ = within("a raw answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A native frame as sent by the original: a `1x2` market whose home price is derived from its
/// version.
pub fn original_frame(event: &str, updated_at: &str, version: i64) -> String {
    let home = 1.5 + (version % 1_000) as f64 / 1_000.0;
    format!(
        r#"{{"event_id":"{event}","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{{"home":{home:.3},"draw":3.2,"away":4.5}},"updated_at":"{updated_at}","source":"test-supplier","version":{version}}}"#
    )
}

/// Sends a request unchanged, and returns the response up to the end of the connection, or the head
/// of an upgrade.
pub async fn raw_request(address: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    within("an answer", async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let read = stream.read_buf(&mut answer).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&answer);
            let has_head = text.contains("\r\n\r\n");
            if read == 0 || has_head && !request.contains("Connection: close") {
                return text.into_owned();
            }
        }
    })
    .await
}

/// A metric's value on a metrics page, with labels written as on the page: `name{label="x"}`.
pub fn metric(page: &str, name: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
