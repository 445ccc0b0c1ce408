//! Limits on clients hold with TLS as they do without.

use pretty_assertions::assert_eq;
use rstest::rstest;
use socket2::SockRef;
use sports_bet_platform::config::settings::Role;
use tokio::net::TcpSocket;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::clients::{change_of, raw};
use crate::support::{FakeSupplier, TestPlatform};

/// Half handshakes, more than the server may keep.
const HALF: usize = 5_000;
/// The most memory that they may add.
const FLAT: u64 = 80 * 1024 * 1024;

/// The beginning of a handshake that announces 512 bytes: record, message, version.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[tokio::test]
async fn half_handshakes_do_not_block_others() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    // Their deadline is far away: the others are served because half handshakes make room.
    let more = [("HTTP_HEAD_TIMEOUT", "10m"), ("HTTP_WORKERS_ODDS", "2")];
    let server = start(&folder, &authority, &more).await;
    let before = server.memory();
    let url = format!("https://{}/v1/events", server.odds());
    let rest = authority.rest();
    let mut stalled = Vec::new();
    let mut peak = before;
    for count in 0..HALF {
        let connecting = TcpStream::connect(server.odds());
        let mut stream = within("it is accepted", connecting).await.unwrap();
        // Every other one says nothing at all.
        if count % 2 == 0 {
            stream.write_all(HALF_HELLO).await.unwrap();
        }
        stalled.push(stream);
        if count % 500 == 499 {
            for client in [&rest, &authority.rest()] {
                let answer = within("an answer", client.get(&url).send()).await.unwrap();
                assert_eq!(answer.status(), 200);
            }
            peak = peak.max(server.memory());
        }
    }
    let grown = peak - before;
    assert!(grown < FLAT, "{grown} bytes more");
    until_ended(&server, "crowded").await;
}

#[tokio::test]
async fn half_handshakes_have_a_deadline() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[("HTTP_HEAD_TIMEOUT", "2s")]).await;
    for begin in [&b""[..], HALF_HELLO] {
        let mut stream = TcpStream::connect(server.odds()).await.unwrap();
        stream.write_all(begin).await.unwrap();
        assert_eq!(rest_of(&mut stream).await, "");
    }
    assert_eq!(ended(&server, "handshake_timeout").await, 2.0);
    // A handshake message of 16 MiB is not kept.
    let mut stream = TcpStream::connect(server.odds()).await.unwrap();
    let fragment = [&b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"[..], &[0; 16_380]].concat();
    while stream.write_all(&fragment).await.is_ok() {}
    until_ended(&server, "handshake_failed").await;
}

/// Half handshakes end at once when the server stops.
#[tokio::test]
async fn half_handshakes_do_not_delay_shutdown() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    // Much shorter than the deadline of the handshake, and enough to leave the groups of a real bus.
    let more = [("HTTP_HEAD_TIMEOUT", "10m"), ("SHUTDOWN_TIMEOUT", "60s")];
    let mut server = start(&folder, &authority, &more).await;
    let mut stream = TcpStream::connect(server.odds()).await.unwrap();
    stream.write_all(HALF_HELLO).await.unwrap();
    drop(authority.connect(server.odds()).await);
    server.signal("TERM").await;
    assert_eq!(rest_of(&mut stream).await, "");
    assert!(server.ended().await.success(), "{}", server.log());
}

/// The final response of an ended connection is encrypted.
#[rstest]
#[case::head("GET / HTTP/1.1\r\nHost: x\r\nX: ", "HTTP/1.1 408 ")]
#[case::body(
    "POST /wallet/deposit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
     Content-Length: 9\r\n\r\n{",
    "HTTP/1.1 408 "
)]
#[case::idle("GET /none HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 ")]
#[case::silent("", "")]
#[tokio::test]
async fn slow_requests_end_with_a_response(#[case] request: &str, #[case] status: &str) {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let short = [
        ("HTTP_HEAD_TIMEOUT", "2s"),
        ("HTTP_BODY_TIMEOUT", "2s"),
        ("HTTP_KEEP_ALIVE", "2s"),
    ];
    let server = start(&folder, &authority, &short).await;
    let mut stream = authority.connect(server.wallet()).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // An end without a TLS alert would be an error.
    within("the server ends it", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with(status), "{answer}");
    assert_eq!(answer.is_empty(), status.is_empty());
}

#[tokio::test]
async fn large_head_is_refused_in_tls() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[]).await;
    let mut stream = authority.connect(server.odds()).await;
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(33 * 1024));
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = rest_of(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

/// A connection with small buffers on both sides.
async fn narrow(authority: &Authority, address: SocketAddr) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    SockRef::from(&socket).set_tcp_mss(536).unwrap();
    authority
        .handshake(socket.connect(address).await.unwrap())
        .await
}

#[tokio::test]
async fn unread_responses_end_the_connection() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let server = start(&folder, &authority, &[("HTTP_WRITE_TIMEOUT", "2s")]).await;
    let stream = narrow(&authority, server.odds()).await;
    let many = "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    let (_reader, mut writer) = tokio::io::split(stream);
    within("the server ends it", async {
        while writer.write_all(many.as_bytes()).await.is_ok() {}
    })
    .await;
    until_ended(&server, "write_timeout").await;
}

/// Opens a session, subscribes, and reads nothing more than the upgrade.
async fn subscribe(stream: &mut TlsStream<TcpStream>) {
    let request = "GET /ws/odds HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    within("the upgrade", stream.read_exact(&mut status))
        .await
        .unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    let message = raw::text(r#"{"type":"subscribe","eventId":"MATCH_001"}"#);
    stream.write_all(&message).await.unwrap();
}

/// The session is cut off through the socket below TLS, and the others receive every change.
#[actix_web::test]
async fn stalled_session_is_evicted() {
    let authority = Authority::new();
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let more = [
        ("SLOW_CLIENT_LIMIT", "500ms"),
        ("WS_SESSION_QUEUE", "8"),
        ("SUPPLIER_READ_TIMEOUT", "10m"),
    ];
    let settings = authority.settings(&more);
    let settings = borrowed(&settings);
    let platform = TestPlatform::fed_by(&[url], &settings).await;
    let mut link = supplier.accept().await;
    let mut stalled = narrow(&authority, platform.odds()).await;
    subscribe(&mut stalled).await;
    let mut reader = OddsClient::connect_tls(platform.odds(), authority.client(None)).await;
    reader.subscribe("MATCH_001").await;
    reader.next_of("snapshot").await;
    let sessions = "odds_ws_sessions";
    platform
        .until_metric(Role::Odds, sessions, |count| count == 2.0)
        .await;
    let is_evicted = async || {
        let page = platform.metrics(Role::Odds).await;
        metric(&page, sessions) == Some(1.0)
    };
    for version in 1..=2_000 {
        link.send(change_of("MATCH_001", "1x2", version, 5_000))
            .await;
        reader.next_of("update").await;
        if version % 20 == 0 && is_evicted().await {
            break;
        }
    }
    let evicted = r#"odds_ws_closes_total{reason="slow"}"#;
    platform
        .until_metric(Role::Odds, evicted, |count| count == 1.0)
        .await;
    // The connection is closed below TLS: the bytes end without a TLS alert.
    let mut rest = Vec::new();
    let end = within("its end", stalled.read_to_end(&mut rest)).await;
    assert!(end.is_err(), "{end:?}");
    platform.stop().await;
}
