//! The recovery of a connection: what was missed is requested, and the supplier says when it has
//! sent it.

use crate::domain::timestamp::Timestamp;

/// The recoveries of one decoder.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    is_enabled: bool,
    /// The number of requests so far.
    requests: u64,
    /// The request of this connection, until it is answered.
    pending: Option<Pending>,
    /// Whether the supplier has shown that it answers such requests.
    is_supported: bool,
}

#[derive(Debug)]
struct Pending {
    request: String,
    after: Option<Timestamp>,
}

/// What the supplier has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Every market that has changed: the others are unchanged.
    Changes,
    /// Every market, because no earlier state was known.
    Everything,
}

impl Recovery {
    pub(super) fn new(is_enabled: bool) -> Recovery {
        Recovery {
            is_enabled,
            ..Recovery::default()
        }
    }

    /// Starts the recovery of a new connection. Returns the frame to send.
    pub(super) fn connected(&mut self, after: Option<Timestamp>) -> Option<String> {
        if !self.is_enabled {
            return None;
        }
        self.requests += 1;
        let request = format!("r{}", self.requests);
        let frame = super::messages::recover(&request, after);
        self.pending = Some(Pending { request, after });
        Some(frame)
    }

    /// Records an answer; `None` if it belongs to no request of this connection.
    pub(super) fn answered(&mut self, request: &str) -> Option<Answer> {
        let pending = self.pending.take_if(|pending| pending.request == request)?;
        self.is_supported = true;
        Some(match pending.after {
            Some(_) => Answer::Changes,
            None => Answer::Everything,
        })
    }

    /// Whether the supplier still has to send what was missed.
    pub(super) fn is_running(&self) -> bool {
        self.is_supported && self.pending.is_some()
    }

    /// Expects no answer any more. A late one is still accepted.
    pub(super) fn give_up(&mut self) {
        self.is_supported = false;
    }
}
