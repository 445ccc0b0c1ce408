//! Engines that reject us or are unreachable: the cause is reported clearly and without secrets,
//! waiting is cheap, and the process continues by itself once the cause is fixed.

mod disk;
mod expect_unavailable;

use std::process::Stdio;

use crate::support::{
    Cluster, Database, OddsTopic, PrivateEngine, ServerProcess, TcpProxy, command, original_frame,
    until, within,
};
use expect_unavailable::{ExpectUnavailable, SECRET};

/// A topic with one update for each of some events, for a processor to work on.
struct Workload {
    cluster: Cluster,
    topic: OddsTopic,
}

/// Enough events for a log line per event to be noticed.
const EVENTS: usize = 200;

impl Workload {
    /// `variables` override those of the sandbox.
    async fn new(variables: &[(&str, &str)]) -> Workload {
        let cluster = Cluster::new(1, variables).await;
        let topic = OddsTopic::make(&cluster.folder).await;
        let frame = |event: &String| original_frame(event, "2026-01-01T00:00:00Z", 1);
        let record = |event: String| (event.clone().into_bytes(), frame(&event).into_bytes());
        topic
            .publish(
                (0..EVENTS)
                    .map(|number| record(format!("EVENT_{number:03}")))
                    .collect(),
            )
            .await;
        Workload { cluster, topic }
    }

    /// Starts one of its roles, with other variables.
    async fn start(&self, role: &str, variables: &[(&str, &str)]) -> ServerProcess {
        let own = self
            .cluster
            .variables()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = own
            .chain(variables.iter().copied())
            .chain([("ROLE", role)])
            .collect();
        ServerProcess::start(self.cluster.folder.path(), &all).await
    }

    fn setting(&self, variable: &str) -> &str {
        self.cluster.folder.sandbox().value(variable).unwrap()
    }

    fn database(&self) -> Database {
        Database::of(&self.cluster.folder)
    }

    /// Waits until everything published is stored and in Redis.
    async fn until_done(&self) {
        let groups = self.cluster.folder.sandbox();
        self.topic.until_done(groups.store_group()).await;
        self.topic.until_done(groups.live_group()).await;
        assert_eq!(
            self.database()
                .number("SELECT count(*) AS number FROM odds_history"),
            EVENTS as i64
        );
    }
}

/// The address of an engine with another host and port, and optionally another login.
pub(super) fn elsewhere(
    url: &str,
    address: std::net::SocketAddr,
    login: Option<(&str, &str)>,
) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_host(Some(&address.ip().to_string())).unwrap();
    url.set_port(Some(address.port())).unwrap();
    if let Some((name, password)) = login {
        url.set_username(name).unwrap();
        url.set_password(Some(password)).unwrap();
    }
    url.to_string()
}

