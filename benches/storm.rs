//! A reconnect storm: 2,000 clients, each on one of 20 events with 20 markets, are cut off. Four
//! markets of each event change. Then all clients come back at once, with `since` and `epoch`, and
//! for comparison without them. Measures the bytes that they receive, and the time until the last
//! of them shows the current prices.
//!
//! Run with `cargo bench --bench storm`. Settings: `BENCH_SOCKETS`, `BENCH_EVENTS`, `BENCH_MARKETS`
//! of each event, `BENCH_CHANGED` of them, `BENCH_ROUNDS`, and every setting of the server under its
//! own name.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;
use sports_bet_platform::domain::timestamp::Timestamp;

use support::client::{Client, frame, masked, request_upgrade};
use support::engines::Folder;
use support::server::Server;
use support::supplier::{Feed, Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, setting, until};

/// How long the clients wait if none of them has received anything.
const NAP: Duration = Duration::from_micros(50);
const WAIT_LIMIT: Duration = Duration::from_secs(60);

fn main() -> Outcome<()> {
    machine::pin(machine::CLIENT_CORE)?;
    // The server needs two descriptors per client.
    let most = usize::try_from(machine::open_files(10_000)? - 500)? / 2;
    let number = |name, default| Outcome::Ok(usize::try_from(setting(name, default)?)?);
    let markets = number("BENCH_MARKETS", 20)?;
    let size = Size {
        clients: number("BENCH_SOCKETS", 2_000)?.min(most),
        events: number("BENCH_EVENTS", 20)?,
        markets,
        changed: number("BENCH_CHANGED", 4)?.min(markets),
    };
    let rounds = setting("BENCH_ROUNDS", 3)?;
    let mut storms = Storms::start(size)?;
    let mut resumed = Vec::new();
    let mut full = Vec::new();
    for _ in 0..rounds {
        resumed.push(storms.storm(true)?);
        full.push(storms.storm(false)?);
    }
    print("storm", &rows(size, &resumed, &full))
}

#[derive(Clone, Copy)]
struct Size {
    clients: usize,
    events: usize,
    markets: usize,
    /// The markets of each event that change while nobody is connected.
    changed: usize,
}

/// What one storm took.
struct Storm {
    bytes: usize,
    time: Duration,
    /// CPU time of the server, and of this process.
    cpu: Duration,
    own_cpu: Duration,
}

fn rows(size: Size, resumed: &[Storm], full: &[Storm]) -> Vec<Row> {
    let of =
        |storms: &[Storm], figure: fn(&Storm) -> f64| median(storms.iter().map(figure).collect());
    let row = |what: &str, unit, figure: fn(&Storm) -> f64| {
        let name = format!("{} clients come back, {what}", size.clients);
        Row::new(name, of(resumed, figure), unit).beside("full snapshots", of(full, figure))
    };
    let missed = format!("{} of {} markets have changed", size.changed, size.markets);
    vec![
        row("received", "MiB", |storm| storm.bytes as f64 / 1_048_576.0)
            .at_most(0.5)
            .remark(format!("{missed}; middle of {} pairs", resumed.len())),
        row("all are current after", "ms", |storm| {
            storm.time.as_secs_f64() * 1_000.0
        })
        .remark(format!(
            "the server took {:.0} % of its core, the clients {:.0} % of theirs",
            of(resumed, |storm| percent(storm.cpu, storm.time)),
            of(resumed, |storm| percent(storm.own_cpu, storm.time)),
        )),
        row("CPU of the server", "ms", |storm| {
            storm.cpu.as_secs_f64() * 1_000.0
        })
        .remark("with the handshakes"),
    ]
}

fn percent(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64() * 100.0
}

/// From where an event is resumed.
struct Token {
    since: u64,
    epoch: String,
}

/// The platform, its supplier, and the events.
struct Storms {
    size: Size,
    server: Server,
    feed: Feed,
    version: u64,
    _supplier: Supplier,
    _folder: Folder,
}

impl Storms {
    fn start(size: Size) -> Outcome<Storms> {
        let folder = Folder::embedded();
        let supplier = Supplier::listen()?;
        let places = (size.clients + 10).to_string();
        let variables = [
            ("SUPPLIER_URLS", &*supplier.url()?),
            ("WS_MAX_SESSIONS", &places),
            ("HTTP_MAX_CONNECTIONS", &places),
        ];
        let roles = "ingest,processor,odds";
        let server = Server::start(roles, &folder, &variables, Some(machine::server_core()))?;
        let feed = supplier.accept()?;
        server.until_ready()?;
        let mut storms = Storms {
            size,
            server,
            feed,
            version: 0,
            _supplier: supplier,
            _folder: folder,
        };
        storms.change(size.markets)?;
        Ok(storms)
    }

