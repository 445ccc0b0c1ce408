//! WebSockets through the gateway.

use pretty_assertions::assert_eq;
use rstest::rstest;
use sports_bet_platform::config::settings::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, protocol::CloseFrame};

use futures_util::SinkExt;

use super::fake_service::FakeService;
use super::*;
use crate::clients::raw::{End, FIN, RawClient, TEXT, unmasked_frame};
use crate::support::within;

/// The answer to [`RawClient`]'s handshake.
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const SOCKET: &str = "/api/odds/ws/odds";

async fn until_ended(gateway: &TestPlatform, reason: &str) {
    let series = format!("gateway_sockets_ended_total{{reason=\"{reason}\"}}");
    gateway
        .until_metric(Role::Gateway, &series, |count| count == 1.0)
        .await;
    gateway
        .until_metric(Role::Gateway, "gateway_sockets", |open| open == 0.0)
        .await;
}

#[rstest]
#[case(Services::Mounted)]
#[case(Services::Forwarded)]
#[actix_web::test]
async fn session_works_through_the_gateway(#[case] place: Services) {
    let mut behind = Behind::start(place, &[]).await;
    behind.show("E", 1).await;
    let mut client = behind.client().await;
    client.subscribe("E").await;
    assert_eq!(client.next().await["type"], "snapshot");
    behind.link.send(market("E", 2)).await;
    let update = client.next_of("update").await;
    assert_eq!(update["payload"]["version"], 2);
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next_of("pong").await["type"], "pong");
    client.send("{").await;
    assert_eq!(client.next_of("error").await["code"], "BAD_JSON");
    client.send(r#"{"type":"unsubscribe","eventId":"E"}"#).await;
    client.next_of("unsubscribed").await;
    let close = CloseFrame {
        code: CloseCode::Library(4_000),
        reason: "done".into(),
    };
    client
        .socket
        .send(Message::Close(Some(close)))
        .await
        .unwrap();
    let closed = client.next_or_close().await.unwrap_err();
    assert_eq!(closed.map(|frame| u16::from(frame.code)), Some(4_000));
    drop(client);
    behind
        .services
        .until_metric(Role::Odds, "odds_ws_sessions", |open| open == 0.0)
        .await;
    if let Some(gateway) = &behind.gateway {
        until_ended(gateway, "closed").await;
    }
    behind.stop().await;
}

#[rstest]
#[case(Services::Mounted)]
#[case(Services::Forwarded)]
#[actix_web::test]
async fn thousand_updates_arrive_in_order(#[case] place: Services) {
    const LAST: u64 = 1_001;
    let mut behind = Behind::start(place, &[("WS_SESSION_QUEUE", "2000")]).await;
    behind.show("E", 1).await;
    let mut client = behind.client().await;
    client.subscribe("E").await;
    client.next_of("snapshot").await;
    let sending = async {
        for version in 2..=LAST {
            behind.link.send(market("E", version)).await;
        }
    };
    let reading = async {
        let mut versions = Vec::new();
        while versions.last() != Some(&LAST) {
            let update = client.next_of("update").await;
            assert!(update["conflated"].is_null(), "{update}");
            versions.push(update["payload"]["version"].as_u64().unwrap());
        }
        versions
    };
    let ((), versions) = tokio::join!(sending, reading);
    assert_eq!(versions, (2..=LAST).collect::<Vec<_>>());
    behind.stop().await;
}

/// The service's refusals are its answers, not the gateway's.
#[rstest]
#[case(Services::Mounted)]
#[case(Services::Forwarded)]
#[actix_web::test]
async fn refused_handshakes_are_passed_on(#[case] place: Services) {
    let behind = Behind::start(place, &[]).await;
    for (line, expected) in [
        ("Origin: https://evil.example", "403 ORIGIN_NOT_ALLOWED"),
        ("Sec-WebSocket-Version: 8", "400 BAD_HANDSHAKE"),
    ] {
        let request = format!(
            "GET {SOCKET} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{line}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(behind.gateway()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within("the answer", async {
            while !answer.ends_with(b"}") {
                assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
            }
        })
        .await;
        let answer = String::from_utf8(answer).unwrap();
        let (status, code) = expected.split_once(' ').unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(code), "{answer}");
    }
    behind.stop().await;
}

#[actix_web::test]
async fn forwarded_sockets_are_limited() {
    let behind = Behind::start(Services::Forwarded, &[("WS_MAX_SESSIONS", "1")]).await;
    let first = behind.client().await;
    let refused = within(
        "the second handshake",
        tokio_tungstenite::connect_async(behind.socket_url()),
    )
    .await;
    match refused {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 503),
        other => panic!("{other:?}"),
    }
    drop(first);
    let gateway = behind.gateway.as_ref().unwrap();
    gateway
        .until_metric(Role::Gateway, "gateway_sockets", |open| open == 0.0)
        .await;
    until("the service forgets the first", || async {
        tokio_tungstenite::connect_async(behind.socket_url())
            .await
            .ok()
    })
    .await;
    behind.stop().await;
}

#[actix_web::test]
async fn stopping_gateway_closes_with_1001() {
    let behind = Behind::start(Services::Forwarded, &[]).await;
    let mut client = behind.client().await;
    let Behind {
        services, gateway, ..
    } = behind;
    let (_, code) = tokio::join!(gateway.unwrap().stop(), client.close_code());
    assert_eq!(code, 1_001);
    services.stop().await;
}

/// The service never learns that the client reads nothing, so the gateway cuts it off.
#[actix_web::test]
async fn client_that_reads_nothing_is_cut_off() {
    let service = FakeService::start().await;
    let limits = [("SLOW_CLIENT_LIMIT", "300ms")];
    let gateway = gateway_before(service.address(), &limits).await;
    let flooding = async {
        let mut arrived = service.request().await;
        arrived.send(ACCEPTED).await;
        let frame = unmasked_frame(FIN | TEXT, &[b'x'; 10_000]);
        // Ends when the gateway closes the connection.
        while arrived.stream.write_all(&frame).await.is_ok() {}
    };
    let connecting = RawClient::connect_narrow_to(gateway.gateway(), SOCKET);
    let (mut client, ()) = within("the flood ends", async {
        tokio::join!(connecting, flooding)
    })
    .await;
    until_ended(&gateway, "slow_client").await;
    assert_eq!(client.end().await, End::BrokenOff);
}

#[actix_web::test]
async fn service_that_reads_nothing_is_left() {
    let service = FakeService::start().await;
    let limits = [
        ("GATEWAY_ANSWER_TIMEOUT", "300ms"),
        ("GATEWAY_CONNECT_TIMEOUT", "300ms"),
    ];
    let gateway = gateway_before(service.address(), &limits).await;
    let accepting = async {
        let mut arrived = service.request().await;
        arrived.send(ACCEPTED).await;
        arrived
    };
    let connecting = RawClient::connect_narrow_to(gateway.gateway(), SOCKET);
    let (mut client, arrived) = tokio::join!(connecting, accepting);
    let writing = async {
        let bytes = vec![b'x'; 64 * 1024];
        while client.stream.write_all(&bytes).await.is_ok() {}
    };
    // The gateway gives up while the client is still writing.
    let left = until_ended(&gateway, "slow_service");
    within("the gateway gives up", async {
        tokio::select! {
            () = left => {}
            () = async { writing.await; std::future::pending().await } => {}
        }
    })
    .await;
    drop(arrived);
}
