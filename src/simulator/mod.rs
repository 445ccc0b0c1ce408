//! A supplier for development: streams odds that move to any number of consumers, and answers for
//! bets.

pub mod bet_register;
mod broadcaster;
pub mod catalogue;
pub mod confirm;
pub mod faults;
pub mod market_maker;
pub mod pace;
mod server;
mod session;
pub mod walk;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use actix::prelude::*;
use actix_web::web::ServiceConfig;
use tokio::sync::watch;

use self::bet_register::BetRegister;
use self::broadcaster::{Broadcaster, CLOSE_GRACE, Stop};
use self::confirm::ConfirmStatus;
use self::faults::FaultPlan;
use self::market_maker::MarketMaker;
use self::pace::Pace;
use crate::config::settings::SimulatorSettings;
use crate::domain::timestamp::Timestamp;
use crate::http::latency::RouteLabels;
use crate::http::streaming::frame_limit::FrameLimits;
use crate::telemetry::metrics::SimulatorMetrics;

/// What the server's threads have in common. The address stands here once: each clone of one would
/// add to its mailbox.
struct Shared {
    broadcaster: Addr<Broadcaster>,
    metrics: SimulatorMetrics,
    sessions: watch::Sender<usize>,
    ids: AtomicU64,
    /// One for all threads: parallel questions about one bet get one answer.
    books: Mutex<BetRegister>,
    faults: FaultPlan,
    random: Mutex<fastrand::Rng>,
    /// What consumers may send.
    frames: Arc<FrameLimits>,
}

impl Shared {
    // Nothing panics while it holds one of these locks.
    fn books(&self) -> MutexGuard<'_, BetRegister> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

/// The routes whose latency is measured.
pub const ROUTES: &[RouteLabels] = server::ROUTES;

/// A running simulator.
#[derive(Clone)]
pub struct SimulatorHandle {
    shared: Arc<Shared>,
}

/// Starts the market maker on an arbiter. It makes updates from now on, whether or not anybody
/// listens.
pub fn start(
    settings: &SimulatorSettings,
    metrics: SimulatorMetrics,
    arbiter: &ArbiterHandle,
) -> SimulatorHandle {
    let seed = settings.simulator_seed.unwrap_or_else(|| fastrand::u64(..));
    let maker = MarketMaker::new(
        settings.simulator_events,
        &settings.simulator_markets,
        seed,
        Timestamp::now(),
    );
    let pace = Pace::new(settings.simulator_rate, Instant::now());
    log::debug!(markets = maker.len(), rate = settings.simulator_rate, seed = seed; "the simulator makes prices");
    for status in ConfirmStatus::ALL {
        // So that both answers are in the metrics before the first question.
        metrics.confirmations.with_label_values(&[status.label()]);
    }
    let broadcaster = Broadcaster::new(maker, pace, metrics.clone());
    let broadcaster = Broadcaster::start_in_arbiter(arbiter, move |_| broadcaster);
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
    /// Registers `GET /ws` and what is under `/supplier/`, and a 404 for the rest.
    ///
    /// A consumer that has stopped reading can be ended only where the server keeps an
    /// `Arc<socket2::Socket>` of each connection as its connection data.
    pub fn routes(&self) -> impl FnOnce(&mut ServiceConfig) + Clone + Send + 'static + use<> {
        let shared = self.shared.clone();
        move |config| server::configure(config, shared)
    }

    /// Makes no more updates, closes every consumer with 1001, and waits until they have gone: at
    /// most about two seconds, since one that does not take its close frame is cut off. Consumers
    /// that come later are closed at once.
    pub async fn stop(&self) {
        let mut sessions = self.shared.sessions.subscribe();
        if self.shared.broadcaster.send(Stop).await.is_err() {
            return;
        }
        let gone = sessions.wait_for(|sessions| *sessions == 0);
        if tokio::time::timeout(2 * CLOSE_GRACE, gone).await.is_err() {
            log::warn!(consumers = self.consumers(); "not all consumers ended in time");
        }
    }

    /// How many consumers are connected.
    pub fn consumers(&self) -> usize {
        *self.shared.sessions.borrow()
    }
}

#[cfg(test)]
mod tests;
