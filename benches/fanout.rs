//! CPU cost of one frame to one socket: one event with 1,000 and 10,000 sockets. Closed loop: the
//! supplier sends 1 or 16 changes at once, to 16 markets of the event, and sends the next when
//! every socket has received them all.
//!
//! The baselines run this program again in separate processes on the same core, with prebuilt
//! frames of the same length: a tokio writer (one write per frame, or 16 frames joined into one
//! write), and actix-web-actors sessions that receive the frames by `try_send` from the thread they
//! run on.
//!
//! The same is measured with 1,000 gRPC streams of 10 connections.
//!
//! Run with `cargo bench --bench fanout`. Settings: `BENCH_SECONDS` per run, `BENCH_ROUNDS`,
//! `BENCH_SOCKETS` to measure a single number of sockets.

mod support;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web::{App, HttpRequest, HttpServer, web};
use actix_web_actors::ws;
use bytestring::ByteString;
use sports_bet_platform::domain::timestamp::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use support::client::Client;
use support::client_pool::ClientPool;
use support::engines::Folder;
use support::server::Server;
use support::streams::Streams;
use support::supplier::{Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, setting};

const EVENT: &str = "MATCH_001";
/// Changes caused by one goal.
const BURST: usize = 16;
/// Makes this program run as the baseline; the value is the frame length.
const BE_WRITER: &str = "BENCH_WRITER";
const BE_SESSIONS: &str = "BENCH_SESSIONS";
/// A server that uses at least this share of its core is the bottleneck.
const FULL: f64 = 0.9;

fn main() -> Outcome<()> {
    if let Ok(length) = std::env::var(BE_WRITER) {
        return bare_writer(&"x".repeat(length.parse()?));
    }
    if let Ok(length) = std::env::var(BE_SESSIONS) {
        return bare_sessions("x".repeat(length.parse()?).into());
    }
    machine::pin(machine::CLIENT_CORE)?;
    // The server needs two descriptors per client; this process needs one per client of each side.
    let most = (usize::try_from(machine::open_files(21_000)?)? - 500) / 2;
    let sizes = match setting("BENCH_SOCKETS", 0)? {
        0 => vec![1_000, 10_000],
        size => vec![usize::try_from(size)?],
    };
    let mut rows = Vec::new();
    for size in sizes {
        let mut measured = measure(size.min(most))?;
        if size > most {
            let last = measured
                .pop()
                .map(|row| row.remark(format!("not {size}: no more files may be open here")));
            measured.extend(last);
        }
        rows.extend(measured);
    }
    rows.extend(measure_streams(setting("BENCH_STREAMS", 1_000)?)?);
    print("fanout", &rows)
}

fn measure(sockets: usize) -> Outcome<Vec<Row>> {
    let (mut ours, length) = Side::ours(sockets)?;
    // One after the other: some systems do not allow a process the sockets of all three at once.
    let [writer, writer_16] = pairs(&mut ours, &mut Side::bare(BE_WRITER, length, sockets)?)?;
    let [actors, actors_16] = pairs(&mut ours, &mut Side::bare(BE_SESSIONS, length, sockets)?)?;
    let row = |what: &str, value, unit| Row::new(format!("{sockets} sockets, {what}"), value, unit);
    let (one, joined, sessions) = (
        "one write a frame",
        "16 joined to one write",
        "bare actix-web-actors",
    );
    Ok(vec![
        row("CPU a frame, 1 a round", writer.ours.cost(), "µs")
            .beside(one, writer.bare.cost())
            .at_most(1.4)
            .remark(format!("frames of {length} bytes; {}", writer.limits())),
        row("CPU a frame, 1 a round", actors.ours.cost(), "µs")
            .beside(sessions, actors.bare.cost())
            .remark(actors.limits()),
        row("frames, 16 a round", writer_16.ours.rate(), "/s")
            .beside("our own, 1 a round", writer.ours.rate())
            .at_least(6.0),
        row("frames, 16 a round", actors_16.ours.rate(), "/s")
            .beside(sessions, actors_16.bare.rate())
            .at_least(0.9)
            .remark(actors_16.limits()),
        row("CPU a frame, 16 a round", actors_16.ours.cost(), "µs")
            .beside(sessions, actors_16.bare.cost()),
        row("CPU a frame, 16 a round", writer_16.ours.cost(), "µs")
            .beside(joined, writer_16.bare.cost())
            .remark(writer_16.limits()),
    ])
}

