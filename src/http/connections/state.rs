//! The state of one connection: what it waits for, and how far reading may run ahead.

use std::time::Duration;

use super::ended::Ended;
use super::limits::ConnectionLimits;

/// Maximum number of bytes of further requests that are read while one is handled.
const READ_AHEAD: usize = 2_048;
/// Maximum size of a request's head, in bytes.
const MAX_HEAD: usize = 32 * 1024;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Phase {
    /// The rest of the TLS handshake.
    Handshake,
    /// The client's next request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// The rest of a request's body, while it is handled.
    Body,
    /// The server's response.
    Serving,
    /// Nothing: it is a WebSocket, and its session has its own limits.
    Upgraded,
    /// The client, which must accept the last bytes of a WebSocket whose session has ended.
    Closing,
}

/// The order in which connections are closed to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// The client keeps the server waiting with an unfinished request or unread bytes.
    Unfinished,
    /// The client has no request.
    Idle,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    phase: Phase,
    is_blocked: bool,
    /// Incremented by each change of phase, and when writing becomes blocked or unblocked.
    changes: u64,
    /// Bytes that may still be read while a request is handled, since they may contain many more
    /// requests. Reset when everything that was read is answered.
    credit: usize,
    /// Bytes received since the last request began that may belong to the head of the next one, or
    /// bytes of the handshake.
    head: usize,
}

impl ConnectionState {
    /// The state of a new connection: its first head must arrive in time.
    pub(super) fn new() -> ConnectionState {
        ConnectionState {
            phase: Phase::Head,
            is_blocked: false,
            changes: 0,
            credit: READ_AHEAD,
            head: 0,
        }
    }

    /// The state of a new connection that begins with a TLS handshake.
    pub(super) fn with_handshake() -> ConnectionState {
        ConnectionState {
            phase: Phase::Handshake,
            ..ConnectionState::new()
        }
    }

    /// What the connection waits for.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the client accepts no more bytes for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The number of changes so far. The connection has waited for as long as it stays the same.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether a part of the next request's head has arrived.
    pub(super) fn has_partial_head(&self) -> bool {
        self.head > 0
    }

    /// Enters a phase.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.changes = self.changes.wrapping_add(1);
    }

    /// Records received bytes. Returns whether the handshake may continue: it is limited like a
    /// head. Afterwards the bytes are not counted here.
    pub(super) fn may_continue_handshake(&mut self, bytes: usize) -> bool {
        if self.phase != Phase::Handshake {
            return true;
        }
        self.head += bytes;
        self.head <= MAX_HEAD
    }

    /// Records that the handshake is complete: the first head must arrive in time.
    pub(super) fn end_handshake(&mut self) {
        self.head = 0;
        self.enter(Phase::Head);
    }

    /// Records that a request is being handled.
    pub(super) fn begin_request(&mut self, has_body: bool) {
        self.head = 0;
        self.enter(if has_body {
            Phase::Body
        } else {
            Phase::Serving
        });
    }

    /// Records that the body of the current request has arrived.
    pub(super) fn end_body(&mut self) {
        if self.phase == Phase::Body {
            self.enter(Phase::Serving);
        }
    }

    /// Records that the request has been handled. Returns whether reading may continue.
    pub(super) fn end_request(&mut self) -> bool {
        if matches!(self.phase, Phase::Upgraded | Phase::Closing) {
            return false;
        }
        // Part of the next request may have been read.
        self.enter(if self.has_partial_head() {
            Phase::Head
        } else {
            Phase::Idle
        });
        true
    }

    /// Records received bytes. Fails if the head that they belong to is too large.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let phase = self.phase;
        if matches!(
            phase,
            Phase::Handshake | Phase::Body | Phase::Upgraded | Phase::Closing
        ) {
            return Ok(());
        }
        if phase == Phase::Serving {
            self.credit = self.credit.saturating_sub(bytes.len());
        }
        // Blank lines may precede a request; they do not begin one.
        let is_blank =
            !self.has_partial_head() && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        if !is_blank {
            self.head += bytes.len();
        }
        match phase {
            Phase::Idle if !is_blank => {
                self.credit = READ_AHEAD;
                self.enter(Phase::Head);
            }
            Phase::Head => self.credit = READ_AHEAD,
            _ => {}
        }
        if phase == Phase::Head && self.head > MAX_HEAD {
            Err(Ended::HeadTooLarge)
        } else {
            Ok(())
        }
    }

    /// How many bytes may be read now. 0 holds the reader back.
    pub(super) fn read_limit(&self) -> usize {
        match self.phase {
            Phase::Upgraded => usize::MAX,
            _ if self.is_blocked => 0,
            Phase::Serving => self.credit,
            Phase::Handshake | Phase::Idle | Phase::Head | Phase::Body | Phase::Closing => {
                usize::MAX
            }
        }
    }

    /// Records whether the client accepts bytes. Returns whether that is a change.
    pub(super) fn set_blocked(&mut self, is_blocked: bool) -> bool {
        let is_change = self.is_blocked != is_blocked;
        if is_change {
            self.is_blocked = is_blocked;
            self.changes = self.changes.wrapping_add(1);
        }
        is_change
    }

    /// Whether to end the connection. `age` is the time since its last change.
    pub(super) fn end_reason(&self, age: Duration, limits: &ConnectionLimits) -> Option<Ended> {
        let (limit, ended) = match self.phase {
            Phase::Upgraded => return None,
            Phase::Handshake => (limits.head, Ended::Handshake),
            Phase::Closing => (limits.write, Ended::Write),
            _ if self.is_blocked => (limits.write, Ended::Write),
            Phase::Serving => return None,
            Phase::Idle => (limits.keep_alive, Ended::Idle),
            Phase::Head => (limits.head, Ended::Head),
            Phase::Body => (limits.body, Ended::Body),
        };
        (age >= limit).then_some(ended)
    }

    /// When the connection is closed to make room. `None` if it is not.
    pub(super) fn closing_priority(&self) -> Option<Priority> {
        match self.phase {
            _ if self.is_blocked => Some(Priority::Unfinished),
            Phase::Handshake | Phase::Head | Phase::Body | Phase::Closing => {
                Some(Priority::Unfinished)
            }
            Phase::Idle => Some(Priority::Idle),
            Phase::Serving | Phase::Upgraded => None,
        }
    }
}

#[cfg(test)]
mod tests;
