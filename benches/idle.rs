//! Cost of idle sockets: 10,000 sockets, each subscribed to an event without changes, pinged by the
//! server and answering, without TLS and with TLS. Measures memory per socket, CPU of all of them,
//! and the CPU to open one.
//!
//! Run with `cargo bench --bench idle`. Settings: `BENCH_SOCKETS`, `BENCH_SECONDS` of observation,
//! and every setting of the server under its own name.

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sports_bet_platform::domain::timestamp::Timestamp;

use support::authority::{Authority, Socket};
use support::client::{Client, frame};
use support::engines::Folder;
use support::server::Server;
use support::supplier::{Supplier, update};
use support::table::{Row, print};
use support::{Outcome, machine, setting, until};

const EVENT: &str = "MATCH_001";
/// KiB that the original uses per socket.
const ORIGINAL: f64 = 21.6;
/// How long the server is observed without sockets.
const ALONE: Duration = Duration::from_secs(10);
/// How often the sockets are read.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const PING: u8 = 0x89;
/// A pong without content, masked with zeros.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

fn main() -> Outcome<()> {
    machine::pin(machine::CLIENT_CORE)?;
    // The server needs two descriptors per client.
    let most = usize::try_from(machine::open_files(30_000)? - 500)? / 2;
    let sockets = usize::try_from(setting("BENCH_SOCKETS", 10_000)?)?.min(most);
    // The default covers a whole round of pings.
    let time = Duration::from_secs(setting("BENCH_SECONDS", 30)?);
    let plain = measure(sockets, time, &[], Client::connect)?;
    let authority = Authority::create()?;
    let settings = authority.settings();
    let settings = settings.each_ref().map(|(name, file)| (*name, &**file));
    let encrypted = measure(sockets, time, &settings, |address| {
        authority.connect(address)
    })?;
    print("idle", &rows(sockets, time, &plain, &encrypted))
}

fn rows(sockets: usize, time: Duration, plain: &Cost, encrypted: &Cost) -> [Row; 4] {
    let memory = |cost: &Cost| {
        format!(
            "{:.0} MiB before, {:.0} MiB with them",
            cost.before / 1_024.0,
            cost.after / 1_024.0
        )
    };
    let what = format!("RSS a socket, {sockets} subscribed and pinged");
    [
        Row::new(what.clone(), plain.memory, "KiB")
            .beside("the original", ORIGINAL)
            .itself_at_most(13.0)
            .remark(memory(plain)),
        Row::new("share of a core", plain.share * 100.0, "%")
            .at_most(1.0)
            .remark(format!(
                "{} pings in {} s; without a socket {:.2} %",
                plain.pings,
                time.as_secs(),
                plain.alone * 100.0
            )),
        Row::new(format!("{what}, with TLS"), encrypted.memory, "KiB")
            .beside("without TLS", plain.memory)
            .remark(memory(encrypted)),
        Row::new("CPU to open a socket, with TLS", encrypted.opening, "µs")
            .beside("without TLS", plain.opening)
            .remark("P-256, full handshakes; with upgrade and snapshot"),
    ]
}

/// What the sockets cost the server.
struct Cost {
    /// KiB of a socket.
    memory: f64,
    /// KiB of the server.
    before: f64,
    after: f64,
    /// Microseconds to open a socket.
    opening: f64,
    /// Shares of a core, without sockets and with them.
    alone: f64,
    share: f64,
    pings: usize,
}

/// Opens sockets of a server with these settings, and observes it for this time.
fn measure<S: Socket>(
    sockets: usize,
    time: Duration,
    settings: &[(&str, &str)],
    open: impl Fn(SocketAddr) -> Outcome<Client<S>>,
) -> Outcome<Cost> {
    let folder = Folder::embedded();
    let supplier = Supplier::listen()?;
    let places = (sockets + 10).to_string();
    let url = supplier.url()?;
    let own = [("SUPPLIER_URLS", &*url), ("WS_MAX_SESSIONS", &places)];
    let server = Server::start(
        "ingest,processor,odds",
        &folder,
        &[&own, settings].concat(),
        Some(machine::server_core()),
    )?;
    let mut feed = supplier.accept()?;
    server.until_ready()?;
    feed.send([update(EVENT, "1x2", 1, Timestamp::now())])?;
    let subscribed = || -> Outcome<S> {
        let mut client = open(server.odds()?)?;
        client.subscribe(EVENT)?;
        Ok(client.stream)
    };
    // One connection first, so that everything allocated once exists already.
    subscribed()?;
    std::thread::sleep(Duration::from_secs(2));
    let before = server.rss()?;
    let cpu = server.cpu()?;
    std::thread::sleep(ALONE);
    let alone = (server.cpu()? - cpu).as_secs_f64() / ALONE.as_secs_f64();

    let cpu = server.cpu()?;
    let mut streams = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let stream = subscribed()?;
        stream.tcp().set_nonblocking(true)?;
        streams.push(stream);
    }
    let opening = (server.cpu()? - cpu).as_secs_f64() / sockets as f64 * 1e6;
    // After the first round of pings, they are spread evenly.
    let mut first = 0;
    until("each socket is pinged", || {
        std::thread::sleep(POLL_INTERVAL);
        first += answer(&mut streams)?;
        Ok((first >= sockets).then_some(()))
    })?;
    let cpu = server.cpu()?;
    let began = Instant::now();
    let mut pings = 0;
    while began.elapsed() < time {
        std::thread::sleep(POLL_INTERVAL);
        pings += answer(&mut streams)?;
    }
    let share = (server.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let after = server.rss()?;
    let sessions = server.metric("odds", "odds_ws_sessions")?;
    if sessions < sockets as f64 {
        return Err(format!("{sessions} of {sockets} sessions are left").into());
    }
    Ok(Cost {
        memory: (after - before) / sockets as f64,
        before,
        after,
        opening,
        alone,
        share,
        pings,
    })
}

/// Answers each ping received; returns how many.
fn answer(streams: &mut [impl Socket]) -> Outcome<usize> {
    let mut buffer = [0; 4_096];
    let mut pings = 0;
    for stream in streams {
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Err("the server has closed a connection".into()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let mut rest = &buffer[..read];
        while let Some((_, end)) = frame(rest) {
            if rest.first() == Some(&PING) {
                stream.write_all(&PONG)?;
                pings += 1;
            }
            rest = &rest[end..];
        }
    }
    Ok(pings)
}