/// gRPC streams beside as many sockets of the same server.
fn measure_streams(streams: u64) -> Outcome<Vec<Row>> {
    let streams = usize::try_from(streams)?;
    let (mut sockets, _) = Side::ours(streams)?;
    let [one, burst] = pairs(&mut Side::streams(streams)?, &mut sockets)?;
    let row = |what: &str, pairs: &Pairs| {
        Row::new(
            format!("{streams} gRPC streams, {what}"),
            pairs.ours.cost(),
            "µs",
        )
        .beside("WebSocket", pairs.bare.cost())
    };
    let limits = |pairs: &Pairs| {
        let share = |share: f64| share * 100.0;
        format!(
            "CPU of the server {:.0} % of its core, of the client {:.0} %",
            share(pairs.ours.of(|run| run.server_share)),
            share(pairs.ours.of(|run| run.own_share)),
        )
    };
    Ok(vec![
        row("CPU a message, 1 a round", &one).remark(limits(&one)),
        row("CPU a message, 16 a round", &burst).remark(limits(&burst)),
    ])
}

/// The figures of both sides, from alternating runs.
struct Pairs {
    ours: Runs,
    bare: Runs,
}

/// With 1 frame per round, and with 16.
fn pairs(ours: &mut Side, bare: &mut Side) -> Outcome<[Pairs; 2]> {
    let time = Duration::from_secs(setting("BENCH_SECONDS", 1)?);
    let rounds = setting("BENCH_ROUNDS", 5)?;
    let mut measure = |burst| {
        // Both sides warm up first.
        ours.run(burst, time / 2)?;
        bare.run(burst, time / 2)?;
        let mut pairs = Pairs {
            ours: Runs(Vec::new()),
            bare: Runs(Vec::new()),
        };
        for _ in 0..rounds {
            pairs.ours.0.push(ours.run(burst, time)?);
            pairs.bare.0.push(bare.run(burst, time)?);
        }
        Outcome::Ok(pairs)
    };
    Ok([measure(1)?, measure(BURST)?])
}

impl Pairs {
    /// How much of its core each server used, and whether the server was the bottleneck.
    fn limits(&self) -> String {
        let of = |runs: &Runs| {
            (
                runs.of(|run| run.server_share),
                runs.of(|run| run.own_share),
            )
        };
        let ((ours, own), (bare, own_bare)) = (of(&self.ours), of(&self.bare));
        let mut limits = format!(
            "CPU of the server {:.0} % of its core, of the bare one {:.0} %",
            ours * 100.0,
            bare * 100.0
        );
        if ours < FULL || bare < FULL {
            limits += &format!(
                "; the client, at {:.0} % and {:.0} %, was a part of the limit",
                own * 100.0,
                own_bare * 100.0
            );
        }
        limits
    }
}

struct Run {
    frames: usize,
    elapsed: f64,
    server_cpu: f64,
    server_share: f64,
    own_share: f64,
}

struct Runs(Vec<Run>);

impl Runs {
    fn of(&self, figure: fn(&Run) -> f64) -> f64 {
        median(self.0.iter().map(figure).collect())
    }

    /// Server CPU per frame, in microseconds.
    fn cost(&self) -> f64 {
        self.of(|run| run.server_cpu * 1e6 / run.frames as f64)
    }

    fn rate(&self) -> f64 {
        self.of(|run| run.frames as f64 / run.elapsed)
    }
}

/// The clients of a server.
enum Clients {
    Sockets(ClientPool),
    Streams(Streams),
}

impl Clients {
    fn len(&self) -> usize {
        match self {
            Clients::Sockets(sockets) => sockets.len(),
            Clients::Streams(streams) => streams.len(),
        }
    }

    /// Reads this many messages from each.
    fn take(&mut self, messages: usize) -> Outcome<()> {
        match self {
            Clients::Sockets(sockets) => sockets.take(messages),
            Clients::Streams(streams) => streams.take(messages),
        }
    }
}

