//! Startup time: from the start of a process with every role, in an empty folder, to the first
//! price that one of its clients reads. The supplier is the built-in simulator. Also measures disk
//! and memory use while it runs.
//!
//! Run with `cargo bench --bench start`. Settings: `BENCH_ROUNDS`.

mod support;

use std::time::Duration;

use support::client::Client;
use support::engines::Folder;
use support::server::Server;
use support::table::{Row, median, print};
use support::{Outcome, machine, setting};

const EVERY_ROLE: &str = "simulator,ingest,processor,odds,wallet,bets,confirmation";
/// Startup work is finished after this time.
const AT_REST: Duration = Duration::from_secs(3);

fn main() -> Outcome<()> {
    machine::pin(machine::CLIENT_CORE)?;
    let rounds = setting("BENCH_ROUNDS", 7)?;
    // The first start loads the binary into the page cache.
    Server::start(
        EVERY_ROLE,
        &Folder::embedded(),
        &[],
        Some(machine::server_core()),
    )?;
    let mut invitations = Vec::new();
    let mut prices = Vec::new();
    let mut memory = Vec::new();
    let mut shares = Vec::new();
    for _ in 0..rounds {
        let folder = Folder::embedded();
        let server = Server::start(EVERY_ROLE, &folder, &[], Some(machine::server_core()))?;
        let invited = server.started.elapsed();
        let mut client = Client::connect(server.odds()?)?;
        client.send(r#"{"type":"subscribe","eventId":"MATCH_001"}"#)?;
        while !has_price(client.next()?) {}
        prices.push(milliseconds(server.started.elapsed()));
        invitations.push(milliseconds(invited));
        drop(client);
        std::thread::sleep(AT_REST);
        let cpu = server.cpu()?;
        std::thread::sleep(Duration::from_secs(1));
        shares.push((server.cpu()? - cpu).as_secs_f64() * 100.0);
        memory.push(server.rss()? / 1_024.0);
    }
    let binary = std::fs::metadata(env!("CARGO_BIN_EXE_sports-bet"))?.len() as f64 / 1e6;
    print(
        "start",
        &[
            Row::new(
                format!("start to the first price on a socket, {rounds} starts"),
                median(prices),
                "ms",
            )
            .at_most(300.0)
            .remark(format!(
                "all roles on one core, a new SQLite file; invited after {:.0} ms",
                median(invitations)
            )),
            Row::new("RSS at rest", median(memory), "MiB")
                .at_most(40.0)
                .remark(format!(
                    "all roles, the simulator runs: {:.1} % of a core",
                    median(shares)
                )),
            Row::new("the binary", binary, "MB"),
        ],
    )
}

fn has_price(content: &[u8]) -> bool {
    content.windows(9).any(|part| part == br#""payload""#)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
