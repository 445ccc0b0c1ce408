//! From supplier to socket: updates of a supplier reach the clients, REST and the history, once and
//! in order, whatever fails on the way. A doc comment names the mistake of the original that a test
//! guards against.

mod burst;
mod failover;
mod feed;
mod garbage;
mod order;
mod pressure;
mod restart;
mod results;
mod simulator;
mod suppliers;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sports_bet_platform::domain::ids::{EventId, MarketKey, MarketName};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Database, FakeSupplier, Folder, OddsClient, SupplierLink, TestPlatform, get_json, until, within,
};

/// A supplier connection served in the background: it sends queued frames and answers pings.
struct LiveLink {
    frames: mpsc::UnboundedSender<Message>,
    sent: watch::Receiver<usize>,
    pings: watch::Receiver<usize>,
    over: watch::Receiver<bool>,
}

impl LiveLink {
    /// Accepts the feed's next connection.
    async fn accept(supplier: &FakeSupplier) -> LiveLink {
        LiveLink::over(supplier.accept().await)
    }

    fn over(mut link: SupplierLink) -> LiveLink {
        let (frames, mut queue) = mpsc::unbounded_channel::<Message>();
        let (count_sent, sent) = watch::channel(0);
        let (count_ping, pings) = watch::channel(0);
        let (tell_over, over) = watch::channel(false);
        actix_web::rt::spawn(async move {
            loop {
                tokio::select! {
                    frame = queue.recv() => {
                        let Some(frame) = frame else { break };
                        if link.socket.send(frame).await.is_err() {
                            break;
                        }
                        count_sent.send_modify(|sent| *sent += 1);
                    }
                    received = link.socket.next() => match received {
                        Some(Ok(Message::Ping(_))) => count_ping.send_modify(|pings| *pings += 1),
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => break,
                    },
                }
            }
            let _ = tell_over.send(true);
        });
        LiveLink {
            frames,
            sent,
            pings,
            over,
        }
    }

    /// Queues a frame.
    fn send(&self, frame: impl Into<String>) {
        self.send_message(Message::text(frame.into()));
    }

    /// Queues any message, such as a binary or a close frame.
    fn send_message(&self, message: Message) {
        self.frames.send(message).unwrap();
    }

    /// Waits until the feed has disconnected.
    async fn until_over(&self) {
        within(
            "the feed disconnects",
            self.over.clone().wait_for(|over| *over),
        )
        .await
        .unwrap();
    }

    fn is_over(&self) -> bool {
        *self.over.borrow()
    }
}

/// A supplier time, `second` seconds into a day.
fn at(second: i64) -> String {
    let hours = second / 3_600;
    let minutes = second / 60 % 60;
    let seconds = second % 60;
    format!("2026-01-01T{hours:02}:{minutes:02}:{seconds:02}Z")
}

/// A frame of any market in the native format: two selections, and a price derived from second and
/// version.
fn market_frame(event: &str, market: &str, line: Option<f64>, second: i64, version: i64) -> String {
    let price = 1.1 + (second % 500) as f64 / 10.0 + (version % 100) as f64 / 1_000.0;
    let mut frame = json!({
        "event_id": event, "home_team": "Flamengo", "away_team": "Palmeiras", "market": market,
        "selections": [
            {"id": "a", "name": "A", "price": (price * 1_000.0).round() / 1_000.0, "status": "active"},
            {"id": "b", "name": "B", "price": 2.5, "status": "active"},
        ],
        "status": "open", "updated_at": at(second), "source": "test-supplier", "version": version,
    });
    if let Some(line) = line {
        frame["line"] = json!(line);
    }
    frame.to_string()
}

fn market_key(market: &str, line: Option<&str>) -> MarketKey {
    MarketKey {
        name: MarketName::new(market).unwrap(),
        line: line.map(|line| line.parse().unwrap()),
    }
}

/// The odds of an event from REST; empty if the event is unknown.
async fn rest_odds(platform: &TestPlatform, event: &str) -> Vec<Value> {
    let (status, body) = get_json(&platform.url(&format!("/v1/events/{event}/odds"))).await;
    if status == 404 {
        Vec::new()
    } else {
        body.as_array().unwrap().clone()
    }
}

/// Waits until REST shows an event's first market in this version.
async fn until_rest(platform: &TestPlatform, event: &str, version: i64) -> Value {
    until(
        &format!("version {version} of {event} at REST"),
        async || {
            rest_odds(platform, event)
                .await
                .into_iter()
                .find(|odds| odds["version"] == version)
        },
    )
    .await
}

/// Reads updates until one has this version; returns (seq, version) of each.
async fn updates_until(client: &mut OddsClient, version: i64) -> Vec<(u64, i64)> {
    let mut seen = Vec::new();
    loop {
        let update = client.next_change().await;
        seen.push((
            update["seq"].as_u64().unwrap(),
            update["payload"]["version"].as_i64().unwrap(),
        ));
        if update["payload"]["version"] == version {
            return seen;
        }
    }
}

/// Starts the book of a new event and waits until the client has its first update. A book that
/// starts in the middle of a flood may find the store ahead of it and then publishes only the
/// latest state; tests that count every change begin after this.
async fn appear(link: &LiveLink, client: &mut OddsClient, event: &str) {
    link.send(market_frame(event, "appears", None, 0, 0));
    let update = client.next_of("update").await;
    assert_eq!(update["payload"]["market"], "appears", "{update}");
}

fn versions_of(seen: &[(u64, i64)]) -> Vec<i64> {
    seen.iter().map(|(_, version)| *version).collect()
}

fn assert_grows(seqs: impl IntoIterator<Item = u64>) {
    let seqs: Vec<_> = seqs.into_iter().collect();
    assert!(
        seqs.windows(2).all(|pair| pair[0] < pair[1]),
        "sequence numbers do not increase: {seqs:?}"
    );
}
