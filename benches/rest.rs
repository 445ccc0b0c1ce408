//! `GET /v1/events/{id}/odds` for an event held in memory, over 32 keep-alive connections, with the
//! server on one core. The baseline is an actix-web handler that returns the same bytes and does
//! nothing else, in a separate process on the same core. Measured with AUTH=off, and in a process with
//! AUTH=required for anonymous callers and for callers with a token.
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
use sports_bet_platform::domain::access::Scope;
use sports_bet_platform::domain::timestamp::Timestamp;

use support::engines::Folder;
use support::http::{Connection, end_of_head};
use support::server::Server;
use support::supplier::{Feed, Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, setting, tokens, until};

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
    let time = Duration::from_secs(setting("BENCH_SECONDS", 2)?);
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let open = Platform::start(&[])?;
    let checking = Platform::start(&[&tokens::SETTINGS[..], &[("ODDS_PUBLIC", "true")]].concat())?;
    let file = open.folder.path().join("answer");
    std::fs::write(&file, &open.answer)?;
    let bare = Bare::start(&file)?;
    let same = Connection::open(bare.address)?.ask(REQUEST.as_bytes())?;
    same_answers(&open.answer, &same, &["date"])?;
    // The bodies differ in their sequence numbers.
    same_answers(
        &head(&open.answer),
        &head(&checking.answer),
        &["date", "etag"],
    )?;
    if open.answer.len() != checking.answer.len() {
        return Err("the answers have different lengths".into());
    }

    let token = tokens::sign(&tokens::shared_key()?, "user-1", &[Scope::OddsRead])?;
    let with_token = REQUEST.replace(
        "\r\n\r\n",
        &format!("\r\nAuthorization: Bearer {token}\r\n\r\n"),
    );
    let length = open.answer.len();
    let side = |server: &Server, request: &str| {
        Side::new(server.odds()?, server.id(), request, connections, length)
    };
    let mut sides = [
        side(&open.server, REQUEST)?,
        side(&checking.server, REQUEST)?,
        side(&checking.server, &with_token)?,
        Side::new(
            bare.address,
            bare.child.id().to_string(),
            REQUEST,
            connections,
            length,
        )?,
    ];
    // All sides warm up first.
    for side in &mut sides {
        side.run(time / 2)?;
    }
    let mut runs: [Vec<Run>; 4] = Default::default();
    for _ in 0..rounds {
        for (side, runs) in sides.iter_mut().zip(&mut runs) {
            runs.push(side.run(time)?);
        }
    }
    let [open, anonymous, with_token, bare] = &runs;
    let name = format!("GET odds, {connections} connections, one core");
    let checked = format!("{name}, AUTH=required");
    print(
        "rest",
        &[
            rate_row(&name, open, bare).at_least(0.7),
            cost_row("CPU of the server a request", open, bare),
            rate_row(&format!("{checked}, anonymous"), anonymous, bare).at_least(0.7),
            cost_row(
                "CPU of the server a request, AUTH=required, anonymous",
                anonymous,
                bare,
            ),
            rate_row(
                &format!("{checked}, with a token (HS256)"),
                with_token,
                bare,
            ),
            cost_row(
                "CPU of the server a request, with a token (HS256)",
                with_token,
                bare,
            ),
        ],
    )
}

/// The median of a figure of these runs.
fn of(runs: &[Run], figure: fn(&Run) -> f64) -> f64 {
    median(runs.iter().map(figure).collect())
}

fn rate_row(name: &str, runs: &[Run], bare: &[Run]) -> Row {
    let share = |runs: &[Run]| of(runs, |run| run.server_share);
    let row = Row::new(name, of(runs, |run| run.rate), "requests/s")
        .beside("a bare handler", of(bare, |run| run.rate))
        .remark(format!(
            "CPU of the server {:.0} % of its core, of the bare one {:.0} %",
            share(runs) * 100.0,
            share(bare) * 100.0
        ));
    if share(runs) >= FULL && share(bare) >= FULL {
        return row;
    }
    row.remark(format!(
        "the client, at {:.0} % and {:.0} %, was a part of the limit",
        of(runs, |run| run.own_share) * 100.0,
        of(bare, |run| run.own_share) * 100.0
    ))
}

