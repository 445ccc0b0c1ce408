//! The logins of `docker/compose.yaml` and `docker/postgres/roles.sql`, on real engines that
//! require authentication.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use pretty_assertions::assert_eq;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sports_bet_platform::runtime::tls::install_provider;

use super::compose::{Variables, environment, environment_of, interpolated, passwords, services};
use crate::support::{PrivateEngine, ServerProcess, command};

/// Statements that change tables or disable the ledger's triggers.
const FORBIDDEN: [&str; 13] = [
    "ALTER TABLE ledger_transfers DISABLE TRIGGER ALL",
    "ALTER TABLE ledger_transfers DISABLE TRIGGER USER",
    "ALTER TABLE wallets DISABLE TRIGGER USER",
    "ALTER TABLE hold_audit DISABLE TRIGGER USER",
    "ALTER TABLE wallets DROP CONSTRAINT wallets_pkey",
    "DROP TABLE ledger_transfers",
    "TRUNCATE outbox",
    "CREATE TABLE strange (a INT)",
    "CREATE FUNCTION strange() RETURNS INT LANGUAGE sql AS 'SELECT 1'",
    "SET session_replication_role = replica",
    "SET ROLE sports_bet_owner",
    "GRANT sports_bet_owner TO sports_bet_app",
    "DELETE FROM __diesel_schema_migrations",
];

fn psql(url: &str, set: &Variables) -> Output {
    let roles = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/postgres/roles.sql");
    let program = |folder: PathBuf| Some(folder.join("psql")).filter(|path| path.is_file());
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).find_map(program);
    let variable = |name: &str, password: &str| format!("{name}={}", set[password]);
    let mut psql = Command::new(found.expect("psql, which comes with PostgreSQL"));
    psql.arg(url).args([
        "-X",
        "-q",
        "-v",
        &variable("owner_password", "POSTGRES_OWNER_PASSWORD"),
    ]);
    psql.args([
        "-v",
        &variable("app_password", "POSTGRES_APP_PASSWORD"),
        "-f",
    ])
    .arg(roles)
    .output()
    .unwrap()
}

fn as_login(url: &str, name: &str, password: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(name).unwrap();
    url.set_password(Some(password)).unwrap();
    url.to_string()
}

async fn migrate(url: &str) -> Output {
    let folder = tempfile::TempDir::new().unwrap();
    command(folder.path(), &[("DATABASE_URL", url)])
        .arg("migrate")
        .output()
        .await
        .unwrap()
}

/// The login of the roles moves money, and can neither change a table nor disable the ledger's
/// triggers.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn app_login_needs_no_ddl_rights() {
    let server = PrivateEngine::up("postgres").await;
    let set = passwords();
    // The state that an earlier version left: everything belongs to the login that migrated.
    assert!(migrate(server.address()).await.status.success());
    for _ in 0..2 {
        let done = psql(server.address(), &set);
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    let owner = as_login(
        server.address(),
        "sports_bet_owner",
        &set["POSTGRES_OWNER_PASSWORD"],
    );
    let app = as_login(
        server.address(),
        "sports_bet_app",
        &set["POSTGRES_APP_PASSWORD"],
    );
    // The owner owns everything: it can revert all migrations and run them again.
    let mut connection = PgConnection::establish(&owner).unwrap();
    use diesel_migrations::{FileBasedMigrations, MigrationHarness};
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let all = connection
        .revert_all_migrations(FileBasedMigrations::from_path(path).unwrap())
        .unwrap()
        .len();
    assert!(all >= 4);
    let early = migrate(&app).await;
    let text = String::from_utf8_lossy(&early.stderr).into_owned();
    assert_eq!(early.status.code(), Some(1), "{text}");
    assert!(
        text.contains("permission denied") && text.contains("sports-bet migrate"),
        "{text}"
    );
    assert!(migrate(&owner).await.status.success());
    assert!(
        migrate(&app).await.status.success(),
        "no permission is missing"
    );

    let folder = tempfile::TempDir::new().unwrap();
    let process = ServerProcess::start(
        folder.path(),
        &[("DATABASE_URL", app.as_str()), ("ROLE", "wallet")],
    )
    .await;
    process.until_ready().await;
    install_provider();
    for (path, amount) in [("deposit", 700), ("withdraw", 200), ("reserve", 100)] {
        let body = format!(r#"{{"userId":"A","amount_cents":{amount},"external_ref":"{path}"}}"#);
        let request =
            reqwest::Client::new().post(format!("http://{}/wallet/{path}", process.wallet()));
        let answer = request
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}: {}", process.log());
    }
    let mut connection = PgConnection::establish(&app).unwrap();
    for statement in FORBIDDEN {
        let refused = connection.batch_execute(statement).unwrap_err().to_string();
        let is_right = refused.contains("permission denied") || refused.contains("must be owner");
        assert!(
            is_right || refused.to_lowercase().contains("admin option"),
            "{statement}: {refused}"
        );
    }
    let held = command(folder.path(), &[("DATABASE_URL", app.as_str())])
        .args(["hold", "set", "--all", "--reason", "test"])
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&held.stderr).into_owned();
    assert!(held.status.success(), "{errors}");
    // The triggers of the ledger and of the audit apply to this login too.
    for change in [
        "UPDATE ledger_transfers SET amount_cents = 1",
        "DELETE FROM ledger_transfers",
        "UPDATE hold_audit SET reason = 'other'",
        "DELETE FROM hold_audit",
    ] {
        assert!(connection.batch_execute(change).is_err(), "{change}");
    }
}

