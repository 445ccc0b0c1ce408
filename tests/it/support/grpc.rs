//! A client of the gRPC APIs, generated from the same files as the server.

use std::net::SocketAddr;

use sports_bet_platform::config::settings::Role;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt;

use self::v1::watch_odds_response::Message;
use super::{TestPlatform, within};

/// The messages and clients.
#[allow(dead_code, clippy::all)]
pub mod v1 {
    include!("../../support/generated/sports_bet.v1.rs");
}

pub type OddsApi = v1::odds_service_client::OddsServiceClient<Channel>;
pub type WalletApi = v1::wallet_service_client::WalletServiceClient<Channel>;
pub type BetsApi = v1::bets_service_client::BetsServiceClient<Channel>;

/// A connection to a gRPC port.
pub async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    within("a gRPC connection", endpoint.connect())
        .await
        .unwrap()
}

/// The address of a role's gRPC API.
pub fn address(platform: &TestPlatform, role: Role) -> SocketAddr {
    platform.addresses().grpc[&role]
}

pub async fn odds_api(platform: &TestPlatform) -> OddsApi {
    OddsApi::new(channel(address(platform, Role::Odds)).await)
}

pub async fn wallet_api(platform: &TestPlatform) -> WalletApi {
    WalletApi::new(channel(address(platform, Role::Wallet)).await)
}

pub async fn bets_api(platform: &TestPlatform) -> BetsApi {
    BetsApi::new(channel(address(platform, Role::Bets)).await)
}

/// A request with this metadata.
pub fn call<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        let value: AsciiMetadataValue = value.parse().unwrap();
        let name = AsciiMetadataKey::from_static(name);
        request.metadata_mut().append(name, value);
    }
    request
}

/// The code and the reason of a status, such as `NotFound BET_NOT_FOUND`. The domain is always the
/// same.
pub fn refusal(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "sports-bet-platform");
    assert!(!status.message().is_empty(), "{status:?}");
    format!("{:?} {}", status.code(), info.reason)
}

/// An event of a `WatchOdds` request.
pub fn watched(event_id: &str, since: Option<u64>) -> v1::WatchedEvent {
    let event_id = event_id.to_owned();
    v1::WatchedEvent { event_id, since }
}

/// Opens a stream of one event.
pub async fn watch(api: &mut OddsApi, event_id: &str) -> Stream {
    let request = v1::WatchOddsRequest {
        events: vec![watched(event_id, None)],
        ..Default::default()
    };
    Stream::open(api, request).await
}

/// An open stream.
pub struct Stream(Streaming<v1::WatchOddsResponse>);

impl Stream {
    pub async fn open(api: &mut OddsApi, request: v1::WatchOddsRequest) -> Stream {
        Stream::open_as(api, request, &[]).await
    }

    pub async fn open_as(
        api: &mut OddsApi,
        request: v1::WatchOddsRequest,
        metadata: &[(&'static str, &str)],
    ) -> Stream {
        let opening = api.watch_odds(call(request, metadata));
        let answer = within("a stream", opening).await.unwrap();
        Stream(answer.into_inner())
    }

    pub async fn next_or_end(&mut self) -> Result<Message, Status> {
        let next = within("a message of a stream", self.0.message()).await?;
        Ok(next.expect("a stream ends with a status").message.unwrap())
    }

    pub async fn next(&mut self) -> Message {
        self.next_or_end().await.unwrap()
    }

    pub async fn snapshot(&mut self) -> v1::Snapshot {
        match self.next().await {
            Message::Snapshot(snapshot) => snapshot,
            other => panic!("no snapshot: {other:?}"),
        }
    }

    /// The next update; skips heartbeats.
    pub async fn update(&mut self) -> v1::Update {
        loop {
            match self.next().await {
                Message::Update(update) => return update,
                Message::Heartbeat(_) => {}
                other => panic!("no update: {other:?}"),
            }
        }
    }

    /// The status with which the stream ends, after what was sent before.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next_or_end().await {
                return status;
            }
        }
    }
}

impl v1::Update {
    pub fn version(&self) -> i64 {
        self.odds.as_ref().unwrap().version
    }
}
