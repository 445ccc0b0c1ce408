//! A native supplier that sends at a steady rate, and remembers what it sent.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sports_bet_platform::domain::timestamp::Timestamp;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use super::{FakeSupplier, SupplierLink, original_frame, until};

/// How often it sends a handful.
const TICK: Duration = Duration::from_millis(10);
/// Of the time that it was held back, it makes up for so much.
const MAX_OWED: Duration = Duration::from_millis(100);

/// A supplier with some events, whose `1x2` it changes in turn. Each change has the event's next
/// version. To whoever connects it first sends the last of each event, as suppliers do.
pub struct SteadySupplier {
    url: String,
    told: Arc<Mutex<Told>>,
    rate: watch::Sender<u64>,
    events: usize,
}

#[derive(Default)]
struct Told {
    /// The last version and its frame of each event.
    last: Vec<(i64, String)>,
    /// Of each connection, the versions that were written to it: (event, version).
    connections: Vec<Vec<(usize, i64)>>,
    /// The event whose turn it is.
    turn: usize,
}

impl SteadySupplier {
    /// Listens, and sends nothing yet.
    pub async fn start(events: usize) -> SteadySupplier {
        let supplier = FakeSupplier::start().await;
        let url = supplier.url();
        let told = Arc::new(Mutex::new(Told {
            last: vec![(0, String::new()); events],
            ..Told::default()
        }));
        let (rate, rates) = watch::channel(0);
        let shared = told.clone();
        tokio::spawn(async move {
            loop {
                let stream = supplier.accept_whenever().await;
                // One after the other: a feed that connects anew has left its old connection.
                let Ok(socket) = tokio_tungstenite::accept_async(stream).await else {
                    continue;
                };
                serve(SupplierLink { socket }, &shared, rates.clone()).await;
            }
        });
        SteadySupplier {
            url,
            told,
            rate,
            events,
        }
    }

    /// What goes into `SUPPLIER_URLS`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name of an event.
    pub fn event(number: usize) -> String {
        format!("EVENT_{number:03}")
    }

    /// The names of its events.
    pub fn events(&self) -> impl Iterator<Item = String> {
        (0..self.events).map(SteadySupplier::event)
    }

    /// Sends so many updates a second from now on, all events together. With 0 it only answers
    /// pings.
    pub fn send_at(&self, rate: u64) {
        self.rate.send_replace(rate);
    }

    /// The last version of each event.
    pub fn last(&self) -> Vec<i64> {
        self.told
            .lock()
            .unwrap()
            .last
            .iter()
            .map(|(version, _)| *version)
            .collect()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.told.lock().unwrap().connections.len()
    }

    /// How many updates were written to connections.
    pub fn sent(&self) -> usize {
        self.told
            .lock()
            .unwrap()
            .connections
            .iter()
            .map(Vec::len)
            .sum()
    }

    /// What was written to the last connection: (event, version).
    pub fn sent_last(&self) -> Vec<(usize, i64)> {
        self.told
            .lock()
            .unwrap()
            .connections
            .last()
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until so many updates more were written.
    pub async fn until_sent(&self, more: usize) {
        let wanted = self.sent() + more;
        until("the supplier's updates are taken", || async {
            (self.sent() >= wanted).then_some(())
        })
        .await;
    }
}

async fn serve(mut link: SupplierLink, told: &Mutex<Told>, mut rates: watch::Receiver<u64>) {
    let first: Vec<_> = {
        let mut told = told.lock().unwrap();
        told.connections.push(Vec::new());
        let known = told
            .last
            .iter()
            .enumerate()
            .filter(|(_, (version, _))| *version > 0);
        known
            .map(|(event, (version, frame))| (event, *version, frame.clone()))
            .collect()
    };
    for (event, version, frame) in first {
        if !send(&mut link, told, event, version, frame).await {
            return;
        }
    }
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut owed, mut last) = (0.0, Instant::now());
    loop {
        tokio::select! {
            heard = link.socket.next() => match heard {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            changed = rates.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {
                // By the time that has passed: on a busy machine a tick comes late.
                owed += *rates.borrow() as f64 * last.elapsed().min(MAX_OWED).as_secs_f64();
                last = Instant::now();
                // Told to be silent while it is held back, it owes nothing any more.
                while owed >= 1.0 && *rates.borrow() > 0 {
                    owed -= 1.0;
                    let (event, version, frame) = next_change(told);
                    if !send(&mut link, told, event, version, frame).await {
                        return;
                    }
                }
            }
        }
    }
}

fn next_change(told: &Mutex<Told>) -> (usize, i64, String) {
    let mut told = told.lock().unwrap();
    let event = told.turn;
    told.turn = (event + 1) % told.last.len();
    let version = told.last[event].0 + 1;
    let frame = original_frame(
        &SteadySupplier::event(event),
        &Timestamp::now().to_string(),
        version,
    );
    told.last[event] = (version, frame.clone());
    (event, version, frame)
}

/// Writes a frame, however long the other side takes; `false` when the connection is over.
async fn send(
    link: &mut SupplierLink,
    told: &Mutex<Told>,
    event: usize,
    version: i64,
    frame: String,
) -> bool {
    let sent = link.socket.send(Message::text(frame)).await.is_ok();
    if sent && let Some(connection) = told.lock().unwrap().connections.last_mut() {
        connection.push((event, version));
    }
    sent
}
