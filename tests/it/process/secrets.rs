//! Credentials in addresses, valid and invalid: none appears in any output of the binary.

use std::net::SocketAddr;

use super::*;

/// Addresses in which the end of the password is ambiguous.
const CARELESS: [&str; 10] = [
    "postgres://u:Secret x@h/x",
    "u:Secret@h/x",
    "postgres:u:Secret@h/x",
    "postgres://u:Secret@x@h/x",
    "postgres://u:Secret/x@h/x",
    "postgres://u:Secret%@h/x",
    "postgres://u:Secret",
    "\"postgres://u:Secret@h/x\"",
    "host=h user=u password=Secret x",
    "postgres://h/x?password=Secret@x",
];

async fn is_refused(arguments: &[&str], variable: &str, value: &str) {
    let folder = TempDir::new().unwrap();
    let output = run(
        folder.path(),
        arguments,
        &[(variable, value), ("RUST_LOG", "debug")],
    )
    .await;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        output.status.code(),
        Some(2),
        "{arguments:?} {variable}={value}: {printed}"
    );
    assert!(
        printed.contains(&format!("{variable}: got ")) && !printed.contains("Secret"),
        "{variable}={value}: {printed}"
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was created"
    );
}

#[tokio::test]
async fn ambiguous_database_address_is_rejected_unquoted() {
    let doors = [
        &["serve"][..],
        &["check-config"],
        &["ledger", "verify"],
        &["dlq", "list"],
    ];
    for arguments in doors {
        is_refused(arguments, "DATABASE_URL", CARELESS[0]).await;
    }
    for (place, value) in CARELESS.iter().enumerate().skip(1) {
        is_refused(doors[place % doors.len()], "DATABASE_URL", value).await;
    }
    is_refused(&["serve"], "POSTGRES_DSN", CARELESS[0]).await;
    is_refused(&["ledger", "verify"], "POSTGRES_DSN", CARELESS[8]).await;
}

#[tokio::test]
async fn every_ambiguous_address_is_rejected_unquoted() {
    let values = [
        ("REDIS_URL", "redis://u:Secret x@h"),
        ("REDIS_URL", "u:Secret@h:6379"),
        ("REDIS_URL", "redis://h?password=Secret"),
        ("REDIS_ADDR", "u:Secret@h:6379"),
        ("KAFKA_BROKERS", "u:Secret@h:9092"),
        ("KAFKA_BROKERS", "SASL://u:Secret@h:9092"),
        ("SUPPLIER_URLS", "ws://u:Secret x@h/ws"),
        ("SUPPLIER_URLS", "ws://u:1/Secret@h/ws"),
        ("SUPPLIER_URLS", "betfair://u:Secret@h:1"),
        ("SUPPLIER_WS_URL", "u:Secret@h"),
        ("SUPPLIER_URL", "http://u:Secret x@h"),
        ("SUPPLIER_URL", "u:Secret@h"),
        ("GATEWAY_ODDS_URL", "http://u:Secret@h"),
        ("GATEWAY_ODDS_URL", "http://Secret@h:8080"),
        ("GATEWAY_WALLET_URL", "http://h:8082?password=Secret"),
        ("GATEWAY_BETS_URL", "u:Secret@h:8083"),
        ("GATEWAY_BETS_URL", "ftp://u:Secret@h"),
        ("GATEWAY_BETS_URL", "http://u:Secret x@h"),
        ("GATEWAY_BETS_URL", "http://u:Secret/x@h"),
        ("AUTH_JWKS_URL", "http://u:Secret@issuer.example/jwks"),
        ("AUTH_JWKS_URL", "u:Secret@issuer.example"),
    ];
    for (place, (variable, value)) in values.into_iter().enumerate() {
        is_refused(&[["serve", "check-config"][place % 2]], variable, value).await;
    }
    let folder = TempDir::new().unwrap();
    for url in [
        "foo",
        "u:Secret@h",
        "http://u:Secret@h",
        "ws://u:Secret x@h/ws",
    ] {
        let (code, text) = fails(folder.path(), &["watch", "E", "--url", url], &[]).await;
        assert_eq!(code, 2, "{text}");
        assert!(
            text.contains("--url: got ") && text.contains("ws://") && !text.contains("Secret"),
            "{text}"
        );
    }
}

