//! Many clients on one event, without and with one that stalls: how late the others get each update, and what the
//! server takes. The server is the real binary in a process of its own; the supplier is a thread here.
//!
//! `cargo bench --bench clients`. Settable: `BENCH_CLIENTS`, `BENCH_RATE` (updates a second), `BENCH_SECONDS` (of a
//! run), `BENCH_ROUNDS` (each is a run without and one with), and every setting of the server by its own name.
//!
//! The delay is open-loop: from when an update was due, which it carries as `updated_at`, to when a client has read it.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use socket2::SockRef;
use sports_bet_platform::domain::timestamp::Timestamp;
use sports_bet_platform::supplier::tls::install_provider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const EVENT: &str = "MATCH_001";
/// How long the last update may take before it counts as lost.
const LAST_CALL: Duration = Duration::from_secs(5);
/// Bytes that a client has room for.
const READ_AT_ONCE: usize = 4_096;
/// Above this share of one core our own reading delays what it measures.
const BUSY: f64 = 0.8;

#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    rate: u64,
    seconds: u64,
}

impl Load {
    fn updates(self) -> u64 {
        self.rate * self.seconds
    }

    /// When an update is due, after the start.
    fn due(self, version: u64) -> Duration {
        Duration::from_secs_f64(version as f64 / self.rate as f64)
    }
}

fn main() -> Outcome<()> {
    let setting = |name: &str, default: u64| std::env::var(name).map_or(Ok(default), |value| value.parse());
    let clients = setting("BENCH_CLIENTS", 1_000)? as usize;
    let load = Load { clients, rate: setting("BENCH_RATE", 50)?, seconds: setting("BENCH_SECONDS", 20)? };
    rlimit::increase_nofile_limit(u64::MAX)?;
    println!("{clients} clients on one event, {} updates a second, {} s a run", load.rate, load.seconds);
    println!(
        "| stalled | p50 ms | p99 ms | p99.9 ms | worst ms | lost | RSS MiB: before | with clients | highest | after eviction | all left | server CPU s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut remarks = Vec::new();
    for round in 1..=setting("BENCH_ROUNDS", 2)? {
        for with_stalled in [false, true] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let result = runtime.block_on(tokio::task::LocalSet::new().run_until(run(load, with_stalled)))?;
            println!("{}", result.row());
            let name = format!("round {round}, {}", if with_stalled { "one stalled" } else { "none stalled" });
            remarks.extend(result.remarks(load).into_iter().map(|remark| format!("{name}: {remark}")));
        }
    }
    remarks.iter().for_each(|remark| println!("{remark}"));
    Ok(())
}

struct RunResult {
    with_stalled: bool,
    delays: Histogram<u64>,
    lost: u64,
    before: f64,
    with_clients: f64,
    highest: f64,
    after_eviction: Option<f64>,
    all_left: f64,
    server_cpu: f64,
    /// The share of one core that this process took while it read.
    own_share: f64,
    /// The latest that the supplier's thread sent an update.
    latest_send: Duration,
}

impl RunResult {
    fn row(&self) -> String {
        let delay = |quantile| self.delays.value_at_quantile(quantile) as f64 / 1_000.0;
        let evicted = match self.after_eviction {
            Some(rss) => format!("{rss:.1}"),
            None if self.with_stalled => "not evicted".to_owned(),
            None => "-".to_owned(),
        };
        format!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {:.1} | {:.1} | {:.1} | {evicted} | {:.1} | {:.2} |",
            if self.with_stalled { "one" } else { "none" },
            delay(0.5),
            delay(0.99),
            delay(0.999),
            self.delays.max() as f64 / 1_000.0,
            self.lost,
            self.before,
            self.with_clients,
            self.highest,
            self.all_left,
            self.server_cpu
        )
    }

    /// Whether the figures say more about this client than about the server.
    fn remarks(&self, load: Load) -> Vec<String> {
        let share = format!("our own reading took {:.0} % of a core", self.own_share * 100.0);
        let server_share = self.server_cpu / load.seconds as f64;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get()) as f64;
        let mut remarks = Vec::new();
        if self.own_share > BUSY {
            remarks.push(format!("OUR CLIENT WAS THE LIMIT: {share}"));
        } else if self.own_share + server_share > BUSY * cores {
            remarks.push(format!("THE MACHINE WAS THE LIMIT: {share}, the server {:.0} %", server_share * 100.0));
        } else {
            remarks.push(share);
        }
        if self.latest_send > Duration::from_millis(10) {
            remarks.push(format!("an update was sent {:?} late; the delays hold that too", self.latest_send));
        }
        remarks
    }
}

