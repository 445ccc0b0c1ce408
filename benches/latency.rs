//! Latency from supplier to socket: the time from when an update is due to when a client reads it.
//! 10 clients with 10 events each, open loop: an update carries its due time as `updated_at` and is
//! sent whether or not earlier updates have arrived.
//!
//! Measured embedded in one process, and split over four (ingest, processor, two of odds) with
//! Kafka, Redis and PostgreSQL. The baseline sends the same frames at the same rate over the
//! minimum that both need: one socket in and one socket out, and for the split a Kafka topic
//! between them.
//!
//! A broker that has just started compiles its own code for half a minute and uses two to three
//! times as much CPU as afterwards: the split begins with `BENCH_WARM_UP` seconds (20) that are not
//! counted.
//!
//! Run with `scripts/engines with cargo bench --bench latency`. Settings: `BENCH_SECONDS` per run,
//! `BENCH_ROUNDS`, and every setting of the server under its own name. `BENCH_STAGES=1` measures
//! only the split, stage by stage: observers read the odds topic and the broadcasts beside the
//! platform. They take CPU time themselves, so compare stages with each other, not with other runs.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::{Message, Offset, TopicPartitionList};
use sports_bet_platform::domain::timestamp::Timestamp;

use support::client::{Client, frame, updated_at};
use support::engines::{Folder, kafka_admin};
use support::observers::Observers;
use support::server::Server;
use support::supplier::{Feed, Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, need_engines, setting};

const CLIENTS: usize = 10;
const EVENTS_EACH: usize = 10;
const EVENTS: usize = CLIENTS * EVENTS_EACH;
const RATES: [u64; 3] = [50, 1_000, 10_000];
/// An update that arrives later than this after the last one counts as missing.
const LAST_CALL: Duration = Duration::from_secs(5);
/// Above this share of one core the bench itself delays what it measures.
const BUSY: f64 = 0.5;

fn main() -> Outcome<()> {
    need_engines("latency")?;
    let seconds = setting("BENCH_SECONDS", 4)?;
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let warm_up = setting("BENCH_WARM_UP", 20)?;
    if setting("BENCH_STAGES", 0)? > 0 {
        let folder = Folder::on_real_engines();
        let mut side = start_split(&folder, warm_up)?;
        side.observers = Some(Observers::start(&folder)?);
        return print("stages", &measure_stages(&mut side, rounds, seconds)?);
    }
    machine::pin(machine::CLIENT_CORE)?;
    let mut rows = Vec::new();
    {
        let folder = Folder::embedded();
        let mut side = Platform::start(
            "embedded",
            &folder,
            &["ingest,processor,odds"],
            Some(machine::server_core()),
        )?;
        let mut bare = Bare::sockets()?;
        rows.extend(measure(
            &mut side,
            &mut bare,
            "sockets alone",
            rounds,
            seconds,
            [[None, None], [None, Some(5.0)], [None, None]],
        )?);
    }
    machine::unpin()?;
    {
        let folder = Folder::on_real_engines();
        let mut side = start_split(&folder, warm_up)?;
        let mut bare = Bare::sockets_and_topic(&folder)?;
        let targets = [[None, None], [Some(3.0), Some(12.0)], [None, Some(100.0)]];
        rows.extend(measure(
            &mut side,
            &mut bare,
            "sockets and topic alone",
            rounds,
            seconds,
            targets,
        )?);
    }
    print("latency", &rows)
}

/// Starts four processes, on all cores, and lets the broker warm up.
fn start_split(folder: &Folder, warm_up: u64) -> Outcome<Platform> {
    let roles = ["ingest", "processor", "odds", "odds"];
    let mut side = Platform::start("split in four", folder, &roles, None)?;
    machine::unpin()?;
    let load = Load {
        rate: 1_000,
        seconds: warm_up,
    };
    run(&mut side, load)?;
    Ok(side)
}

