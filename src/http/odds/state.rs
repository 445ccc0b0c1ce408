//! The state shared by the handlers of the role `odds`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use actix::Recipient;
use tokio::sync::Semaphore;

use crate::actors::odds::client_reads::ClientReads;
use crate::actors::odds::messages::GetSnapshot;
use crate::domain::odds::restrictions::CurrentRestrictions;
use crate::http::addresses::Addresses;
use crate::http::streaming::frame_limit::FrameLimits;
use crate::runtime::feed_health::FeedState;
use crate::store::Store;
use crate::store::money::ResultStore;
use crate::telemetry::metrics::OddsMetrics;

/// Shared by every worker.
pub struct OddsState {
    /// Sends requests to the books.
    pub snapshots: Recipient<GetSnapshot>,
    /// Timeout of a request to the books.
    pub snapshot_timeout: Duration,
    /// Whether the books receive every change.
    pub feed: Arc<FeedState>,
    /// The restrictions on the markets of the books.
    pub restrictions: Arc<CurrentRestrictions>,
    /// The database, for lists and history.
    pub store: Arc<dyn Store>,
    /// The results of markets.
    pub results: Arc<dyn ResultStore>,
    /// The queue of reads caused by clients.
    pub reads: Arc<ClientReads>,
    /// The permits of sessions, [`OddsState::max_sessions`] in all.
    pub session_permits: Arc<Semaphore>,
    /// The number of the next session.
    pub next_session: AtomicU64,
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
