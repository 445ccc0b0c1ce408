//! Real sockets: both transports, TLS, limits, silence, and backpressure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::supplier::testing::settings;
use crate::supplier::tls::testing::localhost;

const DEADLINE: Duration = Duration::from_secs(20);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A server that sends `bytes` to its first client, then reads one line and gives it back.
async fn says(bytes: &'static [u8]) -> (SocketAddr, JoinHandle<String>) {
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
async fn lines_come_as_frames_and_go_with_crlf() {
    let (addr, server) = says(b"one\r\n\xff\xfe\ntwo\r\ncut off").await;
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
    // The server is gone: what it cut off is no frame.
    match next(&mut connection).await {
        None | Some(Err(TransportError::Read(_))) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_line_that_is_too_long_is_an_error_and_then_the_end() {
    let (longest, too_long) = ("x".repeat(1024), "y".repeat(1025));
    let lines = format!("{longest}\r\n{too_long}\r\nnext\r\n");
    let (addr, _server) = says(lines.leak().as_bytes()).await;
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
async fn a_silent_server_is_given_up() {
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
async fn nobody_there_is_an_error() {
    let (listener, addr) = listener().await;
    drop(listener);
    let error = failure(format!("betfair://{addr}"), &[]).await;
    assert_eq!(error.reason(), "connect");
}

/// A TLS server on `localhost` that says a line, or upgrades and says it as a message; and the file
/// to trust it by.
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
async fn tls_to_a_plain_port_says_so() {
    let (addr, _server) = says(b"{\"op\":\"connection\"}\r\n").await;
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
async fn a_missing_ca_file_is_named() {
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
async fn websocket_messages_are_frames_and_pings_are_life() {
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
        let mut heard = Vec::new();
        while heard.len() < 3 {
            heard.push(socket.next().await.unwrap().unwrap());
        }
        socket.close(None).await.unwrap();
        let _ = socket.next().await;
        heard
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
    // The server's answer to the ping, then its close.
    assert!(matches!(
        next(&mut connection).await,
        Some(Ok(Inbound::Alive))
    ));
    assert!(next(&mut connection).await.is_none());
    let heard = timeout(DEADLINE, server).await.unwrap().unwrap();
    assert!(heard.contains(&Message::text("hello")), "{heard:?}");
    assert!(
        heard.contains(&Message::Pong(Bytes::from_static(b"p"))),
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_websocket_message_that_is_too_large_and_a_refused_upgrade_are_errors() {
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

    let (addr, _server) = says(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let error = failure(format!("ws://{addr}/ws"), &[]).await;
    assert_eq!(
        error.to_string(),
        "WebSocket handshake: HTTP error: 404 Not Found"
    );
}

/// Waits until the counter stands still.
async fn settled(counter: &AtomicUsize) -> usize {
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
    panic!("the server is never held back");
}

#[tokio::test]
async fn a_supplier_is_held_back_while_nobody_reads() {
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
    let held = settled(&sent).await;
    for _ in 0..held / 1_000 + 1 {
        assert_eq!(next_frame(&mut connection).await.len(), 998);
    }
    assert!(sent.load(Ordering::Relaxed) > held);
}

#[tokio::test]
async fn a_supplier_that_takes_nothing_is_let_go() {
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
    assert_eq!(error.to_string(), "the supplier took nothing for 200ms");
    assert!(next(&mut connection).await.is_none());
    timeout(DEADLINE, sender).await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_inbound_ends_the_connection_and_dropping_outbound_does_not() {
    let (addr, server) = says(b"one\r\ntwo\r\n").await;
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
async fn a_login_in_the_address_is_sent_as_basic() {
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
fn a_login_that_cannot_be_sent_is_refused() {
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
