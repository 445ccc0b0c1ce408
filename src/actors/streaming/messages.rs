//! Messages of the registry, its distributors and their sessions.

use actix::prelude::*;

use crate::actors::streaming::registry::DistributorId;
use crate::actors::streaming::session_handle::SessionHandle;
use crate::domain::ids::EventId;
use crate::domain::streaming::fanout::Delivery;
use crate::domain::streaming::fanout::SessionId;
use crate::domain::streaming::protocol::CloseReason;
use crate::domain::streaming::protocol::FeedStatus;

/// The broadcast listener to the registry, the registry to a distributor: how the feed stands from
/// now on.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct FeedChanged(pub FeedStatus);

/// A distributor to the registry, once: it takes changes from now on. Answered with what it has to
/// know.
#[derive(Message)]
#[rtype(result = "Registration")]
pub struct Join {
    /// Changes go here.
    pub deliver: Recipient<Deliver>,
    /// How the feed stands goes here.
    pub feed: Recipient<FeedChanged>,
    /// The last word to its sessions goes here.
    pub end: Recipient<EndAllSessions>,
}

/// How things stand where a distributor joins.
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    /// What it is called from now on.
    pub id: DistributorId,
    /// How the feed stands.
    pub feed: FeedStatus,
    /// Why sessions are closed at once, where the process ends.
    pub ending: Option<CloseReason>,
}

/// A distributor to the registry: changes of an event from now on. Answered when none is left out
/// any more.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Follow {
    /// The distributor.
    pub distributor: DistributorId,
    /// The event.
    pub event_id: EventId,
}

/// A distributor to the registry: no more changes of an event.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Unfollow {
    /// The distributor.
    pub distributor: DistributorId,
    /// The event.
    pub event_id: EventId,
}

/// The registry to a distributor: changes of an event, for every session that wants them.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Deliver {
    /// The event.
    pub event_id: EventId,
    /// The changes.
    pub delivery: Delivery,
}

/// A session to its distributor: it takes changes from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Connect {
    /// The session.
    pub id: SessionId,
    /// The way to it.
    pub outlet: SessionHandle,
}

/// A session to its distributor: `true` where it was taken; `false` where the distributor does not
/// know the session.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct Subscribe {
    /// The session.
    pub id: SessionId,
    /// The event.
    pub event_id: EventId,
}

/// A session to its distributor.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Unsubscribe {
    /// The session.
    pub id: SessionId,
    /// The event.
    pub event_id: EventId,
}

/// A session to its distributor, once, when it ends.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Disconnect(pub SessionId);

/// To the registry, the registry to a distributor: close every session, and those that come later.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct EndAllSessions(pub CloseReason);
