use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use pretty_assertions::assert_eq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::until;

/// A document with this many keys.
fn document(keys: usize) -> String {
    use base64::Engine;
    let secret = |number: usize| {
        let bytes = [u8::try_from(number).unwrap(); 32];
        base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)
    };
    let keys: Vec<_> = (0..keys)
        .map(|number| serde_json::json!({"kty": "oct", "kid": number.to_string(), "k": secret(number)}))
        .collect();
    serde_json::json!({ "keys": keys }).to_string()
}

fn metrics() -> AccessMetrics {
    AccessMetrics::new(&KeySource::READ_AGAIN).unwrap()
}

fn errors(metrics: &AccessMetrics, source: &str) -> u64 {
    metrics.token_key_errors.with_label_values(&[source]).get()
}

#[test]
fn unusable_file_is_an_error_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let failed = || KeyFile::open(&path).err().unwrap().to_string();
    assert!(failed().contains("No such file"), "{}", failed());
    std::fs::write(&path, "{}").unwrap();
    assert!(failed().contains("not a JWKS document"), "{}", failed());
    std::fs::write(&path, " ".repeat(MAX_DOCUMENT + 1)).unwrap();
    assert!(failed().contains("longer than"), "{}", failed());
}

#[tokio::test]
async fn changed_file_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, document(1)).unwrap();
    let file = KeyFile::open(&path).unwrap();
    let source = file.source().clone();
    assert_eq!(source.keys().len(), 1);
    let metrics = metrics();
    let watching = tokio::spawn(file.watch(metrics.clone()));
    std::fs::write(&path, document(2)).unwrap();
    until("the new keys", || source.keys().len() == 2).await;
    std::fs::write(&path, "half of a document").unwrap();
    until("the failure is counted", || errors(&metrics, "file") == 1).await;
    assert_eq!(source.keys().len(), 2, "those read last stay in force");
    std::fs::remove_file(&path).unwrap();
    until("the failure is counted", || errors(&metrics, "file") > 1).await;
    // Replaced through a link, as volumes of orchestrators do.
    let other = folder.path().join("other.json");
    std::fs::write(&other, document(3)).unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    until("the new keys", || source.keys().len() == 3).await;
    let read_at = metrics.token_keys_read_at.with_label_values(&["file"]);
    assert!(read_at.get() > 1_700_000_000);
    watching.abort();
}

/// An HTTP server that gives the same answer to everybody, until it is changed.
struct Server {
    url: SecretUrl,
    answer: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
}

impl Server {
    async fn start(login: &str, answer: String) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{login}{}/jwks.json", listener.local_addr().unwrap());
        let server = Server {
            url: SecretUrl::parse(&url, &["http"]).unwrap(),
            answer: Arc::new(Mutex::new(answer)),
            requests: Arc::default(),
            last: Arc::default(),
        };
        let (answer, requests, last) = (
            server.answer.clone(),
            server.requests.clone(),
            server.last.clone(),
        );
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4_096];
                let length = stream.read(&mut head).await.unwrap();
                *last.lock() = String::from_utf8_lossy(&head[..length]).into_owned();
                requests.fetch_add(1, Ordering::SeqCst);
                let answer = answer.lock().clone();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        server
    }
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn url_is_read_until_it_answers_and_again() {
    crate::runtime::tls::install_provider();
    let failing = "HTTP/1.1 503 Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let server = Server::start("", failing.to_owned()).await;
    let url = KeyUrl::new(&server.url).unwrap();
    let source = url.source().clone();
    let metrics = metrics();
    let interval = Duration::from_millis(20);
    let watching = tokio::spawn(url.watch(interval, metrics.clone()));
    until("a failure", || errors(&metrics, "url") > 0).await;
    assert!(source.keys().is_empty());
    *server.answer.lock() = ok(&document(2));
    until("the keys", || source.keys().len() == 2).await;
    let bad = [
        failing.to_owned(),
        ok("not a document"),
        ok(&" ".repeat(MAX_DOCUMENT + 1)),
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "garbage\r\n\r\n".to_owned(),
    ];
    for answer in bad {
        *server.answer.lock() = answer;
        let failed = errors(&metrics, "url");
        until("another failure", || errors(&metrics, "url") > failed + 1).await;
        assert_eq!(source.keys().len(), 2, "those read last stay in force");
    }
    *server.answer.lock() = ok(&document(1));
    until("the keys", || source.keys().len() == 1).await;
    watching.abort();
}

#[tokio::test]
async fn login_is_sent_and_never_shown() {
    crate::runtime::tls::install_provider();
    let server = Server::start("me:Secret-pw@", ok("Secret-pw")).await;
    let url = KeyUrl::new(&server.url).unwrap();
    let failed = url.read().await.unwrap_err().to_string();
    assert!(!failed.contains("Secret-pw"), "{failed}");
    let sent = server.last.lock().to_lowercase();
    assert!(
        sent.starts_with("get /jwks.json http/1.1\r\n") && sent.contains("authorization: basic"),
        "{sent}"
    );
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
    drop(server);
}
