use super::*;
use pretty_assertions::assert_eq;

fn wrong(variables: &[(&str, &str)]) -> String {
    Config::from_variables(variables).unwrap_err().to_string()
}

/// Precedence: SUPPLIER_URLS, SUPPLIER_WS_URL, the simulator of this process, the default.
#[test]
fn suppliers_are_chosen_by_precedence() {
    let suppliers =
        |variables: &[(&str, &str)]| match Config::from_variables(variables).unwrap().suppliers {
            Suppliers::OwnSimulator => "own".to_owned(),
            Suppliers::At(urls) => urls
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
        };
    assert_eq!(
        suppliers(&[
            ("SUPPLIER_URLS", "ws://a,betfairs://b:1"),
            ("SUPPLIER_WS_URL", "ws://c")
        ]),
        "ws://a/ betfairs://b:1"
    );
    assert_eq!(suppliers(&[("SUPPLIER_WS_URL", "ws://c/ws")]), "ws://c/ws");
    assert_eq!(suppliers(&[]), "own");
    assert_eq!(suppliers(&[("ROLE", "ingest,processor")]), DEFAULT_SUPPLIER);
}

#[test]
fn durations_must_be_in_order() {
    insta::assert_snapshot!(
        wrong(&[
            ("WS_PING_INTERVAL", "45s"),
            ("SUPPLIER_READ_TIMEOUT", "1s"),
            ("SUPPLIER_RECONNECT_MIN", "2s"),
            ("SUPPLIER_RECONNECT_MAX", "1s"),
        ]),
        @r#"
WS_PING_INTERVAL: got "45s", want a duration below WS_SILENCE_LIMIT, which is 45s
SUPPLIER_READ_TIMEOUT: got "1s", want a duration above SUPPLIER_PING_INTERVAL, which is 1s
SUPPLIER_RECONNECT_MIN: got "2s", want a duration at most SUPPLIER_RECONNECT_MAX, which is 1s
"#
    );
    assert!(Config::from_variables(&[("SUPPLIER_RECONNECT_MIN", "10s")]).is_ok());
}

#[test]
fn timer_durations_must_not_be_zero() {
    let config = Config::from_variables(&[]).unwrap();
    let durations = config
        .shown
        .iter()
        .filter(|setting| humantime::parse_duration(&setting.value).is_ok());
    for setting in durations.filter(|setting| setting.value.parse::<u64>().is_err()) {
        let zero = Config::from_variables(&[(&setting.variable, "0s")]);
        let may_be_zero = [
            "STORE_BATCH_WAIT",
            "SUPPLIER_MAX_CLOCK_SKEW",
            "SIMULATOR_CONFIRM_DELAY",
            "SIMULATOR_MATCH_DURATION",
            "DRAIN_DELAY",
            "DRAIN_SPREAD",
        ]
        .contains(&setting.variable.as_str());
        assert_eq!(zero.is_ok(), may_be_zero, "{}", setting.variable);
    }
}

