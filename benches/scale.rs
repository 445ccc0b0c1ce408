//! Server cost per update as the number of events grows, and per frame as the number of
//! subscriptions of a client grows. The load is the same each time, so a flat cost shows as the
//! same figure: first 20,000 updates at the same rate, spread over all events, which are all known
//! already; then updates of one event after the other, each to 100 clients.
//!
//! Run with `cargo bench --bench scale`. Settings: `BENCH_EVENTS` (the largest number),
//! `BENCH_RATE`, `BENCH_UPDATES`, `BENCH_SUBSCRIPTIONS` (the largest number), `BENCH_ROUNDS`.

mod support;

use std::time::{Duration, Instant};

use sports_bet_platform::domain::timestamp::Timestamp;

use support::client::Client;
use support::client_pool::ClientPool;
use support::engines::Folder;
use support::server::Server;
use support::supplier::{Feed, Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, setting};

/// Events that each client subscribes to.
const WANTED: usize = 5;
/// Clients with many subscriptions, and the same number with one.
const CLIENTS: usize = 100;
/// Rounds per run: in each, every client receives one frame of one update.
const UPDATES_TO_ALL: usize = 1_000;
/// How often the server's progress is queried: each query costs the server CPU.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const WAIT_LIMIT: Duration = Duration::from_secs(120);
/// A server that uses at least this share of its core may batch work it would otherwise do one by
/// one.
const FULL: f64 = 0.9;

fn main() -> Outcome<()> {
    machine::pin(machine::CLIENT_CORE)?;
    let mut rows = events()?;
    rows.extend(subscriptions()?);
    print("scale", &rows)
}

/// A server that holds this many books.
struct Side {
    events: usize,
    server: Server,
    _folder: Folder,
    feed: Feed,
    sent: usize,
    /// KiB, after all events are known.
    rss: f64,
}

struct Run {
    updates: usize,
    cpu: f64,
    share: f64,
}

impl Run {
    fn cost(&self) -> f64 {
        self.cpu * 1e6 / self.updates as f64
    }
}

impl Side {
    fn start(events: usize) -> Outcome<Side> {
        let folder = Folder::embedded();
        let supplier = Supplier::listen()?;
        let variables = [
            ("SUPPLIER_URLS", &*supplier.url()?),
            ("HTTP_WORKERS_ODDS", "1"),
        ];
        let variables = [&variables[..], QUIET].concat();
        let server = Server::start(
            "ingest,processor,odds",
            &folder,
            &variables,
            Some(machine::server_core()),
        )?;
        let feed = supplier.accept()?;
        server.until_ready()?;
        let mut side = Side {
            events,
            server,
            _folder: folder,
            feed,
            sent: 0,
            rss: 0.0,
        };
        while side.sent < events {
            let until = (side.sent + 1_000).min(events);
            side.send(until)?;
        }
        side.settle()?;
        side.rss = side.server.rss()?;
        let mut client = Client::connect(side.server.odds()?)?;
        for wanted in 0..WANTED {
            client.subscribe(&name_of(wanted * events / WANTED))?;
        }
        std::thread::spawn(move || std::io::copy(&mut client.stream, &mut std::io::sink()));
        Ok(side)
    }

    /// Sends all updates up to this number at once, cycling through the events.
    fn send(&mut self, until: usize) -> Outcome<()> {
        let first = self.sent;
        let events = self.events;
        self.sent = until.max(first);
        let now = Timestamp::now();
        let one = |number: usize| update(&name_of(number % events), "1x2", number as u64 + 1, now);
        self.feed.send((first..self.sent).map(one))
    }

