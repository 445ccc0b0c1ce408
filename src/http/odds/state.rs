//! What the handlers of the role `odds` share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use actix::Recipient;

use crate::actors::odds::client_reads::ClientReads;
use crate::actors::odds::messages::GetSnapshot;
use crate::http::addresses::Addresses;
use crate::runtime::feed_health::FeedState;
use crate::store::Store;
use crate::telemetry::metrics::OddsMetrics;

/// Shared by every worker.
pub struct OddsState {
    /// To the books.
    pub snapshots: Recipient<GetSnapshot>,
    /// How long the books may take to answer.
    pub snapshot_timeout: Duration,
    /// Whether the books are told of every change.
    pub feed: Arc<FeedState>,
    /// The database, for lists and history.
    pub store: Arc<dyn Store>,
    /// The queue of the reads that clients cause.
    pub reads: Arc<ClientReads>,
    /// Sessions that are open.
    pub open_sessions: Arc<AtomicUsize>,
    /// The number of the next session.
    pub next_session: AtomicU64,
    /// As many sessions may be open.
    pub max_sessions: usize,
    /// Sessions by client address.
    pub addresses: Addresses,
    /// Origins that may open a socket, beside the server's own; `*` for any.
    pub allowed_origins: Vec<String>,
    /// The metrics.
    pub metrics: OddsMetrics,
}
