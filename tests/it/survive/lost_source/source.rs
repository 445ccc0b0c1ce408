//! A native supplier for any number of `ingest` processes, with a market that changes all the time
//! and others that never do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use sports_bet_platform::domain::timestamp::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{FakeSupplier, original_frame};

/// The event whose market changes.
pub const MOVING: &str = "MOVING";
/// The time between two changes.
const INTERVAL: Duration = Duration::from_millis(200);

/// A supplier that sends each market's last state on every connection, as suppliers do, and then
/// each change.
pub struct Source {
    supplier: Arc<FakeSupplier>,
    markets: Arc<Mutex<Markets>>,
    is_paused: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

/// The last frame of each event.
type Markets = BTreeMap<String, String>;

impl Source {
    /// Offers the changing market and these others.
    pub async fn start(quiet: &[&str]) -> Source {
        let supplier = Arc::new(FakeSupplier::start().await);
        let mut markets = Markets::new();
        for event in quiet.iter().chain([&MOVING]) {
            markets.insert((*event).to_owned(), frame(event, 1));
        }
        let markets = Arc::new(Mutex::new(markets));
        let is_paused = Arc::new(AtomicBool::new(false));
        let (version, versions) = watch::channel(1);
        let tasks = [
            tokio::spawn(change(markets.clone(), version, is_paused.clone())),
            tokio::spawn(accept(supplier.clone(), markets.clone(), versions)),
        ];
        Source {
            supplier,
            markets,
            is_paused,
            tasks,
        }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.supplier.address().to_string()
    }

    /// Stops or continues the changes. While they are stopped it only answers pings.
    pub fn pause(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// Never sends an event again, not even to a new connection.
    pub fn forget(&self, event: &str) {
        self.markets.lock().remove(event);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn frame(event: &str, version: i64) -> String {
    original_frame(event, &Timestamp::now().to_string(), version)
}

async fn change(
    markets: Arc<Mutex<Markets>>,
    version: watch::Sender<i64>,
    is_paused: Arc<AtomicBool>,
) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if is_paused.load(Ordering::Relaxed) {
            continue;
        }
        let next = *version.borrow() + 1;
        markets
            .lock()
            .insert(MOVING.to_owned(), frame(MOVING, next));
        version.send_replace(next);
    }
}

async fn accept(
    supplier: Arc<FakeSupplier>,
    markets: Arc<Mutex<Markets>>,
    versions: watch::Receiver<i64>,
) {
    loop {
        let stream = supplier.accept_whenever().await;
        let (markets, versions) = (markets.clone(), versions.clone());
        tokio::spawn(async move {
            let Ok(socket) = tokio_tungstenite::accept_async(stream).await else {
                return;
            };
            let (mut sink, mut received) = socket.split();
            // Reading answers pings.
            let reading = async { while let Some(Ok(_)) = received.next().await {} };
            let sending = async {
                let all: Vec<String> = markets.lock().values().cloned().collect();
                for frame in all {
                    sink.send(Message::text(frame)).await?;
                }
                send_changes(&mut sink, &markets, versions).await
            };
            tokio::select! {
                () = reading => {}
                _ = sending => {}
            }
        });
    }
}

async fn send_changes(
    sink: &mut (impl SinkExt<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin),
    markets: &Mutex<Markets>,
    mut versions: watch::Receiver<i64>,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    while versions.changed().await.is_ok() {
        let frame = markets.lock()[MOVING].clone();
        sink.send(Message::text(frame)).await?;
    }
    Ok(())
}
