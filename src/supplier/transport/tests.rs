//! Both transports on real sockets: TLS, limits, silence, and backpressure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::runtime::tls::testing::localhost;
use crate::supplier::testing::settings;

const DEADLINE: Duration = Duration::from_secs(20);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A server that sends `bytes` to its first client, then reads one line and returns it.
async fn serve_bytes(bytes: &'static [u8]) -> (SocketAddr, JoinHandle<String>) {
    let (listener, addr) = listener().await;
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.unwrap();
        line
    });
    (addr, task)
}

async fn open_at(url: String, arguments: &[&str]) -> Result<Connection, TransportError> {
    timeout(
        DEADLINE,
        connect(&url.parse().unwrap(), &settings(arguments)),
    )
    .await
    .unwrap()
}

async fn next(connection: &mut Connection) -> Option<Result<Inbound, TransportError>> {
    timeout(DEADLINE, connection.inbound.next()).await.unwrap()
}

async fn next_frame(connection: &mut Connection) -> Bytes {
    match next(connection).await {
        Some(Ok(Inbound::Frame(frame))) => frame,
        other => panic!("{other:?}"),
    }
}

async fn failure(url: String, arguments: &[&str]) -> TransportError {
    match open_at(url, arguments).await {
        Ok(_) => panic!("connected"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn lines_are_framed_by_crlf() {
    let (addr, server) = serve_bytes(b"one\r\n\xff\xfe\ntwo\r\ncut off").await;
    let mut connection = open_at(format!("betfair://{addr}"), &[]).await.unwrap();
    assert_eq!(next_frame(&mut connection).await, "one");
    assert_eq!(&next_frame(&mut connection).await[..], b"\xff\xfe");
    assert_eq!(next_frame(&mut connection).await, "two");
    connection.outbound.send(Outbound::Ping).await.unwrap();
    connection
        .outbound
        .send(Outbound::Text("hello".to_owned()))
        .await
        .unwrap();
    assert_eq!(
        timeout(DEADLINE, server).await.unwrap().unwrap(),
        "hello\r\n"
    );
    // The server has closed the connection; the partial line is not a frame.
    match next(&mut connection).await {
        None | Some(Err(TransportError::Read(_))) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn oversized_line_ends_connection() {
    let longest = "x".repeat(1024);
    let too_long = "y".repeat(1025);
    let lines = format!("{longest}\r\n{too_long}\r\nnext\r\n");
    let (addr, _server) = serve_bytes(lines.leak().as_bytes()).await;
    let mut connection = open_at(
        format!("betfair://{addr}"),
        &["--supplier-max-frame", "1KiB"],
    )
    .await
    .unwrap();
    assert_eq!(next_frame(&mut connection).await, longest);
    let error = next(&mut connection).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "a frame is larger than 1024 bytes (SUPPLIER_MAX_FRAME)"
    );
    assert!(next(&mut connection).await.is_none());
}

#[tokio::test]
async fn silent_server_times_out() {
    let (_listener, addr) = listener().await;
    for url in [
        format!("ws://{addr}/ws"),
        format!("wss://{addr}/ws"),
        format!("betfairs://{addr}"),
    ] {
        let (_, ca) = localhost();
        let ca = ca.path().to_str().unwrap().to_owned();
        let error = failure(
            url,
            &[
                "--supplier-read-timeout",
                "100ms",
                "--supplier-ca-file",
                &ca,
            ],
        )
        .await;
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            ("connect_timeout", "no connection within 100ms")
        );
    }
}

#[tokio::test]
async fn refused_connection_is_an_error() {
    let (listener, addr) = listener().await;
    drop(listener);
    let error = failure(format!("betfair://{addr}"), &[]).await;
    assert_eq!(error.reason(), "connect");
}

/// A TLS server on `localhost` that sends a line, or upgrades and sends it as a message; and the CA
/// file that trusts it.
async fn tls_server(websocket: bool) -> (u16, tempfile::NamedTempFile) {
    let (acceptor, ca) = localhost();
    let (listener, addr) = listener().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                if websocket {
                    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                    socket.send(Message::text("secret")).await.unwrap();
                    let _ = socket.next().await;
                } else {
                    stream.write_all(b"secret\r\n").await.unwrap();
                    let _ = stream.read(&mut [0; 8]).await;
                }
            });
        }
    });
    (addr.port(), ca)
}

