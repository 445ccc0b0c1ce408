//! Log lines: their format, their fields, and what they never contain.

use std::collections::BTreeSet;

use super::*;

/// The lines of a log, each parsed as JSON.
fn objects(log: &str) -> Vec<Value> {
    let read =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    log.lines().map(read).collect()
}

#[tokio::test]
async fn json_log_lines_carry_fields() {
    let folder = TempDir::new().unwrap();
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let variables = [
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "debug"),
        ("ROLE", "ingest,processor,odds"),
        ("SUPPLIER_URLS", url.as_str()),
    ];
    let child = LoggedChild::start(&mut command(folder.path(), &variables));
    let mut link = supplier.accept().await;
    let log = child.until_logged("/healthz and /metrics: ").await;
    let address = log
        .split_once("REST at http://")
        .unwrap()
        .1
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    link.send("{garbage").await;
    link.send(original_frame("E", "2025-11-09T21:07:45Z", 2))
        .await;
    link.send(original_frame("E", "2025-11-09T21:07:45Z", 1))
        .await;
    child.until_logged("update rejected").await;
    child.until_logged("frame refused").await;
    let mut client = OddsClient::connect(address).await;
    client.subscribe("E").await;
    client.next_of("snapshot").await;
    child.signal("TERM").await;
    assert_eq!(client.close_code().await, 1001);
    assert!(child.ended().await.success());
    let lines = objects(&child.log());
    for line in &lines {
        assert!(
            ["ts", "level", "target", "message", "role"]
                .iter()
                .all(|field| line[field].is_string()),
            "{line}"
        );
        assert!(line["ts"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(
            ["error", "warn", "info", "debug"].contains(&line["level"].as_str().unwrap()),
            "{line}"
        );
    }
    let entry = |message: &str| {
        let found = lines
            .iter()
            .find(|line| line["message"].as_str().unwrap().contains(message));
        found
            .unwrap_or_else(|| panic!("no line of {message}"))
            .clone()
    };
    let refused = entry("frame refused");
    assert_eq!(
        (&refused["role"], &refused["reason"]),
        (&json!("ingest"), &json!("malformed"))
    );
    assert_eq!(refused["supplier"], url);
    let older = entry("update rejected");
    assert_eq!(
        (&older["role"], &older["event"], &older["level"]),
        (&json!("processor"), &json!("E"), &json!("debug"))
    );
    let closes = entry("session closing");
    assert_eq!(
        (&closes["role"], closes["session"].is_u64()),
        (&json!("odds"), true),
        "{closes}"
    );
}

/// The roles of the lines with this message.
fn roles(log: &str, message: &str) -> BTreeSet<String> {
    log.lines()
        // The last line may still be incomplete.
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["message"].as_str().unwrap().contains(message))
        .map(|line| line["role"].as_str().unwrap().to_owned())
        .collect()
}

/// In a process of all roles, parts that several roles have, such as relays, name the right one.
#[tokio::test]
async fn embedded_lines_name_their_roles() {
    let folder = TempDir::new().unwrap();
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let variables = [
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "debug"),
        ("SUPPLIER_URLS", url.as_str()),
    ];
    let child = LoggedChild::start(&mut command(folder.path(), &variables));
    let mut link = supplier.accept().await;
    let log = child.until_logged("/healthz and /metrics: ").await;
    let address = log
        .split_once("WebSocket at ws://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .unwrap()
        .0;
    link.send("{garbage").await;
    for version in [2, 1] {
        let frame = original_frame("E", "2025-11-09T21:07:45Z", version);
        link.send(frame).await;
    }
    child.until_logged("update rejected").await;
    child.until_logged("frame refused").await;
    let mut client = OddsClient::connect(address.parse().unwrap()).await;
    client.subscribe("E").await;
    client.next_of("snapshot").await;
    // Without their tables, the parts that work for users' money report failures.
    let mut database = database(folder.path());
    let mut execute = |sql: &str| _ = sql_query(sql).execute(&mut database).unwrap();
    execute("PRAGMA busy_timeout = 5000");
    let tables = ["outbox", "reservations", "bets"];
    for table in tables {
        execute(&format!("ALTER TABLE {table} RENAME TO {table}_away"));
    }
    let failures = [
        (
            "the outbox cannot be read or written",
            &["bets", "confirmation", "settlement"][..],
        ),
        ("expiring reservations failed", &["wallet"]),
        ("overdue bets cannot be decided", &["confirmation"]),
        ("bets cannot be settled", &["settlement"]),
    ];
    for (message, expected) in failures {
        let expected: BTreeSet<_> = expected.iter().map(|role| (*role).to_owned()).collect();
        until(message, || async {
            (roles(&child.log(), message) == expected).then_some(())
        })
        .await;
    }
    for table in tables {
        execute(&format!("ALTER TABLE {table}_away RENAME TO {table}"));
    }
    child.signal("TERM").await;
    assert_eq!(client.close_code().await, 1001);
    child.ended().await;
    let log = child.log();
    assert!(objects(&log).iter().all(|line| line["role"].is_string()));
    for (message, role) in [
        ("simulator started", "simulator"),
        ("frame refused", "ingest"),
        ("update rejected", "processor"),
        ("session closing", "odds"),
        ("running: roles", "all"),
        ("stopping", "all"),
    ] {
        assert_eq!(
            roles(&log, message),
            BTreeSet::from([role.to_owned()]),
            "{message}: {log}"
        );
    }
}

