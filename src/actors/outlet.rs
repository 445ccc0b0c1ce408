//! The way from a distributor to one session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;

use crate::domain::fanout::{Delivery, Outlet, PushError};
use crate::domain::protocol::CloseReason;
use crate::http::connection::ConnectionHandle;

/// A distributor to a session.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Push(pub Delivery);

/// A distributor to a session, once: close, for this reason.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct EndSession(pub CloseReason);

/// A sign of life that a session gives whenever its timer runs, and a consumer whenever it looks at the bus, in milliseconds
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
    /// Changes go here.
    pub push: Recipient<Push>,
    /// A last word goes here.
    pub end: Recipient<EndSession>,
    /// Ends the connection from outside.
    pub connection: Option<ConnectionHandle>,
    /// The session's sign of life.
    pub life: Arc<SignOfLife>,
}

impl Outlet for SessionOutlet {
    fn push(&self, delivery: Delivery) -> Result<(), PushError> {
        self.push.try_send(Push(delivery)).map_err(|error| match error {
            SendError::Full(_) => PushError::Full,
            SendError::Closed(_) => PushError::Gone,
        })
    }
}