#[tokio::test]
async fn tls_with_a_ca_file_and_without() {
    for (websocket, scheme) in [(false, "betfairs"), (true, "wss")] {
        let (port, ca) = tls_server(websocket).await;
        let url = format!("{scheme}://localhost:{port}");
        let trusts = ["--supplier-ca-file", ca.path().to_str().unwrap()];
        let mut connection = open_at(url.clone(), &trusts).await.unwrap();
        assert_eq!(next_frame(&mut connection).await, "secret");

        let (_, other) = localhost();
        let error = failure(url, &["--supplier-ca-file", other.path().to_str().unwrap()]).await;
        assert_eq!(error.reason(), "tls");
        assert!(
            error
                .to_string()
                .starts_with("TLS: the server's certificate is not trusted ("),
            "{error}"
        );

        // The certificate is for `localhost`, not for its address.
        let error = failure(format!("{scheme}://127.0.0.1:{port}"), &trusts).await;
        assert!(error.to_string().contains("not trusted"), "{error}");
    }
}

#[tokio::test]
async fn tls_to_plain_port_is_explained() {
    let (addr, _server) = serve_bytes(b"{\"op\":\"connection\"}\r\n").await;
    let (_, ca) = localhost();
    let url = format!("betfairs://{addr}");
    let error = failure(url, &["--supplier-ca-file", ca.path().to_str().unwrap()]).await;
    assert!(
        error
            .to_string()
            .starts_with("TLS: the server does not speak TLS on this port ("),
        "{error}"
    );
}

#[tokio::test]
async fn missing_ca_file_is_named() {
    let (_listener, addr) = listener().await;
    let error = failure(
        format!("betfairs://{addr}"),
        &["--supplier-ca-file", "/no/such.pem"],
    )
    .await;
    assert!(
        error
            .to_string()
            .starts_with("SUPPLIER_CA_FILE /no/such.pem: "),
        "{error}"
    );
}

#[tokio::test]
async fn websocket_messages_are_frames() {
    let (listener, addr) = listener().await;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        socket.send(Message::text("text")).await.unwrap();
        socket
            .send(Message::binary(b"binary".to_vec()))
            .await
            .unwrap();
        socket
            .send(Message::Ping(Bytes::from_static(b"p")))
            .await
            .unwrap();
        let mut received = Vec::new();
        while received.len() < 3 {
            received.push(socket.next().await.unwrap().unwrap());
        }
        socket.close(None).await.unwrap();
        let _ = socket.next().await;
        received
    });
    let mut connection = open_at(format!("ws://{addr}/ws"), &[]).await.unwrap();
    assert_eq!(next_frame(&mut connection).await, "text");
    assert_eq!(next_frame(&mut connection).await, "binary");
    assert!(matches!(
        next(&mut connection).await,
        Some(Ok(Inbound::Alive))
    ));
    connection.outbound.send(Outbound::Ping).await.unwrap();
    connection
        .outbound
        .send(Outbound::Text("hello".to_owned()))
        .await
        .unwrap();
    // The reply to the server's ping, then the close.
    assert!(matches!(
        next(&mut connection).await,
        Some(Ok(Inbound::Alive))
    ));
    assert!(next(&mut connection).await.is_none());
    let received = timeout(DEADLINE, server).await.unwrap().unwrap();
    assert!(received.contains(&Message::text("hello")), "{received:?}");
    assert!(
        received.contains(&Message::Pong(Bytes::from_static(b"p"))),
        "{received:?}"
    );
}

#[tokio::test]
async fn oversized_message_and_refused_upgrade_fail() {
    let (listener, addr) = listener().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        socket.send(Message::text("x".repeat(1025))).await.unwrap();
        let _ = socket.next().await;
    });
    let mut connection = open_at(format!("ws://{addr}/ws"), &["--supplier-max-frame", "1KiB"])
        .await
        .unwrap();
    assert!(matches!(
        next(&mut connection).await,
        Some(Err(TransportError::FrameTooLarge(1024)))
    ));
    assert!(next(&mut connection).await.is_none());

    let (addr, _server) = serve_bytes(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let error = failure(format!("ws://{addr}/ws"), &[]).await;
    assert_eq!(
        error.to_string(),
        "WebSocket handshake: HTTP error: 404 Not Found"
    );
}

