//! The WebSocket protocol of `/ws/odds`: client messages and server messages.
//!
//! Every server message has a `type`. `snapshot` and `update` carry `eventId` and `payload`, the
//! only fields that a client of the original reads; `seq`, `markets` and `conflated` are additions.

use std::sync::{Arc, OnceLock};

use actix_http::ws::{OpCode, Parser};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strum::{IntoStaticStr, VariantNames};

use crate::domain::ids::{EventId, MarketKey};
use crate::domain::json;
use crate::domain::odds::book::{MarketState, Snapshot};
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// `{"type":"subscribe","eventId":"MATCH_001"}`: send a snapshot, then each change.
    Subscribe(EventId),
    /// `{"type":"unsubscribe","eventId":"MATCH_001"}`: send no more.
    Unsubscribe(EventId),
    /// `{"type":"ping"}`: answer `pong`.
    Ping,
}

/// Why a client's message was refused. The socket stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Refusal {
    /// The message is not a JSON object with a `type`.
    #[error("not a JSON object with a \"type\": {0}")]
    BadJson(String),
    /// The `type` is unknown.
    #[error("unknown type `{0}`; expected subscribe, unsubscribe or ping")]
    UnknownType(String),
    /// `eventId` is missing or invalid.
    #[error("eventId: {0}")]
    BadEventId(String),
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
    /// The event's book could not be read in time; the client should subscribe again.
    #[error("the odds of `{0}` are currently unavailable; subscribe again")]
    SnapshotUnavailable(EventId),
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
}

impl CloseReason {
    /// The close code: one of RFC 6455, or a private one from 3000 on.
    pub fn code(self) -> u16 {
        match self {
            CloseReason::GoingAway => 1001,
            CloseReason::ProtocolError => 1002,
            CloseReason::BinaryMessage => 1003,
            CloseReason::BadUtf8 => 1007,
            CloseReason::TooManyMessages | CloseReason::MessageTimeout => 1008,
            CloseReason::MessageTooBig => 1009,
            CloseReason::Overloaded => 1013,
            CloseReason::NoAnswer => 3001,
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

#[derive(Deserialize)]
struct WireClientMessage {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "eventId", default)]
    event_id: Option<serde_json::Value>,
}

impl ClientMessage {
    /// Parses a client's text message. A repeated field is refused. Unknown fields are ignored, so
    /// that a client of a later version can connect.
    pub fn parse(text: &str) -> Result<ClientMessage, Refusal> {
        let wire: WireClientMessage =
            json::from_str(text).map_err(|error| Refusal::BadJson(error.to_string()))?;
        let event_id = || match &wire.event_id {
            Some(serde_json::Value::String(id)) => {
                EventId::new(id).map_err(|error| Refusal::BadEventId(error.to_string()))
            }
            Some(_) => Err(Refusal::BadEventId("not a string".to_owned())),
            None => Err(Refusal::BadEventId("missing".to_owned())),
        };
        match wire.kind.as_str() {
            "subscribe" => Ok(ClientMessage::Subscribe(event_id()?)),
            "unsubscribe" => Ok(ClientMessage::Unsubscribe(event_id()?)),
            "ping" => Ok(ClientMessage::Ping),
            unknown => Err(Refusal::UnknownType(unknown.chars().take(40).collect())),
        }
    }
}

#[derive(Serialize)]
#[serde(
    tag = "type",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
enum WireServerMessage<'a> {
    Snapshot {
        event_id: &'a EventId,
        seq: u64,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
        markets: Vec<WireMarket<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a OddsUpdate>,
    },
    Update {
        event_id: &'a EventId,
        seq: u64,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        conflated: bool,
        payload: &'a RawValue,
    },
    Unsubscribed {
        event_id: &'a EventId,
    },
    Pong,
    Feed {
        status: FeedStatus,
    },
    Error {
        code: &'static str,
        message: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        event_id: Option<&'a EventId>,
    },
}

#[derive(Serialize)]
struct WireMarket<'a> {
    seq: u64,
    payload: &'a OddsUpdate,
}

impl WireServerMessage<'_> {
    fn encode(&self) -> ByteString {
        // Serializing strings, numbers and lists to memory cannot fail.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

/// The `snapshot` message of a book. `payload` is the market that the original would show; an empty
/// book has none. `stale` means that changes cannot arrive at the moment.
pub fn snapshot_message(snapshot: &Snapshot, stale: bool) -> ByteString {
    let market = |state: &'_ Arc<MarketState>| state.seq;
    let markets = snapshot.markets.iter().map(|state| WireMarket {
        seq: market(state),
        payload: &state.update,
    });
    WireServerMessage::Snapshot {
        event_id: &snapshot.event_id,
        seq: snapshot.seq,
        stale,
        markets: markets.collect(),
        payload: snapshot.headline().map(|state| &state.update),
    }
    .encode()
}

/// The `unsubscribed` message.
pub fn unsubscribed_message(event_id: &EventId) -> ByteString {
    WireServerMessage::Unsubscribed { event_id }.encode()
}

/// The `pong` message.
pub fn pong_message() -> ByteString {
    WireServerMessage::Pong.encode()
}

/// The `feed` message.
pub fn feed_message(status: FeedStatus) -> ByteString {
    WireServerMessage::Feed { status }.encode()
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

/// One change of one market as sent to clients, encoded once for all of them.
#[derive(Debug)]
pub struct UpdateFrame {
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
    /// The event's sequence number of the change.
    pub seq: u64,
    /// The supplier's time of the change.
    pub updated_at: Timestamp,
    plain: Encoded,
    conflated: OnceLock<Encoded>,
}

impl UpdateFrame {
    /// Encodes the `update` message of a market's new state.
    pub fn new(state: &MarketState) -> UpdateFrame {
        let update = &state.update;
        UpdateFrame {
            event_id: update.event_id.clone(),
            market: update.market.clone(),
            seq: state.seq,
            updated_at: update.revision.updated_at,
            plain: Encoded::new(encode_update(
                &update.event_id,
                state.seq,
                false,
                &update.to_json(),
            )),
            conflated: OnceLock::new(),
        }
    }

    /// The message; with `conflated`, the variant which says that earlier changes may have been
    /// left out.
    pub fn text(&self, conflated: bool) -> &ByteString {
        &self.encoded(conflated).text
    }

    /// The same message as a WebSocket frame.
    pub fn wire(&self, conflated: bool) -> &Bytes {
        &self.encoded(conflated).wire
    }

    fn encoded(&self, conflated: bool) -> &Encoded {
        if !conflated {
            return &self.plain;
        }
        self.conflated.get_or_init(|| {
            let text = match serde_json::from_str::<PlainUpdate<'_>>(&self.plain.text) {
                Ok(plain) => encode_update(&self.event_id, self.seq, true, plain.payload.get()),
                Err(_) => self.plain.text.clone(),
            };
            Encoded::new(text)
        })
    }
}

#[derive(Debug)]
struct Encoded {
    text: ByteString,
    wire: Bytes,
}

impl Encoded {
    fn new(text: ByteString) -> Encoded {
        Encoded {
            wire: text_frame(&text),
            text,
        }
    }
}

#[derive(Deserialize)]
struct PlainUpdate<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn encode_update(event_id: &EventId, seq: u64, conflated: bool, payload: &str) -> ByteString {
    match serde_json::from_str::<&RawValue>(payload) {
        Ok(payload) => WireServerMessage::Update {
            event_id,
            seq,
            conflated,
            payload,
        }
        .encode(),
        Err(_) => ByteString::new(),
    }
}

#[cfg(test)]
mod tests;
