//! The way from a distributor to one session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;

use crate::domain::fanout::{Delivery, Outlet, PushError};
use crate::domain::protocol::CloseReason;
use crate::http::connection::ConnectionHandle;

/// A distributor to a session. One message, because each kind of it is an address more a session.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum ToSession {
    /// Send these.
    Deliver(Delivery),
    /// Ping the client, or close if it was silent for too long.
    Ping,
    /// Close, for this reason. Comes once.
    End(CloseReason),
}

/// A sign of life that a session gives whenever it is to ping, and a consumer whenever it looks at the bus, in milliseconds
/// since `start`; and whether its distributor has given the session up.
#[derive(Debug)]
pub struct SignOfLife {
    start: Instant,
    millis: AtomicU64,
    given_up: AtomicBool,
}

impl SignOfLife {
    /// Alive now.
    pub fn new() -> SignOfLife {
        SignOfLife { start: Instant::now(), millis: AtomicU64::new(0), given_up: AtomicBool::new(false) }
    }

    /// Still alive.
    pub fn give(&self) {
        self.millis.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Ended from outside.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Whether the session was ended from outside.
    pub fn was_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// How long ago the last one was given.
    pub fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

impl Default for SignOfLife {
    fn default() -> SignOfLife {
        SignOfLife::new()
    }
}

/// The way to one session.
pub struct SessionOutlet {
    /// The session.
    pub session: Recipient<ToSession>,
    /// Ends the connection from outside.
    pub connection: Option<ConnectionHandle>,
    /// The session's sign of life.
    pub life: Arc<SignOfLife>,
}

impl SessionOutlet {
    /// Has it ping its client. One without room for that is slow, or frozen, and known by other signs.
    pub fn ping(&self) {
        let _ = self.session.try_send(ToSession::Ping);
    }

    /// Has it close. Once in a session's life, so past the mailbox bound: it must arrive.
    pub fn end(&self, reason: CloseReason) {
        self.session.do_send(ToSession::End(reason));
    }
}

impl Outlet for SessionOutlet {
    fn push(&self, delivery: Delivery) -> Result<(), PushError> {
        self.session.try_send(ToSession::Deliver(delivery)).map_err(|error| match error {
            SendError::Full(_) => PushError::Full,
            SendError::Closed(_) => PushError::Gone,
        })
    }
}
