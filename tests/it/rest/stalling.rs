//! Clients that keep the server waiting: with a head, a body, or a response that they do not read.

use std::time::Duration;

use pretty_assertions::assert_eq;
use rstest::rstest;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::support::{ServerProcess, raw_request};

/// Short deadlines for everything a client may delay.
const SHORT: &[(&str, &str)] = &[
    ("HTTP_HEAD_TIMEOUT", "2s"),
    ("HTTP_BODY_TIMEOUT", "2s"),
    ("HTTP_WRITE_TIMEOUT", "2s"),
    ("HTTP_KEEP_ALIVE", "3s"),
];
/// The most memory that 4,400 half requests may add, one port after the other. They once added 130
/// MiB.
const FLAT: u64 = 80 * 1024 * 1024;

/// Every port: REST, the simulator, health and metrics.
fn ports(server: &ServerProcess) -> Vec<(SocketAddr, &'static str)> {
    let mut ports = vec![
        (server.odds(), "/v1/events"),
        (server.wallet(), "/wallet/deposit"),
        (server.bets(), "/bets"),
        (server.simulator(), "/supplier/confirm"),
    ];
    ports.extend(server.health.values().map(|address| (*address, "/metrics")));
    ports
}

/// Reads until the server ends the connection.
async fn rest_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = within("the server ends it", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends `begin`, then single bytes at intervals, until the server has ended the connection.
async fn trickle(address: SocketAddr, begin: &str, byte: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(begin.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    within("the server ends it", async {
        let mut read = std::pin::pin!(reader.read_to_end(&mut answer));
        loop {
            tokio::select! {
                _ = &mut read => return,
                () = tokio::time::sleep(Duration::from_millis(300)) => drop(writer.write_all(byte).await),
            }
        }
    })
    .await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[rstest]
#[case::content_length("Content-Length: 1000\r\n\r\n{", b" ")]
#[case::chunked("Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n \r\n")]
#[case::a_body_that_stalls("Content-Length: 1000\r\n\r\n{", b"")]
#[tokio::test]
async fn bodies_have_a_deadline_on_every_port(#[case] head: &str, #[case] byte: &[u8]) {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), SHORT).await;
    let ends = ports(&server)
        .into_iter()
        .map(|(address, path)| async move {
            let begin = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}"
            );
            let answer = trickle(address, &begin, byte).await;
            let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
            // A port without request bodies may answer at once, but must close the connection as
            // well.
            assert!(
                ["408", "404", "405"].contains(&&*status),
                "{path}: {answer}"
            );
            if ["/wallet/deposit", "/bets", "/supplier/confirm"].contains(&path) {
                assert!(answer.contains("REQUEST_TIMEOUT"), "{path}: {answer}");
            }
        });
    futures_util::future::join_all(ends).await;
}

#[rstest]
#[case::first("GET / HTTP/1.1\r\nHost: x\r\nX: ")]
#[case::after_another("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nX: ")]
#[case::after_a_body(
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\nX: "
)]
#[tokio::test]
async fn heads_have_a_deadline_on_every_port(#[case] begin: &str) {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), SHORT).await;
    let ends = ports(&server)
        .into_iter()
        .map(|(address, _)| trickle(address, begin, b"x"));
    for answer in futures_util::future::join_all(ends).await {
        assert!(
            answer.contains("HTTP/1.1 408 ") || answer.contains("connection: close"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn large_heads_are_rejected_on_every_port() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), &[]).await;
    for (address, path) in ports(&server) {
        let begin = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX: ");
        let answer = raw_request(address, &format!("{begin}{}", "x".repeat(33 * 1024))).await;
        assert!(
            answer.starts_with("HTTP/1.1 431 ") && answer.contains("REQUEST_HEAD_TOO_LARGE"),
            "{path}: {answer}"
        );
        let smaller = format!("{begin}{}\r\nConnection: close\r\n\r\n", "x".repeat(24_000));
        let answer = raw_request(address, &smaller).await;
        assert!(!answer.starts_with("HTTP/1.1 431 "), "{path}");
    }
}

/// Java's client and `curl --http2` offer HTTP/2 with their first request.
#[tokio::test]
async fn http_2_upgrade_offer_is_ignored() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), SHORT).await;
    let body = r#"{"userId":"u","amount_cents":5}"#;
    let request = format!(
        "POST /wallet/deposit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(server.wallet()).await.unwrap();
    stream
        .write_all(format!("{request}{body}").as_bytes())
        .await
        .unwrap();
    let answer = rest_of(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && !answer.contains("408"),
        "{answer}"
    );
}

