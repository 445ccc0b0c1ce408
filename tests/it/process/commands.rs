//! Commands that exit by themselves, and everything that prevents the server from starting.

use super::*;

#[tokio::test]
async fn all_invalid_settings_are_named() {
    let folder = TempDir::new().unwrap();
    let wrong = [
        ("HTTP_PORT_ODDS", "port"),
        ("CACHE_TTL", "soon"),
        ("SIMULATOR_RATE", "0"),
        ("BETFAIR_MARKET_IDS", "fine"),
        ("SUPPLIER_URLS", "http://user:hunter2@host"),
        ("WS_PING_INTERVAL", "50s"),
    ];
    for arguments in [&["serve"][..], &[], &["check-config"]] {
        let (code, text) = fails(folder.path(), arguments, &wrong).await;
        assert_eq!(code, 2, "{text}");
        for variable in [
            "HTTP_PORT_ODDS",
            "CACHE_TTL",
            "SIMULATOR_RATE",
            "SUPPLIER_URLS",
            "WS_PING_INTERVAL",
        ] {
            let line = text
                .lines()
                .find(|line| line.starts_with(variable))
                .unwrap_or_else(|| panic!("{variable}: {text}"));
            assert!(line.contains("got ") && line.contains("want "), "{line}");
        }
        assert!(
            !text.contains("BETFAIR_MARKET_IDS") && !text.contains("hunter2"),
            "{text}"
        );
    }
    assert!(!folder.path().join("data").exists(), "nothing was created");
}

/// Roles that the embedded engines do not support name the variable to set.
#[tokio::test]
async fn embedded_engines_reject_split_roles() {
    let folder = TempDir::new().unwrap();
    for (roles, variable) in [
        ("odds", "REDIS_URL"),
        ("ingest", "KAFKA_BROKERS"),
        ("processor", "KAFKA_BROKERS"),
        ("odds,ingest", "KAFKA_BROKERS"),
    ] {
        let (code, text) = fails(folder.path(), &["serve", "--role", roles], &[]).await;
        assert_eq!(code, 2, "{text}");
        assert!(
            text.contains("ROLE") && text.contains(variable),
            "{roles}: {text}"
        );
    }
    let (code, text) = fails(folder.path(), &["--role", "none"], &[]).await;
    assert_eq!(code, 2);
    assert!(
        text.contains("simulator, ingest, processor, odds"),
        "{text}"
    );
}

#[tokio::test]
async fn taken_port_names_its_variable() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for variable in [
        "HTTP_PORT_ODDS",
        "HTTP_PORT_SUPPLIER",
        "METRICS_PORT_PROCESSOR",
        "METRICS_PORT_SUPPLIER",
    ] {
        let (code, text) = fails(folder.path(), &["serve"], &[(variable, &port)]).await;
        assert_eq!(code, 1, "{text}");
        let last = text.lines().last().unwrap();
        assert!(
            last.starts_with(&format!(
                "sports-bet: {variable}: cannot listen on 127.0.0.1:{port}: "
            )),
            "{text}"
        );
    }
}

#[tokio::test]
async fn unusable_database_names_its_path() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("directory.db")).unwrap();
    std::fs::write(
        path("text.db"),
        "this is not a database, whatever its length. ".repeat(100),
    )
    .unwrap();
    for (database, cause) in [
        (path("directory.db"), "is a directory"),
        (path("text.db"), "file is not a database"),
        (
            path("text.db/under-a-file.db"),
            "cannot create the directory",
        ),
        (
            "/proc/nowhere/odds.db".to_owned(),
            "cannot create the directory",
        ),
    ] {
        let (code, text) = fails(folder.path(), &["serve"], &[("DATABASE_URL", &database)]).await;
        assert_eq!(code, 1, "{text}");
        let last = text.lines().last().unwrap();
        assert!(
            last.starts_with("sports-bet: DATABASE_URL: ") && last.contains(cause),
            "{last}"
        );
        assert!(last.contains(&database), "{last}");
    }
    let kept = std::fs::read_to_string(path("text.db")).unwrap();
    assert!(
        kept.starts_with("this is not a database"),
        "a foreign file is left unchanged"
    );
}

