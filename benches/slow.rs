//! A thousand clients on one event, with and without one stalled client that reads nothing: how
//! late the others receive each update, whether they receive all of them, and whether the server's
//! memory returns to its earlier level after it evicts the stalled client.
//!
//! Open loop: the delay is from when an update is due, which it carries as `updated_at`, to when a
//! client has read it. Before each run the bench floods another event, to which only the stalled
//! client is subscribed: this fills its socket and its queue, so that it is stalled from the
//! beginning of the run and evicted in the middle of it.
//!
//! A third run adds abusers: one that floods with pongs as fast as the server reads them and
//! reconnects when it is closed, and 4,000 requests whose head never ends.
//!
//! Run with `cargo bench --bench slow`. Settings: `BENCH_CLIENTS`, `BENCH_RATE` (updates per
//! second), `BENCH_SECONDS` (per run), `BENCH_ROUNDS` (each round is one run without a stalled
//! client, one with it, and one with abusers), `BENCH_HALF` (half requests), and every setting of
//! the server under its own name.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sports_bet_platform::domain::timestamp::Timestamp;

use support::client::{Client, frame, updated_at};
use support::client_pool::ClientPool;
use support::engines::Folder;
use support::server::Server;
use support::supplier::{Feed, Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, setting, until};

const EVENT: &str = "MATCH_001";
const FLOODED: &str = "MATCH_002";
/// More than the socket buffers of a client that does not read can hold.
const FLOOD: u64 = 1_000;
/// How long the last update may take before it counts as lost.
const LAST_CALL: Duration = Duration::from_secs(5);
/// How long the bench sleeps if there is nothing to read.
const NAP: Duration = Duration::from_micros(50);
/// How often the server's memory is sampled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Above this lateness, in milliseconds, the bench itself delays what it measures.
const LATE: f64 = 2.0;

fn main() -> Outcome<()> {
    machine::pin(machine::CLIENT_CORE)?;
    let clients = usize::try_from(setting("BENCH_CLIENTS", 1_000)?)?;
    let half = usize::try_from(setting("BENCH_HALF", 4_000)?)?;
    machine::open_files(2 * clients as u64 + half as u64 + 500)?;
    let load = Load {
        rate: setting("BENCH_RATE", 50)?,
        seconds: setting("BENCH_SECONDS", 5)?,
    };
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let mut bench = Bench::start(clients)?;
    let mut without = Vec::new();
    let mut with = Vec::new();
    let mut abused = Vec::new();
    let mut floods = 0;
    let mut frames = 0;
    for round in 0..=rounds {
        let runs = [bench.run(load, false)?, bench.run(load, true)?];
        let abusers = Abusers::start(bench.server.odds()?, half)?;
        let third = bench.run(load, false);
        let flooded = abusers.stop();
        // The first round is a warm-up.
        if round > 0 {
            let [one, other] = runs;
            without.push(one);
            with.push(other);
            abused.push(third?);
            (floods, frames) = (floods + flooded.0, frames + flooded.1);
        }
    }
    let of = |runs: &[Run], figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    let delay = |quantile: f64| {
        let of = |runs: &[Run]| median(runs.iter().map(|run| run.milliseconds(quantile)).collect());
        Row::new(
            format!("{clients} clients, p{} with one stalled", quantile * 100.0),
            of(&with),
            "ms",
        )
        .beside("none stalled", of(&without))
    };
    let lost = with
        .iter()
        .chain(&without)
        .chain(&abused)
        .map(|run| run.lost)
        .sum::<u64>();
    let spread = |runs: &[Run]| {
        let figures = runs.iter().map(|run| run.milliseconds(0.99));
        let (least, most) = figures.fold((f64::MAX, 0.0_f64), |(least, most), of| {
            (least.min(of), most.max(of))
        });
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
            Row::new(
                format!("{clients} clients, p99 with a pong flood and {half} half requests"),
                median(abused.iter().map(|run| run.milliseconds(0.99)).collect()),
                "ms",
            )
            .beside("none", of(&without, |run| run.milliseconds(0.99)))
            .at_most(1.2)
            .remark(format!(
                "{}; {floods} floods of {frames} frames; RSS at its highest {:.2} MiB above; {}",
                spread(&abused),
                of(&abused, |run| run.highest),
                limit(
                    of(&abused, |run| run.server_share),
                    of(&abused, |run| run.own_share),
                    of(&abused, |run| run.late_p99)
                )
            )),
            Row::new("RSS after the eviction, above what it was before", of(&with, |run| run.grown), "MiB")
                .at_most(1.0)
                .remark(format!(
                    "in runs with none stalled {:.2} MiB; at its highest {:.2} MiB; with the clients it is {:.0} MiB",
                    of(&without, |run| run.grown),
                    of(&with, |run| run.highest),
                    bench.server.rss()? / 1_024.0
                )),
            Row::new(format!("lost of {} frames", load.updates() * clients as u64 * 3 * rounds), lost as f64, "frames")
                .at_most(0.0),
        ],
    )
}

