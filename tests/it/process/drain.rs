//! SIGTERM with clients: they get time to move to another process.

use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;

use super::*;
use crate::support::OddsClient;

const ROLES: &str = "ingest,processor,odds,simulator,gateway,wallet,bets,confirmation,settlement";

async fn start(folder: &TempDir, delay: &str, spread: &str) -> ServerProcess {
    let variables = [
        ("ROLE", ROLES),
        ("DRAIN_DELAY", delay),
        ("DRAIN_SPREAD", spread),
    ];
    let server = ServerProcess::start(folder.path(), &variables).await;
    server.until_ready().await;
    server
}

async fn readyz(server: &ServerProcess) -> u16 {
    get_text(&format!("http://{}/readyz", server.health["odds"]))
        .await
        .0
}

/// Reads until the server tells the client to reconnect, and then until the end; returns the time
/// that it announced, the time that it gave, and the close code.
async fn moved(mut client: OddsClient) -> (u64, Duration, u16) {
    let within = client.next_of("reconnect").await["withinMs"].as_u64();
    let told = Instant::now();
    let code = client.close_code().await;
    (within.unwrap(), told.elapsed(), code)
}

#[tokio::test]
async fn clients_are_served_told_and_closed_in_turn() {
    let folder = TempDir::new().unwrap();
    let mut server = start(&folder, "4s", "10s").await;
    assert_eq!(readyz(&server).await, 200);
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = server.client().await;
        client.subscribe("MATCH_001").await;
        client.next_of("snapshot").await;
        clients.push(client);
    }
    let gateway = format!("http://{}/api/odds/ws/odds", server.gateway());
    let mut forwarded = OddsClient::connect_to(&gateway.replace("http", "ws")).await;
    forwarded.subscribe("MATCH_001").await;
    forwarded.next_of("snapshot").await;
    clients.push(forwarded);

    server.signal("TERM").await;
    until("it is not ready", || async {
        (readyz(&server).await == 503).then_some(())
    })
    .await;
    // New clients are served: load balancers have not seen yet that the process is not ready.
    let mut late = server.client().await;
    late.subscribe("MATCH_001").await;
    late.next_of("snapshot").await;
    let url = format!("http://{}/v1/events/MATCH_001/odds", server.odds());
    let answer = reqwest::get(&url).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["connection"], "close");
    clients.push(late);

    let moving = clients.into_iter().map(moved).map(tokio::spawn);
    for moved in futures_util::future::join_all(moving).await {
        let (within, waited, code) = moved.unwrap();
        assert_eq!((within, code), (1_000, 1001));
        // The client may read the first message late.
        assert!(waited >= Duration::from_millis(400), "{waited:?}");
    }
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

/// A person at a terminal does not wait.
#[tokio::test]
async fn interrupt_closes_clients_without_delay() {
    let folder = TempDir::new().unwrap();
    let mut server = start(&folder, "1h", "1h").await;
    let mut client = server.client().await;
    server.signal("INT").await;
    assert_eq!(client.close_code().await, 1001);
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

#[tokio::test]
async fn second_signal_ends_the_drain() {
    for (delay, spread) in [("1h", "1h"), ("0s", "1h")] {
        let folder = TempDir::new().unwrap();
        let mut server = start(&folder, delay, spread).await;
        let _client = server.client().await;
        server.signal("TERM").await;
        until("it is not ready", || async {
            (readyz(&server).await == 503).then_some(())
        })
        .await;
        server.signal("TERM").await;
        assert_eq!(server.ended().await.code(), Some(1), "{}", server.log());
    }
}

/// Without ports for clients nobody has to be waited for.
#[tokio::test]
async fn roles_without_clients_stop_without_delay() {
    let folder = TempDir::new().unwrap();
    let variables = [("ROLE", "simulator"), ("DRAIN_DELAY", "1h")];
    let mut server = ServerProcess::start(folder.path(), &variables).await;
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

/// Start and stop name the version, the roles and the settings that differ from the defaults.
#[tokio::test]
async fn log_says_what_starts_and_stops() {
    let folder = TempDir::new().unwrap();
    let variables = [
        ("ROLE", "simulator"),
        ("SIMULATOR_EVENTS", "3"),
        ("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("SHUTDOWN_TIMEOUT", "8s"),
    ];
    let mut server = ServerProcess::start(folder.path(), &variables).await;
    server.signal("TERM").await;
    server.ended().await;
    let line = |event: &str| {
        let log = server.log();
        let mut lines = log.lines().map(str::to_owned);
        lines.find(|line| line.contains(&format!(" {event} version=")))
    };
    let (started, stopped) = until("both lines", || async {
        line("starting").zip(line("stopped"))
    })
    .await;
    for line in [&started, &stopped] {
        let version = concat!(" version=", env!("CARGO_PKG_VERSION"), " commit=");
        for expected in [
            version,
            " roles=simulator ",
            "SIMULATOR_EVENTS=3",
            "AUTH_JWT_SECRET=",
        ] {
            assert!(line.contains(expected), "{expected}: {line}");
        }
        assert!(!line.contains("0123456789abcdef"), "{line}");
        assert!(!line.contains("SHUTDOWN_TIMEOUT"), "a default: {line}");
    }
    assert!(stopped.contains(" uptime="), "{stopped}");
}
