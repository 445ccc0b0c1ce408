//! Engines that are there and will not do, or are not there at all: it is said clearly and without
//! a secret, it costs nothing to wait, and it goes on by itself once it is mended.

mod disk;
mod patience;

use std::process::Stdio;

use crate::support::{
    Cluster, Database, Gate, OddsTopic, PrivateEngine, ServerProcess, command, original_frame,
    until, within,
};
use patience::{SECRET, Waits};

/// A processor with something to do: an update of each of some events.
struct Work {
    cluster: Cluster,
    topic: OddsTopic,
}

/// More than a few, so that whatever is said for each of them would show.
const EVENTS: usize = 200;

impl Work {
    /// `variables` win over those that lead to the sandbox.
    async fn new(variables: &[(&str, &str)]) -> Work {
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
        Work { cluster, topic }
    }

    /// A role of it, with other variables.
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

    /// Waits until everything that was published is stored and in Redis.
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

/// The address of an engine with another host and port, and another login where one is given.
fn elsewhere(url: &str, address: std::net::SocketAddr, login: Option<(&str, &str)>) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_host(Some(&address.ip().to_string())).unwrap();
    url.set_port(Some(address.port())).unwrap();
    if let Some((name, password)) = login {
        url.set_username(name).unwrap();
        url.set_password(Some(password)).unwrap();
    }
    url.to_string()
}

fn address_of(url: &str) -> std::net::SocketAddr {
    let url = url::Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
        .parse()
        .unwrap()
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn a_database_that_may_only_be_read() {
    let work = Work::new(&[]).await;
    let name = work.topic.name.clone();
    let processor = work.cluster.start("processor").await;
    work.until_done().await;
    work.database().execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on"
    ));
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    work.database().execute(others);
    let more = |event: &str| {
        (
            event.into(),
            original_frame(event, "2026-01-01T00:00:01Z", 2).into_bytes(),
        )
    };
    work.topic
        .publish(vec![more("EVENT_000"), more("EVENT_001")])
        .await;

    let waits = Waits {
        role: "processor",
        check: "database",
        says: &["read"],
        logs: &["read-only transaction"],
    };
    waits.patiently(&processor).await;
    work.database().execute(&format!(
        "BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT"
    ));
    work.database().execute(others);
    waits.no_more(&processor).await;
    work.topic
        .until_done(work.cluster.folder.sandbox().store_group())
        .await;
    assert_eq!(
        work.database()
            .number("SELECT count(*) AS number FROM odds_history"),
        EVENTS as i64 + 2
    );
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn a_wrong_password_for_postgresql() {
    let work = Work::new(&[]).await;
    let (name, database) = (work.topic.name.clone(), work.database());
    database.execute(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'right'; ALTER DATABASE {name} OWNER TO {name}"
    ));
    let url = work.setting("DATABASE_URL");
    let url = elsewhere(url, address_of(url), Some((&name, SECRET)));
    let processor = work.start("processor", &[("DATABASE_URL", &url)]).await;
    let odds = work.start("odds", &[("DATABASE_URL", &url)]).await;
    let words = &["password authentication failed for user"];
    let waits = Waits {
        role: "processor",
        check: "database",
        says: words,
        logs: words,
    };
    let reader = Waits {
        role: "odds",
        check: "database",
        says: words,
        logs: &[],
    };
    tokio::join!(waits.patiently(&processor), reader.patiently(&odds));
    database.execute(&format!("ALTER ROLE {name} PASSWORD '{SECRET}'"));
    tokio::join!(waits.no_more(&processor), reader.no_more(&odds));
    work.until_done().await;
    drop((processor, odds));
    database.execute(&format!(
        "ALTER DATABASE {name} OWNER TO CURRENT_USER; REASSIGN OWNED BY {name} TO CURRENT_USER"
    ));
    database.execute(&format!("DROP OWNED BY {name}; DROP ROLE {name}"));
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn a_wrong_password_for_redis_and_none_at_all() {
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
    let work = Work::new(&[]).await;
    let with = |password: &str| {
        elsewhere(
            redis.address(),
            address_of(redis.address()),
            Some(("", password)),
        )
    };
    let processor = work
        .start("processor", &[("REDIS_URL", &with(SECRET))])
        .await;
    let odds = work.start("odds", &[("REDIS_URL", redis.address())]).await;
    let hint = "is the password of REDIS_URL right?";
    let waits = Waits {
        role: "processor",
        check: "cache",
        says: &["Redis at", hint],
        logs: &[hint],
    };
    let listens = Waits {
        role: "odds",
        check: "cache",
        says: &["Redis at", hint],
        logs: &[hint],
    };
    tokio::join!(waits.patiently(&processor), listens.patiently(&odds));
    set(SECRET);
    waits.no_more(&processor).await;
    set("");
    listens.no_more(&odds).await;
    work.until_done().await;
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn engines_that_are_not_there() {
    let work = Work::new(&[]).await;
    let to = |url: &str| address_of(url).to_string();
    let mut database = Gate::closed(&to(work.setting("DATABASE_URL"))).await;
    let mut cache = Gate::closed(&to(work.setting("REDIS_URL"))).await;
    let mut bus = Gate::closed(work.setting("KAFKA_BROKERS")).await;
    let url = url::Url::parse(work.setting("DATABASE_URL")).unwrap();
    let login = (url.username(), url.password().unwrap());
    let postgres = elsewhere(url.as_str(), database.address(), Some(login));
    let redis = elsewhere(work.setting("REDIS_URL"), cache.address(), None);
    let kafka = bus.address().to_string();
    let no_database = work
        .start("processor", &[("DATABASE_URL", &postgres)])
        .await;
    let no_cache = work.start("odds", &[("REDIS_URL", &redis)]).await;
    let no_bus = work.start("ingest", &[("KAFKA_BROKERS", &kafka)]).await;
    let none = [
        ("DATABASE_URL", postgres.as_str()),
        ("REDIS_URL", &redis),
        ("KAFKA_BROKERS", &kafka),
    ];
    let nothing = work.start("processor", &none).await;

    let refused = &["refused"];
    let waits = |role, check| Waits {
        role,
        check,
        says: refused,
        logs: refused,
    };
    let (postgres, redis, kafka) = (
        waits("processor", "database"),
        waits("odds", "cache"),
        waits("ingest", "bus"),
    );
    let (all, other) = (waits("processor", "bus"), waits("processor", "cache"));
    tokio::join!(
        postgres.patiently(&no_database),
        redis.patiently(&no_cache),
        kafka.patiently(&no_bus),
        all.patiently(&nothing),
        other.is_down(&nothing),
    );
    database.open();
    cache.open();
    bus.open();
    tokio::join!(
        postgres.no_more(&no_database),
        redis.no_more(&no_cache),
        kafka.no_more(&no_bus),
        all.no_more(&nothing)
    );
    work.until_done().await;
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn tls_to_a_redis_that_speaks_none() {
    let work = Work::new(&[]).await;
    let url = work.setting("REDIS_URL").replace("redis://", "rediss://");
    let url = elsewhere(&url, address_of(&url), Some(("me", SECRET)));
    let processor = work.start("processor", &[("REDIS_URL", &url)]).await;
    let odds = work.start("odds", &[("REDIS_URL", &url)]).await;
    let hint = &["does the port speak TLS?"];
    let waits = |role| Waits {
        role,
        check: "cache",
        says: hint,
        logs: hint,
    };
    let (writes, listens) = (waits("processor"), waits("odds"));
    tokio::join!(writes.patiently(&processor), listens.patiently(&odds));
}

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn a_login_or_tls_that_kafka_does_not_know() {
    let work = Work::new(&[]).await;
    let login = [
        ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
        ("KAFKA_SASL_USERNAME", "me"),
        ("KAFKA_SASL_PASSWORD", SECRET),
    ];
    let processor = work.start("processor", &login).await;
    let waits = Waits {
        role: "processor",
        check: "bus",
        says: &["SASL"],
        logs: &["waiting for Kafka", "SASL"],
    };
    waits.patiently(&processor).await;

    // Without its feature TLS is an error of the settings.
    if cfg!(not(any(feature = "tls-system", feature = "tls-vendored"))) {
        for (variable, value) in [
            ("KAFKA_SECURITY_PROTOCOL", "ssl".to_owned()),
            (
                "DATABASE_URL",
                format!("{}?sslmode=verify-full", work.setting("DATABASE_URL")),
            ),
        ] {
            let own = work
                .cluster
                .variables()
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()));
            let all: Vec<_> = own
                .chain([(variable, value.as_str()), ("ROLE", "processor")])
                .collect();
            let output = command(work.cluster.folder.path(), &all)
                .arg("serve")
                .output();
            let output = within("it refuses", output).await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success()
                    && said.contains(variable)
                    && said.contains("tls-vendored"),
                "{said}"
            );
        }
    }
}