/// A server, its clients, and the command that makes it write a given number of frames to each.
struct Side {
    process: String,
    clients: Clients,
    tell: Box<dyn FnMut(usize) -> Outcome<()>>,
}

impl Side {
    /// The real server, and the length of its frames.
    fn ours(sockets: usize) -> Outcome<(Side, usize)> {
        Side::real(sockets, false)
    }

    /// The real server with gRPC streams.
    fn streams(streams: usize) -> Outcome<Side> {
        Ok(Side::real(streams, true)?.0)
    }

    fn real(clients: usize, are_streams: bool) -> Outcome<(Side, usize)> {
        let folder = Folder::embedded();
        let supplier = Supplier::listen()?;
        let most = (clients + 10).to_string();
        // Pings are disabled: the baselines send none either, and another bench measures their
        // cost.
        let variables = [
            ("SUPPLIER_URLS", &*supplier.url()?),
            ("HTTP_WORKERS_ODDS", "1"),
            ("WS_MAX_SESSIONS", &most),
            ("WS_PING_INTERVAL", "30m"),
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
        let mut first = Client::connect(server.odds()?)?;
        first.subscribe(EVENT)?;
        feed.send([update(EVENT, "m00", 1_000_000, Timestamp::now())])?;
        let length = first.next()?.len();
        let clients = if are_streams {
            drop(first);
            Clients::Streams(Streams::open(server.grpc()?, EVENT, clients)?)
        } else {
            let mut all = vec![first.stream];
            while all.len() < clients {
                let mut client = Client::connect(server.odds()?)?;
                client.subscribe(EVENT)?;
                all.push(client.stream);
            }
            Clients::Sockets(ClientPool::new(all)?)
        };
        let process = server.id();
        let mut version = 1_000_000;
        let tell = move |burst| {
            // Both live as long as commands are sent to the server.
            let _kept = (&server, &folder);
            version += 1;
            let now = Timestamp::now();
            feed.send(
                (0..burst).map(|market| update(EVENT, &format!("m{market:02}"), version, now)),
            )
        };
        Ok((
            Side {
                process,
                clients,
                tell: Box::new(tell),
            },
            length,
        ))
    }

    fn bare(which: &str, length: usize, sockets: usize) -> Outcome<Side> {
        let bare = Bare::start(which, length)?;
        let mut control = TcpStream::connect(bare.control)?;
        control.set_nodelay(true)?;
        let connect = |_| Ok(Client::connect(bare.address)?.stream);
        let all = (0..sockets).map(connect).collect::<Outcome<Vec<_>>>()?;
        let process = bare.child.id().to_string();
        let tell = move |burst| {
            let _kept = &bare;
            Ok(control.write_all(&[u8::try_from(burst)?])?)
        };
        Ok(Side {
            process,
            clients: Clients::Sockets(ClientPool::new(all)?),
            tell: Box::new(tell),
        })
    }

    fn run(&mut self, burst: usize, time: Duration) -> Outcome<Run> {
        let (cpu, own, began) = (
            machine::cpu(&self.process)?,
            machine::cpu("self")?,
            Instant::now(),
        );
        let mut frames = 0;
        while began.elapsed() < time {
            (self.tell)(burst)?;
            self.clients.take(burst)?;
            frames += burst * self.clients.len();
        }
        let elapsed = began.elapsed().as_secs_f64();
        let (cpu, own) = (
            machine::cpu(&self.process)? - cpu,
            machine::cpu("self")? - own,
        );
        Ok(Run {
            frames,
            elapsed,
            server_cpu: cpu.as_secs_f64(),
            server_share: cpu.as_secs_f64() / elapsed,
            own_share: own.as_secs_f64() / elapsed,
        })
    }
}

/// This program as a baseline. Killed on drop.
struct Bare {
    child: Child,
    address: SocketAddr,
    control: SocketAddr,
}

impl Bare {
    fn start(which: &str, length: usize) -> Outcome<Bare> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env(which, length.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        machine::pin(machine::server_core())?;
        let child = command.spawn();
        machine::pin(machine::CLIENT_CORE)?;
        let mut child = child?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let (address, control) = line.trim().split_once(' ').ok_or("no addresses")?;
        Ok(Bare {
            address: address.parse()?,
            control: control.parse()?,
            child,
        })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Upgrades every connection, and writes to all of them on command: one byte gives the number of
/// frames, joined into one write.
fn bare_writer(content: &str) -> Outcome<()> {
    let ready = [
        &[0x81, 126],
        &u16::try_from(content.len())?.to_be_bytes()[..],
        content.as_bytes(),
    ]
    .concat();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let commands = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{} {}", listener.local_addr()?, commands.local_addr()?);
        let (mut control, _) = commands.accept().await?;
        let upgraded: Rc<RefCell<Vec<tokio::net::TcpStream>>> = Rc::default();
        let sockets = upgraded.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                if upgrade(&mut socket).await.is_ok() {
                    upgraded.borrow_mut().push(socket);
                }
            }
        });
        let mut all = Vec::new();
        loop {
            let frames = ready.repeat(control.read_u8().await?.into());
            all.append(&mut *sockets.borrow_mut());
            for socket in &mut all {
                let written = socket.try_write(&frames).unwrap_or(0);
                if written < frames.len() {
                    socket.write_all(&frames[written..]).await?;
                }
            }
        }
    }))
}