pub(super) fn address_of(url: &str) -> std::net::SocketAddr {
    let url = url::Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
        .parse()
        .unwrap()
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn database_is_read_only() {
    let workload = Workload::new(&[]).await;
    let name = workload.topic.name.clone();
    let processor = workload.cluster.start("processor").await;
    workload.until_done().await;
    workload.database().execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on"
    ));
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    workload.database().execute(others);
    let more = |event: &str| {
        (
            event.into(),
            original_frame(event, "2026-01-01T00:00:01Z", 2).into_bytes(),
        )
    };
    workload
        .topic
        .publish(vec![more("EVENT_000"), more("EVENT_001")])
        .await;

    let unavailable = ExpectUnavailable {
        role: "processor",
        check: "database",
        says: &["read"],
        logs: &["read-only transaction"],
    };
    unavailable.assert_waits_idle(&processor).await;
    workload.database().execute(&format!(
        "BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT"
    ));
    workload.database().execute(others);
    unavailable.assert_recovers(&processor).await;
    workload
        .topic
        .until_done(workload.cluster.folder.sandbox().store_group())
        .await;
    assert_eq!(
        workload
            .database()
            .number("SELECT count(*) AS number FROM odds_history"),
        EVENTS as i64 + 2
    );
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn postgres_password_is_wrong() {
    let workload = Workload::new(&[]).await;
    let name = workload.topic.name.clone();
    let database = workload.database();
    database.execute(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'right'; ALTER DATABASE {name} OWNER TO {name}"
    ));
    let url = workload.setting("DATABASE_URL");
    let url = elsewhere(url, address_of(url), Some((&name, SECRET)));
    let processor = workload.start("processor", &[("DATABASE_URL", &url)]).await;
    let odds = workload.start("odds", &[("DATABASE_URL", &url)]).await;
    let words = &["password authentication failed for user"];
    let unavailable = ExpectUnavailable {
        role: "processor",
        check: "database",
        says: words,
        logs: words,
    };
    let reader = ExpectUnavailable {
        role: "odds",
        check: "database",
        says: words,
        logs: &[],
    };
    tokio::join!(
        unavailable.assert_waits_idle(&processor),
        reader.assert_waits_idle(&odds)
    );
    database.execute(&format!("ALTER ROLE {name} PASSWORD '{SECRET}'"));
    tokio::join!(
        unavailable.assert_recovers(&processor),
        reader.assert_recovers(&odds)
    );
    workload.until_done().await;
    drop((processor, odds));
    database.execute(&format!(
        "ALTER DATABASE {name} OWNER TO CURRENT_USER; REASSIGN OWNED BY {name} TO CURRENT_USER"
    ));
    database.execute(&format!("DROP OWNED BY {name}; DROP ROLE {name}"));
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn redis_password_is_wrong_or_missing() {
    let redis = PrivateEngine::up("redis").await;
    let mut admin = redis::Client::open(redis.address())
        .unwrap()
        .get_connection()
        .unwrap();
    let mut set = |password: &str| {
        let () = redis::cmd("CONFIG")
            .arg("SET")
            .arg("requirepass")
            .arg(password)
            .query(&mut admin)
            .unwrap();
    };
    set("right");
    let workload = Workload::new(&[]).await;
    let with = |password: &str| {
        elsewhere(
            redis.address(),
            address_of(redis.address()),
            Some(("", password)),
        )
    };
    let processor = workload
        .start("processor", &[("REDIS_URL", &with(SECRET))])
        .await;
    let odds = workload
        .start("odds", &[("REDIS_URL", redis.address())])
        .await;
    let hint = "is the password of REDIS_URL right?";
    let unavailable = ExpectUnavailable {
        role: "processor",
        check: "cache",
        says: &["Redis at", hint],
        logs: &[hint],
    };
    let listens = ExpectUnavailable {
        role: "odds",
        check: "cache",
        says: &["Redis at", hint],
        logs: &[hint],
    };
    tokio::join!(
        unavailable.assert_waits_idle(&processor),
        listens.assert_waits_idle(&odds)
    );
    set(SECRET);
    unavailable.assert_recovers(&processor).await;
    set("");
    listens.assert_recovers(&odds).await;
    workload.until_done().await;
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn engines_are_unreachable() {
    let workload = Workload::new(&[]).await;
    let to = |url: &str| address_of(url).to_string();
    let mut database = TcpProxy::closed(&to(workload.setting("DATABASE_URL"))).await;
    let mut cache = TcpProxy::closed(&to(workload.setting("REDIS_URL"))).await;
    let mut bus = TcpProxy::closed(workload.setting("KAFKA_BROKERS")).await;
    let url = url::Url::parse(workload.setting("DATABASE_URL")).unwrap();
    let login = (url.username(), url.password().unwrap());
    let postgres = elsewhere(url.as_str(), database.address(), Some(login));
    let redis = elsewhere(workload.setting("REDIS_URL"), cache.address(), None);
    let kafka = bus.address().to_string();
    let no_database = workload
        .start("processor", &[("DATABASE_URL", &postgres)])
        .await;
    let no_cache = workload.start("odds", &[("REDIS_URL", &redis)]).await;
    let no_bus = workload.start("ingest", &[("KAFKA_BROKERS", &kafka)]).await;
    let none = [
        ("DATABASE_URL", postgres.as_str()),
        ("REDIS_URL", &redis),
        ("KAFKA_BROKERS", &kafka),
    ];
    let nothing = workload.start("processor", &none).await;

    let refused = &["refused"];
    let unavailable = |role, check| ExpectUnavailable {
        role,
        check,
        says: refused,
        logs: refused,
    };
    let postgres = unavailable("processor", "database");
    let redis = unavailable("odds", "cache");
    let kafka = unavailable("ingest", "bus");
    let all = unavailable("processor", "bus");
    let other = unavailable("processor", "cache");
    tokio::join!(
        postgres.assert_waits_idle(&no_database),
        redis.assert_waits_idle(&no_cache),
        kafka.assert_waits_idle(&no_bus),
        all.assert_waits_idle(&nothing),
        other.assert_down(&nothing),
    );
    database.open();
    cache.open();
    bus.open();
    tokio::join!(
        postgres.assert_recovers(&no_database),
        redis.assert_recovers(&no_cache),
        kafka.assert_recovers(&no_bus),
        all.assert_recovers(&nothing)
    );
    workload.until_done().await;
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn redis_does_not_speak_tls() {
    let workload = Workload::new(&[]).await;
    let url = workload
        .setting("REDIS_URL")
        .replace("redis://", "rediss://");
    let url = elsewhere(&url, address_of(&url), Some(("me", SECRET)));
    let processor = workload.start("processor", &[("REDIS_URL", &url)]).await;
    let odds = workload.start("odds", &[("REDIS_URL", &url)]).await;
    let hint = &["does the port speak TLS?"];
    let unavailable = |role| ExpectUnavailable {
        role,
        check: "cache",
        says: hint,
        logs: hint,
    };
    let writes = unavailable("processor");
    let listens = unavailable("odds");
    tokio::join!(
        writes.assert_waits_idle(&processor),
        listens.assert_waits_idle(&odds)
    );
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn kafka_rejects_login_or_tls() {
    let workload = Workload::new(&[]).await;
    let login = [
        ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
        ("KAFKA_SASL_USERNAME", "me"),
        ("KAFKA_SASL_PASSWORD", SECRET),
    ];
    let processor = workload.start("processor", &login).await;
    let unavailable = ExpectUnavailable {
        role: "processor",
        check: "bus",
        says: &["SASL"],
        logs: &["waiting for Kafka", "SASL"],
    };
    unavailable.assert_waits_idle(&processor).await;

    // Without a TLS feature, TLS is a configuration error.
    if cfg!(not(any(feature = "tls-system", feature = "tls-vendored"))) {
        for (variable, value) in [
            ("KAFKA_SECURITY_PROTOCOL", "ssl".to_owned()),
            (
                "DATABASE_URL",
                format!("{}?sslmode=verify-full", workload.setting("DATABASE_URL")),
            ),
        ] {
            let own = workload
                .cluster
                .variables()
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()));
            let all: Vec<_> = own
                .chain([(variable, value.as_str()), ("ROLE", "processor")])
                .collect();
            let output = command(workload.cluster.folder.path(), &all)
                .arg("serve")
                .output();
            let output = within("it refuses", output).await.unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success()
                    && stderr.contains(variable)
                    && stderr.contains("tls-vendored"),
                "{stderr}"
            );
        }
    }
}

