//! Messages between the registry, its distributors and their sessions.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::session_handle::SessionHandle;
use crate::actors::access::messages::RevocationsChanged;
use crate::domain::access::Revocations;
use crate::domain::ids::EventId;
use crate::domain::streaming::conflation_step::ConflationStep;
use crate::domain::streaming::credential_watch::SessionCaller;
use crate::domain::streaming::fanout::Delivery;
use crate::domain::streaming::fanout::SessionId;
use crate::domain::streaming::heartbeats::LastSent;
use crate::domain::streaming::protocol::CloseReason;
use crate::domain::streaming::protocol::FeedStatus;

/// Broadcast listener to registry, and registry to distributors: the new feed status.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct FeedChanged(pub FeedStatus);

/// Identifies a distributor; unique within the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DistributorId(pub(super) u64);

/// Distributor to registry, once: starts the flow of changes. The reply holds the current state.
#[derive(Message)]
#[rtype(result = "Registration")]
pub struct Join {
    /// Receives changes.
    pub deliver: Recipient<Deliver>,
    /// Receives feed status changes.
    pub feed: Recipient<FeedChanged>,
    /// Receives what is revoked.
    pub(super) revocations: Recipient<RevocationsChanged>,
    /// Receives the request to end all sessions.
    pub end: Recipient<EndAllSessions>,
}

/// The state that a distributor receives when it joins.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The id of this distributor.
    pub id: DistributorId,
    /// The current feed status.
    pub feed: FeedStatus,
    /// What is revoked.
    pub revocations: Arc<Revocations>,
    /// If the process is shutting down: the reason with which new sessions are closed at once.
    pub ending: Option<CloseReason>,
}

/// Distributor to registry: start sending the changes of an event. After the reply, no change is
/// omitted.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Follow {
    /// The distributor.
    pub distributor: DistributorId,
    /// The event.
    pub event_id: EventId,
}

/// Distributor to registry: stop sending the changes of an event.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Unfollow {
    /// The distributor.
    pub distributor: DistributorId,
    /// The event.
    pub event_id: EventId,
}

/// Registry to distributor: changes of an event, for all subscribed sessions.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Deliver {
    /// The event.
    pub event_id: EventId,
    /// The changes.
    pub delivery: Delivery,
}

/// Session to distributor: register the session.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Connect {
    /// The session.
    pub id: SessionId,
    /// How to reach the session.
    pub handle: SessionHandle,
    /// Its caller, if it has presented a credential, or has to.
    pub caller: Option<Arc<SessionCaller>>,
}

/// Session to distributor: the client has presented a credential. The session ends when that
/// expires or is revoked.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct WatchCaller {
    /// The session.
    pub id: SessionId,
    /// Its caller.
    pub caller: Arc<SessionCaller>,
}

/// Session to distributor: subscribe to an event, or change the settings of the subscription. The
/// reply is `false` if the distributor does not know the session.
#[derive(Message, Debug)]
#[rtype(result = "bool")]
pub struct Subscribe {
    /// The session.
    pub id: SessionId,
    /// The event.
    pub event_id: EventId,
    /// How long changes are held back.
    pub conflation: Option<ConflationStep>,
}

/// Session to distributor: request a heartbeat whenever the session has sent nothing for this long.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct SetHeartbeat {
    /// The session.
    pub id: SessionId,
    /// The interval.
    pub interval: Duration,
    /// When the session last sent something.
    pub last_sent: Arc<LastSent>,
}

/// Session to distributor: unsubscribe from an event.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Unsubscribe {
    /// The session.
    pub id: SessionId,
    /// The event.
    pub event_id: EventId,
}

/// Session to distributor, once, when the session ends.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Disconnect(pub SessionId);

/// To the registry, and registry to distributors: close all sessions, and future ones at once.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct EndAllSessions {
    /// The reason.
    pub reason: CloseReason,
    /// The sessions are told to reconnect and closed evenly over this time; if it is zero, they are
    /// closed at once.
    pub spread: Duration,
}

/// Distributor to registry: answered once every earlier change was passed on to the distributors.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Flush;

/// To the registry: the events with subscribed sessions.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Vec<EventId>")]
pub struct GetFollowedEvents;