#[tokio::test]
async fn silent_connections_end_on_every_port() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), SHORT).await;
    let ends = ports(&server).into_iter().map(|(address, _)| async move {
        let mut fresh = TcpStream::connect(address).await.unwrap();
        let mut used = TcpStream::connect(address).await.unwrap();
        used.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        (rest_of(&mut fresh).await, rest_of(&mut used).await)
    });
    for (fresh, used) in futures_util::future::join_all(ends).await {
        assert_eq!(fresh, "");
        assert!(used.starts_with("HTTP/1.1 404 "), "{used}");
        assert_eq!(used.matches("HTTP/1.1 ").count(), 1, "{used}");
    }
}

/// A client with small receive buffers.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn unread_responses_end_the_connection() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), SHORT).await;
    let before = server.memory();
    let mut ends = Vec::new();
    for (address, path) in ports(&server) {
        let many = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").repeat(1_000);
        let mut stream = narrow(address).await;
        ends.push(async move {
            let (_reader, mut writer) = stream.split();
            within("the server ends it", async {
                while writer.write_all(many.as_bytes()).await.is_ok() {}
            })
            .await;
        });
    }
    let connections = ends.len() as u64;
    let mut peak = before;
    let mut ended = std::pin::pin!(futures_util::future::join_all(ends));
    loop {
        tokio::select! {
            _ = &mut ended => break,
            () = tokio::time::sleep(Duration::from_millis(50)) => peak = peak.max(server.memory()),
        }
    }
    // It was 17 MB per connection before. The limit includes what any process allocates on first
    // use.
    let grown = (peak - before) / connections;
    assert!(grown < 3 * 1024 * 1024, "{grown} bytes for each connection");
    for (address, path) in ports(&server) {
        let answer = raw_request(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
    }
}

