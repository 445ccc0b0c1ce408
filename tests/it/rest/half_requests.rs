//! Thousands of requests that never end, beside a client that sends whole ones.

use pretty_assertions::assert_eq;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;
use crate::support::{ServerProcess, raw_request};

const HALF: usize = 5_000;
/// The most memory that they may add, in bytes: more than ten times what they are seen to add.
const FLAT: u64 = 100 * 1024 * 1024;

/// Opens a connection with the beginning of a request. The server may close it at any time.
async fn half_request(address: SocketAddr, number: usize) -> Option<TcpStream> {
    let begin = match number % 4 {
        0 => "GET /v1/events HTTP/1.1\r\nHost: x\r\nX-Never: ",
        1 => "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        2 => "POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        _ => "",
    };
    let mut stream = within("it is accepted", TcpStream::connect(address))
        .await
        .ok()?;
    stream.write_all(begin.as_bytes()).await.ok()?;
    Some(stream)
}

/// A healthy client is served while they are opened, and while they are all there.
#[tokio::test]
async fn five_thousand_half_requests_harm_nobody() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    sports_bet_platform::runtime::tls::install_provider();
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), &[("SIMULATOR_EVENTS", "1")]).await;
    let healthy = async || {
        let request = "GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = raw_request(server.odds(), request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    healthy().await;
    let before = server.memory();
    let mut peak = before;
    let mut half = Vec::new();
    for batch in 0..HALF / 100 {
        let batch = (0..100).map(|number| half_request(server.odds(), 100 * batch + number));
        half.extend(futures_util::future::join_all(batch).await);
        healthy().await;
        peak = peak.max(server.memory());
    }
    assert_eq!(half.len(), HALF);
    for _ in 0..100 {
        healthy().await;
        peak = peak.max(server.memory());
    }
    let grown = peak - before;
    println!("{before} bytes before, {grown} more with {HALF} half requests");
    assert!(grown < FLAT, "{grown} bytes more");
    let crowded = r#"odds_http_connections_ended_total{port="rest",reason="crowded"}"#;
    until("the oldest make room", async || {
        healthy().await;
        let page = Answer::get(&format!("http://{}/metrics", server.health["odds"])).await;
        crate::support::metric(page.text(), crowded).filter(|closed| *closed > 0.0)
    })
    .await;
}