    /// Waits until each update is in its book and in the database.
    fn settle(&self) -> Outcome<()> {
        let began = Instant::now();
        while began.elapsed() < WAIT_LIMIT {
            let applied = self
                .server
                .metric("processor", "odds_proc_updates_applied_total")?;
            let stored = self
                .server
                .metric("processor", "odds_proc_db_writes_total")?;
            if applied.min(stored) >= self.sent as f64 {
                return Ok(());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(format!("{} updates are not stored within {WAIT_LIMIT:?}", self.sent).into())
    }

    fn run(&mut self, updates: usize, rate: u64) -> Outcome<Run> {
        let cpu = self.server.cpu()?;
        let began = Instant::now();
        let first = self.sent;
        while self.sent < first + updates {
            let due = (began.elapsed().as_secs_f64() * rate as f64) as usize;
            self.send(first + due.min(updates))?;
            std::thread::sleep(Duration::from_millis(1));
        }
        let share = (self.server.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        self.settle()?;
        Ok(Run {
            updates,
            cpu: (self.server.cpu()? - cpu).as_secs_f64(),
            share,
        })
    }
}

/// The bench clients do not answer pings.
const QUIET: &[(&str, &str)] = &[
    ("WS_PING_INTERVAL", "30m"),
    ("WS_SILENCE_LIMIT", "2h"),
    ("WS_MAX_MESSAGES_PER_SECOND", "1000000"),
    ("WS_MAX_SUBSCRIPTIONS", "1000000"),
];

fn events() -> Outcome<Vec<Row>> {
    let most = usize::try_from(setting("BENCH_EVENTS", 100_000)?)?;
    let rate = setting("BENCH_RATE", 5_000)?;
    let updates = usize::try_from(setting("BENCH_UPDATES", 20_000)?)?;
    let mut sides = Vec::new();
    for events in [100, 1_000, 10_000, 100_000] {
        if events <= most {
            sides.push(Side::start(events)?);
        }
    }
    let mut runs: Vec<Vec<Run>> = sides.iter().map(|_| Vec::new()).collect();
    for round in 0..=setting("BENCH_ROUNDS", 5)? {
        for (side, runs) in sides.iter_mut().zip(&mut runs) {
            // The first round is a warm-up.
            let run = side.run(if round > 0 { updates } else { updates / 4 }, rate)?;
            if round > 0 {
                runs.push(run);
            }
        }
    }
    let (Some(smallest), Some(largest)) = (sides.first(), sides.last()) else {
        return Ok(Vec::new());
    };
    let costs: Vec<f64> = runs
        .iter()
        .map(|runs| median(runs.iter().map(Run::cost).collect()))
        .collect();
    let mut rows = Vec::new();
    for ((side, runs), cost) in sides.iter().zip(&runs).zip(&costs) {
        let share = median(runs.iter().map(|run| run.share).collect());
        let mut row = Row::new(
            format!("CPU an update, {} events, {rate} updates/s", side.events),
            *cost,
            "µs",
        )
        .remark(format!("{:.0} % of a core", share * 100.0));
        if side.events > smallest.events {
            row = row.beside(format!("{} events", smallest.events), costs[0]);
        }
        if side.events == largest.events {
            row = row.at_most(1.3);
        }
        if share > FULL {
            row = row.remark("as many as it could; concurrent requests shared batches");
        }
        rows.push(row);
    }
    let memory = (largest.rss - smallest.rss) / (largest.events - smallest.events).max(1) as f64;
    rows.push(Row::new("RSS an event", memory, "KiB").remark(format!(
        "{:.0} MiB with {} events, {:.0} MiB with {}",
        smallest.rss / 1_024.0,
        smallest.events,
        largest.rss / 1_024.0,
        largest.events
    )));
    Ok(rows)
}

fn subscriptions() -> Outcome<Vec<Row>> {
    let most = usize::try_from(setting("BENCH_SUBSCRIPTIONS", 1_000)?)?;
    // One event more than the many: the one that single-subscription clients subscribe to.
    let mut side = Side::start(most + 1)?;
    let address = side.server.odds()?;
    let mut of_one = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(address)?;
        client.subscribe(&name_of(most))?;
        of_one.push(client);
    }
    let mut of_many = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(address)?;
        client.subscribe(&name_of(0))?;
        of_many.push(client);
    }
    std::thread::sleep(Duration::from_secs(1));
    let before = side.server.rss()?;
    for client in &mut of_many {
        // In chunks, so that the replies do not fill a socket.
        for some in (1..most).collect::<Vec<_>>().chunks(50) {
            for event in some {
                client.send(&format!(
                    r#"{{"type":"subscribe","eventId":"{}"}}"#,
                    name_of(*event)
                ))?;
            }
            client.skip(some.len())?;
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let memory = (side.server.rss()? - before) / (CLIENTS * (most - 1)) as f64;

    let pool = |clients: Vec<Client>| {
        ClientPool::new(clients.into_iter().map(|client| client.stream).collect())
    };
    let mut of_one = pool(of_one)?;
    let mut of_many = pool(of_many)?;
    let mut one = Vec::new();
    let mut many = Vec::new();
    for round in 0..=setting("BENCH_ROUNDS", 5)? {
        let runs = [
            side.rounds(&mut of_one, most..most + 1)?,
            side.rounds(&mut of_many, 0..most)?,
        ];
        if round > 0 {
            let [first, second] = runs;
            one.push(first);
            many.push(second);
        }
    }
    let cost = |runs: &[Run]| median(runs.iter().map(Run::cost).collect()) / CLIENTS as f64;
    let share = |runs: &[Run]| median(runs.iter().map(|run| run.share).collect()) * 100.0;
    Ok(vec![
        Row::new(
            format!("CPU a frame, {CLIENTS} clients with {most} subscriptions each"),
            cost(&many),
            "µs",
        )
        .beside("with one each", cost(&one))
        .at_most(1.3)
        .remark(format!(
            "{:.0} % and {:.0} % of a core",
            share(&many),
            share(&one)
        )),
        Row::new("RSS a subscription", memory * 1_024.0, "B")
            .remark(format!("{} of them", CLIENTS * most)),
    ])
}

impl Side {
    /// Sends one update after the other, cycling through these events. Every client receives a
    /// frame of each before the next is sent.
    fn rounds(&mut self, clients: &mut ClientPool, events: std::ops::Range<usize>) -> Outcome<Run> {
        let cpu = self.server.cpu()?;
        let began = Instant::now();
        for number in 0..UPDATES_TO_ALL {
            let event = events.start + number % events.len();
            self.sent += 1;
            self.feed.send([update(
                &name_of(event),
                "1x2",
                self.sent as u64,
                Timestamp::now(),
            )])?;
            clients.take(1)?;
        }
        let share = (self.server.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        self.settle()?;
        Ok(Run {
            updates: UPDATES_TO_ALL,
            cpu: (self.server.cpu()? - cpu).as_secs_f64(),
            share,
        })
    }
}

fn name_of(event: usize) -> String {
    format!("MATCH_{event:06}")
}
