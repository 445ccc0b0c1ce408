use super::*;
use crate::config::Config;
use pretty_assertions::assert_eq;

const HAS_TLS: bool = cfg!(any(feature = "tls-system", feature = "tls-vendored"));

fn engines(variables: &[(&str, &str)]) -> Engines {
    Config::from_variables(variables).unwrap().engines
}

fn wrong(variables: &[(&str, &str)]) -> String {
    Config::from_variables(variables).unwrap_err().to_string()
}

const POSTGRES: &str = "postgres://bet:hunter2@localhost:5433/bet_core?sslmode=disable";

#[test]
fn each_address_selects_its_engine() {
    let chosen = engines(&[]);
    assert_eq!(
        chosen.summary(),
        "# bus: embedded\n# cache: embedded\n# database: SQLite, data/sports-bet.db\n"
    );
    let chosen = engines(&[
        ("KAFKA_BROKERS", "a:9092, b:9092,,[::1]:9092"),
        ("REDIS_ADDR", "localhost:6379"),
    ]);
    assert_eq!(
        chosen.summary(),
        "# bus: Kafka\n# cache: Redis\n# database: SQLite, data/sports-bet.db\n"
    );
    for (variable, url) in [
        ("DATABASE_URL", POSTGRES),
        ("POSTGRES_DSN", POSTGRES),
        (
            "POSTGRES_DSN",
            "host=localhost port=5433 user=bet password=hunter2",
        ),
        ("DATABASE_URL", "postgresql:///name"),
    ] {
        let StoreEngine::Postgres {
            url: chosen,
            read_url,
        } = engines(&[(variable, url)]).store
        else {
            panic!()
        };
        assert_eq!(
            (chosen.expose_secret(), read_url.expose_secret()),
            (url, url)
        );
    }
}

#[test]
fn topic_on_kafka_is_followed() {
    let follows = |variables: &[(&str, &str)]| {
        let config = Config::from_variables(variables).unwrap();
        config
            .engines
            .follows_topic(config.settings.cache.odds_feed)
    };
    let kafka = ("KAFKA_BROKERS", "kafka:9092");
    let redis = ("REDIS_ADDR", "localhost:6379");
    let feed = |feed| ("ODDS_FEED", feed);
    assert!(follows(&[kafka, redis]));
    assert!(follows(&[kafka, redis, feed("auto")]));
    assert!(follows(&[kafka, redis, feed("kafka")]));
    assert!(!follows(&[kafka, redis, feed("redis")]));
    assert!(!follows(&[kafka, feed("kafka")]), "there is one process");
    assert!(!follows(&[redis]), "there is no topic");
    insta::assert_snapshot!(
        wrong(&[("ODDS_FEED", "kafka")]),
        @r##"ODDS_FEED: got "kafka", want auto or redis, or KAFKA_BROKERS"##
    );
}