/// Measures the time to each stage at each rate, and the CPU time of each process.
fn measure_stages(platform: &mut Platform, rounds: u64, seconds: u64) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for rate in RATES {
        let cpu = platform.cpu()?;
        let mut runs = Vec::new();
        for _ in 0..rounds {
            runs.push(run(platform, Load { rate, seconds })?);
        }
        let elapsed: f64 = runs.iter().map(|run| run.seconds).sum();
        let shares = platform.cpu()?.into_iter().zip(cpu);
        let shares = shares.map(|((role, now), (_, before))| {
            let share = (now - before).as_secs_f64() / elapsed * 100.0;
            format!("{role} {share:.0} %")
        });
        let shares: Vec<_> = shares.collect();
        let names = runs[0].stages.iter().map(|(name, _)| *name);
        for (stage, name) in names.enumerate() {
            for quantile in [0.5, 0.99] {
                let of = |run: &Run| run.stages[stage].1.value_at_quantile(quantile) as f64;
                let value = median(runs.iter().map(of).collect()) / 1_000.0;
                let figure = format!("{rate} updates/s, {name}, p{:.0}", quantile * 100.0);
                rows.push(Row::new(figure, value, "ms"));
            }
        }
        let remark = format!("{}; of a core: {}", remark_of(&runs), shares.join(", "));
        let last = rows.pop().map(|row| row.remark(remark));
        rows.extend(last);
    }
    Ok(rows)
}

/// Measures each rate on both sides, alternating. `targets` are for p50 and p99 of each rate.
fn measure(
    platform: &mut Platform,
    bare: &mut Bare,
    beside: &str,
    rounds: u64,
    seconds: u64,
    targets: [[Option<f64>; 2]; 3],
) -> Outcome<Vec<Row>> {
    let name = platform.name;
    let mut rows = Vec::new();
    for (rate, targets) in RATES.into_iter().zip(targets) {
        let mut ours = Vec::new();
        let mut alone = Vec::new();
        for _ in 0..rounds {
            ours.push(run(platform, Load { rate, seconds })?);
            alone.push(run(
                bare,
                Load {
                    rate,
                    seconds: seconds.div_ceil(2),
                },
            )?);
        }
        let remark = remark_of(&ours);
        let figures = [("p50", 0.5), ("p99", 0.99)];
        for ((figure, quantile), target) in figures.into_iter().zip(targets) {
            let of =
                |runs: &[Run]| median(runs.iter().map(|run| run.milliseconds(quantile)).collect());
            let row = Row::new(
                format!("{name}, {rate} updates/s, {figure} of {rounds} runs"),
                of(&ours),
                "ms",
            );
            let row = row.beside(beside, of(&alone));
            let row = match target {
                Some(most) => row.itself_at_most(most),
                None => row,
            };
            rows.push(if figure == "p99" {
                row.remark(remark.clone())
            } else {
                row
            });
        }
        let (missing, conflated) = ours.iter().fold((0, 0), |(missing, conflated), run| {
            (missing + run.missing, conflated + run.conflated)
        });
        let figure = format!(
            "{name}, {rate} updates/s, missing or conflated of {}",
            rate * seconds * rounds
        );
        let lost = Row::new(figure, (missing + conflated) as f64, "updates").at_most(0.0);
        rows.push(lost.remark(if missing > 0 {
            format!("{missing} missing")
        } else {
            String::new()
        }));
    }
    Ok(rows)
}

