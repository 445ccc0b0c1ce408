//! A distributor's handle to one session.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::stream_end::{EndReason, StreamEnd};
use crate::domain::streaming::fanout::{Delivery, DeliverySink, PushError};
use crate::domain::streaming::protocol::CloseReason;
use crate::domain::timestamp::Timestamp;
use crate::runtime::connection::ConnectionHandle;
use crate::runtime::liveness::LivenessProbe;

/// Distributor to session. One message type, because every type would add an address per session.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum SessionMessage {
    /// Send these changes.
    Deliver(Delivery),
    /// Ping the client, or close the session if the client was silent for too long.
    Ping,
    /// Send a heartbeat: every change until this time has been sent.
    Heartbeat(Timestamp),
    /// Tell the client that the session is closed after this time.
    Reconnect(Duration),
    /// Close the session for this reason. Sent once.
    End(CloseReason),
}

/// Ends a session that handles no message any more.
pub enum AbortHandle {
    /// Closes its socket.
    Connection(ConnectionHandle),
    /// Ends its stream, but not the connection, which may have others.
    Stream(Arc<StreamEnd>),
}

impl AbortHandle {
    /// Ends the session.
    pub fn abort(&self) {
        match self {
            AbortHandle::Connection(connection) => connection.close(),
            AbortHandle::Stream(end) => end.abort(),
        }
    }
}

/// A distributor's handle to one session.
pub struct SessionHandle {
    /// The session's address.
    pub session: Recipient<SessionMessage>,
    /// Ends the session from outside.
    pub connection: Option<AbortHandle>,
    /// The session's liveness probe.
    pub liveness: Arc<LivenessProbe>,
}

impl SessionHandle {
    /// Makes the session ping its client. Skipped if the mailbox is full: such a session is slow or
    /// frozen, which is detected in other ways.
    pub fn ping(&self) {
        let _ = self.session.try_send(SessionMessage::Ping);
    }

    /// Makes the session send a heartbeat. Skipped if the mailbox is full: then there is something
    /// else to send.
    pub fn heartbeat(&self, as_of: Timestamp) {
        let _ = self.session.try_send(SessionMessage::Heartbeat(as_of));
    }

    /// Makes the session tell its client to connect elsewhere. Sent once per session and must arrive,
    /// so it bypasses the mailbox limit.
    pub fn reconnect(&self, within: Duration) {
        self.session.do_send(SessionMessage::Reconnect(within));
    }

    /// Makes the session close. Sent once per session and must arrive, so it bypasses the mailbox
    /// limit.
    pub fn end(&self, reason: CloseReason) {
        // The actor of a client that does not read handles no message. The first reason counts.
        if let Some(AbortHandle::Stream(end)) = &self.connection {
            end.set(EndReason::Closed(reason));
        }
        self.session.do_send(SessionMessage::End(reason));
    }
}

impl DeliverySink for SessionHandle {
    fn push(&self, delivery: Delivery) -> Result<(), PushError> {
        self.session
            .try_send(SessionMessage::Deliver(delivery))
            .map_err(|error| match error {
                SendError::Full(_) => PushError::Full,
                SendError::Closed(_) => PushError::Gone,
            })
    }
}