#[tokio::test]
async fn startup_errors_are_json_too() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let variables = [("LOG_FORMAT", "json"), ("HTTP_PORT_ODDS", port.as_str())];
    let (code, text) = fails(folder.path(), &["serve"], &variables).await;
    assert_eq!(code, 1);
    let last = objects(&text).pop().unwrap();
    assert_eq!(last["level"], "error");
    assert!(
        last["message"]
            .as_str()
            .unwrap()
            .starts_with("HTTP_PORT_ODDS: cannot listen"),
        "{last}"
    );
}

#[tokio::test]
async fn updates_are_logged_below_debug_only() {
    let folder = TempDir::new().unwrap();
    let mut server = ServerProcess::start(folder.path(), &[("SIMULATOR_RATE", "2000")]).await;
    until("thousands of updates", || async {
        let page = get_text(&format!("http://{}/metrics", server.health["processor"]))
            .await
            .1;
        metric(&page, "odds_proc_db_writes_total").filter(|written| *written > 2_000.0)
    })
    .await;
    server.signal("TERM").await;
    assert!(server.ended().await.success());
    let lines = server.log().lines().count();
    assert!(lines < 18, "{lines} lines: {}", server.log());
}

#[tokio::test]
async fn no_secret_is_ever_logged() {
    let folder = TempDir::new().unwrap();
    for format in ["text", "json"] {
        let supplier = FakeSupplier::start().await;
        let betfair = FakeSupplier::start().await;
        let native = format!(
            "ws://user:hunter2-user@{}/ws?token=hunter2-token",
            supplier.address()
        );
        let urls = format!("{native},betfair://{}", betfair.address());
        let variables = [
            ("RUST_LOG", "trace"),
            ("ROLE", "ingest,processor,odds"),
            ("SUPPLIER_URLS", urls.as_str()),
            ("BETFAIR_APP_KEY", "hunter2-key"),
            ("BETFAIR_SESSION_TOKEN", "hunter2-session"),
            ("SUPPLIER_RECONNECT_MIN", "10ms"),
            ("LOG_FORMAT", format),
        ];
        let child = LoggedChild::start(&mut command(folder.path(), &variables));
        let mut link = supplier.accept().await;
        let mut stream = betfair.accept_raw().await;
        let reply = exchange_line(
            &mut stream,
            "{\"op\":\"connection\",\"connectionId\":\"1\"}\r\n",
        )
        .await;
        assert!(
            reply.contains("hunter2-key") && reply.contains("hunter2-session"),
            "the credentials must reach the supplier: {reply}"
        );
        let refusal = "{\"op\":\"status\",\"id\":1,\"statusCode\":\"FAILURE\",\"errorCode\":\"INVALID_SESSION_INFORMATION\",\
            \"errorMessage\":\"hunter2-session is no session of hunter2-key\",\"connectionClosed\":true}\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, refusal.as_bytes())
            .await
            .unwrap();
        link.send("{garbage").await;
        child.until_logged("frame refused").await;
        drop(link);
        child.until_logged("retrying in").await;
        child.until_logged("invalid_session").await;
        let _again = supplier.accept().await;
        child.signal("TERM").await;
        child.ended().await;
        let log = child.log();
        assert!(
            log.to_lowercase().contains("trace"),
            "the most verbose level is on"
        );
        assert_eq!(log.lines().find(|line| line.contains("hunter2")), None);
        assert_eq!(
            log.lines()
                .find(|line| line.contains(&encoded("user:hunter2-user"))),
            None,
            "not as basic credentials either"
        );
    }
}

/// Sends a line and returns the reply.
async fn exchange_line(stream: &mut tokio::net::TcpStream, line: &str) -> String {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    stream.write_all(line.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(
        "a response of the feed",
        BufReader::new(stream).read_line(&mut answer),
    )
    .await
    .unwrap();
    answer
}

/// Base64, as used for credentials in a header.
fn encoded(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |chunk: &[u8]| {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        let letters = (0..=chunk.len())
            .map(move |place| LETTERS[(bits >> (18 - 6 * place)) as usize & 63] as char);
        letters.collect::<String>()
    };
    text.as_bytes().chunks(3).map(digits).collect()
}

/// A supplier that accepts and hangs up may do so for hours: it is logged in one line, without a
/// line for each reconnect.
#[tokio::test]
async fn flapping_supplier_is_logged_once() {
    const TIMES: usize = 12;
    let folder = TempDir::new().unwrap();
    let supplier = FakeSupplier::start().await;
    let url = supplier.url();
    let variables = [
        ("ROLE", "ingest,processor,odds"),
        ("SUPPLIER_URLS", url.as_str()),
        ("SUPPLIER_RECONNECT_MIN", "10ms"),
        ("SUPPLIER_RECONNECT_MAX", "50ms"),
    ];
    let child = LoggedChild::start(&mut command(folder.path(), &variables));
    for _ in 0..TIMES {
        drop(supplier.accept().await);
    }
    let _last = supplier.accept().await;
    child.signal("TERM").await;
    child.ended().await;
    let log = child.log();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    // On a slow machine the ten seconds until the next line may be over.
    assert!(
        (1..TIMES / 2).contains(&count("supplier not connected")),
        "{log}"
    );
    assert!(
        count("supplier connected") <= 1 + count("supplier not connected"),
        "{log}"
    );
}
