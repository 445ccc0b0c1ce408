//! The way from a distributor to one session.

use std::sync::Arc;

use actix::prelude::*;

use crate::domain::streaming::fanout::{Delivery, DeliverySink, PushError};
use crate::domain::streaming::protocol::CloseReason;
use crate::runtime::connection::ConnectionHandle;
use crate::runtime::liveness::LivenessProbe;

/// A distributor to a session. One message, because each kind of it is an address more a session.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum SessionMessage {
    /// Send these.
    Deliver(Delivery),
    /// Ping the client, or close if it was silent for too long.
    Ping,
    /// Close, for this reason. Comes once.
    End(CloseReason),
}

/// The way to one session.
pub struct SessionHandle {
    /// The session.
    pub session: Recipient<SessionMessage>,
    /// Ends the connection from outside.
    pub connection: Option<ConnectionHandle>,
    /// The session's sign of life.
    pub life: Arc<LivenessProbe>,
}

impl SessionHandle {
    /// Has it ping its client. One without room for that is slow, or frozen, and known by other
    /// signs.
    pub fn ping(&self) {
        let _ = self.session.try_send(SessionMessage::Ping);
    }

    /// Has it close. Once in a session's life, so past the mailbox bound: it must arrive.
    pub fn end(&self, reason: CloseReason) {
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
