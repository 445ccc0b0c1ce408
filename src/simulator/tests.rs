//! The simulator over real sockets, and the broadcaster with probes as consumers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use actix_web::{App, HttpServer, dev::ServerHandle};
use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::broadcaster::{Join, Push};
use super::*;
use crate::config::settings::SimulatedMarket;
use crate::domain::odds::update::OddsUpdate;
use crate::runtime::connection::ConnectionHandle;

const DEADLINE: Duration = Duration::from_secs(30);

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Running {
    handle: SimulatorHandle,
    metrics: SimulatorMetrics,
    address: SocketAddr,
    server: ServerHandle,
}

fn settings(rate: f64) -> SimulatorSettings {
    SimulatorSettings {
        simulator_events: 3,
        simulator_rate: rate,
        simulator_seed: Some(1),
        simulator_markets: vec![SimulatedMarket::OneXTwo, SimulatedMarket::BothTeamsToScore],
        simulator_match_duration: Duration::ZERO,
        simulator_confirm_reject_share: 0.2,
        simulator_confirm_delay: Duration::ZERO,
        simulator_confirm_silent_share: 0.0,
        simulator_confirm_garbage_share: 0.0,
        simulator_confirm_error_share: 0.0,
    }
}

fn run(rate: f64) -> Running {
    run_with(settings(rate))
}

fn run_with(settings: SimulatorSettings) -> Running {
    // The HTTP clients in these tests do not install a TLS provider themselves.
    crate::runtime::tls::install_provider();
    let metrics = SimulatorMetrics::new().unwrap();
    let handle = start(&settings, metrics.clone(), &Arbiter::current());
    let routes = handle.routes();
    let server = HttpServer::new(move || App::new().configure(routes.clone()))
        .workers(1)
        .disable_signals()
        .shutdown_timeout(1)
        .on_connect(|connection, data| {
            let stream = connection.downcast_ref::<TcpStream>().unwrap();
            let socket = SockRef::from(stream);
            // A small buffer, so that a consumer that does not read is detected quickly.
            socket.set_send_buffer_size(16 * 1024).unwrap();
            data.insert(ConnectionHandle::of(stream).unwrap());
        })
        .bind(("127.0.0.1", 0))
        .unwrap();
    let address = server.addrs()[0];
    let server = server.run();
    let running = Running {
        handle,
        metrics,
        address,
        server: server.handle(),
    };
    actix::spawn(server);
    running
}