    /// Changes this many markets of each event, and waits until each book has the changes.
    fn change(&mut self, markets: usize) -> Outcome<()> {
        self.version += 1;
        let version = self.version;
        let now = Timestamp::now();
        for event in 0..self.size.events {
            let market =
                |market| update(&name_of(event), &format!("market_{market}"), version, now);
            self.feed.send((0..markets).map(market))?;
        }
        for event in 0..self.size.events {
            until("the changes are shown", || {
                let snapshot = self.snapshot(event)?;
                let current = count(&snapshot, &format!(r#""version":{version}}}"#));
                // The market that the original shows is there once more.
                Ok((current == markets + 1).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The snapshot of a client that does not resume.
    fn snapshot(&self, event: usize) -> Outcome<String> {
        let mut client = Client::connect(self.server.odds()?)?;
        client.send(&subscribe(event, None))?;
        Ok(std::str::from_utf8(client.next()?)?.to_owned())
    }

    fn token(&self, event: usize) -> Outcome<Token> {
        // The epoch is read from the database in the background.
        until("the epoch is known", || {
            let snapshot = self.snapshot(event)?;
            let field = |name: &str| snapshot.split_once(name)?.1.split([',', '"']).next();
            let (Some(since), Some(epoch)) = (field(r#""seq":"#), field(r#""epoch":""#)) else {
                return Ok(None);
            };
            let epoch = epoch.to_owned();
            Ok(Some(Token {
                since: since.parse()?,
                epoch,
            }))
        })
    }

    /// Connects all clients, cuts them off, changes markets, and measures their return.
    fn storm(&mut self, resume: bool) -> Outcome<Storm> {
        let Size {
            clients,
            events,
            markets,
            changed,
        } = self.size;
        let address = self.server.odds()?;
        let all = (0..clients).map(|client| subscribe(client % events, None));
        let connected = come_back(address, all.collect(), markets)?.1;
        let tokens = (0..events).map(|event| self.token(event));
        let tokens = tokens.collect::<Outcome<Vec<Token>>>()?;
        for stream in connected {
            // Cut off: the server gets a reset.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        until("all are cut off", || {
            Ok((self.server.metric("odds", "odds_ws_sessions")? == 0.0).then_some(()))
        })?;
        self.change(changed)?;
        let token = |event: usize| resume.then(|| &tokens[event]);
        let requests = (0..clients).map(|client| client % events);
        let requests = requests
            .map(|event| subscribe(event, token(event)))
            .collect();
        let cpu = self.server.cpu()?;
        let own_cpu = machine::cpu("self")?;
        let began = Instant::now();
        let expected = if resume { changed } else { markets };
        let (bytes, streams) = come_back(address, requests, expected)?;
        let time = began.elapsed();
        let cpu = self.server.cpu()? - cpu;
        let own_cpu = machine::cpu("self")? - own_cpu;
        for stream in streams {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(Storm {
            bytes,
            time,
            cpu,
            own_cpu,
        })
    }
}

fn name_of(event: usize) -> String {
    format!("E{event:04}")
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

/// A `subscribe` of the extended protocol.
fn subscribe(event: usize, token: Option<&Token>) -> String {
    let event = name_of(event);
    let resume =
        token.map(|Token { since, epoch }| format!(r#""since":{since},"epoch":"{epoch}""#));
    let fields = resume.unwrap_or_else(|| r#""conflateMs":0"#.to_owned());
    format!(r#"{{"type":"subscribe","eventId":"{event}",{fields}}}"#)
}

/// A client on its way back.
struct Returning {
    stream: TcpStream,
    request: Vec<u8>,
    received: Vec<u8>,
    is_upgraded: bool,
}

/// Connects a client for each request. Returns how many bytes of snapshots they received until each
/// had its own, with this many markets.
fn come_back(
    address: SocketAddr,
    requests: Vec<String>,
    markets: usize,
) -> Outcome<(usize, Vec<TcpStream>)> {
    let began = Instant::now();
    let mut returning = Vec::with_capacity(requests.len());
    for request in requests {
        let mut stream = TcpStream::connect(address)?;
        request_upgrade(&mut stream, address, "/ws/odds")?;
        stream.set_nonblocking(true)?;
        returning.push(Returning {
            stream,
            request: masked(&request)?,
            received: Vec::new(),
            is_upgraded: false,
        });
    }
    let mut bytes = 0;
    let mut current = Vec::with_capacity(returning.len());
    while !returning.is_empty() {
        let mut waiting = Vec::with_capacity(returning.len());
        let before = (bytes, current.len());
        for mut client in returning {
            match client.advance(markets)? {
                Some(length) => {
                    bytes += length;
                    current.push(client.stream);
                }
                None => waiting.push(client),
            }
        }
        returning = waiting;
        if before == (bytes, current.len()) {
            std::thread::sleep(NAP);
        }
        if began.elapsed() > WAIT_LIMIT {
            return Err(format!("{} clients are not back in time", returning.len()).into());
        }
    }
    Ok((bytes, current))
}

impl Returning {
    /// Reads what has arrived. Returns the length of the snapshot once it is complete.
    fn advance(&mut self, markets: usize) -> Outcome<Option<usize>> {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err("the server has closed a connection".into()),
            Ok(read) => self.received.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if !self.is_upgraded {
            let end = self
                .received
                .windows(4)
                .position(|window| window == b"\r\n\r\n");
            let Some(end) = end else { return Ok(None) };
            self.received.drain(..end + 4);
            self.is_upgraded = true;
            self.stream.write_all(&self.request)?;
        }
        let Some((start, end)) = frame(&self.received) else {
            return Ok(None);
        };
        let snapshot = std::str::from_utf8(&self.received[start..end])?;
        let states = count(snapshot, r#"{"seq":"#);
        if snapshot.starts_with(r#"{"type":"snapshot""#) && states == markets {
            Ok(Some(end))
        } else {
            Err(format!("{states} markets instead of {markets}: {snapshot}").into())
        }
    }
}
