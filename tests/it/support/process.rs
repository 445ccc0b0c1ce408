//! The real binary in a separate process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::{OddsClient, within};

/// The number of log lines shown if a test fails.
const LAST_LINES: usize = 40;

/// A running `sports-bet serve`. Killed on drop; if the test fails, the last log lines are printed.
pub struct ServerProcess {
    child: Child,
    log: watch::Receiver<String>,
    odds: Option<SocketAddr>,
    simulator: Option<SocketAddr>,
    wallet: Option<SocketAddr>,
    bets: Option<SocketAddr>,
    gateway: Option<SocketAddr>,
    /// Health and metrics addresses by role.
    pub health: BTreeMap<String, SocketAddr>,
}

impl ServerProcess {
    /// Starts the binary on free ports, in a folder that holds its database, and waits for its
    /// startup message.
    pub async fn start(folder: &Path, variables: &[(&str, &str)]) -> ServerProcess {
        let mut child = command(folder, variables).spawn().unwrap();
        let log = follow(&mut child);
        let ready = |log: &String| log.contains("/healthz and /metrics: ");
        let invitation = within("the invitation", log.clone().wait_for(ready))
            .await
            .unwrap()
            .clone();
        let address = |mark: &str| after(&invitation, mark).map(|address| address.parse().unwrap());
        let (odds, simulator) = (address("REST at "), address("simulator at "));
        let (wallet, bets) = (address("wallets at "), address("bets at "));
        let gateway = address("gateway at ");
        let health = invitation
            .lines()
            .find_map(|line| line.split_once("/healthz and /metrics: "))
            .unwrap()
            .1;
        let health = health
            .split(", ")
            .map(|one| one.split_once(" http://").unwrap());
        let health = health
            .map(|(role, address)| (role.to_owned(), address.trim().parse().unwrap()))
            .collect();
        ServerProcess {
            child,
            log,
            odds,
            simulator,
            wallet,
            bets,
            gateway,
            health,
        }
    }

    /// The address of REST and `/ws/odds`, if the process has the role.
    pub fn odds(&self) -> SocketAddr {
        self.odds.unwrap()
    }

    /// The simulator's address, if the process has the role.
    pub fn simulator(&self) -> SocketAddr {
        self.simulator.unwrap()
    }

    /// The address of the wallet API, if the process has the role.
    pub fn wallet(&self) -> SocketAddr {
        self.wallet.unwrap()
    }

    /// The address of the bets API, if the process has the role.
    pub fn bets(&self) -> SocketAddr {
        self.bets.unwrap()
    }

    /// The address of the gateway, if the process has the role.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway.unwrap()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// A client of `/ws/odds`.
    pub async fn client(&self) -> OddsClient {
        OddsClient::connect(self.odds()).await
    }

    /// Sends SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends a signal by name, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .status()
            .await
            .unwrap();
        assert!(sent.success());
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the process ends", self.child.wait()).await.unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let roles: Vec<_> = self.health.keys().map(String::as_str).collect();
            let log = self.log();
            let ended = self.child.try_wait();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            eprintln!("--- {} at the end: {ended:?}\n{last}", roles.join(", "));
        }
    }
}

/// The binary, without any settings from the environment.
pub fn command(folder: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sports-bet"));
    command
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .kill_on_drop(true);
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
    command.env("NO_COLOR", "1");
    // Only tests of the drain wait for it.
    command.env("DRAIN_DELAY", "0s").env("DRAIN_SPREAD", "0s");
    // Markets stay open.
    command.env("SIMULATOR_MATCH_DURATION", "0s");
    command.envs(variables.iter().copied());
    command
}

/// Reads the log in the background.
fn follow(child: &mut Child) -> watch::Receiver<String> {
    follow_stream(child.stderr.take().unwrap())
}

fn follow_stream(
    stream: impl tokio::io::AsyncRead + Unpin + Send + 'static,
) -> watch::Receiver<String> {
    let (sender, receiver) = watch::channel(String::new());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|log| {
                log.push_str(&line);
                log.push('\n');
            });
        }
    });
    receiver
}

/// The host and port of the address after a mark, whatever its scheme.
fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let (_, address) = text.split_once(mark)?;
    let (_, rest) = address.split_once("://")?;
    rest.split(['/', ',', '\n', ' '])
        .next()
        .map(|it| it.trim_end_matches(':'))
}

/// Any command of the binary, with its output and log. Killed on drop.
pub struct LoggedChild {
    id: u32,
    child: tokio::sync::Mutex<Child>,
    log: watch::Receiver<String>,
    out: watch::Receiver<String>,
}

impl LoggedChild {
    /// Starts a command.
    pub fn start(command: &mut Command) -> LoggedChild {
        let mut child = command.spawn().unwrap();
        let log = follow(&mut child);
        let out = follow_stream(child.stdout.take().unwrap());
        LoggedChild {
            id: child.id().unwrap(),
            child: tokio::sync::Mutex::new(child),
            log,
            out,
        }
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Waits until a text appears in the log, and returns the log.
    pub async fn until_logged(&self, text: &str) -> String {
        let logged = async {
            self.log
                .clone()
                .wait_for(|log| log.contains(text))
                .await
                .map(|log| log.clone())
        };
        within(text, logged)
            .await
            .unwrap_or_else(|_| panic!("ended before it logged `{text}`: {}", self.log()))
    }

    /// Waits until the output satisfies a condition, and returns it.
    pub async fn until_printed(&self, wanted: impl Fn(&str) -> bool) -> String {
        let printed = async {
            self.out
                .clone()
                .wait_for(|out| wanted(out))
                .await
                .map(|out| out.clone())
        };
        within("what it prints", printed)
            .await
            .unwrap_or_else(|_| panic!("ended before: {}", self.log()))
    }

    /// Sends a signal by name, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id.to_string())
            .status()
            .await
            .unwrap();
        assert!(sent.success());
    }

    /// Waits until the process has ended and all its output is read.
    pub async fn ended(&self) -> ExitStatus {
        let status = within("the process ends", async {
            self.child.lock().await.wait().await
        })
        .await
        .unwrap();
        let mut log = self.log.clone();
        let read = async { while log.changed().await.is_ok() {} };
        within("the end of its log", read).await;
        status
    }
}
