//! Many gRPC streams that receive the same messages, read by one thread.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::Outcome;

/// The client, generated for the tests.
#[allow(dead_code, clippy::all)]
mod v1 {
    include!("../../tests/support/generated/sports_bet.v1.rs");
}

/// Streams of one connection: as many as the server allows.
const PER_CONNECTION: usize = 100;
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// The streams.
pub struct Streams {
    runtime: Runtime,
    streams: Vec<Streaming<v1::WatchOddsResponse>>,
}

impl Streams {
    /// Opens streams of an event, and reads their snapshots.
    pub fn open(address: SocketAddr, event: &str, streams: usize) -> Outcome<Streams> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let streams = runtime.block_on(open(address, event, streams))?;
        Ok(Streams { runtime, streams })
    }

    /// The number of streams.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Reads this many messages from each stream.
    pub fn take(&mut self, messages: usize) -> Outcome<()> {
        let reading = self.streams.iter_mut().map(|stream| async {
            for _ in 0..messages {
                stream.message().await?;
            }
            Ok::<_, tonic::Status>(())
        });
        // The timer needs the runtime.
        let reading = async { timeout(WAIT_LIMIT, try_join_all(reading)).await };
        self.runtime.block_on(reading)??;
        Ok(())
    }
}

async fn open(
    address: SocketAddr,
    event: &str,
    count: usize,
) -> Outcome<Vec<Streaming<v1::WatchOddsResponse>>> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect()
            .await?;
        let mut client = v1::odds_service_client::OddsServiceClient::new(channel);
        for _ in 0..PER_CONNECTION.min(count - streams.len()) {
            let request = v1::WatchOddsRequest {
                events: vec![v1::WatchedEvent {
                    event_id: event.to_owned(),
                    since: None,
                }],
                ..Default::default()
            };
            let mut stream = client.watch_odds(request).await?.into_inner();
            stream.message().await?;
            streams.push(stream);
        }
    }
    Ok(streams)
}
