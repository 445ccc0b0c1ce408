//! Clients that send requests of random users.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Outcome;
use super::http::{Connection, Post};

/// Picks a user.
pub type Pick = Arc<dyn Fn() -> u64 + Send + Sync>;
/// The requests of one step, for one user.
pub type Step = Arc<dyn Fn(u64) -> Vec<Post> + Send + Sync>;
/// Whether the clients go on.
pub type Running = Arc<dyn Fn() -> bool + Send + Sync>;

/// All users alike.
pub fn uniform(users: u64) -> Pick {
    Arc::new(move || fastrand::u64(1..=users))
}

/// A bet on MATCH_001.
pub fn bet(user: u64) -> Post {
    let body = format!(
        r#"{{"userId":"user-{user}","eventId":"MATCH_001","market":"1x2","selection":"home","stake_cents":100,"odd_value":1.5,"oddsChange":"any"}}"#
    );
    Post::new("/bets", body)
}

/// Lets clients go on for this long from now.
pub fn during(time: Duration) -> Running {
    let began = Instant::now();
    Arc::new(move || began.elapsed() < time)
}

/// The answers to the requests of a run.
pub struct Answers {
    pub rate: f64,
    times: Histogram<u64>,
}

impl Answers {
    pub fn milliseconds(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Runs this many clients, each on its own connection with one request at a time; with a pause per
/// step for clients that are on schedule.
pub fn ask_all(
    address: SocketAddr,
    clients: usize,
    running: Running,
    pause: Option<Duration>,
    step: Step,
    pick: Pick,
) -> Outcome<Answers> {
    let began = Instant::now();
    let client = |place: usize| {
        let (running, step, pick) = (running.clone(), step.clone(), pick.clone());
        std::thread::spawn(move || -> Outcome<Histogram<u64>> {
            let mut connection = Connection::open(address)?;
            let mut times = Histogram::new_with_bounds(1, 60_000_000, 3)?;
            let mut due = began
                + pause
                    .unwrap_or_default()
                    .mul_f64(place as f64 / clients as f64);
            while running() {
                if let Some(pause) = pause {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    due += pause;
                }
                for post in step(pick()) {
                    let sent = Instant::now();
                    connection.post(&post)?;
                    times.saturating_record(u64::try_from(sent.elapsed().as_micros())?);
                }
            }
            Ok(times)
        })
    };
    let threads: Vec<_> = (0..clients).map(client).collect();
    let mut times = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    for thread in threads {
        times.add(thread.join().map_err(|_| "a client panicked")??)?;
    }
    Ok(Answers {
        rate: times.len() as f64 / began.elapsed().as_secs_f64(),
        times,
    })
}
