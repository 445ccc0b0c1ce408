//! The WebSocket protocol of `/ws/odds`: client messages and server messages.
//!
//! Every server message has a `type`. `snapshot` and `update` carry `eventId` and `payload`, the
//! only fields that a client of the original reads; `seq`, `markets` and `conflated` are additions.
//!
//! A client that sends `since`, `epoch`, `conflateMs`, `heartbeatMs` or `eventIds` uses the extended
//! protocol from then on. The messages of other clients do not change.

mod client_message;
mod encoding_count;
mod snapshot;
mod update_frame;

use std::time::Duration;

use actix_http::ws::{OpCode, Parser};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use serde::Serialize;
use strum::{IntoStaticStr, VariantNames};

pub use self::client_message::{
    ClientMessage, Credential, MAX_EPOCH_BYTES, ResumePoint, SubscribeRequest,
};
pub use self::encoding_count::EncodingCount;
pub use self::snapshot::{
    ShownSnapshot, SnapshotExtension, SnapshotMarket, SnapshotView, snapshot_message,
};
pub(super) use self::update_frame::Openness;
pub use self::update_frame::{Form, UpdateFrame};
use crate::domain::access::Scope;
use crate::domain::ids::{EventId, Source};
use crate::domain::timestamp::Timestamp;

/// Why a client's message was refused. The socket stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Refusal {
    /// The message is not a JSON object with a `type`.
    #[error("not a JSON object with a \"type\": {0}")]
    BadJson(String),
    /// The `type` is unknown.
    #[error("unknown type `{0}`; expected subscribe, unsubscribe, ping or auth")]
    UnknownType(String),
    /// `eventId` is missing or invalid.
    #[error("eventId: {0}")]
    BadEventId(String),
    /// `since` or `epoch` is invalid.
    #[error("since: {0}")]
    BadSince(String),
    /// `conflateMs` is not a whole number within its range.
    #[error("conflateMs: expected 0 to {max}, not {0}", max = super::conflation_step::MAX_MS)]
    BadConflateMs(String),
    /// `heartbeatMs` is not a whole number within its range.
    #[error("heartbeatMs: expected 0 or 500 to 30000, not {0}")]
    BadHeartbeatMs(String),
    /// The session has its maximum number of subscriptions.
    #[error("a session may have at most {0} subscriptions")]
    TooManySubscriptions(usize),
    /// The session sent too many messages within a second; this one was ignored.
    #[error("more than {0} messages within a second; further messages are ignored")]
    RateLimited(u32),
    /// The session was sent too many bytes of snapshots; this subscription was not made.
    #[error("more than {bytes} bytes of snapshots per second; subscribe to `{event}` later")]
    #[strum(to_string = "RATE_LIMITED")]
    SnapshotsLimited {
        /// The event of the subscription.
        event: EventId,
        /// The allowed bytes per second.
        bytes: u64,
    },
    /// The client's address exceeds its rate limit; the credential was not checked.
    #[error("too many requests from this address; authenticate again in {0} s")]
    #[strum(to_string = "RATE_LIMITED")]
    AuthenticationLimited(u64),
    /// The event's book could not be read in time; the client should subscribe again.
    #[error("the odds of `{0}` are currently unavailable; subscribe again")]
    SnapshotUnavailable(EventId),
    /// The `token` of an `auth` is missing or not a text.
    #[error("token: {0}")]
    BadToken(&'static str),
    /// The client has not authenticated, and odds are not public. The message was ignored.
    #[error("authenticate first: send an `auth` message with a token or an API key")]
    Unauthenticated,
    /// The token or the API key is not accepted.
    #[error("invalid credential: {0}")]
    InvalidCredential(String),
    /// The token or the API key cannot be checked yet.
    #[error("{0}")]
    AuthenticationUnavailable(String),
    /// The token or the API key is accepted, but does not allow to read odds.
    #[error("the scope `{scope}` is required", scope = Scope::OddsRead)]
    ScopeRequired,
    /// The token or the API key belongs to another caller than that of the session.
    #[error("the credential belongs to another caller than the session; open another socket")]
    OtherCaller,
    /// The caller has its maximum number of sessions.
    #[error("the limit of {0} open sessions for this caller is reached")]
    TooManySessionsOfCaller(usize),
}