fn cost_row(name: &str, runs: &[Run], bare: &[Run]) -> Row {
    let cost = |runs: &[Run]| {
        of(runs, |run| {
            run.server_cpu.as_secs_f64() * 1e6 / run.answers as f64
        })
    };
    Row::new(name, cost(runs), "µs").beside("a bare handler", cost(bare))
}

/// The roles up to REST, with one event.
struct Platform {
    folder: Folder,
    server: Server,
    /// The answer to every request.
    answer: Vec<u8>,
    _feed: Feed,
}

impl Platform {
    fn start(variables: &[(&str, &str)]) -> Outcome<Platform> {
        let folder = Folder::embedded();
        let supplier = Supplier::listen()?;
        let url = supplier.url()?;
        let own = [("SUPPLIER_URLS", &*url), ("HTTP_WORKERS_ODDS", "1")];
        let server = Server::start(
            "ingest,processor,odds",
            &folder,
            &[&own, variables].concat(),
            Some(machine::server_core()),
        )?;
        let mut feed = supplier.accept()?;
        server.until_ready()?;
        feed.send([update("MATCH_001", "1x2", 1, Timestamp::now())])?;
        let answer = until("the odds are there", || {
            let answer = Connection::open(server.odds()?)?.ask(REQUEST.as_bytes())?;
            Ok(answer.starts_with(b"HTTP/1.1 200").then_some(answer))
        })?;
        Ok(Platform {
            folder,
            server,
            answer,
            _feed: feed,
        })
    }
}

const REQUEST: &str =
    "GET /v1/events/MATCH_001/odds HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n";

/// The lines of a response, sorted, without these headers.
fn lines_without<'a>(answer: &'a [u8], headers: &[&str]) -> Vec<&'a [u8]> {
    let is_other = |line: &&[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        !headers.iter().any(|header| header.as_bytes() == name)
    };
    let mut lines: Vec<_> = answer
        .split(|byte| *byte == b'\n')
        .filter(is_other)
        .collect();
    lines.sort();
    lines
}

/// Fails unless two responses are equal, apart from these headers.
fn same_answers(expected: &[u8], answer: &[u8], except: &[&str]) -> Outcome<()> {
    if lines_without(expected, except) == lines_without(answer, except) {
        return Ok(());
    }
    let [answer, expected] =
        [answer, expected].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Err(format!("got the answer\n{answer}\nexpected\n{expected}").into())
}

fn head(answer: &[u8]) -> Vec<u8> {
    let end = end_of_head(answer).unwrap_or(answer.len());
    answer[..end].to_vec()
}

/// Connections to one server.
struct Side {
    connections: Vec<Connection>,
    process: String,
    request: String,
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
        request: &str,
        connections: usize,
        length: usize,
    ) -> Outcome<Side> {
        let connections = (0..connections)
            .map(|_| Connection::open(address))
            .collect::<Outcome<_>>()?;
        Ok(Side {
            connections,
            process,
            request: request.to_owned(),
            length,
        })
    }

    /// Keeps one request in flight on every connection, one connection after the other: this costs
    /// one write and one read per response and nothing else.
    fn run(&mut self, time: Duration) -> Outcome<Run> {
        for connection in &mut self.connections {
            connection.stream.write_all(self.request.as_bytes())?;
        }
        let (cpu, own) = (machine::cpu(&self.process)?, machine::cpu("self")?);
        let began = Instant::now();
        let mut answers = 0;
        let mut buffer = vec![0; self.length];
        while began.elapsed() < time {
            for connection in &mut self.connections {
                // All responses have the same length: only the date changes.
                connection.stream.read_exact(&mut buffer)?;
                connection.stream.write_all(self.request.as_bytes())?;
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