/// The most likely bottleneck other than the server.
fn remark_of(runs: &[Run]) -> String {
    let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    let own = of(|run| run.own_share);
    let all = of(|run| run.machine_share);
    let late = of(|run| run.late_p99);
    let mut remark = format!(
        "the supplier sent up to {late:.2} ms late (p99); all cores {:.0} % busy",
        all * 100.0
    );
    if own > BUSY {
        remark += &format!("; the bench itself took {:.0} % of a core", own * 100.0);
    }
    if all > 0.9 {
        remark += ": the machine was the limit";
    }
    remark
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

/// The result of a run.
struct Run {
    seconds: f64,
    delays: Histogram<u64>,
    /// The delays up to each stage, the socket last; none unless the stages are observed.
    stages: Vec<(&'static str, Histogram<u64>)>,
    missing: u64,
    conflated: u64,
    late_p99: f64,
    own_share: f64,
    machine_share: f64,
}

impl Run {
    fn milliseconds(&self, quantile: f64) -> f64 {
        self.delays.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// The path under test: updates go in and come out.
trait Side {
    fn send(&mut self, updates: Vec<(usize, String)>) -> Outcome<()>;
    /// The readers, each with the number of consecutive events it receives, starting from the
    /// first.
    fn readers(&mut self) -> Vec<(Client, usize)>;
    fn give_back(&mut self, readers: Vec<Client>);
    /// The delays up to each observed stage since the last call.
    fn stages(&self) -> Vec<(&'static str, Histogram<u64>)> {
        Vec::new()
    }
}

fn run(side: &mut impl Side, load: Load) -> Outcome<Run> {
    side.stages();
    let cpu = machine::cpu("self")?;
    let busy = machine::busy()?;
    let began = Instant::now();
    let mut first = 0;
    let mut threads: Vec<JoinHandle<Outcome<(Client, Reading)>>> = Vec::new();
    for (client, events) in side.readers() {
        let expected = (first..first + events)
            .map(|event| (event, updates_of(event, load)))
            .collect();
        first += events;
        threads.push(std::thread::spawn(move || read(client, expected)));
    }
    let lateness = supply(side, load)?;
    let mut delays = histogram()?;
    let mut missing = 0;
    let mut conflated = 0;
    let mut clients = Vec::new();
    for thread in threads {
        let (client, reading) = thread.join().map_err(|_| "a reader panicked")??;
        delays.add(&reading.delays)?;
        missing += reading.missing;
        conflated += reading.conflated;
        clients.push(client);
    }
    side.give_back(clients);
    let elapsed = began.elapsed().as_secs_f64();
    let mut stages = side.stages();
    stages.push(("read from the socket", delays.clone()));
    Ok(Run {
        seconds: elapsed,
        delays,
        stages,
        missing,
        conflated,
        late_p99: lateness.value_at_quantile(0.99) as f64 / 1_000.0,
        own_share: (machine::cpu("self")? - cpu).as_secs_f64() / elapsed,
        machine_share: (machine::busy()? - busy).as_secs_f64() / elapsed / machine::cores() as f64,
    })
}

/// The number of updates that an event receives in a run.
fn updates_of(event: usize, load: Load) -> u64 {
    let rounds = load.updates() / EVENTS as u64;
    let rest = load.updates() % EVENTS as u64;
    rounds + u64::from((event as u64) < rest)
}

/// Sends each update when it is due; returns how late each was sent.
fn supply(side: &mut impl Side, load: Load) -> Outcome<Histogram<u64>> {
    let mut lateness = histogram()?;
    let begin = Timestamp::now().micros() + 20_000;
    let mut number = 0;
    while number < load.updates() {
        let now = Timestamp::now().micros();
        let mut updates = Vec::new();
        while number < load.updates() && begin + load.due(number) <= now {
            let due = begin + load.due(number);
            let event = (number % EVENTS as u64) as usize;
            let updated_at = Timestamp::from_micros(due).ok_or("no time")?;
            updates.push((
                event,
                update(&name_of(event), "1x2", number + 1, updated_at),
            ));
            lateness.saturating_record((now - due).unsigned_abs());
            number += 1;
        }
        if updates.is_empty() {
            std::thread::sleep(Duration::from_micros(
                (begin + load.due(number) - now).unsigned_abs(),
            ));
        } else {
            side.send(updates)?;
        }
    }
    Ok(lateness)
}

struct Reading {
    delays: Histogram<u64>,
    missing: u64,
    conflated: u64,
}

/// Reads until each event has received its updates. Surplus updates of one event do not make up for
/// missing ones of another.
fn read(mut client: Client, mut expected: BTreeMap<usize, u64>) -> Outcome<(Client, Reading)> {
    client.stream.set_read_timeout(Some(LAST_CALL))?;
    let mut reading = Reading {
        delays: histogram()?,
        missing: expected.values().sum(),
        conflated: 0,
    };
    while reading.missing > 0 {
        // Read timeout: whatever has not arrived is missing.
        let Ok(content) = client.next() else { break };
        let Some(due) = updated_at(content) else {
            continue;
        };
        let delay = Timestamp::now().micros() - due;
        reading
            .delays
            .saturating_record(delay.max(1).unsigned_abs());
        reading.conflated += u64::from(
            content
                .windows(16)
                .any(|part| part == br#""conflated":true"#),
        );
        if let Some(left) = event_of(content)
            .and_then(|event| expected.get_mut(&event))
            .filter(|left| **left > 0)
        {
            *left -= 1;
            reading.missing -= 1;
        }
    }
    Ok((client, reading))
}

/// The event of an update.
fn event_of(content: &[u8]) -> Option<usize> {
    const HEAD: &[u8] = br#"{"type":"update","eventId":"MATCH_"#;
    let digits = content.strip_prefix(HEAD)?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn histogram() -> Outcome<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 120_000_000, 3)?)
}

fn name_of(event: usize) -> String {
    format!("MATCH_{event:03}")
}

/// The real platform.
struct Platform {
    name: &'static str,
    /// Each process with its roles.
    servers: Vec<(&'static str, Server)>,
    observers: Option<Observers>,
    feed: Feed,
    clients: Vec<Client>,
}

impl Platform {
    /// Starts processes with these roles. Updates have passed through all of them before this
    /// returns.
    fn start(
        name: &'static str,
        folder: &Folder,
        roles: &[&'static str],
        core: Option<usize>,
    ) -> Outcome<Platform> {
        let supplier = Supplier::listen()?;
        let url = supplier.url()?;
        // The bench clients do not answer pings.
        let variables = [("SUPPLIER_URLS", &*url), ("WS_SILENCE_LIMIT", "1h")];
        let mut servers = Vec::new();
        for roles in roles {
            servers.push((*roles, Server::start(roles, folder, &variables, core)?));
        }
        let feed = supplier.accept()?;
        servers
            .iter()
            .try_for_each(|(_, server)| server.until_ready())?;
        let addresses: Vec<_> = servers
            .iter()
            .filter_map(|(_, server)| server.odds().ok())
            .collect();
        let mut clients = Vec::new();
        for place in 0..CLIENTS {
            let mut client = Client::connect(addresses[place % addresses.len()])?;
            for event in 0..EVENTS_EACH {
                client.subscribe(&name_of(place * EVENTS_EACH + event))?;
            }
            clients.push(client);
        }
        let mut platform = Platform {
            name,
            servers,
            observers: None,
            feed,
            clients,
        };
        run(
            &mut platform,
            Load {
                rate: 500,
                seconds: 1,
            },
        )?;
        Ok(platform)
    }

    /// The CPU time of each process so far.
    fn cpu(&self) -> Outcome<Vec<(&'static str, Duration)>> {
        let servers = self.servers.iter();
        servers
            .map(|(roles, server)| Ok((*roles, server.cpu()?)))
            .collect()
    }
}

impl Side for Platform {
    fn stages(&self) -> Vec<(&'static str, Histogram<u64>)> {
        self.observers
            .as_ref()
            .map(Observers::take)
            .unwrap_or_default()
    }

    fn send(&mut self, updates: Vec<(usize, String)>) -> Outcome<()> {
        self.feed
            .send(updates.into_iter().map(|(_, update)| update))
    }

    fn readers(&mut self) -> Vec<(Client, usize)> {
        self.clients
            .drain(..)
            .map(|client| (client, EVENTS_EACH))
            .collect()
    }

    fn give_back(&mut self, readers: Vec<Client>) {
        self.clients = readers;
    }
}

/// Frames over sockets, optionally with a topic between them.
struct Bare {
    into: TcpStream,
    out: Option<Client>,
    stop: Arc<AtomicBool>,
}

impl Bare {
    /// A thread that forwards everything it reads.
    fn sockets() -> Outcome<Bare> {
        let (into, mut taken) = pair()?;
        let (mut given, out) = pair()?;
        std::thread::spawn(move || -> Outcome<()> {
            let mut buffer = [0; 65_536];
            loop {
                match taken.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => given.write_all(&buffer[..read])?,
                }
            }
        });
        Ok(Bare {
            into,
            out: Some(Client::on(out)?),
            stop: Arc::default(),
        })
    }

    /// One thread that writes frames to a topic, and one that forwards the records read from it.
    fn sockets_and_topic(folder: &Folder) -> Outcome<Bare> {
        let brokers = folder
            .sandbox()
            .value("KAFKA_BROKERS")
            .ok_or("no brokers")?
            .to_owned();
        let topic = format!(
            "{}_dlq",
            folder
                .sandbox()
                .value("KAFKA_TOPIC_ODDS")
                .ok_or("no topic")?
        );
        make_topic(&brokers, &topic)?;
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &brokers)
            .set("linger.ms", "0")
            .set("enable.idempotence", "true");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &brokers)
            .set("group.id", "bench")
            .set("fetch.min.bytes", "1");
        let consumer: BaseConsumer = config.create()?;
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(&topic, 0, Offset::End)?;
        consumer.assign(&partitions)?;
        // Polled once, so that the consumer has its offset before anything is written.
        consumer.poll(Duration::from_secs(1));

        let (into, taken) = pair()?;
        let (mut given, out) = pair()?;
        std::thread::spawn(move || -> Outcome<()> {
            let mut frames = Client::on(taken)?;
            loop {
                let record = BaseRecord::<(), _>::to(&topic)
                    .payload(frames.next()?)
                    .partition(0);
                producer.send(record).map_err(|(error, _)| error)?;
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || -> Outcome<()> {
            while !stopped.load(Ordering::Relaxed) {
                let Some(record) = consumer.poll(Duration::from_millis(100)) else {
                    continue;
                };
                given.write_all(&framed(record?.payload().unwrap_or_default()))?;
            }
            Ok(())
        });
        Ok(Bare {
            into,
            out: Some(Client::on(out)?),
            stop,
        })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Side for Bare {
    fn send(&mut self, updates: Vec<(usize, String)>) -> Outcome<()> {
        let frames: Vec<u8> = updates
            .iter()
            .flat_map(|(event, update)| framed(as_told(*event, update).as_bytes()))
            .collect();
        Ok(self.into.write_all(&frames)?)
    }

    fn readers(&mut self) -> Vec<(Client, usize)> {
        self.out
            .take()
            .into_iter()
            .map(|client| (client, EVENTS))
            .collect()
    }

    fn give_back(&mut self, mut readers: Vec<Client>) {
        self.out = readers.pop();
    }
}

/// An update in the form in which the server publishes it.
fn as_told(event: usize, update: &str) -> String {
    format!(
        r#"{{"type":"update","eventId":"{}","seq":1,"payload":{update}}}"#,
        name_of(event)
    )
}

/// A text as a server's WebSocket frame.
fn framed(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    let framed = [&[0x81, 126, length[0], length[1]], content].concat();
    debug_assert!(frame(&framed).is_some());
    framed
}

/// Both ends of a connection.
fn pair() -> Outcome<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}

fn make_topic(brokers: &str, topic: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wanted = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    // The topic may exist already: the processor creates it.
    runtime.block_on(kafka_admin(brokers).create_topics(&[wanted], &AdminOptions::new()))?;
    Ok(())
}
