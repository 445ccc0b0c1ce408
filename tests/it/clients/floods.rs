//! Clients that send without end are closed, and memory stays flat.

use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use rstest::rstest;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw::{CONTINUATION, End, FIN, PING, PONG, RawClient, TEXT, announcement, frame, text};
use super::{EVENT, change_of, start, until_total};
use crate::support::{ServerProcess, get_text, metric, until, within};

/// Far above the growth of a bounded flood, far below the growth before floods were bounded: 145
/// MiB in 10 s.
const FLAT: u64 = 48 * 1024 * 1024;
/// How many clients flood the server.
const FLOODS: usize = 5;

/// Sends a frame repeatedly until the server stops accepting it; returns the number of bytes sent.
async fn flood(client: &mut RawClient, unit: &[u8], at_once: usize) -> usize {
    let batch = unit.repeat(at_once);
    let mut sent = 0;
    within("the flood ends", async {
        while client.stream.write_all(&batch).await.is_ok() {
            sent += batch.len();
        }
    })
    .await;
    sent
}

/// The close code of a connection whose other direction may be broken.
async fn close_code(client: &mut RawClient) -> Option<u16> {
    let mut bytes = Vec::new();
    let _ = within("the end", client.stream.read_to_end(&mut bytes)).await;
    let close = bytes
        .windows(4)
        .rev()
        .find(|four| four[0] == 0x88 && four[1] >= 2)?;
    Some(u16::from_be_bytes([close[2], close[3]]))
}

#[rstest]
#[case::pongs(frame(FIN | PONG, b""), 5_000)]
#[case::pings(frame(FIN | PING, b""), 5_000)]
#[case::large_pongs(frame(FIN | PONG, &[1; 125]), 500)]
#[case::texts(text(r#"{"type":"ping"}"#), 1_000)]
#[case::empty_texts(text(""), 5_000)]
#[case::large_texts(text(&"x".repeat(60_000)), 10)]
#[tokio::test]
async fn floods_are_closed_and_memory_stays_flat(#[case] unit: Vec<u8>, #[case] at_once: usize) {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), &[]).await;
    // Clients of real engines are still connecting.
    let odds = format!("http://{}/healthz", server.health["odds"]);
    until("it is healthy", || async {
        (get_text(&odds).await.0 == 200).then_some(())
    })
    .await;
    let before = server.memory();
    for _ in 0..FLOODS {
        let mut client = RawClient::connect(server.odds()).await;
        flood(&mut client, &unit, at_once).await;
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < FLAT, "{grown} bytes more");
    let metrics = format!("http://{}/metrics", server.health["odds"]);
    until("all floods are closed", || async {
        let closed = metric(
            &get_text(&metrics).await.1,
            r#"odds_ws_closes_total{reason="too many messages"}"#,
        );
        (closed == Some(FLOODS as f64)).then_some(())
    })
    .await;
}

/// A flood small enough for the kernel's buffers, so that the client is certain to read the close
/// frame.
#[rstest]
#[case::pongs(frame(FIN | PONG, b"").repeat(300))]
#[case::continuations([frame(TEXT, b""), frame(CONTINUATION, b"").repeat(300)].concat())]
#[case::bytes(text(&"x".repeat(900)).repeat(4))]
#[actix_web::test]
async fn floods_are_closed_with_code_1008(#[case] bytes: Vec<u8>) {
    let limits = [
        ("WS_MAX_MESSAGES_PER_SECOND", "10"),
        ("WS_MAX_BYTES_PER_SECOND", "3KiB"),
        ("WS_MAX_MESSAGE", "1KiB"),
    ];
    let (platform, _supplier) = start(&limits).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.send(&bytes).await;
    assert_eq!(close_code(&mut client).await, Some(1008));
}