/// Waits until the counter stops changing.
async fn wait_until_stable(counter: &AtomicUsize) -> usize {
    let until = tokio::time::Instant::now() + DEADLINE;
    let mut last = counter.load(Ordering::Relaxed);
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = counter.load(Ordering::Relaxed);
        if now == last && now > 0 {
            return now;
        }
        last = now;
    }
    panic!("the server was never slowed down");
}

#[tokio::test]
async fn unread_supplier_gets_backpressure() {
    let (listener, addr) = listener().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let line = [b"x".repeat(998), b"\r\n".to_vec()].concat();
        while stream.write_all(&line).await.is_ok() {
            counter.fetch_add(line.len(), Ordering::Relaxed);
        }
    });
    let mut connection = open_at(format!("betfair://{addr}"), &[]).await.unwrap();
    let held = wait_until_stable(&sent).await;
    for _ in 0..held / 1_000 + 1 {
        assert_eq!(next_frame(&mut connection).await.len(), 998);
    }
    assert!(sent.load(Ordering::Relaxed) > held);
}

#[tokio::test]
async fn blocked_supplier_is_disconnected() {
    let (listener, addr) = listener().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::time::sleep(DEADLINE).await;
        drop(stream);
    });
    let mut connection = open_at(
        format!("betfair://{addr}"),
        &["--supplier-read-timeout", "200ms"],
    )
    .await
    .unwrap();
    let outbound = connection.outbound.clone();
    let sender = tokio::spawn(async move {
        while outbound
            .send(Outbound::Text("x".repeat(1 << 20)))
            .await
            .is_ok()
        {}
    });
    let error = next(&mut connection).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the supplier accepted no data for 200ms");
    assert!(next(&mut connection).await.is_none());
    timeout(DEADLINE, sender).await.unwrap().unwrap();
}

#[tokio::test]
async fn only_dropping_inbound_closes_connection() {
    let (addr, server) = serve_bytes(b"one\r\ntwo\r\n").await;
    let Connection {
        mut inbound,
        outbound,
    } = open_at(format!("betfair://{addr}"), &[]).await.unwrap();
    assert!(matches!(inbound.next().await, Some(Ok(Inbound::Frame(_)))));
    drop(outbound);
    assert!(matches!(inbound.next().await, Some(Ok(Inbound::Frame(_)))));
    assert!(!server.is_finished());
    drop(inbound);
    assert_eq!(timeout(DEADLINE, server).await.unwrap().unwrap(), "");
}

#[tokio::test]
async fn login_is_sent_as_basic_auth() {
    let (listener, addr) = listener().await;
    let served = tokio::spawn(async move {
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(stream.read_line(&mut head).await.unwrap() > 0);
            }
            seen.push(head);
            stream
                .write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
        }
        seen
    });
    for login in ["a%40b:p%3A%C3%A9@", "token@", ""] {
        let error = failure(format!("ws://{login}{addr}/ws?x=1"), &[]).await;
        assert_eq!(
            error.to_string(),
            "WebSocket handshake: HTTP error: 401 Unauthorized"
        );
    }
    let seen = timeout(DEADLINE, served).await.unwrap().unwrap();
    let header = |head: &String| {
        let line = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("authorization: "));
        line.map(|line| line.split_once(' ').unwrap().1.to_owned())
    };
    // `a@b:p:é` and `token:`
    let sent = [
        Some("Basic YUBiOnA6w6k=".to_owned()),
        Some("Basic dG9rZW46".to_owned()),
        None,
    ];
    assert_eq!(seen.iter().map(header).collect::<Vec<_>>(), sent);
    assert!(
        seen.iter()
            .all(|head| head.starts_with("GET /ws?x=1 HTTP/1.1\r\n") && !head.contains('@')),
        "{seen:?}"
    );
}

#[test]
fn unsendable_login_is_rejected() {
    for (url, why) in [
        ("ws://a%3Ab:hunter2@host/ws", "cannot contain a `:`"),
        ("betfair://u:hunter2@host:1", "takes only host and port"),
        ("betfairs://u:hunter2@host", "takes only host and port"),
        ("ws://u:hunter2 x@host/ws", "white space"),
        ("ws://u:1/hunter2@host/ws", "an `@`"),
    ] {
        let error = url.parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
    }
}
