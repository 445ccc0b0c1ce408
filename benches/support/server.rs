//! The real binary, in a separate process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::engines::Folder;
use super::{Outcome, collector, machine, until};

/// A running `sports-bet serve`. Killed on drop.
pub struct Server {
    child: Child,
    /// When it was started.
    pub started: Instant,
    log: String,
    /// Health and metrics addresses by role.
    health: BTreeMap<String, SocketAddr>,
}

impl Server {
    /// Starts the server with these roles and settings, on free ports, on one core or on all, and
    /// waits for its startup message.
    pub fn start(
        roles: &str,
        folder: &Folder,
        variables: &[(&str, &str)],
        core: Option<usize>,
    ) -> Outcome<Server> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sports-bet"));
        command.current_dir(folder.path()).env("NO_COLOR", "1");
        for port in ["ODDS", "WALLET", "BETS"] {
            command.env(format!("GRPC_PORT_{port}"), "0");
        }
        for port in ["ODDS", "SUPPLIER", "WALLET", "BET", "GATEWAY"] {
            command.env(format!("HTTP_PORT_{port}"), "0");
        }
        for port in [
            "SUPPLIER",
            "ODDS",
            "INGEST",
            "PROCESSOR",
            "WALLET",
            "BET",
            "CONFIRMATION",
            "SETTLEMENT",
            "GATEWAY",
        ] {
            command.env(format!("METRICS_PORT_{port}"), "0");
        }
        // The supplier of a bench does not answer pings.
        command
            .env("SUPPLIER_READ_TIMEOUT", "10m")
            .env("SUPPLIER_STALE_AFTER", "10m");
        command.env("SIMULATOR_MATCH_DURATION", "0s");
        command.env("LOG_LEVEL", "info").env("ROLE", roles);
        // The folder decides which engines are used. Those in the environment are for benches that
        // created a sandbox on them.
        for engine in [
            "KAFKA_BROKERS",
            "REDIS_URL",
            "REDIS_ADDR",
            "DATABASE_URL",
            "DATABASE_RO_URL",
            "POSTGRES_DSN",
        ] {
            command.env_remove(engine);
        }
        if let Some(endpoint) = collector::endpoint()? {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        }
        command
            .envs(folder.variables())
            .envs(variables.iter().copied());
        // A child process inherits the CPU affinity of its parent's thread.
        core.map_or_else(machine::unpin, machine::pin)?;
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        machine::pin(machine::CLIENT_CORE)?;
        let mut child = child?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let mut log = String::new();
        let mut health = None;
        // Nothing is read after the startup message; there may never be another line.
        while health.is_none() {
            let Some(line) = lines.next().transpose()? else {
                return Err(log.into());
            };
            health = line
                .split_once("/healthz and /metrics: ")
                .map(|(_, addresses)| by_role(addresses));
            log += &format!("{line}\n");
        }
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Server {
            child,
            started,
            log,
            health: health.unwrap_or_default(),
        })
    }

    /// Waits until each role is ready, ignoring suppliers: there may be none.
    pub fn until_ready(&self) -> Outcome<()> {
        for (role, address) in &self.health {
            until(&format!("{role} is ready"), || {
                let (status, body) = get(*address, "/healthz")?;
                let only_suppliers = body.matches("\"name\":").count()
                    == body.matches("\"name\":\"suppliers\"").count();
                Ok((status == 200 || (status == 503 && only_suppliers)).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The address that follows a given text in the log.
    fn address(&self, mark: &str) -> Outcome<SocketAddr> {
        let (_, rest) = self
            .log
            .split_once(mark)
            .ok_or_else(|| format!("no `{mark}` in the log:\n{}", self.log))?;
        let (_, rest) = rest.split_once("://").unwrap_or_default();
        Ok(rest
            .split(['/', ',', '\n', ' '])
            .next()
            .unwrap_or_default()
            .parse()?)
    }

    /// The address of REST and `/ws/odds`.
    pub fn odds(&self) -> Outcome<SocketAddr> {
        self.address("REST at ")
    }

    /// The address of the gRPC API of odds.
    pub fn grpc(&self) -> Outcome<SocketAddr> {
        let (_, rest) = self
            .log
            .split_once("gRPC: odds at ")
            .ok_or("no gRPC in the log")?;
        let end = rest.find([',', '\n']).unwrap_or(rest.len());
        Ok(rest[..end].parse()?)
    }

    /// The simulator's address.
    pub fn simulator(&self) -> Outcome<SocketAddr> {
        self.address("simulator at ")
    }

    /// The address of the wallet API.
    pub fn wallet(&self) -> Outcome<SocketAddr> {
        self.address("wallets at ")
    }

    /// The address of the bets API.
    pub fn bets(&self) -> Outcome<SocketAddr> {
        self.address("bets at ")
    }

    /// A metric of a role, with labels written as on the metrics page.
    pub fn metric(&self, role: &str, name: &str) -> Outcome<f64> {
        let address = self
            .health
            .get(role)
            .ok_or_else(|| format!("the role {role} does not run"))?;
        let (_, page) = get(*address, "/metrics")?;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.ok_or_else(|| format!("{role} has no metric {name}").into())
    }

    /// Its process id.
    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// The CPU time it has used.
    pub fn cpu(&self) -> Outcome<Duration> {
        machine::cpu(&self.id())
    }

    /// Its current resident memory, in KiB.
    pub fn rss(&self) -> Outcome<f64> {
        machine::memory(&self.id(), "VmRSS")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn by_role(addresses: &str) -> BTreeMap<String, SocketAddr> {
    let one = |text: &str| {
        let (role, address) = text.trim().split_once(" http://")?;
        Some((role.to_owned(), address.parse().ok()?))
    };
    addresses.split(", ").filter_map(one).collect()
}

/// `GET`: the status and the body.
pub fn get(address: SocketAddr, path: &str) -> Outcome<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or("no HTTP")?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    Ok((status, body))
}
