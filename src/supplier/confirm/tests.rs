//! The client against small servers that each misbehave in one way.

use std::sync::Mutex;

use pretty_assertions::assert_eq;
use proptest::prelude::*;
use rstest::rstest;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::domain::bets::bet_events::testing::pending_bet;
use crate::domain::timestamp::Timestamp;

const TIMEOUT: Duration = Duration::from_millis(400);

fn bet() -> Bet {
    let id = "0192f0c1-7a9e-7000-8000-000000000001".parse().unwrap();
    Bet {
        id,
        ..pending_bet(Timestamp::now(), Duration::from_secs(10))
    }
}

/// A server that records each request and answers with these bytes; with `None` it stays silent.
struct Server {
    url: Url,
    requests: Arc<Mutex<Vec<String>>>,
}

async fn serve(answer: Option<Vec<u8>>) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let noted = requests.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let noted = noted.clone();
            let answer = answer.clone();
            tokio::spawn(async move { talk(socket, &noted, answer).await });
        }
    });
    Server { url, requests }
}

async fn talk<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    socket: S,
    noted: &Mutex<Vec<String>>,
    answer: Option<Vec<u8>>,
) {
    let mut socket = BufReader::new(socket);
    let mut head = String::new();
    let mut length = 0;
    while socket.read_line(&mut head).await.unwrap_or(0) > 0 && !head.ends_with("\r\n\r\n") {
        let last = head.lines().last().unwrap_or_default().to_ascii_lowercase();
        length = last
            .strip_prefix("content-length: ")
            .map_or(length, |text| text.parse().unwrap());
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.unwrap();
    noted
        .lock()
        .unwrap()
        .push(format!("{head}{}", String::from_utf8(body).unwrap()));
    match answer {
        Some(answer) => drop((socket.write_all(&answer).await, socket.shutdown().await)),
        None => std::future::pending().await,
    }
}

fn response(status: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
            .into_bytes(),
    )
}

fn client(url: &Url) -> HttpSupplier {
    HttpSupplier::new(url, TIMEOUT, None).unwrap()
}

#[tokio::test]
async fn requests_on_the_wire() {
    let server = serve(response(
        "200 OK",
        r#"{"status":"CONFIRMED","providerRef":"SUP-1"}"#,
    ))
    .await;
    let answer = client(&server.url.join("/below/").unwrap())
        .confirm(&bet())
        .await;
    assert_eq!(
        answer,
        Ok(Answer::Confirmed {
            provider_ref: "SUP-1".to_owned()
        })
    );
    let cancelling = client(&server.url).cancel(bet().id, &bet().user_id).await;
    assert_eq!(
        cancelling,
        Err(SupplierError::UnknownVariant("CONFIRMED".to_owned()))
    );
    let requests = std::mem::take(&mut *server.requests.lock().unwrap());
    let host = server.url.authority();
    let shown = requests
        .iter()
        .map(|request| request.replace(host, "HOST").replace("\r\n", "\n"));
    insta::assert_snapshot!(shown.collect::<Vec<_>>().join("\n---\n"), @r#"
    POST /below/supplier/confirm HTTP/1.1
    idempotency-key: 0192f0c1-7a9e-7000-8000-000000000001
    content-type: application/json
    accept: */*
    host: HOST
    content-length: 179

    {"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"USER_001","eventId":"MATCH_001","market":"total_goals","line":2.5,"selection":"over","stake_cents":1500,"odd_value":1.63}
    ---
    POST /supplier/cancel HTTP/1.1
    idempotency-key: cancel-0192f0c1-7a9e-7000-8000-000000000001
    content-type: application/json
    accept: */*
    host: HOST
    content-length: 68

    {"betId":"0192f0c1-7a9e-7000-8000-000000000001","userId":"USER_001"}
    "#);
}

#[rstest]
#[case::confirmed("200 OK", r#"{"status":"confirmed","more":1}"#, "confirmed []")]
#[case::rejected(
    "201 Created",
    r#"{"status":"REJECTED","reason":"odds moved","providerRef":"S"}"#,
    "odds moved [S]"
)]
#[case::no_reason(
    "200 OK",
    r#"{"status":"REJECTED","reason":null}"#,
    "SUPPLIER_REJECTED []"
)]
#[case::no_nul("200 OK", r#"{"status":"REJECTED","reason":"a\u0000b"}"#, "a b []")]
#[case::other_word("200 OK", r#"{"status":"MAYBE"}"#, "unknown_word")]
#[case::no_status("200 OK", r#"{"providerRef":"S"}"#, "unreadable")]
#[case::array("200 OK", r#"["CONFIRMED","S",null]"#, "unreadable")]
#[case::array_of_objects("200 OK", r#"[{"status":"CONFIRMED"}]"#, "unreadable")]
#[case::two_words(
    "200 OK",
    r#"{"status":"REJECTED","status":"CONFIRMED"}"#,
    "unreadable"
)]
#[case::two_answers(
    "200 OK",
    r#"{"status":"CONFIRMED"}{"status":"REJECTED"}"#,
    "unreadable"
)]
#[case::empty("200 OK", "", "unreadable")]
#[case::html("200 OK", "<html>", "unreadable")]
#[case::nothing("204 No Content", "", "unreadable")]
#[case::redirect(
    "302 Found\r\nlocation: /elsewhere",
    r#"{"status":"CONFIRMED"}"#,
    "status"
)]
#[case::not_found("404 Not Found", r#"{"status":"CONFIRMED"}"#, "status")]
#[case::refused("422 Unprocessable", r#"{"status":"REJECTED"}"#, "status")]
#[case::failing("500 Oops", r#"{"status":"CONFIRMED"}"#, "status")]
#[tokio::test]
async fn only_valid_answers_are_accepted(
    #[case] status: &str,
    #[case] body: &str,
    #[case] expected: &str,
) {
    let server = serve(response(status, body)).await;
    let shown = match client(&server.url).confirm(&bet()).await {
        Ok(Answer::Confirmed { provider_ref }) => format!("confirmed [{provider_ref}]"),
        Ok(Answer::Rejected {
            reason,
            provider_ref,
        }) => format!("{reason} [{provider_ref}]"),
        Err(error) => error.kind().to_owned(),
    };
    assert_eq!(shown, expected);
    assert_eq!(
        server.requests.lock().unwrap().len(),
        1,
        "requested once, and from no other server"
    );
}

