//! `GET /v1/events/{id}/odds` for an event held in memory, over 32 keep-alive connections, with the
//! server on one core. The baseline is an actix-web handler that returns the same bytes and does
//! nothing else, in a separate process on the same core.
//!
//! Run with `cargo bench --bench rest`. Settings: `BENCH_CONNECTIONS`, `BENCH_SECONDS` per run,
//! `BENCH_ROUNDS`.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{App, HttpResponse, HttpServer, web};
use bytes::Bytes;
use sports_bet_platform::domain::timestamp::Timestamp;

use support::engines::Folder;
use support::http::{Connection, end_of_head};
use support::server::Server;
use support::supplier::{Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, setting, until};

const PATH: &str = "/v1/events/MATCH_001/odds";
/// Makes this program run as the baseline handler, with the response in this file.
const BE_BARE: &str = "BENCH_BARE";
/// A server that uses at least this share of its core is the bottleneck.
const FULL: f64 = 0.95;

fn main() -> Outcome<()> {
    if let Some(file) = std::env::var_os(BE_BARE) {
        return serve_bare(&std::fs::read(file)?);
    }
    machine::pin(machine::CLIENT_CORE)?;
    let connections = usize::try_from(setting("BENCH_CONNECTIONS", 32)?)?;
    let seconds = setting("BENCH_SECONDS", 2)?;
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let folder = Folder::embedded();
    let supplier = Supplier::listen()?;
    let variables = [
        ("SUPPLIER_URLS", &*supplier.url()?),
        ("HTTP_WORKERS_ODDS", "1"),
    ];
    let server = Server::start(
        "ingest,processor,odds",
        &folder,
        &variables,
        Some(machine::server_core()),
    )?;
    let mut feed = supplier.accept()?;
    server.until_ready()?;
    feed.send([update("MATCH_001", "1x2", 1, Timestamp::now())])?;
    let answer = until("the odds are there", || {
        let answer = Connection::open(server.odds()?)?.ask(REQUEST)?;
        Ok(answer.starts_with(b"HTTP/1.1 200").then_some(answer))
    })?;
    let file = folder.path().join("answer");
    std::fs::write(&file, &answer)?;
    let bare = Bare::start(&file)?;
    let same = Connection::open(bare.address)?.ask(REQUEST)?;
    if without_date(&same) != without_date(&answer) {
        let [same, answer] =
            [&same, &answer].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        return Err(format!("the baseline handler returns\n{same}\nexpected\n{answer}").into());
    }

    let mut ours = Side::new(server.odds()?, server.id(), connections, answer.len())?;
    let mut alone = Side::new(
        bare.address,
        bare.child.id().to_string(),
        connections,
        answer.len(),
    )?;
    let time = Duration::from_secs(seconds);
    // Both sides warm up first.
    ours.run(time / 2)?;
    alone.run(time / 2)?;
    let mut rates = Vec::new();
    let mut rates_alone = Vec::new();
    for _ in 0..rounds {
        rates.push(ours.run(time)?);
        rates_alone.push(alone.run(time)?);
    }
    let of = |runs: &[Run], figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    let share = |runs: &[Run]| of(runs, |run| run.server_share);
    let mut row = Row::new(
        format!("GET odds, {connections} connections, one core"),
        of(&rates, |run| run.rate),
        "requests/s",
    )
    .beside("a bare handler", of(&rates_alone, |run| run.rate))
    .at_least(0.7)
    .remark(format!(
        "CPU of the server {:.0} % of its core, of the bare one {:.0} %",
        share(&rates) * 100.0,
        share(&rates_alone) * 100.0
    ));
    if share(&rates) < FULL || share(&rates_alone) < FULL {
        row = row.remark(format!(
            "the client, at {:.0} % and {:.0} %, was a part of the limit",
            of(&rates, |run| run.own_share) * 100.0,
            of(&rates_alone, |run| run.own_share) * 100.0
        ));
    }
    let cost = |runs: &[Run]| {
        of(runs, |run| {
            run.server_cpu.as_secs_f64() * 1e6 / run.answers as f64
        })
    };
    let cpu = Row::new("CPU of the server a request", cost(&rates), "µs")
        .beside("a bare handler", cost(&rates_alone));
    print("rest", &[row, cpu])
}