#[tokio::test]
async fn second_server_on_one_database_is_refused() {
    let folder = TempDir::new().unwrap();
    let mut first = ServerProcess::start(folder.path(), &[("SIMULATOR_RATE", "500")]).await;
    let mut client = first.client().await;
    client.subscribe("MATCH_001").await;
    client.next_of("update").await;
    let (code, text) = fails(folder.path(), &["serve"], &[]).await;
    assert_eq!(code, 1, "{text}");
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("DATABASE_URL")
            && last.contains(
                "data/sports-bet.db: the database is unavailable: another process uses it"
            ),
        "{last}"
    );
    client.next_of("update").await;
    // It runs with a separate database file.
    let mut second =
        ServerProcess::start(folder.path(), &[("DATABASE_URL", "data/second.db")]).await;
    second.signal("TERM").await;
    assert!(second.ended().await.success());
    // The database lock ends with its process, even if that had no time to release it.
    first.kill().await;
    let third = ServerProcess::start(folder.path(), &[]).await;
    drop(third);
    assert_eq!(
        number(
            &mut database(folder.path()),
            "SELECT count(*) AS number FROM pragma_integrity_check WHERE integrity_check <> 'ok'"
        ),
        0
    );
}

#[tokio::test]
async fn check_config_masks_secrets() {
    let folder = TempDir::new().unwrap();
    let variables = [
        ("BETFAIR_APP_KEY", "hunter2"),
        ("BETFAIR_SESSION_TOKEN", "hunter2"),
        ("SUPPLIER_URLS", "wss://user:hunter2@host/ws?token=hunter2"),
        ("CACHE_TTL", "2h"),
    ];
    let output = run(
        folder.path(),
        &["check-config", "--simulator-events", "7"],
        &variables,
    )
    .await;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |start: &str| {
        text.lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {text}"))
    };
    assert!(line("CACHE_TTL=2h").ends_with("# environment"));
    assert!(line("SIMULATOR_EVENTS=7").ends_with("# flag"));
    assert!(line("WS_MAX_SUBSCRIPTIONS=200").ends_with("# default"));
    assert!(line("BETFAIR_APP_KEY=***").ends_with("# environment"));
    assert!(!text.contains("hunter2"), "{text}");
    assert!(
        !folder.path().join("data").exists(),
        "it has no side effects"
    );
}

#[tokio::test]
async fn help_and_version_exit_successfully() {
    let folder = TempDir::new().unwrap();
    let printed = async |arguments: &[&str]| {
        let output = run(folder.path(), arguments, &[]).await;
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        printed(&["--version"]).await.trim(),
        format!(
            "sports-bet {}",
            sports_bet_platform::telemetry::version::LINE
        )
    );
    let help = printed(&["--help"]).await;
    for word in ["serve", "replay", "watch", "dlq", "hold", "check-config"] {
        assert!(help.contains(word), "{help}");
        assert!(
            printed(&[word, "--help"])
                .await
                .contains("Usage: sports-bet"),
            "{word}"
        );
    }
    assert!(printed(&["serve", "--help"]).await.contains("DATABASE_URL"));
    let (code, text) = fails(folder.path(), &["sevre"], &[]).await;
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("sevre"), "{text}");
}

#[tokio::test]
async fn environment_overrides_dotenv() {
    let folder = TempDir::new().unwrap();
    std::fs::write(
        folder.path().join(".env"),
        "CACHE_TTL=3h\nSIMULATOR_EVENTS=5\nBOOK_IDLE_LIMIT=\n",
    )
    .unwrap();
    let output = run(
        folder.path(),
        &["check-config"],
        &[("SIMULATOR_EVENTS", "6")],
    )
    .await;
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "CACHE_TTL=3h ",
        "SIMULATOR_EVENTS=6 ",
        "BOOK_IDLE_LIMIT=10m ",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let server = ServerProcess::start(folder.path(), &[("SIMULATOR_EVENTS", "6")]).await;
    until("six events", || async {
        let (_, events) = get_json(&format!("http://{}/v1/events", server.odds())).await;
        (events.as_array().unwrap().len() == 6).then_some(())
    })
    .await;
    std::fs::write(folder.path().join(".env"), "BETFAIR_APP_KEY='hunter2\n").unwrap();
    let (code, text) = fails(folder.path(), &["check-config"], &[]).await;
    assert_eq!(code, 2);
    assert!(text.contains(".env") && !text.contains("hunter2"), "{text}");
}
