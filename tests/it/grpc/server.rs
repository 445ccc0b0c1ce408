//! Health, reflection, TLS, and the end of a server.

use std::net::TcpListener;

use pretty_assertions::assert_eq;
use sports_bet_platform::config::settings::Role;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

use super::{Fixture, market};
use crate::support::grpc::v1::watch_odds_response::Message;
use crate::support::grpc::{address, channel, odds_api, refusal, v1, watch, watched};
use crate::support::{Authority, TestPlatform, borrowed, until, within};

const ROLES: [(Role, &str); 3] = [
    (Role::Odds, "sports_bet.v1.OddsService"),
    (Role::Wallet, "sports_bet.v1.WalletService"),
    (Role::Bets, "sports_bet.v1.BetsService"),
];

fn health_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[actix_web::test]
async fn health_is_readiness_of_role() {
    let fixture = Fixture::start(",wallet,bets,confirmation", &[]).await;
    for (role, service) in ROLES {
        let mut health = HealthClient::new(channel(address(&fixture.platform, role)).await);
        for name in ["", service] {
            until("the role is ready", || {
                let mut health = health.clone();
                async move {
                    let answer = health.check(health_of(name)).await.unwrap().into_inner();
                    (answer.status() == ServingStatus::Serving).then_some(())
                }
            })
            .await;
        }
        let unknown = health.check(health_of("none")).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);
    }
    let health = channel(address(&fixture.platform, Role::Odds)).await;
    let watched = HealthClient::new(health).watch(health_of("")).await;
    let mut watched = watched.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    // Clients of the health service are told before the server ends.
    let next = async {
        let next = within("a change of health", watched.message()).await;
        next.unwrap().unwrap().status()
    };
    let (next, _) = tokio::join!(next, fixture.platform.stop());
    assert_eq!(next, ServingStatus::NotServing);
}

async fn services(platform: &TestPlatform) -> Result<Vec<String>, tonic::Status> {
    let channel = channel(address(platform, Role::Odds)).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::once(async { request });
    let answers = ServerReflectionClient::new(channel)
        .server_reflection_info(requests)
        .await?;
    let answer = answers.into_inner().message().await?.unwrap();
    match answer.message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => {
            let mut names: Vec<_> = list.service.into_iter().map(|it| it.name).collect();
            names.sort();
            Ok(names)
        }
        other => panic!("{other:?}"),
    }
}

#[actix_web::test]
async fn reflection_is_a_setting() {
    let fixture = Fixture::odds(&[]).await;
    let listed = services(&fixture.platform).await.unwrap();
    assert_eq!(
        listed,
        ["grpc.health.v1.Health", "sports_bet.v1.OddsService"]
    );
    fixture.platform.stop().await;
    let fixture = Fixture::odds(&[("GRPC_REFLECTION", "false")]).await;
    let refused = services(&fixture.platform).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn stop_ends_streams_with_a_status() {
    let mut fixture = Fixture::odds(&[]).await;
    fixture.show(market("E", 1, 1.5)).await;
    let mut api = odds_api(&fixture.platform).await;
    let mut stream = watch(&mut api, "E").await;
    stream.snapshot().await;
    let platform = fixture.platform;
    let (end, _) = tokio::join!(stream.end(), platform.stop());
    assert_eq!(refusal(&end), "Unavailable GOING_AWAY");
    api.list_events(v1::ListEventsRequest::default())
        .await
        .unwrap_err();
}

/// Before a stop by SIGTERM the client is told to open another stream; changes still arrive.
#[actix_web::test]
async fn draining_stream_is_told_before_its_end() {
    let drain = [("DRAIN_DELAY", "0s"), ("DRAIN_SPREAD", "2s")];
    let mut fixture = Fixture::odds(&drain).await;
    fixture.show(market("E", 1, 1.5)).await;
    let mut api = odds_api(&fixture.platform).await;
    let mut stream = watch(&mut api, "E").await;
    stream.snapshot().await;
    let reading = async {
        let told = loop {
            if let Message::Reconnect(told) = stream.next().await {
                break told;
            }
        };
        // The connection takes no further stream, so a client does not come back to this process.
        let next = api.watch_odds(v1::WatchOddsRequest {
            events: vec![watched("E", None)],
            ..Default::default()
        });
        let refused = within("the end of a call", next).await.unwrap_err();
        // From the transport, not from the server.
        assert!(refused.get_error_details().error_info().is_none());
        (told.within_ms, refusal(&stream.end().await))
    };
    let (told, ()) = tokio::join!(reading, fixture.platform.drain());
    assert_eq!(told, (200, "Unavailable GOING_AWAY".to_owned()));
    fixture.platform.stop().await;
}

#[actix_web::test]
async fn grpc_can_be_off() {
    let fixture = Fixture::start(",wallet,bets,confirmation", &[("GRPC", "false")]).await;
    assert!(fixture.platform.addresses().grpc.is_empty());
    fixture.platform.stop().await;
}

/// A port that is set must be free; a busy default port only leaves gRPC out.
#[actix_web::test]
async fn busy_port_prevents_start_if_set() {
    use sports_bet_platform::config::Config;
    use sports_bet_platform::platform::Platform;
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port().to_string();
    let folder = crate::support::Folder::embedded();
    let own = folder.variables();
    let own = own
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut variables: Vec<_> = own.collect();
    variables.extend([
        ("ROLE", "wallet"),
        ("HTTP_PORT_WALLET", "0"),
        ("METRICS_PORT_WALLET", "0"),
    ]);
    // Another test may have the default port already.
    let _default = TcpListener::bind("127.0.0.1:50052");
    let config = Config::from_variables(&variables).unwrap();
    let platform = Platform::start(&config).await.unwrap();
    assert!(platform.addresses().grpc.is_empty());
    assert!(platform.stop().await);
    variables.push(("GRPC_PORT_WALLET", &port));
    let config = Config::from_variables(&variables).unwrap();
    let refused = Platform::start(&config).await.map(|_| ()).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.starts_with("GRPC_PORT_WALLET: cannot listen on"),
        "{refused}"
    );
}

/// A client of TLS agrees on HTTP/2 with the same certificate; one without TLS gets nothing.
#[actix_web::test]
async fn certificate_is_that_of_rest() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let authority = Authority::new();
    let settings = authority.settings(&[]);
    let fixture = Fixture::start("", &borrowed(&settings)).await;
    let grpc = address(&fixture.platform, Role::Odds);
    let mut tls = authority.client(None);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
    let stream = tokio::net::TcpStream::connect(grpc).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stream = within("a handshake", connector.connect(name, stream))
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut head = [0; 9];
    within("settings", stream.read_exact(&mut head))
        .await
        .unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame");
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{grpc}")).unwrap();
    let mut api = match plain.connect().await {
        Ok(channel) => crate::support::grpc::OddsApi::new(channel),
        Err(_) => return,
    };
    api.list_events(v1::ListEventsRequest::default())
        .await
        .unwrap_err();
    fixture.platform.stop().await;
}
