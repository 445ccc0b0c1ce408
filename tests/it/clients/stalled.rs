//! Clients that stop reading. Their sessions freeze, so they are evicted from outside.

use sports_bet_platform::config::settings::Role;

use super::raw::{CLOSE, End, FIN, RawClient, frame};
use super::{
    EVENT, change_of, first_change, start, total, until_delivered, until_nobody_is_left,
    until_total,
};
use crate::support::{SupplierLink, TestPlatform, until};

/// Large enough that a few changes fill a socket.
const LARGE: usize = 5_000;

/// A client that reads its snapshot and nothing more.
async fn stalled_client(platform: &TestPlatform) -> RawClient {
    let mut client = RawClient::connect_narrow(platform.odds()).await;
    client.subscribe(EVENT).await;
    client
}

/// Sends a change, and large ones after it, each read by `reader` before the next, until `done`;
/// returns how many.
async fn send_until(
    supplier: &mut SupplierLink,
    reader: &mut RawClient,
    done: impl AsyncFn() -> bool,
) -> u64 {
    first_change(supplier, EVENT, reader).await;
    let mut last_seq = 0;
    for version in 2..=2_000 {
        supplier.send(change_of(EVENT, "1x2", version, LARGE)).await;
        let update = reader.next_text().await;
        assert_eq!(update.number("version"), version);
        assert!(!update.text().contains("conflated") && update.number("seq") > last_seq);
        last_seq = update.number("seq");
        if version % 10 == 0 && done().await {
            return version;
        }
    }
    panic!("not within 2,000 changes");
}

/// A client that reads nothing is evicted, and the others receive every change.
#[actix_web::test]
async fn stalled_client_is_evicted_alone() {
    let limits = [
        ("SLOW_CLIENT_LIMIT", "500ms"),
        ("WS_SESSION_QUEUE", "8"),
        ("WS_MAX_SESSIONS", "2"),
    ];
    let (platform, mut supplier) = start(&limits).await;
    let mut stalled = stalled_client(&platform).await;
    let mut reader = RawClient::connect(platform.odds()).await;
    reader.subscribe(EVENT).await;
    until_total(&platform, "odds_ws_sessions", 2.0).await;

    let evicted = async || total(&platform, "odds_ws_evictions_total").await == 1.0;
    send_until(&mut supplier, &mut reader, evicted).await;
    // Removed everywhere, and counted once.
    until_total(&platform, "odds_ws_sessions", 1.0).await;
    until_total(&platform, "odds_ws_subscriptions", 1.0).await;
    until_total(&platform, "odds_ws_stalled_sessions", 0.0).await;
    until_total(&platform, "odds_ws_closes_total", 1.0).await;
    platform
        .until_metric(
            Role::Odds,
            r#"odds_ws_closes_total{reason="slow"}"#,
            |count| count == 1.0,
        )
        .await;
    // The session permit is released with the session itself, and so with everything queued in it.
    let mut next = RawClient::connect(platform.odds()).await;
    next.subscribe(EVENT).await;
    // Its connection is really closed: reading ends without a close frame, which the client would
    // not have read.
    assert_eq!(stalled.end().await, End::BrokenOff);
    supplier.send(change_of(EVENT, "btts", 1, 1)).await;
    for client in [&mut reader, &mut next] {
        assert!(client.next_text().await.text().contains("btts"));
    }
}

/// A client that froze before its event went quiet is evicted too.
#[actix_web::test]
async fn client_frozen_before_quiet_is_evicted() {
    // The queue is large enough for everything, so only the missing liveness signal reveals the
    // freeze.
    let limits = [
        ("SLOW_CLIENT_LIMIT", "500ms"),
        ("WS_SESSION_QUEUE", "100000"),
        ("WS_PING_INTERVAL", "600ms"),
    ];
    let (platform, mut supplier) = start(&limits).await;
    let mut stalled = stalled_client(&platform).await;
    first_change(&mut supplier, EVENT, &mut stalled).await;
    for version in 2..=150 {
        supplier.send(change_of(EVENT, "1x2", version, LARGE)).await;
    }
    until_delivered(&platform, 150).await;
    until_total(&platform, "odds_ws_evictions_total", 1.0).await;
    until_total(&platform, "odds_ws_conflations_total", 0.0).await;
    until_nobody_is_left(&platform).await;
    assert_eq!(stalled.end().await, End::BrokenOff);
}

/// The bytes unsent at the close either fit into the kernel's buffers or do not.
#[rstest::rstest]
#[case::nothing(1, 0.0)]
#[case::more_than_fits(300, 1.0)]
#[actix_web::test]
async fn closed_session_ends_within_write_timeout(#[case] changes: u64, #[case] timeouts: f64) {
    let limits = [
        ("HTTP_WRITE_TIMEOUT", "2s"),
        ("SLOW_CLIENT_LIMIT", "10m"),
        ("WS_SESSION_QUEUE", "1000"),
    ];
    let (platform, mut supplier) = start(&limits).await;
    let mut stalled = stalled_client(&platform).await;
    first_change(&mut supplier, EVENT, &mut stalled).await;
    for version in 2..=changes {
        supplier.send(change_of(EVENT, "1x2", version, LARGE)).await;
    }
    until_delivered(&platform, changes).await;
    stalled
        .send(&frame(FIN | CLOSE, &1_000_u16.to_be_bytes()))
        .await;
    // A frozen session processes the close once the client has read a part, and ends while the rest
    // is still unsent.
    let part = std::cell::RefCell::new([0; 16_384]);
    until("the session ends", || async {
        let _ = stalled.stream.try_read(&mut *part.borrow_mut());
        (total(&platform, "odds_ws_sessions").await == 0.0).then_some(())
    })
    .await;
    // The client neither reads nor closes. Its writes fail as soon as the server has closed the
    // socket.
    until("the server closes the connection", || async {
        stalled.stream.try_write(b"x").is_err().then_some(())
    })
    .await;
    let ended = r#"odds_http_connections_ended_total{port="rest",reason="write_timeout"}"#;
    platform
        .until_metric(Role::Odds, ended, |count| count == timeouts)
        .await;
}

#[actix_web::test]
async fn stalled_client_does_not_delay_shutdown() {
    let limits = [("SLOW_CLIENT_LIMIT", "10m"), ("WS_SESSION_QUEUE", "4")];
    let (platform, mut supplier) = start(&limits).await;
    let stalled = stalled_client(&platform).await;
    let mut reader = RawClient::connect(platform.odds()).await;
    reader.subscribe(EVENT).await;
    let is_stalled = async || total(&platform, "odds_ws_stalled_sessions").await == 1.0;
    send_until(&mut supplier, &mut reader, is_stalled).await;
    let (folder, end) = tokio::join!(platform.stop(), reader.end());
    assert_eq!(end, End::Closed(1001));
    drop((folder, stalled));
}
