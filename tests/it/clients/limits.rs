//! Limits on what a client may use.

use pretty_assertions::assert_eq;
use rstest::rstest;
use serde_json::Value;

use super::raw::{CONTINUATION, End, FIN, RawClient, TEXT, announcement, frame, text};
use super::{EVENT, start, until_total};
use crate::support::{TestPlatform, send, until};

/// A ping message of exactly this many bytes.
fn ping_of(bytes: usize) -> String {
    let (start, end) = (r#"{"type":"ping","room":""#, r#""}"#);
    format!(
        "{start}{}{end}",
        "x".repeat(bytes - start.len() - end.len())
    )
}

fn fragmented(message: &str, size: usize) -> Vec<u8> {
    let parts: Vec<&[u8]> = message.as_bytes().chunks(size).collect();
    let last = parts.len() - 1;
    let fragment = |(at, part): (usize, &&[u8])| {
        let first = if at == 0 { TEXT } else { CONTINUATION } | if at == last { FIN } else { 0 };
        frame(first, part)
    };
    parts.iter().enumerate().flat_map(fragment).collect()
}

/// A message of exactly the limit is accepted, and one more byte is too big.
#[rstest]
#[case::one_frame(usize::MAX)]
#[case::two_fragments(1_000)]
#[case::many_fragments(7)]
#[actix_web::test]
async fn message_size_limit_is_exact(#[case] fragment: usize) {
    let (platform, _supplier) = start(&[("WS_MAX_MESSAGE", "1KiB")]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    for _ in 0..2 {
        client.send(&fragmented(&ping_of(1_024), fragment)).await;
        assert_eq!(client.next_text().await.text(), r#"{"type":"pong"}"#);
    }
    client.send(&fragmented(&ping_of(1_025), fragment)).await;
    assert_eq!(client.end().await, End::Closed(1009));
}

/// A frame that announces too many bytes is closed before its payload arrives.
#[actix_web::test]
async fn oversized_frame_is_closed_at_its_head() {
    let (platform, _supplier) = start(&[]).await;
    for length in [64 * 1024 + 1, 1 << 40, u64::MAX] {
        let mut client = RawClient::connect(platform.odds()).await;
        client.send(&text(r#"{"type":"ping"}"#)).await;
        // The frame head arrives in two parts, as can happen on a network.
        let head = announcement(FIN | TEXT, length);
        client.send(&head[..3]).await;
        assert_eq!(client.next_text().await.text(), r#"{"type":"pong"}"#);
        client.send(&head[3..]).await;
        assert_eq!(client.end().await, End::Closed(1009), "{length}");
    }
}

async fn get(request: reqwest::RequestBuilder) -> (u16, Value, reqwest::header::HeaderMap) {
    let answer = send(request).await;
    let body = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status, body, answer.headers)
}

fn upgrade(platform: &TestPlatform) -> reqwest::RequestBuilder {
    let request = reqwest::Client::new().get(platform.url("/ws/odds"));
    request
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// Sessions beyond the limit are refused until one has ended.
#[actix_web::test]
async fn session_limit_frees_up_on_leave() {
    let (platform, _supplier) = start(&[("WS_MAX_SESSIONS", "2")]).await;
    let first = platform.subscriber(EVENT).await;
    let mut second = platform.subscriber(EVENT).await;
    let (status, body, headers) = get(upgrade(&platform)).await;
    assert_eq!(
        (status, &body["code"]),
        (503, &Value::from("TOO_MANY_SESSIONS"))
    );
    assert!(headers.contains_key("retry-after"));
    until_total(&platform, "odds_ws_refused_upgrades_total", 1.0).await;
    drop(first);
    until("the place is free", || async {
        (get(upgrade(&platform)).await.0 == 101).then_some(())
    })
    .await;
    second.send(r#"{"type":"ping"}"#).await;
    assert_eq!(second.next().await["type"], "pong");
}

#[actix_web::test]
async fn only_own_and_allowed_origins_connect() {
    let (platform, _supplier) = start(&[("WS_ALLOWED_ORIGINS", "https://allowed.example")]).await;
    let (status, body, _) =
        get(upgrade(&platform).header("Origin", "https://foreign.example")).await;
    assert_eq!(
        (status, &body["code"]),
        (403, &Value::from("ORIGIN_NOT_ALLOWED"))
    );
    for origin in [
        format!("http://{}", platform.odds()),
        "https://allowed.example".to_owned(),
    ] {
        assert_eq!(
            get(upgrade(&platform).header("Origin", origin)).await.0,
            101
        );
    }
}

#[actix_web::test]
async fn non_handshake_is_refused_in_json() {
    let (platform, _supplier) = start(&[]).await;
    let url = platform.url("/ws/odds");
    let client = reqwest::Client::new();
    let (status, body, _) = get(client.get(&url)).await;
    assert_eq!(
        (status, &body["code"]),
        (400, &Value::from("BAD_HANDSHAKE"))
    );
    let (status, body, headers) = get(client.post(&url)).await;
    assert_eq!(
        (status, &body["code"]),
        (405, &Value::from("METHOD_NOT_ALLOWED"))
    );
    assert_eq!(headers["allow"], "GET, OPTIONS");
}