async fn upgrade(socket: &mut tokio::net::TcpStream) -> Outcome<()> {
    socket.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await? == 0 {
            return Err("no request".into());
        }
    }
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    Ok(socket.write_all(answer).await?)
}

/// A session that writes every frame it receives.
struct Session;

#[derive(Message)]
#[rtype(result = "()")]
struct Push(ByteString);

type Sessions = RefCell<Vec<Recipient<Push>>>;

impl Actor for Session {
    type Context = ws::WebsocketContext<Session>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(64);
    }
}

impl Handler<Push> for Session {
    type Result = ();

    fn handle(&mut self, push: Push, context: &mut Self::Context) {
        context.text(push.0);
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Session {
    fn handle(&mut self, _: Result<ws::Message, ws::ProtocolError>, _: &mut Self::Context) {}
}

async fn open(
    sessions: web::Data<Sessions>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<actix_web::HttpResponse> {
    let (session, answer) =
        ws::WsResponseBuilder::new(Session, &request, payload).start_with_addr()?;
    sessions.borrow_mut().push(session.recipient());
    Ok(answer)
}

/// Sends the frame to each session on command: one byte gives the number of repetitions.
fn bare_sessions(content: ByteString) -> Outcome<()> {
    let commands = std::net::TcpListener::bind("127.0.0.1:0")?;
    commands.set_nonblocking(true)?;
    let control = commands.local_addr()?;
    let commands = Arc::new(commands);
    actix_web::rt::System::new().block_on(async move {
        // Created once, in the only thread that runs sessions.
        let app = move || {
            let sessions = web::Data::new(Sessions::default());
            let given = give(commands.try_clone(), sessions.clone(), content.clone());
            actix_web::rt::spawn(async move {
                if let Err(error) = given.await {
                    eprintln!("{error}");
                }
            });
            App::new()
                .app_data(sessions)
                .route("/ws/odds", web::get().to(open))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .on_connect(|stream, _| {
                let stream = stream.downcast_ref::<actix_web::rt::net::TcpStream>();
                let _ = stream.map(|stream| stream.set_nodelay(true));
            })
            .bind("127.0.0.1:0")?;
        println!("{} {control}", server.addrs().first().ok_or("no address")?);
        Ok(server.run().await?)
    })
}

async fn give(
    commands: std::io::Result<std::net::TcpListener>,
    sessions: web::Data<Sessions>,
    content: ByteString,
) -> Outcome<()> {
    let (mut control, _) = tokio::net::TcpListener::from_std(commands?)?
        .accept()
        .await?;
    loop {
        let frames = control.read_u8().await?;
        for session in sessions.borrow().iter() {
            for _ in 0..frames {
                session
                    .try_send(Push(content.clone()))
                    .map_err(|error| error.to_string())?;
            }
        }
    }
}
