//! A client of `/ws/odds` that records how its events are shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::support::OddsClient;

/// How an event's market is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The status of its market.
    pub status: String,
    /// Whether its market is marked as stale.
    pub is_stale: bool,
    /// Whether the last `feed` message about its source said `stale`.
    pub is_source_stale: bool,
}

impl Shown {
    fn is_open(&self) -> bool {
        self.status == "open" && !self.is_stale && !self.is_source_stale
    }

    fn is_lost(&self) -> bool {
        self.status == "suspended" && self.is_stale && self.is_source_stale
    }
}

/// What a client knows.
#[derive(Debug, Default)]
pub struct View {
    shown: BTreeMap<String, Shown>,
    /// Whether the last `feed` message without a source said `stale`.
    is_feed_stale: bool,
    heartbeats: usize,
    /// Each different way in which an event was shown.
    history: Vec<(Instant, String, Shown)>,
    faults: Vec<String>,
}

impl View {
    fn receive(&mut self, message: &Value) {
        match message["type"].as_str() {
            Some("snapshot") => {
                let market = &message["markets"][0];
                let is_stale = message["stale"] == true || market["stale"] == true;
                self.show(&message["eventId"], &market["payload"], is_stale);
            }
            Some("update") => {
                let is_stale = message["stale"] == true;
                self.show(&message["eventId"], &message["payload"], is_stale);
            }
            Some("feed") => self.receive_feed(message),
            Some("heartbeat") if self.is_feed_stale => {
                self.faults
                    .push("a heartbeat while the feed is stale".to_owned());
            }
            Some("heartbeat") => self.heartbeats += 1,
            _ => self.faults.push(format!("unexpected: {message}")),
        }
    }

    fn receive_feed(&mut self, message: &Value) {
        let is_stale = message["status"] == "stale";
        if message["source"].is_null() {
            self.is_feed_stale = is_stale;
            return;
        }
        for event in message["events"].as_array().unwrap() {
            self.change(event, |shown| shown.is_source_stale = is_stale);
        }
    }

    fn show(&mut self, event: &Value, payload: &Value, is_stale: bool) {
        let status = payload["status"].as_str().unwrap_or("unknown");
        self.change(event, |shown| {
            shown.status = status.to_owned();
            shown.is_stale = is_stale;
        });
    }

    fn change(&mut self, event: &Value, change: impl FnOnce(&mut Shown)) {
        let event = event.as_str().unwrap();
        let shown = self.shown.entry(event.to_owned()).or_default();
        let earlier = shown.clone();
        change(shown);
        if *shown != earlier {
            self.history
                .push((Instant::now(), event.to_owned(), shown.clone()));
        }
    }
}

/// A client in a separate task.
pub struct Viewer {
    view: Arc<Mutex<View>>,
    reading: JoinHandle<()>,
}

impl Viewer {
    /// A client that sends no field of the extended protocol.
    pub async fn plain(address: SocketAddr, events: &[String]) -> Viewer {
        let subscribe = |event| json!({"type": "subscribe", "eventId": event});
        Viewer::start(address, events.iter().map(subscribe)).await
    }

    /// A client that subscribes to all events at once, with conflation and heartbeats.
    pub async fn extended(address: SocketAddr, events: &[String]) -> Viewer {
        let subscribe = json!({"type": "subscribe", "eventIds": events, "conflateMs": 250, "heartbeatMs": 1000});
        Viewer::start(address, [subscribe]).await
    }

    async fn start(address: SocketAddr, requests: impl IntoIterator<Item = Value>) -> Viewer {
        let mut client = OddsClient::connect(address).await;
        for request in requests {
            client.send(request.to_string()).await;
        }
        let view = Arc::new(Mutex::new(View::default()));
        let shared = view.clone();
        let reading = tokio::spawn(async move {
            while let Some(message) = client.socket.next().await {
                let mut view = shared.lock();
                match message {
                    Ok(Message::Text(text)) => view.receive(&serde_json::from_str(&text).unwrap()),
                    Ok(Message::Close(frame)) => view.faults.push(format!("closed: {frame:?}")),
                    Ok(_) => {}
                    Err(error) => view.faults.push(format!("disconnected: {error}")),
                }
            }
        });
        Viewer { view, reading }
    }

    /// Whether each of these events is shown as open, and nothing as stale.
    pub fn shows_open(&self, events: &[String]) -> bool {
        let view = self.view.lock();
        let is_open = |event| view.shown.get(event).is_some_and(Shown::is_open);
        !view.is_feed_stale && events.iter().all(is_open)
    }

    /// Whether each of these events is shown as suspended and stale, and its source as stale.
    pub fn shows_lost(&self, events: &[String]) -> bool {
        let view = self.view.lock();
        let is_lost = |event| view.shown.get(event).is_some_and(Shown::is_lost);
        events.iter().all(is_lost)
    }

    /// Whether no price of these events is trusted: all prices may be stale, or the source is lost.
    pub fn shows_distrust(&self, events: &[String]) -> bool {
        self.view.lock().is_feed_stale || self.shows_lost(events)
    }

    /// The status of an event's market.
    pub fn status(&self, event: &str) -> String {
        let view = self.view.lock();
        view.shown
            .get(event)
            .map(|shown| shown.status.clone())
            .unwrap_or_default()
    }

    /// Each different way in which an event was shown since a moment.
    pub fn history(&self, event: &str, since: Instant) -> Vec<Shown> {
        let view = self.view.lock();
        let of_event = view
            .history
            .iter()
            .filter(|(at, of, _)| of == event && *at >= since);
        of_event.map(|(_, _, shown)| shown.clone()).collect()
    }

    /// The number of heartbeats received.
    pub fn heartbeats(&self) -> usize {
        self.view.lock().heartbeats
    }

    /// What is shown now, to explain a failed wait.
    pub fn describe(&self) -> String {
        let view = self.view.lock();
        format!("feed stale: {}, {:?}", view.is_feed_stale, view.shown)
    }

    /// Panics if a message violates the protocol, or the connection ended.
    pub fn check(&self) {
        let view = self.view.lock();
        assert!(view.faults.is_empty(), "{:#?}", view.faults);
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
