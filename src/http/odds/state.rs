//! The state shared by the handlers of the role `odds`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::Semaphore;

use crate::http::addresses::Addresses;
use crate::http::streaming::frame_limit::FrameLimits;
use crate::services::odds::OddsQueries;
use crate::store::money::ResultStore;
use crate::telemetry::metrics::OddsMetrics;

/// Shared by every worker.
pub struct OddsState {
    /// Reads odds.
    pub queries: Arc<OddsQueries>,
    /// The results of markets.
    pub results: Arc<dyn ResultStore>,
    /// The permits of sessions, [`OddsState::max_sessions`] in all.
    pub session_permits: Arc<Semaphore>,
    /// The number of the next session.
    pub next_session: Arc<AtomicU64>,
    /// Maximum number of open sessions.
    pub max_sessions: usize,
    /// Limits on the frames of a session's client.
    pub frames: Arc<FrameLimits>,
    /// Sessions by client address.
    pub addresses: Addresses,
    /// Origins that may open a socket, besides the server's own; `*` for any.
    pub allowed_origins: Vec<String>,
    /// The metrics.
    pub metrics: OddsMetrics,
}
