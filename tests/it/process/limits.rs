//! The binary under system limits, and what unauthenticated clients cannot cause.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Starts the binary with this open-file limit.
async fn with_open_files(folder: &Path, roles: &str, files: u32) -> Output {
    let binary = env!("CARGO_BIN_EXE_sports-bet");
    let limited = format!("ulimit -n {files}; exec {binary} serve --role {roles}");
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", &limited])
        .current_dir(folder)
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
    within("the process ends", command.output()).await.unwrap()
}

#[tokio::test]
async fn too_few_open_files_prevent_start() {
    let all = "simulator,ingest,processor,odds,wallet,bets,confirmation,gateway";
    for (roles, files) in [
        (all, 32),
        (all, 64),
        (all, 72),
        (all, 84),
        (all, 128),
        ("wallet", 32),
        ("simulator", 24),
    ] {
        let folder = TempDir::new().unwrap();
        let output = with_open_files(folder.path(), roles, files).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{files}: {stderr}");
        assert!(
            stderr.contains(&format!(
                "the limit of open files is {files} (ulimit -n, RLIMIT_NOFILE)"
            )),
            "{files}: {stderr}"
        );
        assert!(!stderr.contains("panicked"), "{files}: {stderr}");
    }
}

#[tokio::test]
async fn bad_requests_do_not_fill_the_log() {
    let folder = TempDir::new().unwrap();
    let server = ServerProcess::start(folder.path(), &[]).await;
    let ports = [server.odds(), server.wallet(), server.health["odds"]];
    for bad in [
        "GARBAGE\r\n\r\n",
        "GET / HTTP/1.1\r\nHost x\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        for _ in 0..100 {
            for address in ports {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(bad.as_bytes()).await.unwrap();
                let _ = within("it is ended", stream.read_to_end(&mut Vec::new())).await;
            }
        }
    }
    // The last log lines are in the log.
    server.signal("TERM").await;
    until("it stops", || async {
        server.log().contains("stopped").then_some(())
    })
    .await;
    let log = server.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("WARN"))
        .collect();
    assert!(
        lines.len() < 10,
        "{} lines: {:?}",
        lines.len(),
        lines.first()
    );
    assert!(
        !log.contains("ERROR"),
        "a client's fault is not logged as a server error"
    );
}
