//! Runs the client against a small server.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::Request;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::{WebSocketStream, accept_async, accept_hdr_async};

use super::*;
use crate::domain::odds::book::Book;
use crate::domain::odds::update::testing::*;
use crate::domain::streaming::protocol::{
    Form, Refusal, SnapshotView, UpdateFrame, error_message, snapshot_message,
};

const SUBSCRIBE: &str = r#"{"type":"subscribe","eventId":"MATCH_001","heartbeatMs":5000}"#;
const DEADLINE: Duration = Duration::from_secs(30);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("in time")
}

/// Captures the output of a client.
#[derive(Clone, Default)]
struct OutputBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for OutputBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OutputBuffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// An output that fails: a closed pipe or a full disk.
struct FailingOutput(io::ErrorKind);

impl Write for FailingOutput {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Server {
    listener: TcpListener,
    book: Book,
    position: u64,
}

type Client = WebSocketStream<TcpStream>;

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Server {
            listener,
            book: Book::new("MATCH_001".parse().unwrap()),
            position: 0,
        }
    }

    fn plan(&self) -> WatchOptions {
        let url = websocket_url(&format!(
            "ws://{}/ws/odds",
            self.listener.local_addr().unwrap()
        ))
        .unwrap();
        let events = vec!["MATCH_001".parse().unwrap(), "MATCH_001".parse().unwrap()];
        let plan = options(
            WatchArgs {
                events,
                url,
                token: None,
                count: None,
                conflate_ms: None,
                json: false,
            },
            Style::default(),
        );
        let backoff = BackoffPolicy {
            first: Duration::from_millis(1),
            most: Duration::from_millis(5),
        };
        WatchOptions {
            backoff,
            retry_after: Duration::from_millis(1),
            ..plan
        }
    }

    /// Accepts a client and its subscription.
    async fn client(&self) -> Client {
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        let mut client = within(accept_async(stream)).await.unwrap();
        assert_eq!(next_message(&mut client).await, Message::text(SUBSCRIBE));
        client
    }

    fn change(&mut self, version: i64) -> Message {
        let state = self
            .book
            .apply(update(1, version, version), self.position)
            .unwrap();
        self.position += 1;
        Message::text(UpdateFrame::new(&state).text(Form::Plain).to_string())
    }

    fn snapshot(&self) -> Message {
        Message::text(snapshot_message(&self.book.snapshot(), &SnapshotView::default()).to_string())
    }
}

async fn next_message(client: &mut Client) -> Message {
    within(client.next()).await.unwrap().unwrap()
}

type Ended = tokio::task::JoinHandle<Result<(), WatchError>>;

fn watch(plan: WatchOptions) -> (Ended, OutputBuffer, OutputBuffer) {
    let out = OutputBuffer::default();
    let notices = OutputBuffer::default();
    let watcher = Watcher::new(plan, out.clone(), notices.clone());
    (tokio::spawn(watcher.watch()), out, notices)
}