/// Everything that it says, at its most talkative, with a secret in each address that can hold one.
#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn no_secret_is_ever_said() {
    let work = Work::new(&[]).await;
    let nowhere = Gate::closed("").await.address();
    let postgres = elsewhere(work.setting("DATABASE_URL"), nowhere, Some(("me", SECRET)));
    let redis = elsewhere(work.setting("REDIS_URL"), nowhere, Some(("me", SECRET)));
    let variables = [
        ("DATABASE_URL", postgres.as_str()),
        ("DATABASE_RO_URL", &postgres),
        ("REDIS_URL", &redis),
        ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
        ("KAFKA_SASL_USERNAME", "me"),
        ("KAFKA_SASL_PASSWORD", SECRET),
        ("RUST_LOG", "trace"),
    ];
    let process = work.start("processor,odds", &variables).await;
    until("all that is down", || async {
        let (status, body) = process.healthz("processor").await;
        patience::assert_no_secret(&body);
        (status == 503
            && ["database", "cache", "bus"]
                .iter()
                .all(|one| body.contains(one)))
        .then_some(())
    })
    .await;
    process.healthz("odds").await;
    for role in ["processor", "odds"] {
        patience::assert_no_secret(&process.metrics(role).await);
    }
    let log = process.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    patience::assert_no_secret(&log);

    let own = work
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
        let output = command(work.cluster.folder.path(), &all)
            .args(arguments)
            .stdout(Stdio::piped())
            .output();
        let output = within("it answers", output).await.unwrap();
        patience::assert_no_secret(&String::from_utf8_lossy(&output.stdout));
        patience::assert_no_secret(&String::from_utf8_lossy(&output.stderr));
    }
}
