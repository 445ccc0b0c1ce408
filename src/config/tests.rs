use super::*;
use pretty_assertions::assert_eq;

fn wrong(variables: &[(&str, &str)]) -> Vec<String> {
    match Config::from_variables(variables) {
        Err(ConfigExit::Wrong(wrong)) => wrong.iter().map(ConfigError::to_string).collect(),
        Err(usage) => panic!("{usage}"),
        Ok(config) => panic!("accepted: {config:?}"),
    }
}

fn flags(flags: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigExit> {
    let value = |name: &str| {
        variables
            .iter()
            .find(|(variable, _)| *variable == name)
            .map(|(_, value)| OsString::from(value))
    };
    Config::from_args_and_env(flags.iter().map(OsString::from), &value)
}

#[test]
fn no_settings_means_all_defaults() {
    let config = Config::from_variables(&[]).unwrap();
    assert_eq!(config.roles, BTreeSet::from(Role::ALL));
    assert_eq!(config.suppliers, Suppliers::OwnSimulator);
    assert_eq!(config.settings.ports.http_port_odds, 8080);
    assert!(
        config
            .shown
            .iter()
            .all(|setting| setting.source == input::Source::Default)
    );
}

#[test]
fn flag_wins_over_environment_over_default() {
    let config = flags(
        &["--http-port-odds", "1", "--ws-max-sessions=5"],
        &[("HTTP_PORT_ODDS", "2"), ("HTTP_PORT_SUPPLIER", "3")],
    )
    .unwrap();
    assert_eq!(config.settings.ports.http_port_odds, 1);
    assert_eq!(config.settings.ports.http_port_supplier, 3);
    assert_eq!(config.settings.clients.ws_max_sessions, 5);
    let sources: Vec<_> = ["HTTP_PORT_ODDS", "HTTP_PORT_SUPPLIER", "METRICS_PORT_ODDS"]
        .iter()
        .map(|name| {
            config
                .shown
                .iter()
                .find(|setting| setting.variable == *name)
                .unwrap()
                .source
        })
        .collect();
    assert_eq!(
        sources,
        [
            input::Source::Flag,
            input::Source::Environment,
            input::Source::Default
        ]
    );
}

#[test]
fn flag_hides_wrong_variable() {
    let config = flags(&["--http-port-odds", "1"], &[("HTTP_PORT_ODDS", "abc")]).unwrap();
    assert_eq!(config.settings.ports.http_port_odds, 1);
}

#[test]
fn empty_variable_counts_as_unset() {
    let every: Vec<String> = show::variables().collect();
    let empty: Vec<(&str, &str)> = every.iter().map(|name| (name.as_str(), "")).collect();
    let config = Config::from_variables(&empty).unwrap();
    assert_eq!(config.shown, Config::from_variables(&[]).unwrap().shown);
    assert_eq!(
        config.settings.suppliers.betfair_market_ids,
        Vec::<String>::new()
    );
    assert!(config.settings.suppliers.betfair_app_key.is_none());
}

#[test]
fn all_wrong_values_are_reported_together() {
    let Err(stop) = flags(
        &[
            "--log-format",
            "xml",
            "--simulator-rate=0",
            "--role",
            "odds,bogus",
        ],
        &[
            ("HTTP_PORT_ODDS", "abc"),
            ("ROLE", "nonsense under a flag"),
            ("WS_PING_INTERVAL", "1h"),
            ("SUPPLIER_URLS", "http://a,ws://b,betfair://c"),
            ("SIMULATOR_MARKETS", "1x2,corners"),
        ],
    ) else {
        panic!("accepted")
    };
    insta::assert_snapshot!(stop, @r#"
LOG_FORMAT (--log-format): got "xml", want one of text, json
SIMULATOR_RATE (--simulator-rate): got "0", want a number above 0 and up to 1000000
ROLE (--role): got "bogus", want one of simulator, ingest, processor, odds, wallet, bets, confirmation, settlement, gateway
HTTP_PORT_ODDS: got "abc", want a port number from 0 to 65535
SUPPLIER_URLS: got "http://a", want ws://, wss://, betfair:// or betfairs:// with a host; betfair:// also with a port
SUPPLIER_URLS: got "betfair://c", want ws://, wss://, betfair:// or betfairs:// with a host; betfair:// also with a port
SIMULATOR_MARKETS: got "corners", want one of 1x2, total_goals, btts
WS_PING_INTERVAL: got "1h", want a duration below WS_SILENCE_LIMIT, which is 45s
"#);
}

#[test]
fn secrets_are_never_shown() {
    let config = Config::from_variables(&[
        ("BETFAIR_APP_KEY", "hunter2"),
        ("BETFAIR_SESSION_TOKEN", "hunter2"),
        (
            "SUPPLIER_URLS",
            "wss://user:hunter2@host/ws,wss://other/?key=hunter2",
        ),
    ])
    .unwrap();
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    assert!(!show::effective(&config).contains("hunter2"));

    let wrong = wrong(&[
        ("DATABASE_URL", "mysql://user:hunter2@host/db"),
        ("POSTGRES_DSN", "hosst=h password=hunter2"),
        ("REDIS_URL", "http://user:hunter2@host"),
        ("REDIS_ADDR", "user:hunter2@host:6379"),
        ("SUPPLIER_URLS", "http://user:hun,ter2@host"),
        ("SUPPLIER_WS_URL", "betfair://user:hunter2@host"),
    ]);
    assert!(
        !wrong.concat().contains("hunter2") && !wrong.concat().contains("ter2"),
        "{wrong:#?}"
    );
    insta::assert_snapshot!(wrong.join("\n"), @r##"
SUPPLIER_URLS: got "http://user:***@host", want ws://, wss://, betfair:// or betfairs:// with a host; betfair:// also with a port, but its host or port is invalid
SUPPLIER_WS_URL: got "betfair://user:***@host", want betfair://host:port and nothing else: its protocol has no user and password; set BETFAIR_APP_KEY and BETFAIR_SESSION_TOKEN
REDIS_URL: got "http://user:***@host", want redis://user:password@host:6379/0, or rediss:// for TLS, but it is neither redis:// nor rediss://
DATABASE_URL: got "mysql://user:***@host/db", want a PostgreSQL URL like postgres://user:password@host:5432/name, or a SQLite file like data/sports-bet.db or sqlite://data/sports-bet.db
"##);

    let wrong = flags(&["--supplier-urls", "http://user:hun,ter2@host"], &[])
        .unwrap_err()
        .to_string();
    assert!(!wrong.contains("hun") && !wrong.contains("ter2"), "{wrong}");
}

#[test]
fn every_error_names_expected_form() {
    // No setting that rejects this text may leave the explanation to clap: the expected form
    // must be in our own words.
    for variable in show::variables() {
        let Err(stop) = Config::from_variables(&[(&variable, "\u{1}?")]) else {
            continue;
        };
        let text = stop.to_string();
        let wants = [
            "a ", "an ", "one of ", "* or ", "ws://", "redis://", "it unset", "log ",
        ];
        assert!(
            wants
                .iter()
                .any(|want| text.contains(&format!("want {want}"))),
            "{text}"
        );
        assert!(text.starts_with(&format!("{variable}: got ")), "{text}");
    }
}

#[test]
fn non_utf8_value_is_rejected() {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let value = |name: &str| (name == "RUST_LOG").then(|| OsString::from_vec(vec![b'a', 0xff]));
        let stop = Config::from_args_and_env(std::iter::empty(), &value).unwrap_err();
        insta::assert_snapshot!(stop, @r#"RUST_LOG: got "a�", want text in UTF-8"#);
    }
}

#[test]
fn unknown_variable_in_list_is_rejected() {
    insta::assert_snapshot!(wrong(&[("HTTP_PORT_ODS", "0")]).join("\n"), @r#"HTTP_PORT_ODS: got a value, want the name of a setting"#);
}

#[test]
fn invalid_dotenv_line_is_located_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".env");
    let problem = |content: &str| {
        std::fs::write(&path, content).unwrap();
        dotenv_error(
            &path,
            &dotenvy::from_path_iter(&path)
                .unwrap()
                .find_map(Result::err)
                .unwrap(),
        )
        .to_string()
    };
    insta::assert_snapshot!(problem("RUST_LOG=info\n\nBETFAIR_APP_KEY=hunter2 hunter2=hunter2\n"), @r##".env: got the line after RUST_LOG, want NAME=value on a line, with the value in quotes if it contains spaces or #"##);
    insta::assert_snapshot!(problem("hunter2 hunter2\n"), @r##".env: got the first line, want NAME=value on a line, with the value in quotes if it contains spaces or #"##);
}