/// Kafka and Redis are configured by the lines of compose, and all roles log in with the variables
/// of compose.
#[tokio::test]
#[ignore = "needs the real engines: make test"]
async fn all_roles_log_in_with_compose_settings() {
    let services = services();
    let set = passwords();
    let redis = services["redis"]["command"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap());
    let redis = redis
        .map(|word| interpolated(word, &set).unwrap())
        .collect::<Vec<_>>()
        .join(" ");
    let users: String = redis
        .split("--")
        .filter(|option| option.starts_with("user "))
        .flat_map(|l| [l, "\n"])
        .collect();
    assert_eq!(users.lines().count(), 2, "{redis}");
    let redis = PrivateEngine::configured("redis", &users).await;
    let kafka = environment(&services, "kafka");
    let value = |name: &str| interpolated(&kafka[name], &set).unwrap();
    let lines = [
        "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
        format!(
            "sasl.enabled.mechanisms={}",
            value("KAFKA_SASL_ENABLED_MECHANISMS")
        ),
        format!(
            "sasl.mechanism.inter.broker.protocol={}",
            value("KAFKA_SASL_MECHANISM_INTER_BROKER_PROTOCOL")
        ),
        format!(
            "listener.name.plaintext.plain.sasl.jaas.config={}",
            value("KAFKA_LISTENER_NAME_INTERNAL_PLAIN_SASL_JAAS_CONFIG").trim()
        ),
    ];
    let kafka = PrivateEngine::configured("kafka", &lines.join("\n")).await;

    let mut set = set;
    let folder = tempfile::TempDir::new().unwrap();
    let variables = environment_of("odds", &set).unwrap();
    set.insert("KAFKA_BROKERS".to_owned(), kafka.address().to_owned());
    let redis_url = variables["REDIS_URL"]
        .replace("redis:6379", redis.address().trim_start_matches("redis://"));
    set.insert("REDIS_URL".to_owned(), redis_url.replace("/0/0", "/0"));
    set.insert("DATABASE_URL".to_owned(), "data/test.db".to_owned());
    let variables = environment_of("odds", &set).unwrap();
    // Ports and supplier addresses are only valid inside the containers.
    let is_of_containers = |name: &str| {
        name.contains("_PORT") || name.starts_with("SUPPLIER_URL") || name == "LOG_FORMAT"
    };
    let mut variables: Vec<_> = variables
        .iter()
        .filter(|(name, _)| !is_of_containers(name))
        .collect();
    let one = ("KAFKA_TOPIC_PARTITIONS".to_owned(), "2".to_owned());
    variables.push((&one.0, &one.1));
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let process = ServerProcess::start(folder.path(), &variables).await;
    process.until_ready().await;

    let stranger = redis::Client::open(redis.address()).unwrap();
    let refused = stranger
        .get_connection()
        .and_then(|mut redis| redis::cmd("PING").query::<String>(&mut redis));
    assert!(refused.unwrap_err().to_string().contains("NOAUTH"));
    let mut config = rdkafka::ClientConfig::new();
    let stranger: BaseConsumer = config
        .set("bootstrap.servers", kafka.address())
        .create()
        .unwrap();
    assert!(
        stranger
            .fetch_metadata(None, std::time::Duration::from_secs(2))
            .is_err(),
        "Kafka accepts an unauthenticated client"
    );
}
