//! A real load balancer: haproxy, which checks `/readyz`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::{ReservedPort, until};

/// A running haproxy. Killed on drop.
pub struct LoadBalancer {
    /// Where it accepts clients.
    pub address: SocketAddr,
    control: PathBuf,
    _folder: TempDir,
    _child: Child,
}

impl LoadBalancer {
    /// Starts one in front of servers, each with its address for clients and that of `/readyz`.
    pub async fn start(servers: &[(SocketAddr, SocketAddr)]) -> LoadBalancer {
        let folder = TempDir::new().unwrap();
        let control = folder.path().join("control");
        let port = ReservedPort::take();
        let file = folder.path().join("haproxy.cfg");
        let servers: String = servers
            .iter()
            .enumerate()
            .map(|(number, (clients, health))| {
                format!(
                    "  server odds{number} {clients} check port {}\n",
                    health.port()
                )
            })
            .collect();
        let config = format!(
            "global\n  maxconn 5000\n  stats socket {} mode 600\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
             timeout tunnel 1h\n  timeout check 10s\n  option redispatch\n\
             frontend clients\n  bind {}\n  default_backend odds\n\
             backend odds\n  balance leastconn\n  option httpchk GET /readyz\n  \
             default-server inter 300ms fall 3 rise 1\n{servers}",
            control.display(),
            port.address,
        );
        std::fs::write(&file, config).unwrap();
        let child = Command::new("haproxy")
            // Debian's folder for it is not on the path of every user.
            .env(
                "PATH",
                format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()),
            )
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("haproxy ({error}): run this with `make test`"));
        LoadBalancer {
            address: port.address,
            control,
            _folder: folder,
            _child: child,
        }
    }

    /// Waits until this many servers pass their check.
    pub async fn until_up(&self, count: usize) {
        until(&format!("{count} servers are up"), || async {
            let mut control = UnixStream::connect(&self.control).await.ok()?;
            control.write_all(b"show stat\n").await.ok()?;
            let mut table = String::new();
            control.read_to_string(&mut table).await.ok()?;
            let is_up = |line: &&str| line.starts_with("odds,odds") && line.contains(",UP,");
            (table.lines().filter(is_up).count() == count).then_some(())
        })
        .await;
    }
}