impl Refusal {
    /// The code on the wire.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}

/// Why the server ends a session; the number is the WebSocket close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
pub enum CloseReason {
    /// The server is shutting down. The client should reconnect.
    #[strum(to_string = "server is going away")]
    GoingAway,
    /// The client broke the WebSocket protocol.
    #[strum(to_string = "websocket protocol error")]
    ProtocolError,
    /// The client sent a binary message.
    #[strum(to_string = "binary messages are not taken")]
    BinaryMessage,
    /// A text message is not UTF-8.
    #[strum(to_string = "text is not UTF-8")]
    BadUtf8,
    /// The client keeps sending far more messages than allowed.
    #[strum(to_string = "too many messages")]
    TooManyMessages,
    /// A message is larger than allowed.
    #[strum(to_string = "message too big")]
    MessageTooBig,
    /// The client did not answer for too long. It should reconnect.
    #[strum(to_string = "no answer to pings")]
    NoAnswer,
    /// A message that the client began was not finished in time.
    #[strum(to_string = "message not finished in time")]
    MessageTimeout,
    /// The unfinished messages of all sessions use too much memory. The client should reconnect.
    #[strum(to_string = "too many unfinished messages")]
    Overloaded,
    /// The token or the API key has expired and was not refreshed. The client should get a new one
    /// and connect again.
    #[strum(to_string = "credential expired")]
    CredentialExpired,
    /// The first token or API key of the client is not accepted.
    #[strum(to_string = "invalid credential")]
    InvalidCredential,
    /// The token or the API key was revoked.
    #[strum(to_string = "credential revoked")]
    CredentialRevoked,
    /// The client has not authenticated in time, and odds are not public.
    #[strum(to_string = "not authenticated in time")]
    NotAuthenticated,
    /// The token or the API key does not allow to read odds.
    #[strum(to_string = "scope odds:read required")]
    ScopeRequired,
    /// The caller has its maximum number of sessions. The client should reconnect later.
    #[strum(to_string = "too many sessions")]
    TooManySessions,
}

impl CloseReason {
    /// The close code: one of RFC 6455, or a private one from 3000 on. After one from 3500 on the
    /// client does not connect again with the same credential.
    pub fn code(self) -> u16 {
        match self {
            CloseReason::GoingAway => 1001,
            CloseReason::ProtocolError => 1002,
            CloseReason::BinaryMessage => 1003,
            CloseReason::BadUtf8 => 1007,
            CloseReason::TooManyMessages | CloseReason::MessageTimeout => 1008,
            CloseReason::MessageTooBig => 1009,
            CloseReason::Overloaded | CloseReason::TooManySessions => 1013,
            CloseReason::NoAnswer => 3001,
            CloseReason::CredentialExpired => 3005,
            CloseReason::InvalidCredential | CloseReason::CredentialRevoked => 3500,
            CloseReason::NotAuthenticated => 3501,
            CloseReason::ScopeRequired => 3502,
        }
    }

    /// A short text for the close frame and the logs.
    pub fn text(self) -> &'static str {
        self.into()
    }
}

/// Whether clients see current odds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedStatus {
    /// Every change arrives.
    Live,
    /// Changes cannot arrive at the moment: prices may be stale.
    Stale,
}

#[derive(Serialize)]
#[serde(
    tag = "type",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
enum WireServerMessage<'a> {
    Unsubscribed {
        event_id: &'a EventId,
    },
    Pong,
    Authenticated {
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    },
    Feed {
        status: FeedStatus,
        #[serde(flatten)]
        of: Option<FeedOf<'a>>,
    },
    Heartbeat {
        as_of: Timestamp,
    },
    Reconnect {
        within_ms: u64,
    },
    Error {
        code: &'static str,
        message: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        event_id: Option<&'a EventId>,
    },
}

/// The source whose status a `feed` message reports, and the events that it concerns.
#[derive(Serialize)]
struct FeedOf<'a> {
    source: &'a Source,
    events: [&'a EventId; 1],
}

impl WireServerMessage<'_> {
    fn encode(&self) -> ByteString {
        encode(self)
    }
}

fn encode(message: &impl Serialize) -> ByteString {
    // Serializing strings, numbers and lists to memory cannot fail.
    serde_json::to_string(message).unwrap_or_default().into()
}

/// The `unsubscribed` message.
pub fn unsubscribed_message(event_id: &EventId) -> ByteString {
    WireServerMessage::Unsubscribed { event_id }.encode()
}

/// The `pong` message.
pub fn pong_message() -> ByteString {
    WireServerMessage::Pong.encode()
}

/// The `authenticated` message; `None` for a credential that does not expire.
pub fn authenticated_message(expires_at: Option<Timestamp>) -> ByteString {
    WireServerMessage::Authenticated { expires_at }.encode()
}

/// The `feed` message.
pub fn feed_message(status: FeedStatus) -> ByteString {
    WireServerMessage::Feed { status, of: None }.encode()
}

/// The `feed` message of a source of an event.
pub fn source_message(status: FeedStatus, source: &Source, event_id: &EventId) -> ByteString {
    let events = [event_id];
    let of = Some(FeedOf { source, events });
    WireServerMessage::Feed { status, of }.encode()
}

/// The `heartbeat` message: everything that was known at this time has been sent.
pub fn heartbeat_message(as_of: Timestamp) -> ByteString {
    WireServerMessage::Heartbeat { as_of }.encode()
}

/// The `reconnect` message: the server stops, and closes the session after this time.
pub fn reconnect_message(within: Duration) -> ByteString {
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    WireServerMessage::Reconnect { within_ms }.encode()
}

/// The `error` message of a refusal.
pub fn error_message(refusal: &Refusal) -> ByteString {
    let event_id = match refusal {
        Refusal::SnapshotUnavailable(event_id)
        | Refusal::SnapshotsLimited {
            event: event_id, ..
        } => Some(event_id),
        _ => None,
    };
    WireServerMessage::Error {
        code: refusal.code(),
        message: refusal.to_string(),
        event_id,
    }
    .encode()
}

/// Encodes a text message as a server frame: final, not masked (RFC 6455, section 5.2).
pub fn text_frame(text: &str) -> Bytes {
    let mut frame = BytesMut::new();
    Parser::write_message(&mut frame, text, OpCode::Text, true, false);
    frame.freeze()
}

#[cfg(test)]
mod tests;