/// A port that nobody listens on.
fn closed() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test]
async fn responses_hide_database_errors() {
    const ROLES: [&str; 5] = ["wallet", "bets", "processor", "odds", "confirmation"];
    let folder = TempDir::new().unwrap();
    let place = closed();
    let url = format!("postgres://me:Secret%20pw@{place}/money?connect_timeout=1");
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("RUST_LOG", "debug"),
        ("SIMULATOR_RATE", "1"),
    ];
    let mut server = ServerProcess::start(folder.path(), &variables).await;
    let wallet = server.wallet();
    let bets = server.bets();
    let odds = server.odds();
    sports_bet_platform::runtime::tls::install_provider();
    let client = reqwest::Client::new();
    let post = |url: String, body: Value| client.post(url).json(&body);
    let requests = [
        client.get(format!("http://{wallet}/wallet?userId=u")),
        post(
            format!("http://{wallet}/wallet/deposit"),
            json!({"userId": "u", "amount_cents": 1, "external_ref": "r"}),
        ),
        client.get(format!("http://{bets}/bets?userId=u")),
        client.get(format!(
            "http://{bets}/bets/00000000-0000-7000-8000-000000000000"
        )),
        client.get(format!("http://{odds}/v1/events")),
        client.get(format!("http://{odds}/v1/events/E/markets/1x2/history")),
    ];
    let is_neutral = |text: &str| {
        let telling = [
            "Secret",
            "127.0.0.1",
            "connection to server",
            "libpq",
            "money",
            &place.port().to_string(),
        ];
        assert!(!telling.iter().any(|word| text.contains(word)), "{text}");
    };
    for request in requests {
        let response = send(request).await;
        assert_eq!(response.status, 503);
        is_neutral(response.text());
        let body = response.json();
        assert_eq!(body["code"], "STORE_UNAVAILABLE", "{body}");
        assert_eq!(
            body["message"],
            "the database is currently unavailable; retry later"
        );
    }
    for role in ROLES {
        let url = format!("http://{}/healthz", server.health[role]);
        until("a reason", || async {
            let (status, text) = get_text(&url).await;
            is_neutral(&text);
            (status == 503 && text.contains("\"database\"") && text.contains("connection refused"))
                .then_some(())
        })
        .await;
        assert!(
            !get_text(&format!("http://{}/metrics", server.health[role]))
                .await
                .1
                .contains("Secret")
        );
    }
    server.signal("TERM").await;
    server.ended().await;
    let log = server.log();
    let causes: Vec<_> = log
        .lines()
        .filter(|line| line.contains("component=database") && line.contains("Connection refused"))
        .collect();
    assert!(!causes.is_empty(), "{log}");
    for role in ROLES {
        let of_role = format!("role={role} ");
        let lines = causes.iter().filter(|line| line.contains(&of_role)).count();
        assert!(lines <= 3, "{role} logs a cause once per interval: {log}");
    }
    assert!(!log.contains("Secret"), "{log}");
}

#[tokio::test]
async fn verification_result_has_own_exit_code() {
    let folder = TempDir::new().unwrap();
    let away = format!("postgres://me:Secret@{}/x?connect_timeout=1", closed());
    let (code, text) = fails(
        folder.path(),
        &["ledger", "verify"],
        &[("DATABASE_URL", &away)],
    )
    .await;
    assert!(code == 3 && !text.contains("Secret"), "{code}: {text}");
    let (code, text) = fails(folder.path(), &["ledger", "verify"], &[]).await;
    assert!(
        code == 3 && text.contains("there is no file"),
        "{code}: {text}"
    );
    assert_eq!(fails(folder.path(), &["dlq", "list"], &[]).await.0, 3);
    assert_eq!(
        fails(folder.path(), &["dlq", "replay", "1"], &[]).await.0,
        2,
        "it needs KAFKA_BROKERS"
    );
    let mut server = ServerProcess::start(folder.path(), &[]).await;
    server.signal("TERM").await;
    server.ended().await;
    assert_eq!(fails(folder.path(), &["dlq", "show", "7"], &[]).await.0, 1);
    assert_eq!(
        run(folder.path(), &["ledger", "verify"], &[])
            .await
            .status
            .code(),
        Some(0)
    );
    assert_eq!(unread(folder.path(), &["ledger", "verify"]).await, 0);
    assert_eq!(
        unread(folder.path(), &["ledger", "verify", "--json"]).await,
        0
    );
    assert_eq!(unread(folder.path(), &["dlq", "list"]).await, 0);
    assert_eq!(unread(folder.path(), &["check-config"]).await, 0);
    use diesel::connection::SimpleConnection;
    // Money without a transfer.
    let wallet =
        "INSERT INTO wallets (user_id, wallet_id, available_cents, reserved_cents, created_at)
        VALUES ('u', '00000000-0000-7000-8000-000000000000', 5, 0, 0)";
    database(folder.path()).batch_execute(wallet).unwrap();
    assert_eq!(
        run(folder.path(), &["ledger", "verify"], &[])
            .await
            .status
            .code(),
        Some(1)
    );
    assert_eq!(
        unread(folder.path(), &["ledger", "verify"]).await,
        1,
        "the exit code is the result even if the output is not read"
    );
}

