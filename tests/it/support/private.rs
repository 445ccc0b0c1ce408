//! An engine of one test's own, which it may stop and kill: the shared ones are never touched.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

/// Ports below those that the system hands out: while an engine is away, nobody else must get its
/// port by chance.
const PORTS: std::ops::Range<u16> = 26_000..27_000;
/// Somebody else may be faster with a port.
const TRIES: usize = 3;
/// How long the script may take for one thing.
const WAIT_LIMIT: Duration = Duration::from_secs(150);

/// Kafka, Redis or PostgreSQL, which `scripts/engines` brought up for one test. Ended when it is
/// dropped, its data removed.
pub struct PrivateEngine {
    kind: &'static str,
    variable: &'static str,
    address: String,
    port: u16,
    directory: TempDir,
    config: Option<PathBuf>,
}

impl PrivateEngine {
    /// Brings up an engine of this kind (`kafka`, `redis` or `postgres`), with nothing in it.
    pub async fn up(kind: &'static str) -> PrivateEngine {
        PrivateEngine::configured(kind, "").await
    }

    /// The same with further lines of configuration, of Kafka or Redis.
    pub async fn configured(kind: &'static str, lines: &str) -> PrivateEngine {
        let variable = match kind {
            "kafka" => "KAFKA_BROKERS",
            "redis" => "REDIS_URL",
            "postgres" => "DATABASE_URL",
            other => panic!("no such engine: {other}"),
        };
        let mut failure = String::new();
        for _ in 0..TRIES {
            let (directory, port) = (TempDir::new().unwrap(), free_port());
            let config = (!lines.is_empty()).then(|| directory.path().join("config"));
            if let Some(path) = &config {
                std::fs::write(path, lines).unwrap();
            }
            let mut engine = PrivateEngine {
                kind,
                variable,
                address: String::new(),
                port,
                directory,
                config,
            };
            match engine.run("up").await {
                Ok(_) => {
                    let told = engine.run("env").await.unwrap();
                    let address = told
                        .lines()
                        .find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
                    engine.address = address.expect("the engine's address").to_owned();
                    return engine;
                }
                Err(why) => failure = why,
            }
        }
        panic!("no private {kind}: {failure}");
    }

    /// The setting that leads to it, for [`super::Cluster::new`].
    pub fn variables(&self) -> [(&str, &str); 1] {
        [(self.variable, &self.address)]
    }

    /// Its address, as the setting wants it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends it in good order. Its data stays, but for Redis, which keeps none.
    pub async fn stop(&self) {
        self.run("stop").await.unwrap();
    }

    /// Ends it as a power cut would. Its data stays, but for Redis, which keeps none.
    pub async fn kill(&self) {
        self.run("kill").await.unwrap();
    }

    /// Starts it again where it was, and waits until it answers.
    pub async fn start(&self) {
        self.run("start").await.unwrap();
    }

    fn environment(&self) -> [(String, OsString); 4] {
        [
            (
                format!("ENGINES_{}_CONFIG", self.kind.to_uppercase()),
                self.config.clone().unwrap_or_default().into(),
            ),
            ("ENGINES_WITH".to_owned(), "native".into()),
            (
                "ENGINES_DIR".to_owned(),
                self.directory.path().join("engines").into(),
            ),
            (
                format!("ENGINES_{}_PORT", self.kind.to_uppercase()),
                self.port.to_string().into(),
            ),
        ]
    }

    async fn run(&self, what: &str) -> Result<String, String> {
        let mut command = Command::new(script());
        command
            .args([what, self.kind])
            .envs(self.environment())
            .stdin(Stdio::null());
        let output = tokio::time::timeout(WAIT_LIMIT, command.output()).await;
        let output = output
            .map_err(|_| format!("`engines {what}` takes longer than {WAIT_LIMIT:?}"))?
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!(
                "`engines {what}`: {}",
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        // Killed first: what it would write down in good order is removed at once.
        for what in ["kill", "wipe"] {
            let mut command = std::process::Command::new(script());
            command
                .args([what, self.kind])
                .envs(self.environment())
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            let _ = command.status();
        }
    }
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/engines")
}

fn free_port() -> u16 {
    (0..100)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}