#[tokio::test]
async fn snapshot_and_changes_are_printed() {
    let mut server = Server::start().await;
    let (ended, out, notices) = watch(WatchOptions {
        count: Some(3),
        ..server.plan()
    });
    let mut client = server.client().await;
    client.send(server.snapshot()).await.unwrap();
    let first = server.change(1);
    client.send(first.clone()).await.unwrap();
    client.send(Message::Ping("there?".into())).await.unwrap();
    assert_eq!(
        next_message(&mut client).await,
        Message::Pong("there?".into())
    );
    client.send(server.snapshot()).await.unwrap();
    client.send(first).await.unwrap();
    for version in 2..5 {
        let change = server.change(version);
        client.send(change).await.unwrap();
    }
    within(ended).await.unwrap().unwrap();
    insta::assert_snapshot!(out.text(), @r"
    21:07:46.000Z MATCH_001 Flamengo v Palmeiras  1x2  home 1.201  draw 3.2  away 4.5
    21:07:47.000Z MATCH_001 Flamengo v Palmeiras  1x2  home 1.302▲  draw 3.2  away 4.5
    21:07:48.000Z MATCH_001 Flamengo v Palmeiras  1x2  home 1.403▲  draw 3.2  away 4.5
    ");
    insta::assert_snapshot!(notices.text(), @"watch: MATCH_001: unknown so far; its odds are shown when they arrive");
}

#[tokio::test]
async fn lost_connection_is_retried_and_reported_once() {
    let mut server = Server::start().await;
    let plan = WatchOptions {
        count: Some(2),
        ..server.plan()
    };
    let name = plan.url.to_string();
    let (ended, out, notices) = watch(plan);
    server.change(1);
    let mut client = server.client().await;
    client.send(server.snapshot()).await.unwrap();
    client
        .close(Some(CloseFrame {
            code: CloseCode::Away,
            reason: "server is going away".into(),
        }))
        .await
        .unwrap();
    // The first two attempts to reconnect fail.
    for _ in 0..2 {
        drop(within(server.listener.accept()).await.unwrap());
    }
    server.change(2);
    let mut client = server.client().await;
    client.send(server.snapshot()).await.unwrap();
    within(ended).await.unwrap().unwrap();
    assert_eq!(out.text().lines().count(), 2);
    assert!(
        out.text().lines().last().unwrap().contains("home 1.302▲"),
        "{}",
        out.text()
    );
    insta::assert_snapshot!(notices.text().replace(&name, "URL"), @r"
    watch: URL: the server closed the connection (1001 server is going away); reconnecting
    watch: URL: connected
    ");
}

/// A server that stops says so first: the client does not wait for the end of the connection, nor
/// for its delay after a loss.
#[tokio::test]
async fn stopping_server_is_left_at_once() {
    let mut server = Server::start().await;
    let plan = WatchOptions {
        count: Some(2),
        backoff: BackoffPolicy {
            first: DEADLINE * 10,
            most: DEADLINE * 10,
        },
        ..server.plan()
    };
    let name = plan.url.to_string();
    let (ended, out, notices) = watch(plan);
    server.change(1);
    let mut old = server.client().await;
    old.send(server.snapshot()).await.unwrap();
    let reconnect = Message::text(r#"{"type":"reconnect","withinMs":50}"#);
    old.send(reconnect).await.unwrap();
    let mut client = server.client().await;
    server.change(2);
    client.send(server.snapshot()).await.unwrap();
    within(ended).await.unwrap().unwrap();
    assert_eq!(out.text().lines().count(), 2, "{}", out.text());
    insta::assert_snapshot!(notices.text().replace(&name, "URL"), @"watch: URL: the server stops; connecting again");
}

/// What was stale belongs to a connection: the next one is told again.
#[tokio::test]
async fn new_connection_starts_without_stale_sources() {
    let mut server = Server::start().await;
    let plan = WatchOptions {
        count: Some(1),
        ..server.plan()
    };
    let name = plan.url.to_string();
    let (ended, _, notices) = watch(plan);
    let lost = r#"{"type":"feed","status":"stale","source":"a","events":["MATCH_001"]}"#;
    for _ in 0..2 {
        let mut client = server.client().await;
        client.send(Message::text(lost)).await.unwrap();
        client.close(None).await.unwrap();
    }
    server.change(1);
    let mut client = server.client().await;
    client.send(server.snapshot()).await.unwrap();
    within(ended).await.unwrap().unwrap();
    insta::assert_snapshot!(notices.text().replace(&name, "URL"), @r"
    watch: source a is lost: its markets are suspended
    watch: URL: the server closed the connection; reconnecting
    watch: URL: connected
    watch: source a is lost: its markets are suspended
    watch: URL: the server closed the connection; reconnecting
    watch: URL: connected
    ");
}

#[tokio::test]
async fn silent_server_is_reconnected() {
    let mut server = Server::start().await;
    server.change(1);
    let plan = WatchOptions {
        count: Some(1),
        silence_limit: Duration::from_millis(100),
        ..server.plan()
    };
    let (ended, _, notices) = watch(plan);
    let silent = server.client().await;
    let serving = async {
        loop {
            // On a slow machine even this connection may time out, and the client uses the next
            // one.
            let mut client = server.client().await;
            let _ = client.send(server.snapshot()).await;
        }
    };
    tokio::select! {
        ended = within(ended) => ended.unwrap().unwrap(),
        () = serving => {}
    }
    assert!(
        notices
            .text()
            .contains("the server sent nothing for 100ms; reconnecting"),
        "{}",
        notices.text()
    );
    drop(silent);
}

#[tokio::test]
async fn json_is_printed_unchanged() {
    let mut server = Server::start().await;
    let (ended, out, notices) = watch(WatchOptions {
        count: Some(4),
        json: true,
        ..server.plan()
    });
    let mut client = server.client().await;
    let messages = [
        server.snapshot(),
        server.change(1),
        Message::text(error_message(&Refusal::RateLimited(1)).to_string()),
        Message::text(r#"{ "type": "pong" }"#),
    ];
    for message in messages.clone() {
        client.send(message).await.unwrap();
    }
    within(ended).await.unwrap().unwrap();
    let lines: Vec<_> = messages
        .iter()
        .map(|message| message.to_text().unwrap())
        .collect();
    assert_eq!(out.text().lines().collect::<Vec<_>>(), lines);
    assert_eq!(notices.text(), "");
}

/// Errors are reported, and an unavailable snapshot is requested again.
#[tokio::test]
async fn unavailable_snapshot_is_requested_again() {
    let mut server = Server::start().await;
    server.change(1);
    let (ended, _, notices) = watch(WatchOptions {
        count: Some(1),
        ..server.plan()
    });
    let mut client = server.client().await;
    let refusal = Refusal::SnapshotUnavailable("MATCH_001".parse().unwrap());
    client.send(Message::text("gibberish")).await.unwrap();
    client
        .send(Message::text(error_message(&refusal).to_string()))
        .await
        .unwrap();
    assert_eq!(next_message(&mut client).await, Message::text(SUBSCRIBE));
    client.send(server.snapshot()).await.unwrap();
    within(ended).await.unwrap().unwrap();
    insta::assert_snapshot!(notices.text(), @r"
    watch: unreadable message from the server: expected value at line 1 column 1
    watch: SNAPSHOT_UNAVAILABLE: the odds of `MATCH_001` are currently unavailable; subscribe again
    ");
}

/// A `subscribe` is refused as a whole, and the refusal names one event or none.
#[tokio::test]
async fn rate_limited_events_are_all_requested_again() {
    let mut server = Server::start().await;
    server.change(1);
    let events: Vec<EventId> = ["MATCH_001", "A", "B"]
        .map(|event| event.parse().unwrap())
        .into();
    let (ended, ..) = watch(WatchOptions {
        count: Some(1),
        events: events.clone(),
        ..server.plan()
    });
    let (stream, _) = within(server.listener.accept()).await.unwrap();
    let mut client = within(accept_async(stream)).await.unwrap();
    let subscribed = async |client: &mut Client| {
        let message = next_message(client).await;
        let message: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        message["eventIds"].to_string()
    };
    let all = r#"["MATCH_001","A","B"]"#;
    assert_eq!(subscribed(&mut client).await, all);
    let refusals = [
        Refusal::RateLimited(1),
        Refusal::SnapshotsLimited {
            event: events[0].clone(),
            bytes: 1,
        },
    ];
    for refusal in refusals {
        let refused = Message::text(error_message(&refusal).to_string());
        client.send(refused).await.unwrap();
        assert_eq!(subscribed(&mut client).await, r#"["A","B","MATCH_001"]"#);
    }
    let empty = Book::new(events[1].clone()).snapshot();
    let empty = Message::text(snapshot_message(&empty, &SnapshotView::default()).to_string());
    client.send(empty).await.unwrap();
    let refused = Message::text(error_message(&Refusal::RateLimited(1)).to_string());
    client.send(refused).await.unwrap();
    assert_eq!(subscribed(&mut client).await, r#"["B","MATCH_001"]"#);
    client.send(server.snapshot()).await.unwrap();
    within(ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn closed_pipe_succeeds_and_full_disk_fails() {
    for (kind, quiet) in [
        (io::ErrorKind::BrokenPipe, true),
        (io::ErrorKind::StorageFull, false),
    ] {
        let mut server = Server::start().await;
        server.change(1);
        let notices = OutputBuffer::default();
        let ended =
            tokio::spawn(Watcher::new(server.plan(), FailingOutput(kind), notices.clone()).watch());
        let mut client = server.client().await;
        client.send(server.snapshot()).await.unwrap();
        assert_eq!(within(ended).await.unwrap().is_ok(), quiet, "{kind}");
        assert_eq!(notices.text(), "");
    }
}

/// A 4xx status is final; 503 and 429 are retried.
#[tokio::test]
async fn client_errors_are_final_unless_busy() {
    let server = Server::start().await;
    let (ended, _, notices) = watch(server.plan());
    for status in [
        "503 Service Unavailable",
        "429 Too Many Requests",
        "404 Not Found",
    ] {
        let (mut stream, _) = within(server.listener.accept()).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(within(stream.read_u8()).await.unwrap());
        }
        stream
            .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .await
            .unwrap();
    }
    let error = within(ended).await.unwrap().unwrap_err();
    assert!(
        error.to_string().ends_with(
            "answered 404: the URL is not a WebSocket endpoint, or this client is not allowed"
        ),
        "{error}"
    );
    assert_eq!(notices.text().lines().count(), 1, "{}", notices.text());
}

#[tokio::test]
async fn credentials_are_sent_but_never_printed() {
    let server = Server::start().await;
    let place = server.listener.local_addr().unwrap();
    let url = websocket_url(&format!(
        "ws://a%40b:hunter2%3A@{place}/ws/odds?token=hunter3"
    ))
    .unwrap();
    let (ended, _, notices) = watch(WatchOptions {
        url,
        ..server.plan()
    });
    let (mut stream, _) = within(server.listener.accept()).await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(within(stream.read_u8()).await.unwrap());
    }
    let request = String::from_utf8(request).unwrap();
    assert!(
        request
            .to_ascii_lowercase()
            .contains("authorization: basic yubiomh1bnrlcji6\r\n"),
        "{request}"
    );
    assert!(
        request.starts_with("GET /ws/odds?token=hunter3 HTTP/1.1\r\n"),
        "{request}"
    );
    stream
        .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let error = within(ended).await.unwrap().unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("ws://{place}/ws/odds answered 401")),
        "{error}"
    );
    assert!(
        !format!("{error}{}", notices.text()).contains("hunter"),
        "{error}"
    );
}

/// The token is sent as a header. A session that the server ends for good is not opened again.
#[tokio::test]
async fn token_is_sent_until_it_is_refused() {
    let server = Server::start().await;
    let plan = WatchOptions {
        token: Some(SecretString::from("eyJhbGciOi")),
        ..server.plan()
    };
    let (ended, _, notices) = watch(plan);
    for reason in ["credential expired", "invalid credential eyJhbGciOi"] {
        let (stream, _) = within(server.listener.accept()).await.unwrap();
        let mut sent = None;
        #[allow(clippy::result_large_err)] // the type is the library's
        let keep = |request: &Request, answer| {
            sent = request.headers().get("authorization").cloned();
            Ok(answer)
        };
        let mut client = within(accept_hdr_async(stream, keep)).await.unwrap();
        assert_eq!(sent.unwrap(), "Bearer eyJhbGciOi");
        let code = if reason.contains("expired") {
            3_005
        } else {
            3_500
        };
        let close = CloseFrame {
            code: CloseCode::from(code),
            reason: reason.into(),
        };
        client.close(Some(close)).await.unwrap();
    }
    let error = within(ended).await.unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(text.contains("ended the session (3500 invalid"), "{text}");
    assert!(!text.contains("eyJ"), "{text}");
    let notices = notices.text();
    assert!(notices.contains("3005 credential expired"), "{notices}");
}

/// A server that was connected to does not accept the token any more.
#[tokio::test]
async fn refused_token_ends_watching() {
    let server = Server::start().await;
    let (ended, ..) = watch(server.plan());
    let mut client = server.client().await;
    client.send(server.snapshot()).await.unwrap();
    client.close(None).await.unwrap();
    let (mut stream, _) = within(server.listener.accept()).await.unwrap();
    let mut request = [0; 1_024];
    let _ = within(stream.read(&mut request)).await.unwrap();
    let refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(refusal).await.unwrap();
    let error = within(ended).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("answered 401"), "{error}");
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: WatchArgs,
}

#[test]
fn command_line_is_parsed() {
    Cli::command().debug_assert();
    let args = Cli::parse_from(["watch", "A", "B", "--count", "3", "--json"]).args;
    assert_eq!(
        (args.events.len(), args.count, args.json),
        (2, Some(3), true)
    );
    assert_eq!(args.url.to_string(), "ws://127.0.0.1:8080/ws/odds");
    let shown = format!(
        "{:?}",
        Cli::parse_from(["watch", "A", "--token", "eyJ"]).args
    );
    assert!(!shown.contains("eyJ"), "{shown}");
    for wrong in [
        &["watch"][..],
        &["watch", "A", "--token", ""],
        &["watch", "A", "--token", "two words"],
        &["watch", ""],
        &["watch", "A", "--count", "0"],
    ] {
        assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
    }
    for url in [
        "foo",
        "127.0.0.1:8080",
        "http://me:secret@localhost:8080/ws/odds",
        "ws://me:secret x@h",
        "",
    ] {
        let error = Cli::try_parse_from(["watch", "A", &format!("--url={url}")])
            .err()
            .unwrap();
        assert_eq!(error.exit_code(), 2, "{url}");
    }
}