/// A slow reader is not stalled: a response read in small pieces arrives complete.
#[tokio::test]
async fn slow_readers_get_whole_responses() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), SHORT).await;
    let address = server.health["odds"];
    let mut stream = narrow(address).await;
    let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(9);
    let last = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream
        .write_all(format!("{requests}{last}").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 8_192];
    within("all of it", async {
        loop {
            match stream.read(&mut part).await.unwrap() {
                0 => return,
                read => answer.extend_from_slice(&part[..read]),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(
        String::from_utf8(answer)
            .unwrap()
            .matches("HTTP/1.1 200 OK")
            .count(),
        10
    );
}

#[tokio::test]
async fn half_requests_do_not_block_others() {
    let folder = TempDir::new().unwrap();
    // Their deadline is far away: the others are served because idle connections make room for
    // them.
    let variables = [
        ("HTTP_BODY_TIMEOUT", "10m"),
        ("HTTP_HEAD_TIMEOUT", "10m"),
        ("HTTP_MAX_CONNECTIONS", "64"),
    ];
    let server = ServerProcess::start(folder.path(), &variables).await;
    let before = server.memory();
    for (address, path) in ports(&server) {
        let mut stalled = Vec::new();
        for count in 0..400 {
            let mut stream = within("it is accepted", TcpStream::connect(address))
                .await
                .unwrap();
            let rest = if count % 2 == 0 {
                "Content-Length: 9\r\n\r\n{"
            } else {
                "Transfer-Enc"
            };
            let _ = stream
                .write_all(format!("POST {path} HTTP/1.1\r\nHost: x\r\n{rest}").as_bytes())
                .await;
            stalled.push(stream);
        }
        for _ in 0..3 {
            let answer = raw_request(
                address,
                "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            )
            .await;
            assert!(
                answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 404 "),
                "{path}: {answer}"
            );
        }
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < FLAT, "{grown} bytes more");
}

#[tokio::test]
async fn probes_are_answered_despite_idle_connections() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), &[]).await;
    for address in server.health.values() {
        let mut idle = Vec::new();
        for _ in 0..600 {
            idle.push(
                within("it is accepted", TcpStream::connect(address))
                    .await
                    .unwrap(),
            );
        }
        let mut answer = String::new();
        for path in ["livez", "healthz", "metrics"] {
            let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            answer = raw_request(*address, &request).await;
            // The status does not matter, only that there is an answer.
            let is_answered = ["HTTP/1.1 200 ", "HTTP/1.1 503 "]
                .iter()
                .any(|head| answer.starts_with(head));
            assert!(is_answered, "{answer}");
        }
        // It did not wait for the deadline of the idle connections.
        let crowded = answer
            .lines()
            .find(|line| line.contains(r#"port="metrics",reason="crowded""#))
            .unwrap();
        assert!(
            crowded.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap() > 100,
            "{crowded}"
        );
    }
}

#[tokio::test]
async fn connections_are_limited_per_address() {
    let folder = TempDir::new().unwrap();
    let server =
        ServerProcess::start(folder.path(), &[("HTTP_MAX_CONNECTIONS_PER_ADDRESS", "3")]).await;
    for address in [
        server.odds(),
        server.wallet(),
        server.bets(),
        server.simulator(),
    ] {
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut first = [0; 12];
            within("an answer", stream.read_exact(&mut first))
                .await
                .unwrap();
            held.push(stream);
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        let answer = rest_of(&mut refused).await;
        assert!(
            answer.starts_with("HTTP/1.1 429 ") && answer.contains("TOO_MANY_CONNECTIONS"),
            "{answer}"
        );
        drop(held);
        until("there is room again", || async {
            let answer = raw_request(
                address,
                "GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            )
            .await;
            answer.starts_with("HTTP/1.1 404 ").then_some(())
        })
        .await;
    }
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

/// Opens a session; returns the connection and the status.
async fn session(address: SocketAddr, more: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /ws/odds HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    within("an answer", stream.read_exact(&mut first))
        .await
        .unwrap();
    (stream, String::from_utf8_lossy(&first[9..]).into_owned())
}

#[tokio::test]
async fn sessions_are_limited_per_address() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), &[("WS_MAX_SESSIONS_PER_ADDRESS", "2")]).await;
    let (first, status) = session(server.odds(), "").await;
    assert_eq!(status, "101");
    // Forwarded addresses are ignored unless they come from a trusted proxy.
    let (_second, status) = session(server.odds(), "X-Forwarded-For: 192.0.2.7\r\n").await;
    assert_eq!(status, "101");
    for _ in 0..3 {
        assert_eq!(
            session(server.odds(), "X-Forwarded-For: 192.0.2.8\r\n")
                .await
                .1,
            "429"
        );
    }
    let hint = "client refused: WS_MAX_SESSIONS_PER_ADDRESS reached; if this is a proxy, add it to TRUSTED_PROXIES";
    assert_eq!(
        server.log().matches(hint).count(),
        1,
        "logged once: {}",
        server.log()
    );
    let hint = "add its address to TRUSTED_PROXIES: default limits";
    assert_eq!(server.log().matches(hint).count(), 1, "{}", server.log());
    drop(first);
    until("there is room again", || async {
        (session(server.odds(), "").await.1 == "101").then_some(())
    })
    .await;
}

#[tokio::test]
async fn trusted_proxies_forward_client_addresses() {
    let folder = TempDir::new().unwrap();
    let variables = [
        ("WS_MAX_SESSIONS_PER_ADDRESS", "1"),
        ("HTTP_MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
    ];
    let server = ServerProcess::start(folder.path(), &variables).await;
    let mut held = Vec::new();
    for (client, wanted) in [
        ("192.0.2.1", "101"),
        ("192.0.2.2", "101"),
        ("192.0.2.1", "429"),
        ("evil, 192.0.2.2", "429"),
        ("\u{e9}, 192.0.2.2", "429"),
        // Clients that the proxy does not identify count together.
        ("\u{e9}", "101"),
        ("unknown", "429"),
    ] {
        let (stream, status) =
            session(server.odds(), &format!("X-Forwarded-For: {client}\r\n")).await;
        assert_eq!(status, wanted, "{client}");
        held.push(stream);
    }
}
