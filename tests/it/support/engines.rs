//! The engines that the tests run on: the embedded ones, or with `TEST_ENGINES=real` those whose
//! addresses are in the environment (`eval "$(scripts/engines export)"`). On real engines each test
//! has its own database, topics, consumer groups, cache and channel.

use std::path::Path;
use std::sync::Arc;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfig};
use tempfile::TempDir;

/// Whether the tests run on the real engines.
pub fn are_real() -> bool {
    match std::env::var("TEST_ENGINES").as_deref() {
        Err(_) | Ok("" | "embedded") => false,
        Ok("real") => true,
        Ok(other) => panic!("TEST_ENGINES is {other}; it must be embedded or real"),
    }
}

fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("the real engines need {variable}: run `scripts/engines up`, then `eval \"$(scripts/engines export)\"`")
    })
}

/// The part of the engines that belongs to one test, and the settings that select it.
#[derive(Clone)]
pub struct Sandbox {
    /// A unique name.
    name: String,
    /// The settings that select it; none on the embedded engines.
    pub variables: Vec<(String, String)>,
}

impl Sandbox {
    fn embedded() -> Sandbox {
        Sandbox {
            name: String::new(),
            variables: Vec::new(),
        }
    }

    fn make() -> Sandbox {
        let name = format!("test_{:016x}", fastrand::u64(..));
        let postgres = address("DATABASE_URL");
        let mut admin = PgConnection::establish(&postgres).unwrap();
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .unwrap();
        let mut database = url::Url::parse(&postgres).unwrap();
        database.set_path(&name);
        let variables = [
            ("KAFKA_BROKERS", address("KAFKA_BROKERS")),
            ("KAFKA_TOPIC_ODDS", name.clone()),
            ("KAFKA_TOPIC_SUPPLIERS", format!("{name}_suppliers")),
            ("KAFKA_GROUP_SELECTOR", format!("{name}-selector")),
            ("KAFKA_TOPIC_PARTITIONS", "4".to_owned()),
            ("KAFKA_GROUP_LIVE", format!("{name}-live")),
            ("KAFKA_GROUP_STORE", format!("{name}-store")),
            ("KAFKA_TOPIC_SOURCE_STATUS", format!("{name}_sources")),
            ("KAFKA_TOPIC_BET_PLACED", format!("{name}_placed")),
            ("KAFKA_TOPIC_MARKET_RESULTS", format!("{name}_results")),
            (
                "KAFKA_TOPIC_MARKET_RESULTS_DLQ",
                format!("{name}_results_dlq"),
            ),
            ("KAFKA_TOPIC_BET_PLACED_DLQ", format!("{name}_placed_dlq")),
            ("KAFKA_TOPIC_BET_CONFIRMED", format!("{name}_confirmed")),
            (
                "KAFKA_TOPIC_BET_CONFIRMED_DLQ",
                format!("{name}_confirmed_dlq"),
            ),
            ("KAFKA_TOPIC_BET_SETTLED", format!("{name}_settled")),
            ("KAFKA_TOPIC_BET_SETTLED_DLQ", format!("{name}_settled_dlq")),
            ("KAFKA_GROUP_CONFIRMATION", format!("{name}-confirmation")),
            ("KAFKA_GROUP_SETTLEMENT", format!("{name}-settlement")),
            ("REDIS_URL", own_cache(&address("REDIS_URL"))),
            ("REDIS_PUBSUB_CHANNEL", name.clone()),
            ("DATABASE_URL", database.to_string()),
        ];
        let variables = variables
            .map(|(variable, value)| (variable.to_owned(), value))
            .into();
        Sandbox { name, variables }
    }

    /// The value of one of the sandbox's settings.
    pub fn value(&self, variable: &str) -> Option<&str> {
        let (_, value) = self.variables.iter().find(|(name, _)| name == variable)?;
        Some(value)
    }

    /// Overrides one of the sandbox's settings.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.variables.retain(|(name, _)| name != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    /// The name of the store group.
    pub fn store_group(&self) -> &str {
        self.value("KAFKA_GROUP_STORE").unwrap_or("odds-processor")
    }

