//! A thousand clients on one event, without and with one more that reads nothing: how late the others get each update,
//! whether they get all, and whether the server's memory is what it was, once it has given the stalled one up.
//!
//! Open loop: the delay is from when an update was due, which it carries as `updated_at`, to when a client has read it.
//! Before each run comes a flood on another event, which nobody but the stalled client wants: it fills its socket and
//! its queue, so that it is stalled from the beginning of the run and given up in the middle of it.
//!
//! `cargo bench --bench slow`. Settable: `BENCH_CLIENTS`, `BENCH_RATE` (updates a second), `BENCH_SECONDS` (of a run),
//! `BENCH_ROUNDS` (each is a run without and one with), and every setting of the server by its own name.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use sports_bet_platform::domain::timestamp::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use support::client::{Client, frame, updated_at};
use support::engines::Folder;
use support::server::Server;
use support::supplier::{Feed, Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, setting, until};

const EVENT: &str = "MATCH_001";
const FLOODED: &str = "MATCH_002";
/// More than the sockets of a client hold that does not read.
const FLOOD: u64 = 1_000;
/// How long the last update may take before it counts as lost.
const LAST_CALL: Duration = Duration::from_secs(5);
/// Bytes that a client has room for.
const READ_AT_ONCE: usize = 4_096;
/// Above this share of one core our own reading delays what it measures.
const BUSY: f64 = 0.5;

fn main() -> Outcome<()> {
    machine::pin(machine::CLIENT_CORE)?;
    let clients = usize::try_from(setting("BENCH_CLIENTS", 1_000)?)?;
    machine::open_files(2 * clients as u64 + 500)?;
    let load = Load { rate: setting("BENCH_RATE", 50)?, seconds: setting("BENCH_SECONDS", 5)? };
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut bench = Bench::start(clients, &runtime)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let runs = [bench.run(load, false, &runtime)?, bench.run(load, true, &runtime)?];
        // The first pair is to get warm.
        if round > 0 {
            let [one, other] = runs;
            without.push(one);
            with.push(other);
        }
    }
    let of = |runs: &[Run], figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    let delay = |quantile: f64| {
        let of = |runs: &[Run]| median(runs.iter().map(|run| run.milliseconds(quantile)).collect());
        Row::new(format!("{clients} clients, p{} with one stalled", quantile * 100.0), of(&with), "ms")
            .beside("none stalled", of(&without))
    };
    let lost = with.iter().chain(&without).map(|run| run.lost).sum::<u64>();
    let spread = |runs: &[Run]| {
        let figures = runs.iter().map(|run| run.milliseconds(0.99));
        let (least, most) = figures.fold((f64::MAX, 0.0_f64), |(least, most), of| (least.min(of), most.max(of)));
        format!("{least:.1} to {most:.1}")
    };
    print(
        "slow",
        &[
            delay(0.5),
            delay(0.99).at_most(1.2).remark(format!(
                "with {}, without {}; {}",
                spread(&with),
                spread(&without),
                limit(of(&with, |run| run.server_share), of(&with, |run| run.own_share), of(&with, |run| run.late_p99))
            )),
            Row::new("RSS after the eviction, above what it was before", of(&with, |run| run.grown), "MiB")
                .at_most(1.0)
                .remark(format!(
                    "in runs with none stalled {:.2} MiB; at its highest {:.2} MiB; with the clients it is {:.0} MiB",
                    of(&without, |run| run.grown),
                    of(&with, |run| run.highest),
                    bench.server.rss()? / 1_024.0
                )),
            Row::new(format!("lost of {} frames", load.updates() * clients as u64 * 2 * rounds), lost as f64, "frames")
                .at_most(0.0),
        ],
    )
}

/// What was busy, and whether it says more about this client than about the server.
fn limit(server: f64, own: f64, late: f64) -> String {
    let verdict = if own > BUSY { ": the client is a part of the delay" } else { "" };
    format!(
        "the server took {:.0} % of its core, the bench {:.0} % of its own{verdict}; updates sent {late:.2} ms late (p99)",
        server * 100.0,
        own * 100.0
    )
}