#[tokio::test]
async fn broken_answers_are_errors() {
    let kind = async |answer: Option<Vec<u8>>| {
        let server = serve(answer).await;
        let started = std::time::Instant::now();
        let kind = client(&server.url)
            .confirm(&bet())
            .await
            .unwrap_err()
            .kind();
        assert!(started.elapsed() < 10 * TIMEOUT);
        kind
    };
    assert_eq!(kind(None).await, "timeout");
    assert_eq!(
        kind(Some(
            b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec()
        ))
        .await,
        "unreachable"
    );
    assert_eq!(
        kind(Some(b"\x00\xff no HTTP".to_vec())).await,
        "unreachable"
    );
    assert_eq!(kind(Some(Vec::new())).await, "unreachable");
    let endless = format!(
        "HTTP/1.1 200 OK\r\n\r\n{{\"status\":\"{}",
        "x".repeat(1_000_000)
    );
    assert_eq!(kind(Some(endless.into_bytes())).await, "too_large");
    let gone = TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = client(&format!("http://user:hunter2@{gone}").parse().unwrap())
        .confirm(&bet())
        .await
        .unwrap_err();
    assert!(
        error.kind() == "unreachable" && !error.to_string().contains("hunter2"),
        "{error}"
    );
}

#[tokio::test]
async fn cancellation_needs_confirmation() {
    let cancel = async |status: &str, body: &str| {
        let server = serve(response(status, body)).await;
        client(&server.url)
            .cancel(bet().id, &bet().user_id)
            .await
            .map_err(|error| error.kind())
    };
    assert_eq!(cancel("200 OK", r#"{"status":"CANCELLED"}"#).await, Ok(()));
    assert_eq!(
        cancel("200 OK", r#"{"status":"PENDING"}"#).await,
        Err("unknown_word")
    );
    assert_eq!(cancel("200 OK", "{}").await, Err("unreadable"));
    assert_eq!(
        cancel("503 Later", r#"{"status":"CANCELLED"}"#).await,
        Err("status")
    );
}

#[tokio::test]
async fn tls_supplier_is_trusted_by_ca_file() {
    let (acceptor, ca) = tls::testing::localhost();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let noted = Mutex::new(Vec::new());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(socket) = acceptor.accept(socket).await {
                talk(
                    socket,
                    &noted,
                    response("200 OK", r#"{"status":"CONFIRMED"}"#),
                )
                .await;
            }
        }
    });
    let url = format!("https://localhost:{port}").parse().unwrap();
    let supplier = HttpSupplier::new(&url, Duration::from_secs(10), Some(ca.path())).unwrap();
    assert_eq!(
        supplier.confirm(&bet()).await,
        Ok(Answer::Confirmed {
            provider_ref: String::new()
        })
    );
    let (_, other) = tls::testing::localhost();
    let supplier = HttpSupplier::new(&url, Duration::from_secs(10), Some(other.path())).unwrap();
    assert_eq!(
        supplier.confirm(&bet()).await.unwrap_err().kind(),
        "unreachable"
    );
}

#[tokio::test]
async fn login_is_sent_as_basic_auth() {
    let mut url = Url::parse("http://a%40b:hunter2%3A@localhost").unwrap();
    let server = serve(response("200 OK", r#"{"status":"CONFIRMED"}"#)).await;
    url.set_port(server.url.port()).unwrap();
    url.set_host(server.url.host_str()).unwrap();
    let supplier = client(&url);
    assert!(supplier.confirm(&bet()).await.is_ok());
    let request = server.requests.lock().unwrap()[0].clone();
    assert!(
        request.contains("authorization: Basic YUBiOmh1bnRlcjI6\r\n"),
        "{request}"
    );
    assert!(
        !request.lines().next().unwrap().contains("hunter2"),
        "{request}"
    );
}

#[test]
fn address_without_paths_is_an_error() {
    let made = HttpSupplier::new(&"data:text".parse().unwrap(), TIMEOUT, None);
    assert!(matches!(made, Err(SetupError::Address(_))));
}

proptest! {
    #[test]
    fn arbitrary_answers_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (read_answer(&body), read_cancellation(&body));
    }

    #[test]
    fn stored_text_is_short_and_printable(text in any::<String>()) {
        let stored = clean(&text);
        prop_assert!(stored.chars().count() <= MAX_TEXT && !stored.chars().any(char::is_control));
    }
}