#[test]
fn certificate_needs_its_key() {
    insta::assert_snapshot!(wrong(&[("TLS_CERT_FILE", "/c.pem")]), @r#"TLS_CERT_FILE: got "/c.pem", want it unset, or TLS_KEY_FILE set too"#);
    insta::assert_snapshot!(wrong(&[("TLS_KEY_FILE", "/k.pem")]), @r#"TLS_KEY_FILE: got "/k.pem", want it unset, or TLS_CERT_FILE set too"#);
    insta::assert_snapshot!(wrong(&[("TLS_CLIENT_CA_FILE", "/ca.pem")]), @r#"TLS_CLIENT_CA_FILE: got "/ca.pem", want it unset, or TLS_CERT_FILE and TLS_KEY_FILE set"#);
}

/// Only roles with a port for clients read the files.
#[test]
fn certificate_must_be_usable() {
    let files = [("TLS_CERT_FILE", "/no.pem"), ("TLS_KEY_FILE", "/no.pem")];
    insta::assert_snapshot!(wrong(&files), @r#"TLS_CERT_FILE: got "/no.pem", want a PEM file with a certificate (No such file or directory (os error 2))"#);
    let simulator = [&[("ROLE", "simulator")][..], &files].concat();
    let config = Config::from_variables(&simulator).unwrap();
    let want =
        "TLS_CERT_FILE, TLS_KEY_FILE has no effect: no role of this process has a port for clients";
    assert_eq!(config.warnings(), [want]);
}

#[test]
fn ports_in_process_must_differ() {
    insta::assert_snapshot!(wrong(&[("HTTP_PORT_ODDS", "9095"), ("METRICS_PORT_INGEST", "9097")]), @r#"
HTTP_PORT_ODDS: got "9095", want a port different from METRICS_PORT_ODDS, or 0 for a free one
METRICS_PORT_INGEST: got "9097", want a port different from METRICS_PORT_PROCESSOR, or 0 for a free one
"#);
    assert!(Config::from_variables(&[("HTTP_PORT_ODDS", "0"), ("METRICS_PORT_ODDS", "0")]).is_ok());
    // Roles that do not run open no port.
    assert!(Config::from_variables(&[("ROLE", "simulator"), ("HTTP_PORT_ODDS", "8081")]).is_ok());
}

#[test]
fn unsatisfiable_bet_limits_are_rejected() {
    insta::assert_snapshot!(
        wrong(&[("BET_MIN_STAKE_CENTS", "100"), ("BET_MAX_STAKE_CENTS", "10"), ("BET_MAX_PAYOUT_CENTS", "100")]),
        @r#"
        BET_MIN_STAKE_CENTS: got "100", want a number of cents at most BET_MAX_STAKE_CENTS, which is 10
        BET_MIN_STAKE_CENTS: got "100", want a number of cents below BET_MAX_PAYOUT_CENTS, which is 100
        "#
    );
    insta::assert_snapshot!(wrong(&[("BET_MAX_STAKE_CENTS", "10")]), @r#"BET_MAX_STAKE_CENTS: got "10", want a number of cents at least BET_MIN_STAKE_CENTS, which is 50"#);
    assert!(
        Config::from_variables(&[("BET_MIN_STAKE_CENTS", "10"), ("BET_MAX_STAKE_CENTS", "10")])
            .is_ok()
    );
    assert!(
        wrong(&[
            ("BET_CONFIRM_RETRY_MIN", "10s"),
            ("BET_CONFIRM_RETRY_MAX", "20s")
        ])
        .contains("BET_CONFIRM_DEADLINE")
    );
}

#[test]
fn topics_and_groups_must_differ() {
    insta::assert_snapshot!(
        wrong(&[
            ("KAFKA_TOPIC_ODDS_DLQ", "odds_updates"),
            ("KAFKA_TOPIC_BET_PLACED", "bet_confirmed"),
            ("KAFKA_GROUP_LIVE", "odds-processor"),
        ]),
        @r#"
        KAFKA_TOPIC_BET_PLACED: got "bet_confirmed", want a topic name different from KAFKA_TOPIC_BET_CONFIRMED
        KAFKA_TOPIC_ODDS_DLQ: got "odds_updates", want a topic name different from KAFKA_TOPIC_ODDS
        KAFKA_GROUP_LIVE: got "odds-processor", want a group name different from KAFKA_GROUP_STORE
        "#
    );
}

#[test]
fn priority_names_each_source_once() {
    for value in ["a,b,a", "1,2,3,4,5,6,7,8,9"] {
        let expected = format!(
            "SUPPLIER_PRIORITY: got \"{value}\", want a list of at most 8 names, each once, with commas"
        );
        assert_eq!(wrong(&[("SUPPLIER_PRIORITY", value)]), expected);
    }
    assert!(wrong(&[("SUPPLIER_PRIORITY", "a,,b")]).contains("a list of names of 1 to 128 bytes"));
    let config = Config::from_variables(&[("SUPPLIER_PRIORITY", "b, a")]).unwrap();
    let listed = &config.settings.suppliers.supplier_priority;
    let names: Vec<_> = listed.iter().map(|source| source.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert!(
        !Config::from_variables(&[])
            .unwrap()
            .settings
            .suppliers
            .has_priority()
    );
}

#[test]
fn settings_without_effect_cause_warnings() {
    let config = Config::from_variables(&[
        ("KAFKA_SECURITY_PROTOCOL", "ssl"),
        ("REDIS_PUBSUB_CHANNEL", "x"),
    ]);
    assert_eq!(
        config.unwrap().warnings(),
        [
            "KAFKA_SECURITY_PROTOCOL has no effect: KAFKA_BROKERS is not set, so the embedded bus is used",
            "REDIS_PUBSUB_CHANNEL has no effect: REDIS_URL is not set, so the embedded cache is used"
        ]
    );
    assert!(Config::from_variables(&[]).unwrap().warnings().is_empty());
}

#[test]
fn reachable_address_needs_a_decision_about_auth() {
    let address = ("BIND_ADDRESS", "0.0.0.0");
    insta::assert_snapshot!(
        wrong(&[address]),
        @r#"AUTH: got "", want required (callers need a token or an API key) or off (everybody may do everything), because BIND_ADDRESS 0.0.0.0 is reachable from other machines"#
    );
    for loopback in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        let config = Config::from_variables(&[("BIND_ADDRESS", loopback)]).unwrap();
        assert!(!config.settings.access.is_required(), "{loopback}");
    }
    for (auth, is_required) in [("off", false), ("required", true)] {
        let config = Config::from_variables(&[address, ("AUTH", auth)]).unwrap();
        assert_eq!(config.settings.access.is_required(), is_required);
    }
    // Roles without callers have nothing to decide.
    let role = ("ROLE", "simulator");
    assert!(Config::from_variables(&[address, role]).is_ok());
    let wrong = wrong(&[address, ("AUTH", "maybe")]);
    assert_eq!(wrong, "AUTH: got \"maybe\", want one of off, required");
}

#[test]
fn token_settings_are_checked_without_being_shown() {
    let wrong = wrong(&[
        ("AUTH", "required"),
        ("AUTH_JWT_SECRET", "hunter2 of 31 bytes, no more of"),
        ("AUTH_JWKS_URL", "http://u:hunter2@issuer.example.com/jwks"),
    ]);
    assert!(!wrong.contains("hunter2"), "{wrong}");
    insta::assert_snapshot!(wrong, @r#"
    AUTH_JWKS_URL: got "http://u:***@issuer.example.com/jwks", want an address like https://issuer.example.com/jwks.json, or http:// on a loopback address
    AUTH_JWT_SECRET: got "***", want a secret of at least 32 bytes
    "#);
    let secret = "hunter2 of 32 bytes, no more now";
    let config = Config::from_variables(&[
        ("AUTH_JWT_SECRET", secret),
        ("AUTH_JWKS_URL", "http://u:hunter2@127.0.0.1:9/jwks"),
    ])
    .unwrap();
    assert_eq!(
        config.warnings(),
        ["AUTH_JWT_SECRET, AUTH_JWKS_URL has no effect: AUTH is not required"]
    );
    let shown = crate::config::show::effective(&config);
    assert!(shown.contains("AUTH_JWT_SECRET=***"), "{shown}");
    assert!(
        !shown.contains("hunter2") && !format!("{config:?}").contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn gateway_needs_addresses_of_other_roles() {
    insta::assert_snapshot!(
        wrong(&[
            ("ROLE", "gateway"),
            ("GATEWAY_ODDS_URL", "http://odds:8080"),
            ("GATEWAY_BETS_URL", "bets:8083"),
            ("GATEWAY_CONNECT_TIMEOUT", "1m"),
        ]),
        @r#"
GATEWAY_BETS_URL: got "bets:8083", want an address like http://host:port or https://host:port, and nothing else, but it has no scheme, such as `ws` in ws://host
GATEWAY_CONNECT_TIMEOUT: got "1m", want a duration at most GATEWAY_ANSWER_TIMEOUT, which is 10s
GATEWAY_WALLET_URL: got "", want an address like http://host:port, or "wallet" in ROLE: the gateway forwards to it
"#
    );
    let all = [
        ("ROLE", "gateway"),
        ("GATEWAY_ODDS_URL", "http://odds:8080"),
        ("GATEWAY_WALLET_URL", "https://wallet"),
        ("GATEWAY_BETS_URL", "http://[::1]:8083/"),
    ];
    let config = Config::from_variables(&all).unwrap();
    assert_eq!(config.warnings(), Vec::<String>::new());
    let config = Config::from_variables(&[("GATEWAY_ODDS_URL", "http://odds:8080")]).unwrap();
    assert_eq!(
        config.warnings(),
        [
            "GATEWAY_ODDS_URL has no effect: the gateway itself serves the roles that run in its process"
        ]
    );
}