async fn run(load: Load, with_stalled: bool) -> Outcome<RunResult> {
    let folder = tempfile::tempdir()?;
    let (go, start) = mpsc::channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut server = Server::start(folder.path(), listener.local_addr()?)?;
    let supplier = std::thread::spawn(move || supply(listener, load, &start));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.memory("VmRSS:")?;

    let mut clients = Vec::with_capacity(load.clients);
    for _ in 0..load.clients {
        clients.push(Client::connect(server.odds, false).await?);
    }
    let stalled = if with_stalled { Some(Client::connect(server.odds, true).await?) } else { None };
    let with_clients = server.memory("VmRSS:")?;

    let delays = Rc::new(RefCell::new(Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?));
    let (own_cpu, server_cpu, started) = (cpu("self")?, cpu(&server.id())?, Instant::now());
    let deadline = started + load.due(load.updates()) + LAST_CALL;
    let reading = clients
        .into_iter()
        .map(|client| tokio::task::spawn_local(client.read_to(load.updates(), deadline.into(), delays.clone())));
    let reading: Vec<_> = reading.collect();
    go.send(())?;
    let (all, after_eviction) = watch_while(&server, with_stalled, try_join_all(reading)).await?;
    let clients = all?.into_iter().collect::<Outcome<Vec<Client>>>()?;
    let lost = clients.iter().map(|client| load.updates() - client.updates).sum();
    let own_share = (cpu("self")? - own_cpu) / started.elapsed().as_secs_f64();
    let server_cpu = cpu(&server.id())? - server_cpu;
    let latest_send = supplier.join().map_err(|_| "the supplier's thread panicked")??;
    drop((clients, stalled));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let all_left = server.memory("VmRSS:")?;
    let highest = server.memory("VmHWM:")?;
    server.stop()?;
    let delays = delays.borrow().clone();
    Ok(RunResult {
        with_stalled,
        delays,
        lost,
        before,
        with_clients,
        highest,
        after_eviction,
        all_left,
        server_cpu,
        own_share,
        latest_send,
    })
}

/// Waits for `reading`; gives the server's memory after it has given the stalled client up, too.
async fn watch_while<T>(
    server: &Server,
    with_stalled: bool,
    reading: impl Future<Output = T>,
) -> Outcome<(T, Option<f64>)> {
    let (mut is_evicted, mut after_eviction) = (false, None);
    let mut look = tokio::time::interval(Duration::from_millis(500));
    tokio::pin!(reading);
    loop {
        tokio::select! {
            read = &mut reading => return Ok((read, after_eviction)),
            _ = look.tick(), if with_stalled && after_eviction.is_none() => {
                // The figure of the look after the one that saw it: by then everything is given back.
                if is_evicted {
                    after_eviction = Some(server.memory("VmRSS:")?);
                }
                is_evicted = server.evictions().await? > 0;
            }
        }
    }
}

/// The supplier: takes the feed's connection, and sends each update when it is due. Gives the latest that one was.
fn supply(listener: std::net::TcpListener, load: Load, start: &mpsc::Receiver<()>) -> Outcome<Duration> {
    listener.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (stream, _) = TcpListener::from_std(listener)?.accept().await?;
        stream.set_nodelay(true)?;
        let (mut to, mut from) = tokio_tungstenite::accept_async(stream).await?.split();
        start.recv()?;
        let (started, time) = (Instant::now(), Timestamp::now().micros());
        let mut latest = Duration::ZERO;
        for version in 1..=load.updates() {
            let due = load.due(version);
            tokio::time::sleep_until((started + due).into()).await;
            latest = latest.max(started.elapsed().saturating_sub(due));
            let updated_at = Timestamp::from_micros(time + due.as_micros() as i64).ok_or("no such time")?;
            to.send(Message::text(update(version, updated_at))).await?;
        }
        // Answers pings and waits until the feed goes.
        drop(tokio::time::timeout(Duration::from_millis(10), from.next()).await);
        Ok(latest)
    })
}

fn update(version: u64, updated_at: Timestamp) -> String {
    let price = |base: f64| base + (version % 100) as f64 / 100.0;
    format!(
        r#"{{"event_id":"{EVENT}","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{{"home":{:.3},"draw":{:.3},"away":{:.3}}},"updated_at":"{updated_at}","source":"bench","version":{version}}}"#,
        price(1.5),
        price(3.2),
        price(4.5)
    )
}

/// A client that reads frames by hand: a full client would take more of the machine than the server.
struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    updates: u64,
}