/// The exit code of a command whose output is not read.
async fn unread(folder: &Path, arguments: &[&str]) -> i32 {
    let mut child = command(folder, &[]).args(arguments).spawn().unwrap();
    drop(child.stdout.take());
    within("the process ends", child.wait())
        .await
        .unwrap()
        .code()
        .unwrap()
}

#[tokio::test]
async fn suspicious_settings_are_reported_at_start() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join(".env"), "SIMULATOR_EVENT=3\n").unwrap();
    let variables = [
        ("KAFKA_BROKER", ""),
        ("REDIS_PORT", "6379"),
        ("REDIS_SERVICE_HOST", "10.0.0.1"),
    ];
    let mut server = ServerProcess::start(folder.path(), &variables).await;
    server.signal("TERM").await;
    assert!(server.ended().await.success());
    let log = server.log();
    let output = run(folder.path(), &["check-config"], &variables).await;
    assert!(output.status.success());
    for text in [log.as_str(), &String::from_utf8(output.stdout).unwrap()] {
        assert!(
            text.contains(
                "KAFKA_BROKER is not a setting and is ignored; did you mean KAFKA_BROKERS?"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "SIMULATOR_EVENT is not a setting and is ignored; did you mean SIMULATOR_EVENTS?"
            ),
            "{text}"
        );
        assert!(
            text.contains("REDIS_PORT is not a setting and is ignored"),
            "{text}"
        );
        assert!(!text.contains("REDIS_SERVICE_HOST"), "{text}");
    }
    assert!(
        log.contains("bus: embedded; cache: embedded; database: SQLite, data/sports-bet.db"),
        "{log}"
    );
    assert!(
        log.contains(&format!(
            "try:  {} watch MATCH_001",
            env!("CARGO_BIN_EXE_sports-bet")
        )),
        "{log}"
    );
    for file in ["sports-bet.db", "sports-bet.db.lock"] {
        let mode = std::fs::metadata(folder.path().join("data").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{file} is readable by its owner only");
    }
    let stakes = [
        ("BET_MIN_STAKE_CENTS", "100"),
        ("BET_MAX_STAKE_CENTS", "10"),
    ];
    let (code, text) = fails(folder.path(), &["serve"], &stakes).await;
    assert!(
        code == 2 && text.contains("BET_MIN_STAKE_CENTS: got \"100\""),
        "{text}"
    );
}

#[tokio::test]
async fn all_busy_ports_are_named() {
    let folder = TempDir::new().unwrap();
    let taken = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [odds, wallet, metrics] = taken
        .each_ref()
        .map(|one| one.local_addr().unwrap().port().to_string());
    let variables = [
        ("HTTP_PORT_ODDS", odds.as_str()),
        ("HTTP_PORT_WALLET", &wallet),
        ("METRICS_PORT_CONFIRMATION", &metrics),
    ];
    let (code, text) = fails(folder.path(), &["serve"], &variables).await;
    assert_eq!(code, 1, "{text}");
    for (variable, port) in variables {
        assert!(
            text.contains(&format!("{variable}: cannot listen on 127.0.0.1:{port}: ")),
            "{variable}: {text}"
        );
    }
    assert!(!folder.path().join("data").exists(), "nothing was created");
}
