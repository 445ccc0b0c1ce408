//! A native supplier that sends prices at a steady rate, and results, and remembers what it sent.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sports_bet_platform::domain::timestamp::Timestamp;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use super::{FakeSupplier, SupplierLink, original_frame, until};

/// How often it sends a few updates.
const TICK: Duration = Duration::from_millis(10);
/// The most lost sending time it makes up for after it was blocked.
const MAX_OWED: Duration = Duration::from_millis(100);

/// A supplier that changes the `1x2` of some events in turn. Each change has the event's next
/// version. On every connection it first sends the last update of each event and all results, as
/// suppliers do.
pub struct SteadySupplier {
    url: String,
    sent_updates: Arc<Mutex<SentUpdates>>,
    rate: watch::Sender<u64>,
    events: usize,
}

#[derive(Default)]
struct SentUpdates {
    /// The last version and frame of each event.
    last: Vec<(i64, String)>,
    /// The versions written to each connection: (event, version).
    connections: Vec<Vec<(usize, i64)>>,
    /// The next event to change.
    turn: usize,
    /// Every record of results so far, in the order in which they are sent.
    records: Vec<String>,
}

impl SteadySupplier {
    /// Listens, and sends nothing yet.
    pub async fn start(events: usize) -> SteadySupplier {
        let supplier = FakeSupplier::start().await;
        let url = supplier.url();
        let sent_updates = Arc::new(Mutex::new(SentUpdates {
            last: vec![(0, String::new()); events],
            ..SentUpdates::default()
        }));
        let (rate, rates) = watch::channel(0);
        let shared = sent_updates.clone();
        tokio::spawn(async move {
            loop {
                let stream = supplier.accept_whenever().await;
                // One at a time: a feed that reconnects has left its old connection.
                let Ok(socket) = tokio_tungstenite::accept_async(stream).await else {
                    continue;
                };
                serve(SupplierLink { socket }, &shared, rates.clone()).await;
            }
        });
        SteadySupplier {
            url,
            sent_updates,
            rate,
            events,
        }
    }

    /// The value for `SUPPLIER_URLS`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a record of results. It is sent again on every later connection.
    pub fn send_record(&self, frame: String) {
        self.sent_updates.lock().unwrap().records.push(frame);
    }

    /// Every record of results so far.
    pub fn records(&self) -> Vec<String> {
        self.sent_updates.lock().unwrap().records.clone()
    }

    /// The name of an event.
    pub fn event(number: usize) -> String {
        format!("EVENT_{number:03}")
    }

    /// The names of its events.
    pub fn events(&self) -> impl Iterator<Item = String> {
        (0..self.events).map(SteadySupplier::event)
    }

    /// Sends this many updates per second from now on, over all events. With 0 it only answers
    /// pings.
    pub fn send_at(&self, rate: u64) {
        self.rate.send_replace(rate);
    }

    /// The last version of each event.
    pub fn last(&self) -> Vec<i64> {
        self.sent_updates
            .lock()
            .unwrap()
            .last
            .iter()
            .map(|(version, _)| *version)
            .collect()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.sent_updates.lock().unwrap().connections.len()
    }

    /// The number of updates written to connections.
    pub fn sent(&self) -> usize {
        self.sent_updates
            .lock()
            .unwrap()
            .connections
            .iter()
            .map(Vec::len)
            .sum()
    }

    /// The updates written to the last connection: (event, version).
    pub fn sent_last(&self) -> Vec<(usize, i64)> {
        self.sent_updates
            .lock()
            .unwrap()
            .connections
            .last()
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until this many more updates are written.
    pub async fn until_sent(&self, more: usize) {
        let wanted = self.sent() + more;
        until("the platform reads the supplier's updates", || async {
            (self.sent() >= wanted).then_some(())
        })
        .await;
    }
}

async fn serve(
    mut link: SupplierLink,
    sent_updates: &Mutex<SentUpdates>,
    mut rates: watch::Receiver<u64>,
) {
    let first: Vec<_> = {
        let mut sent_updates = sent_updates.lock().unwrap();
        sent_updates.connections.push(Vec::new());
        let known = sent_updates
            .last
            .iter()
            .enumerate()
            .filter(|(_, (version, _))| *version > 0);
        known
            .map(|(event, (version, frame))| (event, *version, frame.clone()))
            .collect()
    };
    for (event, version, frame) in first {
        if !send(&mut link, sent_updates, event, version, frame).await {
            return;
        }
    }
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut owed = 0.0;
    let mut last = Instant::now();
    let mut records_sent = 0;
    loop {
        tokio::select! {
            received = link.socket.next() => match received {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            changed = rates.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {
                while let Some(frame) = next_record(sent_updates, records_sent) {
                    records_sent += 1;
                    if link.socket.send(Message::text(frame)).await.is_err() {
                        return;
                    }
                }
                // By elapsed time: on a busy machine a tick is late.
                owed += *rates.borrow() as f64 * last.elapsed().min(MAX_OWED).as_secs_f64();
                last = Instant::now();
                // If its rate is set to 0 while it is blocked, it discards what it still owes.
                while owed >= 1.0 && *rates.borrow() > 0 {
                    owed -= 1.0;
                    let (event, version, frame) = next_change(sent_updates);
                    if !send(&mut link, sent_updates, event, version, frame).await {
                        return;
                    }
                }
            }
        }
    }
}

fn next_record(sent_updates: &Mutex<SentUpdates>, sent: usize) -> Option<String> {
    sent_updates.lock().unwrap().records.get(sent).cloned()
}

fn next_change(sent_updates: &Mutex<SentUpdates>) -> (usize, i64, String) {
    let mut sent_updates = sent_updates.lock().unwrap();
    let event = sent_updates.turn;
    sent_updates.turn = (event + 1) % sent_updates.last.len();
    let version = sent_updates.last[event].0 + 1;
    let frame = original_frame(
        &SteadySupplier::event(event),
        &Timestamp::now().to_string(),
        version,
    );
    sent_updates.last[event] = (version, frame.clone());
    (event, version, frame)
}

/// Writes a frame, however long that takes; `false` if the connection is closed.
async fn send(
    link: &mut SupplierLink,
    sent_updates: &Mutex<SentUpdates>,
    event: usize,
    version: i64,
    frame: String,
) -> bool {
    let sent = link.socket.send(Message::text(frame)).await.is_ok();
    if sent && let Some(connection) = sent_updates.lock().unwrap().connections.last_mut() {
        connection.push((event, version));
    }
    sent
}