const REQUEST: &[u8] = b"GET /v1/events/MATCH_001/odds HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n";

/// The header lines of a response, sorted, without the date.
fn without_date(answer: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = answer
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"date:"))
        .collect();
    lines.sort();
    lines
}

/// Connections to one server.
struct Side {
    connections: Vec<Connection>,
    process: String,
    length: usize,
}

struct Run {
    rate: f64,
    answers: u64,
    server_cpu: Duration,
    server_share: f64,
    own_share: f64,
}

impl Side {
    fn new(
        address: SocketAddr,
        process: String,
        connections: usize,
        length: usize,
    ) -> Outcome<Side> {
        let connections = (0..connections)
            .map(|_| Connection::open(address))
            .collect::<Outcome<_>>()?;
        Ok(Side {
            connections,
            process,
            length,
        })
    }

    /// Keeps one request in flight on every connection, one connection after the other: this costs
    /// one write and one read per response and nothing else.
    fn run(&mut self, time: Duration) -> Outcome<Run> {
        for connection in &mut self.connections {
            connection.stream.write_all(REQUEST)?;
        }
        let (cpu, own) = (machine::cpu(&self.process)?, machine::cpu("self")?);
        let began = Instant::now();
        let mut answers = 0;
        let mut buffer = vec![0; self.length];
        while began.elapsed() < time {
            for connection in &mut self.connections {
                // All responses have the same length: only the date changes.
                connection.stream.read_exact(&mut buffer)?;
                connection.stream.write_all(REQUEST)?;
                answers += 1;
            }
        }
        let elapsed = began.elapsed().as_secs_f64();
        let (cpu, own) = (
            machine::cpu(&self.process)? - cpu,
            machine::cpu("self")? - own,
        );
        for connection in &mut self.connections {
            connection.stream.read_exact(&mut buffer)?;
        }
        if !buffer.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&buffer).into());
        }
        Ok(Run {
            rate: answers as f64 / elapsed,
            answers,
            server_cpu: cpu,
            server_share: cpu.as_secs_f64() / elapsed,
            own_share: own.as_secs_f64() / elapsed,
        })
    }
}

/// This program as the baseline handler. Killed on drop.
struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    fn start(answer: &std::path::Path) -> Outcome<Bare> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env(BE_BARE, answer)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        machine::pin(machine::server_core())?;
        let child = command.spawn();
        machine::pin(machine::CLIENT_CORE)?;
        let mut child = child?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        Ok(Bare {
            child,
            address: line.trim().parse()?,
        })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every request for the path with these headers and this body.
fn serve_bare(answer: &[u8]) -> Outcome<()> {
    let end = end_of_head(answer).ok_or("no head")?;
    let body = Bytes::copy_from_slice(&answer[end..]);
    let mut headers = Vec::new();
    for (name, value) in std::str::from_utf8(&answer[..end])?
        .lines()
        .filter_map(|line| line.split_once(": "))
    {
        // Headers that actix-web writes itself.
        if !matches!(name, "content-length" | "date") {
            headers.push((
                HeaderName::from_bytes(name.as_bytes())?,
                HeaderValue::from_str(value)?,
            ));
        }
    }
    let handler = move || {
        let mut response = HttpResponse::Ok();
        for (name, value) in &headers {
            response.insert_header((name.clone(), value.clone()));
        }
        let response = response.body(body.clone());
        async { response }
    };
    actix_web::rt::System::new().block_on(async move {
        let server =
            HttpServer::new(move || App::new().route(PATH, web::get().to(handler.clone())))
                .workers(1)
                // A connection stays idle while the other side is measured.
                .keep_alive(Duration::from_secs(75))
                .on_connect(|stream, _| {
                    let stream = stream.downcast_ref::<actix_web::rt::net::TcpStream>();
                    let _ = stream.map(|stream| stream.set_nodelay(true));
                })
                .bind("127.0.0.1:0")?;
        println!("{}", server.addrs().first().ok_or("no address")?);
        Ok(server.run().await?)
    })
}
