//! An engine owned by one test, which may stop and kill it; the shared engines are never touched.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

/// Ports below the system's ephemeral range, so that no other process takes the port by chance
/// while an engine is down.
const PORTS: std::ops::Range<u16> = 26_000..27_000;
/// Another process may take a chosen port first.
const TRIES: usize = 3;
/// The time limit of one script call.
const WAIT_LIMIT: Duration = Duration::from_secs(150);

/// A Kafka, Redis or PostgreSQL started by `scripts/engines` for one test. On drop it is killed and
/// its data is removed.
pub struct PrivateEngine {
    kind: &'static str,
    variable: &'static str,
    address: String,
    port: u16,
    directory: TempDir,
    config: Option<PathBuf>,
}

impl PrivateEngine {
    /// Starts an empty engine of this kind (`kafka`, `redis` or `postgres`).
    pub async fn up(kind: &'static str) -> PrivateEngine {
        PrivateEngine::configured(kind, "").await
    }

    /// The same with additional configuration lines, for Kafka or Redis; `{port}` in them is its
    /// port.
    pub async fn configured(kind: &'static str, lines: &str) -> PrivateEngine {
        let variable = match kind {
            "kafka" => "KAFKA_BROKERS",
            "redis" => "REDIS_URL",
            "postgres" => "DATABASE_URL",
            other => panic!("unknown engine: {other}"),
        };
        let mut failure = String::new();
        for _ in 0..TRIES {
            let directory = TempDir::new().unwrap();
            let port = free_port();
            let config = (!lines.is_empty()).then(|| directory.path().join("config"));
            if let Some(path) = &config {
                std::fs::write(path, lines.replace("{port}", &port.to_string())).unwrap();
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
                    let environment = engine.run("env").await.unwrap();
                    let address = environment
                        .lines()
                        .find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
                    engine.address = address.expect("the engine's address").to_owned();
                    return engine;
                }
                Err(why) => failure = why,
            }
        }
        panic!("could not start a private {kind}: {failure}");
    }

    /// The setting that contains its address, for [`super::Cluster::new`].
    pub fn variables(&self) -> [(&str, &str); 1] {
        [(self.variable, &self.address)]
    }

    /// Its address, in the form of the setting.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Shuts it down gracefully. Its data stays, except for Redis, which keeps none.
    pub async fn stop(&self) {
        self.run("stop").await.unwrap();
    }

    /// Kills it as a power failure would. Its data stays, except for Redis, which keeps none.
    pub async fn kill(&self) {
        self.run("kill").await.unwrap();
    }

    /// Restarts it on the same port, and waits until it answers.
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
            .map_err(|_| format!("`engines {what}` did not finish within {WAIT_LIMIT:?}"))?
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
        // Killed first: a graceful stop would write data that is removed right after.
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

/// A free port that no other process takes by chance.
pub fn free_port() -> u16 {
    (0..100)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}
