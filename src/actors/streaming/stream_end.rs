//! The end of a stream, shared by its actor, its distributor and the client's side.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use crate::domain::streaming::protocol::{CloseReason, Refusal};

/// Why the server has ended a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// As a session is closed.
    Closed(CloseReason),
    /// The client has read nothing for too long.
    Slow,
    /// The request is refused.
    Refused(Refusal),
}

/// The end of a stream. The first reason counts.
#[derive(Debug, Default)]
pub struct StreamEnd {
    reason: OnceLock<EndReason>,
    aborted: CancellationToken,
}

impl StreamEnd {
    /// Records why the stream ends.
    pub fn set(&self, reason: EndReason) {
        let _ = self.reason.set(reason);
    }

    /// Why the server has ended the stream, if it has.
    pub fn reason(&self) -> Option<&EndReason> {
        self.reason.get()
    }

    /// Ends the stream from outside, even if its actor waits for the client.
    pub fn abort(&self) {
        self.set(EndReason::Slow);
        self.aborted.cancel();
    }

    /// Waits until the stream is ended from outside.
    pub(crate) async fn aborted(&self) {
        self.aborted.cancelled().await;
    }
}