    /// The name of the live group.
    pub fn live_group(&self) -> &str {
        self.value("KAFKA_GROUP_LIVE").unwrap_or("odds-live")
    }

    /// The lag of the live path, as a metric name.
    pub fn live_lag(&self) -> String {
        format!(
            r#"odds_proc_bus_lag{{group="{}",purpose="live"}}"#,
            self.live_group()
        )
    }

    /// The lag of the store path, as a metric name.
    pub fn store_lag(&self) -> String {
        format!(
            r#"odds_proc_bus_lag{{group="{}",purpose="store"}}"#,
            self.store_group()
        )
    }

    fn remove(&self) {
        let admin = PgConnection::establish(&address("DATABASE_URL"));
        let _ = admin.and_then(|mut admin| {
            admin
                .batch_execute(&format!(
                    "DROP DATABASE IF EXISTS {} WITH (FORCE)",
                    self.name
                ))
                .map_err(|error| diesel::ConnectionError::BadConnection(error.to_string()))
        });
        let topics = [
            "",
            "_suppliers",
            "_sources",
            "_dlq",
            "_results",
            "_results_dlq",
            "_placed",
            "_placed_dlq",
            "_confirmed",
            "_confirmed_dlq",
            "_settled",
            "_settled_dlq",
        ];
        let topics = topics.map(|ending| format!("{}{ending}", self.name));
        let brokers = address("KAFKA_BROKERS");
        // In a separate thread, since this may be called from within a runtime.
        let removal = std::thread::spawn(move || {
            let admin = kafka_admin(&brokers);
            let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let _ = runtime.block_on(admin.delete_topics(&topics, &AdminOptions::new()));
        });
        let _ = removal.join();
    }
}

/// Creates, deletes and inspects topics.
pub fn kafka_admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    AdminClient::from_config(ClientConfig::new().set("bootstrap.servers", brokers)).unwrap()
}

/// A Redis URL with a database number that no other test uses and that is empty.
fn own_cache(redis_url: &str) -> String {
    let mut url = url::Url::parse(redis_url).unwrap();
    let mut connection = redis::Client::open(url.as_str())
        .unwrap()
        .get_connection()
        .unwrap();
    let (_, databases): (String, u64) = redis::cmd("CONFIG")
        .arg("GET")
        .arg("databases")
        .query(&mut connection)
        .unwrap();
    let turn: u64 = redis::cmd("INCR")
        .arg("tests:turn")
        .query(&mut connection)
        .unwrap();
    url.set_path(&format!("/{}", 1 + turn % (databases - 1)));
    let mut own = redis::Client::open(url.as_str())
        .unwrap()
        .get_connection()
        .unwrap();
    let () = redis::cmd("FLUSHDB").query(&mut own).unwrap();
    url.to_string()
}

/// A folder for the data of a platform, and its sandbox. Both are removed on drop.
pub struct Folder {
    directory: TempDir,
    sandbox: Arc<Sandbox>,
}

impl Folder {
    /// An empty folder, with a new sandbox if the engines are real.
    pub fn new() -> Folder {
        if are_real() {
            Folder::on_real_engines()
        } else {
            Folder::embedded()
        }
    }

    /// An empty folder that needs no engine.
    pub fn embedded() -> Folder {
        Folder {
            directory: TempDir::new().unwrap(),
            sandbox: Arc::new(Sandbox::embedded()),
        }
    }

    /// An empty folder with a new sandbox on the engines of the environment.
    pub fn on_real_engines() -> Folder {
        Folder {
            directory: TempDir::new().unwrap(),
            sandbox: Arc::new(Sandbox::make()),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The settings of a platform that keeps all its data here.
    pub fn variables(&self) -> Vec<(String, String)> {
        let database = self.path().join("test.db").to_string_lossy().into_owned();
        let mut variables = vec![("DATABASE_URL".to_owned(), database)];
        variables.extend(self.sandbox.variables.clone());
        variables
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.sandbox.variables.is_empty() {
            self.sandbox.remove();
        }
    }
}