impl Running {
    async fn connect(&self) -> Client {
        connect_async(format!("ws://{}/ws", self.address))
            .await
            .unwrap()
            .0
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn end(self) {
        self.handle.stop().await;
        self.server.stop(false).await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("in time")
}

async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The next message that is not a ping.
async fn next(client: &mut Client) -> Option<Message> {
    loop {
        match within(client.next()).await?.ok()? {
            Message::Ping(_) => {}
            other => return Some(other),
        }
    }
}

async fn next_update(client: &mut Client) -> OddsUpdate {
    let message = next(client).await.expect("a message");
    OddsUpdate::from_json(message.to_text().unwrap().as_bytes()).unwrap()
}

async fn close_code(client: &mut Client) -> CloseCode {
    loop {
        if let Message::Close(reason) = next(client).await.expect("a close frame") {
            return reason.unwrap().code;
        }
    }
}

/// Checks that no update of any market is skipped.
#[derive(Default)]
struct VersionCheck(HashMap<String, i64>);

impl VersionCheck {
    fn take(&mut self, update: &OddsUpdate) {
        let version = update.revision.version;
        let key = format!("{} {}", update.event_id, update.market);
        if let Some(before) = self.0.insert(key, version) {
            assert_eq!(version, before + 1);
        }
    }
}

#[actix_web::test]
async fn consumer_gets_state_then_updates() {
    let running = run(200.0);
    let mut first = running.connect().await;
    let mut versions = VersionCheck::default();
    for _ in 0..6 {
        versions.take(&next_update(&mut first).await);
    }
    assert_eq!(versions.0.len(), 6, "all six markets before any update");
    for _ in 0..50 {
        versions.take(&next_update(&mut first).await);
    }
    let mut late = running.connect().await;
    let mut versions = VersionCheck::default();
    let mut state = Vec::new();
    for _ in 0..6 {
        let update = next_update(&mut late).await;
        versions.take(&update);
        state.push(update.revision.version);
    }
    assert!(state.iter().all(|version| *version > 5), "{state:?}");
    versions.take(&next_update(&mut late).await);
    running.end().await;
}

#[actix_web::test]
async fn consumers_get_same_updates() {
    let running = run(500.0);
    let mut one = running.connect().await;
    let mut other = running.connect().await;
    until(|| running.handle.consumers() == 2).await;
    assert_eq!(running.metrics.connections.get(), 2);
    // The initial state of the second consumer may be some updates newer; from its first update on,
    // both agree.
    for _ in 0..6 {
        next(&mut other).await.unwrap();
    }
    let first = next(&mut other).await.unwrap();
    while next(&mut one).await.unwrap() != first {}
    for _ in 0..200 {
        assert_eq!(
            next(&mut one).await.unwrap(),
            next(&mut other).await.unwrap()
        );
    }
    assert!(running.metrics.messages_sent.get() >= 2 * 206);
    assert!(running.metrics.updates.get() >= 200);
    drop(one);
    until(|| running.handle.consumers() == 1).await;
    running.end().await;
}

/// A consumer that stops reading is closed, and the other one misses no update.
#[actix_web::test]
async fn stalled_consumer_is_closed_alone() {
    let running = run(5_000.0);
    let mut good = running.connect().await;
    let mut stalled = TcpStream::connect(running.address).await.unwrap();
    SockRef::from(&stalled)
        .set_recv_buffer_size(4 * 1024)
        .unwrap();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stalled.write_all(upgrade.as_bytes()).await.unwrap();
    until(|| running.handle.consumers() == 2).await;

    let mut versions = VersionCheck::default();
    within(async {
        while running.metrics.lagging_closed.get() == 0 || running.handle.consumers() == 2 {
            versions.take(&next_update(&mut good).await);
        }
    })
    .await;
    for _ in 0..1_000 {
        versions.take(&next_update(&mut good).await);
    }
    assert_eq!(running.metrics.lagging_closed.get(), 1);
    assert_eq!(
        (
            running.handle.consumers(),
            running.metrics.connections.get()
        ),
        (1, 1)
    );
    // The connection of the stalled consumer is cut.
    let mut left = vec![0; 64 * 1024];
    within(async { while stalled.read(&mut left).await.is_ok_and(|count| count > 0) {} }).await;
    // It may reconnect and receives the state again.
    let mut again = running.connect().await;
    assert!(next_update(&mut again).await.revision.version > 1);
    running.end().await;
}

#[actix_web::test]
async fn stop_closes_consumers_with_1001() {
    let running = run(50.0);
    let mut client = running.connect().await;
    next_update(&mut client).await;
    let stop = running.handle.clone();
    let (code, ()) = tokio::join!(close_code(&mut client), async move { stop.stop().await });
    assert_eq!(code, CloseCode::Away);
    assert!(
        next(&mut client).await.is_none(),
        "the connection ends after the close frame"
    );
    assert_eq!(running.handle.consumers(), 0);
    let made = running.metrics.updates.get();
    let mut late = running.connect().await;
    assert_eq!(close_code(&mut late).await, CloseCode::Away);
    assert_eq!(running.metrics.updates.get(), made);
    assert_eq!(running.metrics.lagging_closed.get(), 0);
    running.end().await;
}

#[actix_web::test]
async fn pings_are_answered_other_messages_ignored() {
    let running = run(0.1);
    let mut client = running.connect().await;
    client.send(Message::text("hello")).await.unwrap();
    client.send(Message::binary(vec![1, 2])).await.unwrap();
    client.send(Message::Ping("there?".into())).await.unwrap();
    let answer = loop {
        match next(&mut client).await.unwrap() {
            Message::Text(_) => {}
            other => break other,
        }
    };
    assert_eq!(answer, Message::Pong("there?".into()));
    client.close(None).await.unwrap();
    until(|| running.handle.consumers() == 0).await;
    running.end().await;
}

#[actix_web::test]
async fn oversized_frame_closes_consumer() {
    let running = run(0.1);
    let mut client = running.connect().await;
    client
        .send(Message::text("x".repeat(20_000)))
        .await
        .unwrap();
    assert_eq!(close_code(&mut client).await, CloseCode::Size);
    until(|| running.handle.consumers() == 0).await;
    running.end().await;
}

#[actix_web::test]
async fn confirm_endpoint_answers_bets_and_errors() {
    let running = run(1.0);
    let http = reqwest::Client::new();
    let ask = |body: &str| {
        let request = http
            .post(running.url("/supplier/confirm"))
            .header("Content-Type", "application/json");
        let request = request.body(body.to_owned());
        async { within(request.send()).await.unwrap() }
    };
    let mut answers = Vec::new();
    for _ in 0..2 {
        let response =
            ask(r#"{"betId":"bet-1","userId":"u","eventId":"MATCH_001","stake_cents":500,"odd_value":1.87}"#).await;
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["content-type"].to_str().unwrap()
            ),
            (200, "application/json")
        );
        answers.push(response.text().await.unwrap());
    }
    assert_eq!(
        answers[0],
        r#"{"status":"REJECTED","providerRef":"SUP-bet-1","reason":"supplier_reject_mock"}"#
    );
    assert_eq!(answers[0], answers[1]);
    assert_eq!(
        running
            .metrics
            .confirmations
            .with_label_values(&["rejected"])
            .get(),
        2
    );

    let code = async |response: reqwest::Response| {
        let status = response.status().as_u16();
        let body: serde_json::Value = response.json().await.unwrap();
        assert!(body["message"].is_string());
        (status, body["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(code(ask("{").await).await, (400, "BAD_REQUEST".to_owned()));
    assert_eq!(
        code(ask(r#"{"betId":""}"#).await).await,
        (400, "BAD_REQUEST".to_owned())
    );
    assert_eq!(
        code(ask(&"x".repeat(100_000)).await).await,
        (413, "PAYLOAD_TOO_LARGE".to_owned())
    );
    let get = async |path: &str| within(http.get(running.url(path)).send()).await.unwrap();
    let response = get("/supplier/confirm").await;
    assert_eq!(response.headers()["allow"], "POST, OPTIONS");
    assert_eq!(code(response).await, (405, "METHOD_NOT_ALLOWED".to_owned()));
    assert_eq!(
        code(get("/elsewhere").await).await,
        (404, "NOT_FOUND".to_owned())
    );
    assert_eq!(
        code(get("/ws").await).await,
        (400, "BAD_HANDSHAKE".to_owned())
    );
    let posted = within(http.post(running.url("/ws")).send()).await.unwrap();
    assert_eq!(code(posted).await, (405, "METHOD_NOT_ALLOWED".to_owned()));
    assert_eq!(running.handle.consumers(), 0);
    running.end().await;
}

/// A session that processes nothing until it is released, then records the messages it receives.
struct Probe {
    held: Option<tokio::sync::oneshot::Receiver<()>>,
    taken: tokio::sync::mpsc::UnboundedSender<Push>,
}

impl Actor for Probe {
    type Context = Context<Probe>;

    fn started(&mut self, ctx: &mut Context<Probe>) {
        ctx.set_mailbox_capacity(2);
        if let Some(held) = self.held.take() {
            ctx.wait(async { drop(held.await) }.into_actor(self));
        }
    }
}

impl Handler<Push> for Probe {
    type Result = ();

    fn handle(&mut self, push: Push, _: &mut Context<Probe>) {
        self.taken.send(push).unwrap();
    }
}

/// A lagging consumer keeps the updates it was sent, is closed with 1013, and is cut off after its
/// grace period.
#[actix_web::test]
async fn lagging_consumer_gets_1013_and_cut_off() {
    let metrics = SimulatorMetrics::new().unwrap();
    let handle = start(&settings(500.0), metrics.clone(), &Arbiter::current());
    let (release, held) = tokio::sync::oneshot::channel();
    let (taken, mut pushes) = tokio::sync::mpsc::unbounded_channel();
    let probe = Probe {
        held: Some(held),
        taken,
    }
    .start();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    let socket = Some(ConnectionHandle::of(&ours).unwrap());
    let join = Join {
        id: 7,
        outlet: probe.recipient(),
        socket,
    };
    handle.shared.broadcaster.send(join).await.unwrap();

    until(|| metrics.lagging_closed.get() == 1).await;
    let mut byte = [0];
    assert_eq!(
        within(peer.read(&mut byte)).await.unwrap_or(0),
        0,
        "cut off"
    );
    release.send(()).unwrap();
    let mut versions = VersionCheck::default();
    let closed = loop {
        match within(pushes.recv()).await.expect("a close before the end") {
            Push::Frames(frames) => {
                frames.iter().for_each(|text| {
                    versions.take(&OddsUpdate::from_json(text.as_bytes()).unwrap())
                });
            }
            Push::Close(code) => break code,
        }
    };
    assert_eq!(u16::from(closed), 1013);
    assert!(
        within(pushes.recv()).await.is_none(),
        "nothing follows the close, and the sender is dropped"
    );
    handle.stop().await;
}

mod bets;
mod matches;