#[test]
fn unusable_addresses_are_rejected_and_masked() {
    insta::assert_snapshot!(wrong(&[
            ("KAFKA_BROKERS", "kafka"),
            ("REDIS_URL", "http://user:hunter2@redis"),
            ("DATABASE_URL", "mysql://user:hunter2@h/db"),
        ]), @r##"
KAFKA_BROKERS: got "kafka", want a list of addresses as host:port, with commas
REDIS_URL: got "http://user:***@redis", want redis://user:password@host:6379/0, or rediss:// for TLS, but it is neither redis:// nor rediss://
DATABASE_URL: got "mysql://user:***@h/db", want a PostgreSQL URL like postgres://user:password@host:5432/name, or a SQLite file like data/sports-bet.db or sqlite://data/sports-bet.db
"##);
    insta::assert_snapshot!(wrong(&[("REDIS_ADDR", "redis"), ("POSTGRES_DSN", "file.db")]), @r##"
REDIS_ADDR: got "redis", want an address like host:port; use REDIS_URL for anything else
POSTGRES_DSN: got "file.db", want a PostgreSQL URL like postgres://user:password@host:5432/name, but it is not a URL, and not all of it is `keyword=value`; put values with white space in single quotes
"##);
    insta::assert_snapshot!(wrong(&[("DATABASE_RO_URL", POSTGRES)]), @r##"DATABASE_RO_URL: got "postgres://bet:***@localhost:5433/bet_core?***", want it unset, or a PostgreSQL DATABASE_URL"##);
    insta::assert_snapshot!(wrong(&[("DATABASE_RO_URL", "file.db"), ("DATABASE_URL", POSTGRES)]), @r##"DATABASE_RO_URL: got "file.db", want a PostgreSQL URL like postgres://user:password@host:5432/name, but it is not a URL, and not all of it is `keyword=value`; put values with white space in single quotes"##);
}

#[test]
fn kafka_credentials_must_be_complete() {
    let with = |more: &[(&str, &str)]| {
        let mut all = vec![("KAFKA_BROKERS", "kafka:9092")];
        all.extend_from_slice(more);
        Config::from_variables(&all)
            .map(drop)
            .map_err(|stop| stop.to_string())
    };
    let login = [
        ("KAFKA_SASL_USERNAME", "u"),
        ("KAFKA_SASL_PASSWORD", "hunter2"),
    ];
    let mut whole = vec![("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext")];
    insta::assert_snapshot!(with(&whole).unwrap_err(), @r##"
KAFKA_SASL_USERNAME: got "", want a value: KAFKA_SECURITY_PROTOCOL requires a login
KAFKA_SASL_PASSWORD: got "", want a value: KAFKA_SECURITY_PROTOCOL requires a login
"##);
    insta::assert_snapshot!(with(&login).unwrap_err(), @r##"
KAFKA_SASL_USERNAME: got "u", want it unset, or KAFKA_SECURITY_PROTOCOL sasl_ssl or sasl_plaintext
KAFKA_SASL_PASSWORD: got "***", want it unset, or KAFKA_SECURITY_PROTOCOL sasl_ssl or sasl_plaintext
"##);
    whole.extend(login);
    assert_eq!(with(&whole), Ok(()));
    whole.push(("KAFKA_SASL_MECHANISM", "scram-sha-256"));
    assert_eq!(with(&whole).is_ok(), HAS_TLS);
    assert_eq!(with(&[("KAFKA_SECURITY_PROTOCOL", "ssl")]).is_ok(), HAS_TLS);
}

#[test]
fn database_url_selects_sqlite_file() {
    for (url, path) in [
        ("data/a.db", "data/a.db"),
        ("sqlite://data/a.db", "data/a.db"),
        ("sqlite:///var/lib/a.db", "/var/lib/a.db"),
        ("/var/lib/a b.db", "/var/lib/a b.db"),
    ] {
        // The original's variable is ignored if ours is set.
        let StoreEngine::Sqlite(chosen) =
            engines(&[("DATABASE_URL", url), ("POSTGRES_DSN", POSTGRES)]).store
        else {
            panic!("{url}")
        };
        assert_eq!(chosen, PathBuf::from(path));
    }
    for bad in [
        ":memory:",
        "sqlite://",
        "sqlite://:memory:",
        "file:a.db",
        "mysql://h/db",
        "sqlite://a.db?mode=ro",
    ] {
        assert!(
            wrong(&[("DATABASE_URL", bad)]).contains("or a SQLite file"),
            "{bad}"
        );
    }
}

#[test]
fn possible_passwords_are_not_file_names() {
    for bad in [
        "u:Secret@h/x",
        "u:Secret x@h/x",
        "//u:Secret@h/x",
        "Secret@h/x",
        "u:Secret",
        "sqlite://u:Secret@h/x",
        "\"postgres://u:Secret@h/x\"",
        "'u:Secret@h/x'",
        "postgres:u:Secret@h/x",
        "POSTGRES://u:Secret@h/x",
        "jdbc:postgresql://h/x?user=u&password=Secret",
        "host=h password=Secret x",
        "h/x?password=Secret",
    ] {
        let text = wrong(&[("DATABASE_URL", bad)]);
        assert!(
            text.starts_with("DATABASE_URL: got ") && !text.contains("Secret"),
            "{bad}: {text}"
        );
    }
    for good in ["/srv/@app/x.db", "data/a@b.db"] {
        assert!(
            matches!(
                engines(&[("DATABASE_URL", good)]).store,
                StoreEngine::Sqlite(_)
            ),
            "{good}"
        );
    }
}

#[test]
fn separate_roles_need_shared_engines() {
    let roles = |roles: &str, more: &[(&str, &str)]| {
        let mut all = vec![("ROLE", roles)];
        all.extend_from_slice(more);
        Config::from_variables(&all)
            .map(drop)
            .map_err(|stop| stop.to_string())
    };
    for good in [
        "simulator",
        "wallet",
        "ingest,processor",
        "odds,processor,ingest",
        "simulator,ingest,processor,odds",
        "odds,odds,processor,ingest",
        "ingest,processor,wallet,bets,confirmation",
    ] {
        assert_eq!(roles(good, &[]), Ok(()), "{good}");
    }
    let (kafka, redis, postgres) = (
        ("KAFKA_BROKERS", "k:9092"),
        ("REDIS_URL", "redis://r"),
        ("DATABASE_URL", POSTGRES),
    );
    for (split, needed) in [
        ("ingest", &[kafka][..]),
        ("processor", &[kafka, redis, postgres]),
        ("odds,processor", &[kafka]),
        ("odds", &[redis, postgres]),
        ("simulator,odds", &[redis, postgres]),
        ("bets", &[kafka, redis, postgres]),
        ("confirmation", &[kafka, postgres]),
        ("wallet,bets", &[kafka, redis]),
        ("bets,confirmation", &[kafka, redis, postgres]),
    ] {
        let text = roles(split, &[]).unwrap_err();
        assert!(
            text.starts_with(&format!("ROLE: got \"{split}\"")),
            "{text}"
        );
        assert_eq!(roles(split, needed), Ok(()), "{split}");
        for missing in 0..needed.len() {
            let mut less = needed.to_vec();
            let (variable, _) = less.remove(missing);
            assert!(
                roles(split, &less).unwrap_err().contains(variable),
                "{split} without {variable}"
            );
        }
    }
    insta::assert_snapshot!(roles("odds,ingest", &[]).unwrap_err(), @r##"
ROLE: got "odds,ingest", want "processor" in addition to "ingest", or KAFKA_BROKERS: the embedded engines connect roles only within one process
ROLE: got "odds,ingest", want "processor" in addition to "odds", or REDIS_URL: the embedded engines connect roles only within one process
ROLE: got "odds,ingest", want "processor" in addition to "odds", or a PostgreSQL DATABASE_URL: the embedded engines connect roles only within one process
"##);
}