#[actix_web::test]
async fn tiny_segments_count_as_frames() {
    let (platform, _supplier) = start(&[("WS_MAX_MESSAGES_PER_SECOND", "10")]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    let message = text(&"x".repeat(60_000));
    within("it is closed", async {
        for byte in message.iter().cycle() {
            if client.stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            // Each byte becomes its own segment once the previous one has been read.
            tokio::task::yield_now().await;
        }
    })
    .await;
    until_total(&platform, "odds_ws_sessions", 0.0).await;
}

#[rstest]
#[case::fragments(frame(TEXT, b"{"), frame(CONTINUATION, b" "))]
#[case::one_frame(announcement(FIN | TEXT, 60_000), b" ".to_vec())]
#[case::a_head(vec![FIN | TEXT], Vec::new())]
#[case::a_control_frame(announcement(FIN | PING, 100), b"x".to_vec())]
#[actix_web::test]
async fn unfinished_messages_are_closed_in_time(#[case] begin: Vec<u8>, #[case] more: Vec<u8>) {
    let (platform, _supplier) = start(&[("WS_MESSAGE_TIMEOUT", "2s")]).await;
    let mut healthy = RawClient::connect(platform.odds()).await;
    let mut client = RawClient::connect(platform.odds()).await;
    let began = Instant::now();
    client.send(&begin).await;
    let mut writer = client.writer();
    // The message continues and never ends.
    let ended = within("it is closed", async {
        // One future to the end: it may have read the close frame before the connection ends.
        let mut end = std::pin::pin!(client.end());
        loop {
            tokio::select! {
                end = &mut end => return end,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            healthy.send(&text(r#"{"type":"ping"}"#)).await;
            if writer.write_all(&more).await.is_err() {
                return end.await;
            }
        }
    })
    .await;
    assert_eq!(ended, End::Closed(1008));
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "not before its time"
    );
    // Complete messages keep a session open for any length of time.
    assert_eq!(healthy.next_text().await.text(), r#"{"type":"pong"}"#);
    until_total(&platform, "odds_ws_sessions", 1.0).await;
}

#[actix_web::test]
async fn unfinished_messages_share_a_total_limit() {
    let (platform, _supplier) = start(&[("WS_MAX_UNFINISHED", "100KiB")]).await;
    let mut first = RawClient::connect(platform.odds()).await;
    first.send(&announcement(FIN | TEXT, 60_000)).await;
    until_total(&platform, "odds_ws_sessions", 1.0).await;
    let mut whole = RawClient::connect(platform.odds()).await;
    whole.send(&text(r#"{"type":"ping"}"#)).await;
    assert_eq!(whole.next_text().await.text(), r#"{"type":"pong"}"#);
    let mut second = RawClient::connect(platform.odds()).await;
    second.send(&announcement(FIN | TEXT, 60_000)).await;
    assert_eq!(second.end().await, End::Closed(1013));
    drop(first);
    until_total(&platform, "odds_ws_sessions", 1.0).await;
    let mut third = RawClient::connect(platform.odds()).await;
    third.send(&frame(FIN | TEXT, &[b' '; 60_000])).await;
    assert!(third.next_text().await.text().contains("BAD_JSON"));
}

#[actix_web::test]
async fn snapshots_are_limited_by_bytes() {
    let (platform, mut supplier) = start(&[("WS_MAX_SNAPSHOT_BYTES_PER_SECOND", "10KiB")]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.subscribe(EVENT).await;
    supplier.send(change_of(EVENT, "1x2", 1, 20_000)).await;
    client.next_text().await;
    let subscribe = text(&format!(r#"{{"type":"subscribe","eventId":"{EVENT}"}}"#));
    let mut bytes = 0;
    let mut refused = 0;
    for _ in 0..40 {
        client.send(&subscribe).await;
        let answer = client.next_text().await;
        let is_refused = answer.text().contains("RATE_LIMITED");
        assert!(
            is_refused || answer.text().contains("snapshot"),
            "{}",
            answer.text()
        );
        refused += usize::from(is_refused);
        bytes += answer.payload.len();
    }
    // A burst of 80 KiB, the last snapshot that exceeds it, and a margin for the elapsed time.
    assert!(
        refused > 20 && bytes < 400_000,
        "{refused} refused, {bytes} bytes"
    );
    until("subscribing works again", || async {
        let mut other = RawClient::connect(platform.odds()).await;
        other.subscribe(EVENT).await;
        Some(())
    })
    .await;
}

/// The snapshots of one message are limited too: they are sent at the allowed rate.
#[actix_web::test]
async fn snapshots_of_one_message_are_limited() {
    const EVENTS: usize = 30;
    let (platform, mut supplier) = start(&[("WS_MAX_SNAPSHOT_BYTES_PER_SECOND", "4KiB")]).await;
    let mut other = RawClient::connect(platform.odds()).await;
    let ids: Vec<String> = (0..EVENTS).map(|event| format!("E{event:02}")).collect();
    for id in &ids {
        supplier.send(change_of(id, "1x2", 1, 5_000)).await;
    }
    until("the last event is known", || async {
        let mut follower = RawClient::connect(platform.odds()).await;
        follower.send(&subscribe_to(&ids[EVENTS - 1..])).await;
        let snapshot = follower.next_text().await;
        (snapshot.payload.len() > 4_000).then_some(())
    })
    .await;
    other.send(&subscribe_to(&ids)).await;
    let mut snapshots = 0;
    for _ in 0..100 {
        other.send(&text(r#"{"type":"ping"}"#)).await;
        while other.next_text().await.text() != r#"{"type":"pong"}"# {
            snapshots += 1;
        }
    }
    // A burst of 32 KiB, and what was requested at the same time.
    assert!(
        (1..EVENTS / 2).contains(&snapshots),
        "{snapshots} snapshots"
    );
    // The others follow, at 4 KiB a second.
    let next = other.next_text().await;
    assert!(next.text().starts_with(r#"{"type":"snapshot""#));
}

fn subscribe_to(ids: &[String]) -> Vec<u8> {
    let message = serde_json::json!({"type": "subscribe", "eventIds": ids});
    text(&message.to_string())
}

#[rstest]
#[case::two_byte_length(&[FIN | TEXT, 0xfe, 0, 5])]
#[case::eight_byte_length(&[FIN | TEXT, 0xff, 0, 0, 0, 0, 0, 0, 0, 5])]
#[case::eight_bytes_for_two(&[FIN | TEXT, 0xff, 0, 0, 0, 0, 0, 0, 1, 0])]
#[case::a_long_ping(&[FIN | PING, 0xfe, 0, 5])]
#[actix_web::test]
async fn overlong_lengths_are_protocol_errors(#[case] head: &[u8]) {
    let (platform, _supplier) = start(&[]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.send(&[head, &[0; 4], b"hello"].concat()).await;
    assert_eq!(client.end().await, End::Closed(1002));
}