impl Client {
    /// Connects, subscribes and reads the snapshot. A narrow one has small buffers, so that it stalls soon.
    async fn connect(address: SocketAddr, is_narrow: bool) -> Outcome<Client> {
        let socket = TcpSocket::new_v4()?;
        if is_narrow {
            socket.set_recv_buffer_size(4_096)?;
            SockRef::from(&socket).set_tcp_mss(536)?;
        }
        let mut client =
            Client { stream: socket.connect(address).await?, bytes: Vec::with_capacity(READ_AT_ONCE), updates: 0 };
        let handshake = format!(
            "GET /ws/odds HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.stream.write_all(handshake.as_bytes()).await?;
        let text = format!(r#"{{"type":"subscribe","eventId":"{EVENT}"}}"#);
        // Masked with zeros.
        let subscribe = [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat();
        client.stream.write_all(&subscribe).await?;
        let head_end = b"\r\n\r\n";
        let has_snapshot = |bytes: &[u8]| {
            let head = bytes.windows(head_end.len()).position(|window| window == head_end);
            head.is_some_and(|end| frame(&bytes[end + head_end.len()..]).is_some())
        };
        while !has_snapshot(&client.bytes) {
            if client.stream.read_buf(&mut client.bytes).await? == 0 {
                return Err("closed before the snapshot".into());
            }
        }
        client.bytes.clear();
        Ok(client)
    }

    /// Reads until the last update or the deadline.
    async fn read_to(
        mut self,
        last: u64,
        deadline: tokio::time::Instant,
        delays: Rc<RefCell<Histogram<u64>>>,
    ) -> Outcome<Client> {
        while self.updates < last {
            self.bytes.reserve(READ_AT_ONCE);
            let Ok(read) = tokio::time::timeout_at(deadline, self.stream.read_buf(&mut self.bytes)).await else {
                break;
            };
            if read? == 0 {
                break;
            }
            let now = Timestamp::now().micros();
            let mut taken = 0;
            while let Some((payload, length)) = frame(&self.bytes[taken..]) {
                if let Some(updated_at) = updated_at(payload) {
                    self.updates += 1;
                    delays.borrow_mut().saturating_record((now - updated_at?.micros()).max(1) as u64);
                }
                taken += length;
            }
            self.bytes.drain(..taken);
        }
        Ok(self)
    }
}

/// The first whole frame of the server: its content, and its length in all.
fn frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (start, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..10)?.first_chunk()?) as usize),
        length => (2, usize::from(length)),
    };
    Some((bytes.get(start..start + length)?, start + length))
}

fn updated_at(payload: &[u8]) -> Option<Outcome<Timestamp>> {
    let text = std::str::from_utf8(payload).ok().filter(|text| text.starts_with(r#"{"type":"update""#))?;
    let (_, rest) = text.split_once(r#""updated_at":""#)?;
    Some(rest.split('"').next().unwrap_or_default().parse::<Timestamp>().map_err(Into::into))
}

/// The real binary, in a process of its own.
struct Server {
    child: Child,
    odds: SocketAddr,
    metrics: SocketAddr,
}

impl Server {
    fn start(folder: &Path, supplier: SocketAddr) -> Outcome<Server> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sports-bet"));
        command.current_dir(folder).env("NO_COLOR", "1").env("ROLE", "ingest,processor,odds");
        command.env("SUPPLIER_URLS", format!("ws://{supplier}/ws")).env("SUPPLIER_READ_TIMEOUT", "10m");
        for port in ["HTTP_PORT_ODDS", "METRICS_PORT_ODDS", "METRICS_PORT_INGEST", "METRICS_PORT_PROCESSOR"] {
            command.env(port, "0");
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().ok_or("no stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let (mut odds, mut metrics, mut log) = (None, None, String::new());
        // No line is waited for beyond the invitation: the next one comes only once the supplier answers.
        while metrics.is_none() {
            let Some(line) = lines.next().transpose()? else { break };
            let address = |mark: &str| line.split_once(mark)?.1.split(['/', ',', ' ']).next()?.parse().ok();
            odds = odds.or_else(|| address("REST at http://"));
            metrics = line.contains("/metrics: ").then(|| address("odds http://")).flatten();
            log += &format!("{line}\n");
        }
        let (Some(odds), Some(metrics)) = (odds, metrics) else { return Err(log.into()) };
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Server { child, odds, metrics })
    }

    fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// A figure of the process's memory, in MiB.
    fn memory(&self, name: &str) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such figure")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1_024.0)
    }

    async fn evictions(&self) -> Outcome<u64> {
        install_provider();
        let page = reqwest::get(format!("http://{}/metrics", self.metrics)).await?.text().await?;
        let value = page.lines().find_map(|line| line.strip_prefix("odds_ws_evictions_total "));
        Ok(value.ok_or("no such metric")?.parse()?)
    }

    fn stop(&mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Seconds of CPU that a process has taken.
fn cpu(process: &str) -> Outcome<f64> {
    /// What the kernel counts in, on every Linux of today.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no such process")?.1.split_whitespace().collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .ok_or("no such field")?
            .parse::<f64>()
            .map_err(Into::<Box<dyn std::error::Error + Send + Sync>>::into)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