/// The most verbose output, with a secret in each address that can hold one.
#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn secrets_are_never_printed() {
    let workload = Workload::new(&[]).await;
    let nowhere = TcpProxy::closed("").await.address();
    let postgres = elsewhere(
        workload.setting("DATABASE_URL"),
        nowhere,
        Some(("me", SECRET)),
    );
    let redis = elsewhere(workload.setting("REDIS_URL"), nowhere, Some(("me", SECRET)));
    let variables = [
        ("DATABASE_URL", postgres.as_str()),
        ("DATABASE_RO_URL", &postgres),
        ("REDIS_URL", &redis),
        ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
        ("KAFKA_SASL_USERNAME", "me"),
        ("KAFKA_SASL_PASSWORD", SECRET),
        ("RUST_LOG", "trace"),
    ];
    let process = workload.start("processor,odds", &variables).await;
    until("all failing checks", || async {
        let (status, body) = process.healthz("processor").await;
        expect_unavailable::assert_no_secret(&body);
        (status == 503
            && ["database", "cache", "bus"]
                .iter()
                .all(|one| body.contains(one)))
        .then_some(())
    })
    .await;
    process.healthz("odds").await;
    for role in ["processor", "odds"] {
        expect_unavailable::assert_no_secret(&process.metrics(role).await);
    }
    let log = process.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    expect_unavailable::assert_no_secret(&log);

    let own = workload
        .cluster
        .variables()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let all: Vec<_> = own
        .chain(variables)
        .chain([("ROLE", "processor,odds")])
        .collect();
    for arguments in [
        &["check-config"][..],
        &["check-config", "--example"],
        &["--help"],
        &["serve", "--help"],
    ] {
        let output = command(workload.cluster.folder.path(), &all)
            .args(arguments)
            .stdout(Stdio::piped())
            .output();
        let output = within("it answers", output).await.unwrap();
        expect_unavailable::assert_no_secret(&String::from_utf8_lossy(&output.stdout));
        expect_unavailable::assert_no_secret(&String::from_utf8_lossy(&output.stderr));
    }
}
