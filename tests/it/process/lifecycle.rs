//! Starting, the startup message, stopping on a signal, and restarting.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use pretty_assertions::assert_eq;
use sports_bet_platform::runtime::tls::install_provider;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::support::ReservedPort;

#[tokio::test]
async fn startup_message_commands_work() {
    let folder = TempDir::new().unwrap();
    // No argument and no setting except free ports.
    let server = ServerProcess::start(folder.path(), &[]).await;
    let log = server.log();
    let copied = |command: &str| {
        let line = log
            .lines()
            .find_map(|line| line.split_once("try:  ")?.1.strip_prefix(command));
        line.unwrap_or_else(|| panic!("no command line for {command}: {log}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    let mut lines = log.lines();
    let first = lines.next().unwrap();
    assert!(first.contains(" starting version="), "{first}");
    let second = lines.next().unwrap();
    assert!(
        second.contains("REST at "),
        "the next line is the startup message: {second}"
    );
    let odds = until("the odds of the startup message", || async {
        let (status, odds) = get_json(copied("curl ")[0]).await;
        (status == 200).then_some(odds)
    })
    .await;
    assert_eq!(
        (&odds[0]["eventId"], &odds[0]["market"]),
        (&json!("MATCH_001"), &json!("1x2"))
    );
    let mut watch = vec!["watch"];
    watch.extend(copied(concat!(env!("CARGO_BIN_EXE_sports-bet"), " watch ")));
    watch.extend(["--count", "3"]);
    let output = run(folder.path(), &watch, &[]).await;
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        lines
            .lines()
            .filter(|line| line.contains("MATCH_001"))
            .count(),
        3,
        "{lines}"
    );

    let rest = log
        .split_once("REST at ")
        .unwrap()
        .1
        .split(',')
        .next()
        .unwrap();
    assert_eq!(get_text(rest).await.0, 200);
    for (role, address) in &server.health {
        until(role, || async {
            (get_text(&format!("http://{address}/healthz")).await == (200, "ok".to_owned()))
                .then_some(())
        })
        .await;
        assert_eq!(get_text(&format!("http://{address}/metrics")).await.0, 200);
    }
    assert_eq!(
        server.health.keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "bets",
            "confirmation",
            "gateway",
            "ingest",
            "odds",
            "processor",
            "settlement",
            "simulator",
            "wallet"
        ]
    );
    let confirm = log
        .split_once("/ws and ")
        .unwrap()
        .1
        .lines()
        .next()
        .unwrap();
    assert_eq!(confirm_a_bet(confirm).await, confirm_a_bet(confirm).await);
    assert!(folder.path().join("data/sports-bet.db").exists());
}

async fn confirm_a_bet(url: &str) -> Value {
    install_provider();
    let answer = reqwest::Client::new()
        .post(url)
        .json(&serde_json::json!({"betId": "b-1"}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test]
async fn simulator_alone_serves_both_addresses() {
    let folder = TempDir::new().unwrap();
    let child = LoggedChild::start(
        command(folder.path(), &[("SIMULATOR_RATE", "100")]).args(["--role", "simulator"]),
    );
    let log = child.until_logged("/healthz and /metrics: ").await;
    assert!(!log.contains("REST at"), "{log}");
    let addresses = log
        .split_once("simulator at ")
        .unwrap()
        .1
        .lines()
        .next()
        .unwrap()
        .to_owned();
    let (socket, confirm) = addresses.split_once(" and ").unwrap();
    assert_eq!(confirm_a_bet(confirm).await, confirm_a_bet(confirm).await);
    let (mut socket, _) = within(
        "the simulator's socket",
        tokio_tungstenite::connect_async(socket),
    )
    .await
    .unwrap();
    let frame = within("a frame", socket.next())
        .await
        .unwrap()
        .unwrap()
        .into_text()
        .unwrap();
    let frame: Value = serde_json::from_str(&frame).unwrap();
    assert!(
        frame["event_id"].is_string() && frame["odds"]["home"].is_f64(),
        "{frame}"
    );
    let health = log
        .split_once("/healthz and /metrics: simulator ")
        .unwrap()
        .1
        .lines()
        .next()
        .unwrap();
    assert_eq!(
        get_text(&format!("{health}/healthz")).await,
        (200, "ok".to_owned())
    );
    assert!(!folder.path().join("data").exists(), "it needs no database");
    child.signal("TERM").await;
    assert!(child.ended().await.success());
}

/// Versions of an event's `1x2` in the history, in their order.
fn versions(folder: &Path, event: &str) -> Vec<i64> {
    let query = sql_query(
        "SELECT version AS number FROM odds_history WHERE event_id = ? ORDER BY updated_at, version",
    );
    let rows: Vec<Number> = query
        .bind::<sql_types::Text, _>(event)
        .load(&mut database(folder))
        .unwrap();
    rows.into_iter().map(|row| row.number).collect()
}

/// A supplier's frame of a version; versions are a second of supplier time apart.
fn frame(event: &str, version: i64) -> String {
    original_frame(
        event,
        &format!("2025-11-09T21:{:02}:{:02}Z", version / 60, version % 60),
        version,
    )
}

async fn stops_cleanly_on(signal: &str) {
    let folder = TempDir::new().unwrap();
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let fed = [
        ("ROLE", "ingest,processor,odds"),
        ("SUPPLIER_URLS", url.as_str()),
        ("SLOW_CLIENT_LIMIT", "60s"),
        // Batches are still in flight when the signal arrives.
        ("STORE_BATCH_WAIT", "500ms"),
    ];
    let mut server = ServerProcess::start(folder.path(), &fed).await;
    let mut link = supplier.accept().await;
    let mut client = server.client().await;
    client.subscribe("E").await;
    client.next_of("snapshot").await;
    let mut idle = server.client().await;
    let stalled = stalled_client(&server).await;

    for version in 1..=900 {
        link.send(frame("E", version)).await;
    }
    // Read by the feed, whether stored or not: the supplier's ping is answered after all frames.
    link.socket.send(Message::Ping("all".into())).await.unwrap();
    until("the feed has read everything", || async {
        let page = get_text(&format!("http://{}/metrics", server.health["ingest"]))
            .await
            .1;
        metric(&page, "odds_ingest_updates_published_total").filter(|published| *published == 900.0)
    })
    .await;
    let started = Instant::now();
    server.signal(signal).await;
    let mut last = 0;
    let code = loop {
        match client.next_or_close().await {
            Ok(message) => last = message["payload"]["version"].as_i64().unwrap_or(last),
            Err(frame) => break frame.map(|frame| u16::from(frame.code)),
        }
    };
    assert_eq!(
        (last, code),
        (900, Some(1001)),
        "every change, then the close frame"
    );
    assert_eq!(idle.close_code().await, 1001);
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    drop(stalled);
    assert_eq!(versions(folder.path(), "E"), (1..=900).collect::<Vec<_>>());
    until("the last line", || async {
        let log = server.log();
        let last = log.trim_end().lines().last()?;
        last.contains(" stopped ").then_some(())
    })
    .await;

    // A second start continues where the first ended.
    let seq = |odds: &Value| odds[0]["seq"].as_u64().unwrap();
    let server = ServerProcess::start(folder.path(), &fed).await;
    let (_, odds) = get_json(&format!("http://{}/v1/events/E/odds", server.odds())).await;
    assert_eq!(odds[0]["version"], 900);
    let mut link = supplier.accept().await;
    let mut client = server.client().await;
    client.subscribe("E").await;
    let snapshot = client.next_of("snapshot").await;
    assert_eq!(snapshot["payload"]["version"], 900);
    // Repeated updates are recognized; a new one gets a higher seq than all before.
    link.send(frame("E", 900)).await;
    link.send(frame("E", 901)).await;
    // The market of the earlier process is shown as stale until its source is heard.
    let update = client.next_change().await;
    assert_eq!(update["payload"]["version"], 901);
    assert!(update["seq"].as_u64().unwrap() > snapshot["seq"].as_u64().unwrap().max(seq(&odds)));
    until("it is stored", || async {
        (versions(folder.path(), "E").len() == 901).then_some(())
    })
    .await;
}

/// A client that subscribes and then reads nothing: its updates fill every buffer.
async fn stalled_client(server: &ServerProcess) -> OddsClient {
    let mut stalled = server.client().await;
    stalled.subscribe("E").await;
    stalled.next_of("snapshot").await;
    // A megabyte of pongs fills the remaining buffers.
    for _ in 0..200 {
        let ping = Message::Ping(vec![0; 125].into());
        stalled.socket.feed(ping).await.unwrap();
    }
    stalled.socket.flush().await.unwrap();
    stalled
}

#[tokio::test]
async fn sigterm_finishes_everything() {
    stops_cleanly_on("TERM").await;
}

#[tokio::test]
async fn sigint_finishes_everything() {
    stops_cleanly_on("INT").await;
}

/// The terminal closes, or somebody presses Ctrl-\\: nothing is cut off.
#[tokio::test]
async fn sighup_finishes_everything() {
    stops_cleanly_on("HUP").await;
}

#[tokio::test]
async fn sigquit_finishes_everything() {
    stops_cleanly_on("QUIT").await;
}

/// Readiness ends with the signal; the log names the signal and ends with the line that reports a
/// complete stop.
#[tokio::test]
async fn log_names_every_stop_signal() {
    for name in ["TERM", "INT", "HUP", "QUIT"] {
        let folder = TempDir::new().unwrap();
        let mut server = ServerProcess::start(folder.path(), &[("ROLE", "simulator")]).await;
        server.signal(name).await;
        assert_eq!(
            server.ended().await.code(),
            Some(0),
            "{name}: {}",
            server.log()
        );
        let log = until("the last line", || async {
            Some(server.log()).filter(|log| log.contains(" stopped"))
        })
        .await;
        assert!(log.contains(&format!("stopping signal=SIG{name}")), "{log}");
    }
}

/// A closing terminal sends SIGHUP as well; any other second signal stops at once.
#[tokio::test]
async fn second_signal_stops_at_once() {
    let folder = TempDir::new().unwrap();
    // The database does not answer, so a stop takes as long as it may.
    let variables = [
        ("ROLE", "ingest,processor,odds,simulator"),
        ("SIMULATOR_RATE", "50"),
        ("SHUTDOWN_TIMEOUT", "60s"),
    ];
    let mut server = ServerProcess::start(folder.path(), &variables).await;
    server.until_ready().await;
    let mut lock = database(folder.path());
    diesel::connection::SimpleConnection::batch_execute(&mut lock, "BEGIN IMMEDIATE").unwrap();
    until("a batch waits for the database", || async {
        let page = get_text(&format!("http://{}/metrics", server.health["processor"]))
            .await
            .1;
        metric(
            &page,
            r#"odds_proc_bus_lag{group="odds-processor",purpose="store"}"#,
        )
        .filter(|lag| *lag > 10.0)
    })
    .await;
    server.signal("INT").await;
    until("it stops", async || {
        server
            .log()
            .contains("stopping signal=SIGINT")
            .then_some(())
    })
    .await;
    let address = server.health["odds"];
    until("it is not ready", || async {
        (get_text(&format!("http://{address}/healthz")).await.0 == 503).then_some(())
    })
    .await;
    server.signal("HUP").await;
    // Still running: it answers.
    assert_eq!(get_text(&format!("http://{address}/healthz")).await.0, 503);
    let interrupted_again = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.ended().await.code(), Some(1), "{}", server.log());
    assert!(
        interrupted_again.elapsed() < Duration::from_secs(10),
        "{:?}",
        interrupted_again.elapsed()
    );
    until("the reason", async || {
        server.log().contains("stopping immediately").then_some(())
    })
    .await;
}

#[tokio::test]
async fn stalled_client_does_not_delay_exit() {
    let folder = TempDir::new().unwrap();
    let variables = [
        ("SIMULATOR_RATE", "5000"),
        ("SIMULATOR_EVENTS", "4"),
        ("SIMULATOR_MARKETS", "1x2,total_goals,btts"),
        ("SLOW_CLIENT_LIMIT", "60s"),
    ];
    let mut server = ServerProcess::start(folder.path(), &variables).await;
    let mut stalled = server.client().await;
    for event in ["MATCH_001", "MATCH_002", "MATCH_003", "MATCH_004"] {
        stalled.subscribe(event).await;
    }
    until("it is stalled", || async {
        let page = get_text(&format!("http://{}/metrics", server.health["odds"]))
            .await
            .1;
        metric(&page, "odds_ws_stalled_sessions").filter(|stalled| *stalled == 1.0)
    })
    .await;
    let mut client = server.client().await;
    let started = Instant::now();
    server.signal("TERM").await;
    assert_eq!(client.close_code().await, 1001);
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn watch_reconnects_after_server_restart() {
    let folder = TempDir::new().unwrap();
    let reserved = ReservedPort::take();
    let port = reserved.address.port().to_string();
    let variables = [
        ("HTTP_PORT_ODDS", port.as_str()),
        ("SIMULATOR_EVENTS", "1"),
        ("SIMULATOR_RATE", "50"),
    ];
    let mut server = ServerProcess::start(folder.path(), &variables).await;
    let url = format!("ws://127.0.0.1:{port}/ws/odds");
    let watch =
        LoggedChild::start(command(folder.path(), &[]).args(["watch", "MATCH_001", "--url", &url]));
    let printed = watch
        .until_printed(|out| out.lines().count() >= 3)
        .await
        .lines()
        .count();
    server.signal("TERM").await;
    server.ended().await;
    watch.until_logged("reconnecting").await;
    let _server = ServerProcess::start(folder.path(), &variables).await;
    watch.until_logged("connected").await;
    watch
        .until_printed(|out| out.lines().count() >= printed + 3)
        .await;
    watch.signal("INT").await;
    assert!(watch.ended().await.success());
}