#[derive(Clone, Copy)]
struct Load {
    rate: u64,
    seconds: u64,
}

impl Load {
    fn updates(self) -> u64 {
        self.rate * self.seconds
    }

    /// Microseconds from the start to when an update is due.
    fn due(self, number: u64) -> i64 {
        (number * 1_000_000 / self.rate) as i64
    }
}

struct Run {
    delays: Histogram<u64>,
    lost: u64,
    /// MiB at the end above the beginning.
    grown: f64,
    /// MiB above the beginning, at most, as it was seen.
    highest: f64,
    server_share: f64,
    own_share: f64,
    late_p99: f64,
}

impl Run {
    fn milliseconds(&self, quantile: f64) -> f64 {
        self.delays.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

struct Bench {
    server: Server,
    _folder: Folder,
    feed: Option<Feed>,
    clients: Vec<Reader>,
    version: u64,
}

impl Bench {
    fn start(clients: usize, runtime: &tokio::runtime::Runtime) -> Outcome<Bench> {
        let folder = Folder::embedded();
        let supplier = Supplier::listen()?;
        // The clients answer no pings.
        let variables = [("SUPPLIER_URLS", &*supplier.url()?), ("SLOW_CLIENT_LIMIT", "2s"), ("WS_SILENCE_LIMIT", "2h")];
        let server = Server::start("ingest,processor,odds", &folder, &variables, Some(machine::server_core()))?;
        let mut feed = supplier.accept()?;
        server.until_ready()?;
        feed.send([EVENT, FLOODED].map(|event| update(event, "1x2", 1, Timestamp::now())))?;
        let _entered = runtime.enter();
        let connect = |_| {
            let mut client = Client::connect(server.odds()?)?;
            client.subscribe(EVENT)?;
            client.stream.set_nonblocking(true)?;
            Ok(Reader { stream: TcpStream::from_std(client.stream)?, bytes: Vec::with_capacity(READ_AT_ONCE) })
        };
        let clients = (0..clients).map(connect).collect::<Outcome<Vec<Reader>>>()?;
        Ok(Bench { server, _folder: folder, feed: Some(feed), clients, version: 1 })
    }

    fn run(&mut self, load: Load, with_stalled: bool, runtime: &tokio::runtime::Runtime) -> Outcome<Run> {
        let (before, evictions) = (self.server.rss()?, self.evictions()?);
        let stalled = if with_stalled { Some(self.stalled_client()?) } else { None };
        self.flood(with_stalled)?;

        let (cpu, own, began) = (self.server.cpu()?, machine::cpu("self")?, Instant::now());
        let mut feed = self.feed.take().ok_or("no feed")?;
        let version = self.version;
        self.version += load.updates();
        let supplier = std::thread::spawn(move || supply(&mut feed, load, version).map(|late| (feed, late)));
        let delays = Rc::new(RefCell::new(Histogram::new_with_bounds(1, 120_000_000, 3)?));
        let deadline = began + Duration::from_secs(load.seconds) + LAST_CALL;
        let readers = self.clients.drain(..).map(|client| client.read(load.updates(), deadline.into(), delays.clone()));
        let readers: Vec<_> = readers.collect();
        let server = &self.server;
        let (read, highest) = runtime.block_on(tokio::task::LocalSet::new().run_until(async {
            let reading = try_join_all(readers.into_iter().map(tokio::task::spawn_local));
            tokio::pin!(reading);
            let (mut look, mut highest) = (tokio::time::interval(Duration::from_millis(200)), before);
            loop {
                tokio::select! {
                    read = &mut reading => return Outcome::Ok((read?, highest)),
                    _ = look.tick() => highest = highest.max(server.rss()?),
                }
            }
        }))?;
        let (feed, late) = supplier.join().map_err(|_| "the supplier panicked")??;
        self.feed = Some(feed);
        let elapsed = began.elapsed().as_secs_f64();
        let server_share = (self.server.cpu()? - cpu).as_secs_f64() / elapsed;
        let own_share = (machine::cpu("self")? - own).as_secs_f64() / elapsed;

        let mut lost = 0;
        for read in read {
            let (client, missing) = read?;
            lost += missing;
            self.clients.push(client);
        }
        if self.evictions()? - evictions != f64::from(u8::from(with_stalled)) {
            return Err("not one was evicted that had to be; the run is too short, or a healthy client was".into());
        }
        drop(stalled);
        let grown = (self.server.rss()? - before) / 1_024.0;
        let delays = delays.borrow().clone();
        let late_p99 = late.value_at_quantile(0.99) as f64 / 1_000.0;
        Ok(Run { delays, lost, grown, highest: (highest - before) / 1_024.0, server_share, own_share, late_p99 })
    }

    fn evictions(&self) -> Outcome<f64> {
        self.server.metric("odds", "odds_ws_evictions_total")
    }

    /// One that reads its snapshots and nothing behind them.
    fn stalled_client(&self) -> Outcome<Client> {
        let mut client = Client::connect_narrow(self.server.odds()?)?;
        client.subscribe(EVENT)?;
        client.subscribe(FLOODED)?;
        Ok(client)
    }

    /// Many updates of the event that only the stalled client wants: first what fills its socket, then, one by one,
    /// what fills its queue.
    fn flood(&mut self, has_stalled: bool) -> Outcome<()> {
        let feed = self.feed.as_mut().ok_or("no feed")?;
        let first = self.version + 1;
        self.version += FLOOD;
        feed.send((first..first + FLOOD).map(|version| update(FLOODED, "1x2", version, Timestamp::now())))?;
        for _ in 0..200 {
            self.version += 1;
            feed.send([update(FLOODED, "1x2", self.version, Timestamp::now())])?;
            std::thread::sleep(Duration::from_millis(2));
        }
        until("it is stalled", || {
            Ok((self.server.metric("odds", "odds_ws_stalled_sessions")? == f64::from(u8::from(has_stalled)))
                .then_some(()))
        })
    }
}

/// Sends each update when it is due, and tells how late.
fn supply(feed: &mut Feed, load: Load, version: u64) -> Outcome<Histogram<u64>> {
    let mut lateness = Histogram::new_with_bounds(1, 120_000_000, 3)?;
    let begin = Timestamp::now().micros() + 50_000;
    for number in 0..load.updates() {
        let due = begin + load.due(number);
        let wait = due - Timestamp::now().micros();
        std::thread::sleep(Duration::from_micros(wait.max(0).unsigned_abs()));
        lateness.saturating_record((Timestamp::now().micros() - due).max(1).unsigned_abs());
        let updated_at = Timestamp::from_micros(due).ok_or("no time")?;
        feed.send([update(EVENT, "1x2", version + number + 1, updated_at)])?;
    }
    Ok(lateness)
}

/// A client, read when something is there.
struct Reader {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Reader {
    /// Reads so many updates, or until the deadline; gives how many are missing.
    async fn read(
        mut self,
        updates: u64,
        deadline: tokio::time::Instant,
        delays: Rc<RefCell<Histogram<u64>>>,
    ) -> Outcome<(Reader, u64)> {
        let mut missing = updates;
        while missing > 0 {
            let read = tokio::time::timeout_at(deadline, self.stream.read_buf(&mut self.bytes));
            let Ok(read) = read.await else { break };
            if read? == 0 {
                return Err("the server has closed a client that reads".into());
            }
            let (now, mut taken) = (Timestamp::now().micros(), 0);
            while let Some((start, end)) = frame(&self.bytes[taken..]) {
                if let Some(due) = updated_at(&self.bytes[taken + start..taken + end]) {
                    missing = missing.saturating_sub(1);
                    delays.borrow_mut().saturating_record((now - due).max(1).unsigned_abs());
                }
                taken += end;
            }
            self.bytes.drain(..taken);
            self.bytes.reserve(READ_AT_ONCE);
        }
        Ok((self, missing))
    }
}
