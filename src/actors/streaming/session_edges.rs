//! What the sessions of a thread share, those of sockets and those of gRPC streams.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::distributor::Distributor;
use crate::access::Access;
use crate::actors::odds::messages::{ApplyError, GetSnapshot};
use crate::domain::ids::EventId;
use crate::domain::odds::book::Snapshot;
use crate::domain::odds::restrictions::CurrentRestrictions;
use crate::domain::streaming::epoch::CurrentEpoch;
use crate::domain::streaming::protocol::{
    FeedStatus, SnapshotExtension, SnapshotView, UpdateFrame,
};
use crate::domain::streaming::session::{Attempt, SessionLimits, SessionState};
use crate::domain::timestamp::Timestamp;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::OddsMetrics;

/// How long to wait for a snapshot before the client is told that it is unavailable.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Updates older than this, in seconds, come from recordings; their latency has no meaning.
const RECORDING_AGE: f64 = 3_600.0;

/// What all sessions of a thread share. One instance for all, so that no address is cloned.
pub struct SessionEdges {
    /// The distributor of this thread.
    pub distributor: Addr<Distributor>,
    /// Answers snapshot requests.
    pub snapshots: Recipient<GetSnapshot>,
    /// What snapshots show as suspended.
    pub restrictions: Arc<CurrentRestrictions>,
    /// The epoch of the sequence numbers.
    pub epoch: Arc<CurrentEpoch>,
    /// Authenticates clients.
    pub access: Access,
    /// Limits on subscriptions, message rates and silence.
    pub limits: SessionLimits,
    /// The largest message of a client, in bytes.
    pub max_message: usize,
    /// Mailbox capacity of a session, in deliveries.
    pub queue: usize,
    /// Limits the log of failed snapshots, by cause.
    pub failures: Arc<LogLimit>,
    /// The metrics.
    pub metrics: OddsMetrics,
}

impl SessionEdges {
    /// Records the age of a change at the time it is sent.
    pub(super) fn measure(&self, frame: &UpdateFrame) {
        let age = Timestamp::now().seconds_since(frame.updated_at);
        if age < RECORDING_AGE {
            self.metrics.latency.observe(age.max(0.0));
        }
    }

    /// Requests the snapshot of an event from the books.
    pub(super) async fn snapshot(&self, event_id: EventId) -> Result<Snapshot, ApplyError> {
        let answer = self.snapshots.send(GetSnapshot(event_id));
        let ended = |error: MailboxError| Err(ApplyError::RouterEnded(error.to_string()));
        answer.timeout(SNAPSHOT_TIMEOUT).await.unwrap_or_else(ended)
    }

    /// How a snapshot is shown to a client, under the current restrictions. `feed` is the status last
    /// sent to the client, not the current one: `live` is sent after the missed changes, and those
    /// follow this snapshot.
    pub(super) fn view(
        &self,
        state: &SessionState,
        feed: FeedStatus,
        snapshot: &Snapshot,
        attempt: Attempt,
    ) -> SnapshotView<'_> {
        let extension = state.snapshot_extension(&snapshot.event_id, attempt);
        SnapshotView {
            is_stale: snapshot.is_stale || feed == FeedStatus::Stale,
            restrictions: self.restrictions.get(),
            extension: extension.map(|extension| SnapshotExtension {
                epoch: self.epoch.get(),
                ..extension
            }),
        }
    }

    /// Counts a snapshot of a client that resumes.
    pub(super) fn count_resume(&self, view: &SnapshotView<'_>, snapshot: &Snapshot) {
        if let Some(recovers) = view.recovers(snapshot) {
            let result = if recovers { "recovered" } else { "replaced" };
            self.metrics.resumes.with_label_values(&[result]).inc();
        }
    }
}
