//! A supplier for development: streams moving odds to any number of consumers, and confirms bets.

pub(crate) mod bet_register;
mod broadcaster;
pub(crate) mod catalogue;
pub(crate) mod confirm;
pub(crate) mod faults;
pub(crate) mod market_maker;
pub(crate) mod pace;
mod results;
pub(crate) mod round;
pub(crate) mod schedule;
pub(crate) mod score;
mod server;
mod session;
pub(crate) mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use actix::prelude::*;
use actix_web::web::ServiceConfig;
use parking_lot::{Mutex, MutexGuard};
use strum::VariantNames;
use tokio::sync::watch;

use self::bet_register::BetRegister;
use self::broadcaster::{Broadcaster, CLOSE_GRACE, Stop};
use self::confirm::ConfirmStatus;
use self::faults::FaultPlan;
use self::market_maker::MarketMaker;
use self::pace::Pace;
use self::schedule::Schedule;
use crate::config::settings::SimulatorSettings;
use crate::domain::timestamp::Timestamp;
use crate::http::latency::RouteLabels;
use crate::http::streaming::frame_limit::FrameLimits;
use crate::runtime::actor;
use crate::telemetry::metrics::SimulatorMetrics;

/// Mailbox capacity of the broadcaster.
const BROADCASTER_MAILBOX: usize = 16;

/// State shared by the server's threads. There is a single copy of the actor's address, because
/// each clone would add to its mailbox capacity.
struct Shared {
    broadcaster: Addr<Broadcaster>,
    metrics: SimulatorMetrics,
    sessions: watch::Sender<usize>,
    ids: AtomicU64,
    /// Shared by all threads, so that parallel requests about one bet get the same answer.
    books: Mutex<BetRegister>,
    faults: FaultPlan,
    random: Mutex<fastrand::Rng>,
    /// Limits on what consumers may send.
    frames: Arc<FrameLimits>,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, BetRegister> {
        self.books.lock()
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock()
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

/// The routes with latency metrics.
pub const ROUTES: &[RouteLabels] = server::ROUTES;

/// A running simulator.
#[derive(Clone)]
pub struct SimulatorHandle {
    shared: Arc<Shared>,
}

/// Starts the market maker on an arbiter. It generates updates from now on, even without consumers.
pub fn start(
    settings: &SimulatorSettings,
    metrics: SimulatorMetrics,
    arbiter: &ArbiterHandle,
) -> SimulatorHandle {
    let seed = settings.simulator_seed.unwrap_or_else(|| fastrand::u64(..));
    let mut maker = MarketMaker::new(
        settings.simulator_events,
        &settings.simulator_markets,
        seed,
        Timestamp::now(),
    );
    if let Some(schedule) = Schedule::new(settings.simulator_match_duration) {
        maker = maker.with_matches(schedule, seed);
    }
    let pace = Pace::new(settings.simulator_rate, Instant::now());
    log::debug!(markets = maker.len(), rate = settings.simulator_rate, seed = seed; "simulator started");
    for status in ConfirmStatus::VARIANTS {
        // Both labels appear in the metrics before the first request.
        metrics.confirmations.with_label_values(&[status]);
    }
    let broadcaster = Broadcaster::new(maker, pace, metrics.clone());
    let broadcaster = actor::start_in(arbiter, BROADCASTER_MAILBOX, broadcaster);
    let shared = Shared {
        broadcaster,
        metrics,
        sessions: watch::Sender::new(0),
        ids: AtomicU64::new(1),
        books: Mutex::new(BetRegister::new(settings.simulator_confirm_reject_share)),
        faults: FaultPlan::new(settings),
        random: Mutex::new(fastrand::Rng::with_seed(seed)),
        frames: Arc::new(server::frame_limits()),
    };
    SimulatorHandle {
        shared: Arc::new(shared),
    }
}

impl SimulatorHandle {
    /// Registers `GET /ws`, the routes under `/supplier/`, and a 404 for all other paths.
    ///
    /// A consumer that has stopped reading can only be closed if the server stores an
    /// `Arc<socket2::Socket>` of each connection as its connection data.
    pub fn routes(&self) -> impl FnOnce(&mut ServiceConfig) + Clone + Send + 'static + use<> {
        let shared = self.shared.clone();
        move |config| server::configure(config, shared)
    }

    /// Stops generating updates, closes every consumer with 1001, and waits until they are gone.
    /// This takes at most about two seconds, because a consumer that does not read its close frame
    /// is cut off. Consumers that connect later are closed immediately.
    pub async fn stop(&self) {
        let mut sessions = self.shared.sessions.subscribe();
        if self.shared.broadcaster.send(Stop).await.is_err() {
            return;
        }
        let gone = sessions.wait_for(|sessions| *sessions == 0);
        if tokio::time::timeout(2 * CLOSE_GRACE, gone).await.is_err() {
            log::warn!(consumers = self.consumers(); "some consumers did not close in time");
        }
    }

    /// The number of connected consumers.
    pub fn consumers(&self) -> usize {
        *self.shared.sessions.borrow()
    }
}

#[cfg(test)]
mod tests;