/// The load of server and bench, and whether the result says more about the bench client than about
/// the server.
fn limit(server: f64, own: f64, late: f64) -> String {
    let verdict = if late > LATE {
        ": the bench is a part of the delay"
    } else {
        ""
    };
    format!(
        "the server took {:.0} % of its core, the bench {:.0} % of its own; updates sent {late:.2} ms late (p99){verdict}",
        server * 100.0,
        own * 100.0
    )
}

/// Clients that only send, in their own thread.
struct Abusers {
    stops: Arc<AtomicBool>,
    floods: Arc<AtomicU64>,
    frames: Arc<AtomicU64>,
    thread: JoinHandle<()>,
    _half: Vec<TcpStream>,
}

impl Abusers {
    /// Pongs sent per write.
    const AT_ONCE: usize = 1_000;
    /// Pause before the flood reconnects: the bench shares its core with the clients.
    const PAUSE: Duration = Duration::from_millis(10);

    fn start(address: SocketAddr, half: usize) -> Outcome<Abusers> {
        let begin = |_| {
            let mut stream = TcpStream::connect(address)?;
            // The connection may have been closed to make room.
            let _ = stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: bench\r\nX: ");
            Ok(stream)
        };
        let half = (0..half).map(begin).collect::<Outcome<_>>()?;
        let stops = Arc::<AtomicBool>::default();
        let floods = Arc::<AtomicU64>::default();
        let frames = Arc::default();
        let until = stops.clone();
        let begun = floods.clone();
        let sent = Arc::<AtomicU64>::clone(&frames);
        let thread = std::thread::spawn(move || {
            let pongs = [0x8a, 0x80, 0, 0, 0, 0].repeat(Abusers::AT_ONCE);
            while !until.load(Ordering::Relaxed) {
                if let Ok(mut client) = Client::connect(address) {
                    begun.fetch_add(1, Ordering::Relaxed);
                    while !until.load(Ordering::Relaxed) && client.stream.write_all(&pongs).is_ok()
                    {
                        sent.fetch_add(Abusers::AT_ONCE as u64, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(Abusers::PAUSE);
            }
        });
        Ok(Abusers {
            stops,
            floods,
            frames,
            thread,
            _half: half,
        })
    }

    /// Stops them; returns the number of floods and of frames.
    fn stop(self) -> (u64, u64) {
        self.stops.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        (
            self.floods.load(Ordering::Relaxed),
            self.frames.load(Ordering::Relaxed),
        )
    }
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
    /// MiB at the end of the run above the start.
    grown: f64,
    /// Highest sampled MiB above the start.
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
    feed: Feed,
    clients: ClientPool,
    /// The incomplete frame of each client.
    begun: Vec<Vec<u8>>,
    version: u64,
}

impl Bench {
    fn start(clients: usize) -> Outcome<Bench> {
        let folder = Folder::embedded();
        let supplier = Supplier::listen()?;
        // The bench clients do not answer pings.
        let variables = [
            ("SUPPLIER_URLS", &*supplier.url()?),
            ("SLOW_CLIENT_LIMIT", "2s"),
            ("WS_SILENCE_LIMIT", "2h"),
        ];
        let server = Server::start(
            "ingest,processor,odds",
            &folder,
            &variables,
            Some(machine::server_core()),
        )?;
        let mut feed = supplier.accept()?;
        server.until_ready()?;
        feed.send([EVENT, FLOODED].map(|event| update(event, "1x2", 1, Timestamp::now())))?;
        let connect = |_| {
            let mut client = Client::connect(server.odds()?)?;
            client.subscribe(EVENT)?;
            Ok(client.stream)
        };
        let begun = vec![Vec::new(); clients];
        let clients = ClientPool::new((0..clients).map(connect).collect::<Outcome<_>>()?)?;
        Ok(Bench {
            server,
            _folder: folder,
            feed,
            clients,
            begun,
            version: 1,
        })
    }

    fn run(&mut self, load: Load, with_stalled: bool) -> Outcome<Run> {
        let before = self.server.rss()?;
        let evictions = self.evictions()?;
        let stalled = if with_stalled {
            Some(self.stalled_client()?)
        } else {
            None
        };
        self.flood(with_stalled)?;
        let (cpu, own, began) = (self.server.cpu()?, machine::cpu("self")?, Instant::now());
        let mut run = self.send_and_read(load)?;
        let elapsed = began.elapsed().as_secs_f64();
        run.server_share = (self.server.cpu()? - cpu).as_secs_f64() / elapsed;
        run.own_share = (machine::cpu("self")? - own).as_secs_f64() / elapsed;
        if self.evictions()? - evictions != f64::from(u8::from(with_stalled)) {
            return Err(
                "the stalled client was not evicted, or a healthy one was: the run may be too short"
                    .into(),
            );
        }
        drop(stalled);
        run.grown = (self.server.rss()? - before) / 1_024.0;
        run.highest = (run.highest - before) / 1_024.0;
        Ok(run)
    }

    /// Sends each update when it is due, and reads whatever arrives.
    fn send_and_read(&mut self, load: Load) -> Outcome<Run> {
        let histogram = || Histogram::new_with_bounds(1, 120_000_000, 3);
        let mut delays = histogram()?;
        let mut lateness = histogram()?;
        let mut highest = 0.0_f64;
        let begin = Timestamp::now().micros() + 20_000;
        let last = begin + load.due(load.updates());
        let mut sent = 0;
        let mut missing = load.updates() * self.clients.len() as u64;
        let mut looked = Instant::now();
        while missing > 0 && Timestamp::now().micros() < last + LAST_CALL.as_micros() as i64 {
            while sent < load.updates() && begin + load.due(sent) <= Timestamp::now().micros() {
                let due = begin + load.due(sent);
                lateness.saturating_record((Timestamp::now().micros() - due).max(1).unsigned_abs());
                let updated_at = Timestamp::from_micros(due).ok_or("no time")?;
                (sent, self.version) = (sent + 1, self.version + 1);
                self.feed
                    .send([update(EVENT, "1x2", self.version, updated_at)])?;
            }
            let begun = &mut self.begun;
            let any = self.clients.read_available(|client, bytes| {
                let now = Timestamp::now().micros();
                frames(&mut begun[client], bytes, |content| {
                    if let Some(due) = updated_at(content) {
                        missing = missing.saturating_sub(1);
                        delays.saturating_record((now - due).max(1).unsigned_abs());
                    }
                });
            })?;
            if looked.elapsed() > POLL_INTERVAL {
                looked = Instant::now();
                highest = highest.max(self.server.rss()?);
            }
            if !any {
                std::thread::sleep(NAP);
            }
        }
        let late_p99 = lateness.value_at_quantile(0.99) as f64 / 1_000.0;
        Ok(Run {
            delays,
            lost: missing,
            grown: 0.0,
            highest,
            server_share: 0.0,
            own_share: 0.0,
            late_p99,
        })
    }

    fn evictions(&self) -> Outcome<f64> {
        self.server.metric("odds", "odds_ws_evictions_total")
    }

    /// A client that reads its snapshots and nothing after them.
    fn stalled_client(&self) -> Outcome<Client> {
        let mut client = Client::connect_narrow(self.server.odds()?)?;
        client.subscribe(EVENT)?;
        client.subscribe(FLOODED)?;
        Ok(client)
    }

    /// Sends many updates of the event that only the stalled client is subscribed to: first enough
    /// to fill its socket, then, one by one, enough to fill its queue.
    fn flood(&mut self, has_stalled: bool) -> Outcome<()> {
        let feed = &mut self.feed;
        let first = self.version + 1;
        self.version += FLOOD;
        feed.send(
            (first..first + FLOOD).map(|version| update(FLOODED, "1x2", version, Timestamp::now())),
        )?;
        for _ in 0..200 {
            self.version += 1;
            feed.send([update(FLOODED, "1x2", self.version, Timestamp::now())])?;
            std::thread::sleep(Duration::from_millis(2));
        }
        until("it is stalled", || {
            Ok((self.server.metric("odds", "odds_ws_stalled_sessions")?
                == f64::from(u8::from(has_stalled)))
            .then_some(()))
        })
    }
}

/// Passes on whole frames, and keeps the incomplete rest for the next read.
fn frames(begun: &mut Vec<u8>, bytes: &[u8], mut each: impl FnMut(&[u8])) {
    let is_begun = !begun.is_empty();
    begun.extend_from_slice(if is_begun { bytes } else { &[] });
    let bytes = if is_begun { &begun[..] } else { bytes };
    let mut taken = 0;
    while let Some((start, end)) = frame(&bytes[taken..]) {
        each(&bytes[taken + start..taken + end]);
        taken += end;
    }
    *begun = bytes[taken..].to_vec();
}
