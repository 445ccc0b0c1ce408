//! Pings, silence, and clients that vanish.

use std::time::Duration;

use pretty_assertions::assert_eq;

use super::raw::{End, PING, RawClient};
use super::{EVENT, change, start, until_nobody_is_left, until_total};

const QUICK_PINGS: &[(&str, &str)] = &[("WS_PING_INTERVAL", "100ms"), ("WS_SILENCE_LIMIT", "2s")];

#[actix_web::test]
async fn the_server_pings_at_the_interval() {
    let (platform, _supplier) = start(&[("WS_PING_INTERVAL", "50ms")]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    for _ in 0..3 {
        assert_eq!(client.next().await.unwrap().opcode, PING);
    }
}

#[actix_web::test]
async fn a_client_that_answers_nothing_is_closed_and_one_that_answers_stays() {
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
    // Reading is what makes the answering one answer. It gets the change, so it was not closed.
    let message = tokio::select! {
        () = is_forgotten => unreachable!(),
        message = answering.next() => message,
    };
    assert_eq!(message["payload"]["version"], 1);
}

#[actix_web::test]
async fn a_client_that_is_forgotten_leaves_nothing_behind() {
    let (platform, _supplier) = start(QUICK_PINGS).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.subscribe(EVENT).await;
    until_total(&platform, "odds_ws_sessions", 1.0).await;
    // Its connection stays, and nobody reads it.
    std::mem::forget(client);
    until_nobody_is_left(&platform).await;
}

#[actix_web::test]
async fn a_client_that_vanishes_without_a_close_leaves_nothing_behind() {
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
async fn every_client_is_told_that_the_server_goes() {
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
async fn clients_that_do_not_take_the_close_do_not_hold_the_stop_up() {
    let (platform, _supplier) = start(&[("SHUTDOWN_TIMEOUT", "8s")]).await;
    let mut client = RawClient::connect(platform.odds()).await;
    client.subscribe(EVENT).await;
    let stopped = tokio::time::timeout(Duration::from_secs(8), platform.stop()).await;
    assert!(stopped.is_ok());
    assert_eq!(client.end().await, End::Closed(1001));
}
