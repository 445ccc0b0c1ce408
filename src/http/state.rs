//! What the handlers of the role `odds` share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use actix::Recipient;

use super::addresses::Addresses;
use crate::actors::client_reads::ClientReads;
use crate::actors::feed_state::FeedState;
use crate::actors::messages::GetSnapshot;
use crate::metrics::OddsMetrics;
use crate::store::Store;

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
