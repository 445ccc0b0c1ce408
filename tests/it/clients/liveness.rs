//! Pings, silence, and clients that vanish.

use std::time::Duration;

use pretty_assertions::assert_eq;

use super::raw::{End, PING, RawClient};
use super::{EVENT, change, start, until_nobody_is_left, until_total};

const QUICK_PINGS: &[(&str, &str)] = &[("WS_PING_INTERVAL", "100ms"), ("WS_SILENCE_LIMIT", "2s")];

#[actix_web::test]
async fn server_pings_at_the_interval() {
    let (platform, _supplier) = start(&[("WS_PING_INTERVAL", "50ms")]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    for _ in 0..3 {
        assert_eq!(client.next().await.unwrap().opcode, PING);
    }
}

/// A client that answers no pings is closed, and one that answers them stays.
#[actix_web::test]
async fn only_silent_clients_are_closed() {
    let (platform, mut supplier) = start(QUICK_PINGS).await;
    let mut answering = platform.subscriber(EVENT).await;
    let mut silent = RawClient::connect(platform.odds()).await;
    silent.subscribe(EVENT).await;
    let is_forgotten = async {
        assert_eq!(silent.end().await, End::Closed(3001));
        until_total(&platform, "odds_ws_sessions", 1.0).await;
        until_total(&platform, "odds_ws_subscriptions", 1.0).await;
        supplier.send(change(1)).await;
        std::future::pending().await
    };
    // The client only answers pings while it reads. It receives the change, so it was not closed.
    let message = tokio::select! {
        () = is_forgotten => unreachable!(),
        message = answering.next() => message,
    };
    assert_eq!(message["payload"]["version"], 1);
}

#[actix_web::test]
async fn abandoned_connection_leaves_nothing_behind() {
    let (platform, _supplier) = start(QUICK_PINGS).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.subscribe(EVENT).await;
    until_total(&platform, "odds_ws_sessions", 1.0).await;
    // Its connection stays open, and nobody reads it.
    std::mem::forget(client);
    until_nobody_is_left(&platform).await;
}

#[actix_web::test]
async fn reset_connection_leaves_nothing_behind() {
    let (platform, mut supplier) = start(&[]).await;
    let mut stays = platform.subscriber(EVENT).await;
    for reset in [false, true] {
        let mut client = RawClient::connect(platform.odds()).await;
        client.subscribe(EVENT).await;
        until_total(&platform, "odds_ws_sessions", 2.0).await;
        if reset {
            client.stream.set_zero_linger().unwrap();
        }
        drop(client);
        until_total(&platform, "odds_ws_sessions", 1.0).await;
        until_total(&platform, "odds_ws_subscriptions", 1.0).await;
    }
    supplier.send(change(1)).await;
    assert_eq!(stays.next().await["payload"]["version"], 1);
    until_total(&platform, "odds_ws_deliveries_total", 1.0).await;
}

#[actix_web::test]
async fn shutdown_closes_every_client() {
    let (platform, _supplier) = start(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(platform.subscriber(EVENT).await);
    }
    let closed = async {
        for client in &mut clients {
            assert_eq!(client.close_code().await, 1001);
        }
    };
    let (_, folder) = tokio::join!(closed, platform.stop());
    drop(folder);
}

#[actix_web::test]
async fn unread_close_frames_do_not_delay_shutdown() {
    let (platform, _supplier) = start(&[("SHUTDOWN_TIMEOUT", "8s")]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.subscribe(EVENT).await;
    let stopped = tokio::time::timeout(Duration::from_secs(8), platform.stop()).await;
    assert!(stopped.is_ok());
    assert_eq!(client.end().await, End::Closed(1001));
}
