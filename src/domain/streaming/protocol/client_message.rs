//! Messages from clients.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::super::conflation_step::ConflationStep;
use super::Refusal;
use crate::domain::ids::EventId;
use crate::domain::json;

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// `{"type":"subscribe","eventId":"MATCH_001"}`: send a snapshot, then each change.
    Subscribe(EventId),
    /// A `subscribe` with a field of the extended protocol.
    SubscribeExtended(Box<SubscribeRequest>),
    /// `{"type":"unsubscribe","eventId":"MATCH_001"}`: send no more.
    Unsubscribe(EventId),
    /// `{"type":"ping"}`: answer `pong`.
    Ping,
    /// `{"type":"auth","token":"..."}`: the session belongs to the caller of this credential.
    Authenticate(Credential),
}

/// A token or an API key that a client presents. Its `Debug` output shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl Credential {
    /// The text, for the check of the credential only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credential(***)")
    }
}

/// A `subscribe` with a field of the extended protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The events, and from where each is resumed. An event that is not resumed gets everything.
    pub events: BTreeMap<EventId, Option<ResumePoint>>,
    /// How long changes may be held back.
    pub conflation: Option<ConflationStep>,
    /// After how much silence a heartbeat is sent. `None` leaves the setting of the session.
    pub heartbeat: Option<Duration>,
}

impl SubscribeRequest {
    /// How long changes are held back, from a number of milliseconds.
    pub fn conflation_of(millis: u32) -> Result<Option<ConflationStep>, Refusal> {
        let bad = || Refusal::BadConflateMs(millis.to_string());
        step_of(millis.into()).ok_or_else(bad)
    }

    /// The interval of heartbeats, from a number of milliseconds.
    pub fn heartbeat_of(millis: u32) -> Result<Option<Duration>, Refusal> {
        let bad = || Refusal::BadHeartbeatMs(millis.to_string());
        interval_of(millis.into()).ok_or_else(bad)
    }
}

/// From where a client resumes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// The client has every change up to this number.
    pub since: u64,
    /// The epoch of the number; `None` if the client sent none.
    pub epoch: Option<String>,
}

/// The longest `epoch`, in bytes.
pub const MAX_EPOCH_BYTES: usize = 64;
/// The shortest and the longest `heartbeatMs`.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 500..=30_000;

/// Absent and `null` fields are the same.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireClientMessage {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    event_id: Option<Value>,
    #[serde(default)]
    event_ids: Option<Value>,
    #[serde(default)]
    since: Option<Value>,
    #[serde(default)]
    epoch: Option<Value>,
    #[serde(default)]
    conflate_ms: Option<Value>,
    #[serde(default)]
    heartbeat_ms: Option<Value>,
    #[serde(default)]
    token: Option<Value>,
}

impl ClientMessage {
    /// Parses a client's text message. A repeated field is refused. Unknown fields are ignored, so
    /// that a client of a later version can connect.
    pub fn parse(text: &str) -> Result<ClientMessage, Refusal> {
        let wire: WireClientMessage =
            json::from_str(text).map_err(|error| Refusal::BadJson(error.to_string()))?;
        match wire.kind.as_str() {
            "subscribe" if wire.is_extended() => {
                let request = Box::new(wire.request()?);
                Ok(ClientMessage::SubscribeExtended(request))
            }
            "subscribe" => Ok(ClientMessage::Subscribe(wire.event_id()?)),
            "unsubscribe" => Ok(ClientMessage::Unsubscribe(wire.event_id()?)),
            "ping" => Ok(ClientMessage::Ping),
            "auth" => Ok(ClientMessage::Authenticate(wire.credential()?)),
            unknown => Err(Refusal::UnknownType(unknown.chars().take(40).collect())),
        }
    }
}

impl WireClientMessage {
    fn is_extended(&self) -> bool {
        let extensions = [
            &self.event_ids,
            &self.since,
            &self.epoch,
            &self.conflate_ms,
            &self.heartbeat_ms,
        ];
        extensions.into_iter().any(Option::is_some)
    }

    fn event_id(&self) -> Result<EventId, Refusal> {
        match &self.event_id {
            Some(id) => event_id(id),
            None => Err(Refusal::BadEventId("missing".to_owned())),
        }
    }

    fn credential(self) -> Result<Credential, Refusal> {
        match self.token {
            Some(Value::String(token)) if token.is_empty() => Err(Refusal::BadToken("empty")),
            Some(Value::String(token)) => Ok(Credential(token)),
            Some(_) => Err(Refusal::BadToken("not a string")),
            None => Err(Refusal::BadToken("missing")),
        }
    }

    fn request(&self) -> Result<SubscribeRequest, Refusal> {
        let conflation = match &self.conflate_ms {
            None => None,
            Some(value) => conflation(value)?,
        };
        let heartbeat = match &self.heartbeat_ms {
            None => None,
            Some(value) => heartbeat(value)?,
        };
        Ok(SubscribeRequest {
            events: self.events()?,
            conflation,
            heartbeat,
        })
    }

    fn events(&self) -> Result<BTreeMap<EventId, Option<ResumePoint>>, Refusal> {
        let epoch = self.epoch.as_ref().map(epoch).transpose()?;
        let resume = |since: Option<u64>| {
            let epoch = epoch.clone();
            since.map(|since| ResumePoint { since, epoch })
        };
        let Some(ids) = &self.event_ids else {
            let since = self.since.as_ref().map(number).transpose()?;
            return Ok([(self.event_id()?, resume(since))].into());
        };
        let bad = |why: &str| Refusal::BadEventId(why.to_owned());
        let Value::Array(ids) = ids else {
            return Err(bad("eventIds is not a list"));
        };
        if self.event_id.is_some() {
            return Err(bad("send either eventId or eventIds"));
        }
        if ids.is_empty() {
            return Err(bad("eventIds is empty"));
        }
        let since = self.since_of_events()?;
        ids.iter()
            .map(|id| {
                let id = event_id(id)?;
                let since = since.get(id.as_str()).copied();
                Ok((id, resume(since)))
            })
            .collect()
    }

    /// `since` of many events: an object with a number for each event that is resumed.
    fn since_of_events(&self) -> Result<BTreeMap<&str, u64>, Refusal> {
        match &self.since {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(numbers)) => numbers
                .iter()
                .map(|(event, since)| Ok((event.as_str(), number(since)?)))
                .collect(),
            Some(_) => {
                let why = "with eventIds it is an object with a number for each event";
                Err(Refusal::BadSince(why.to_owned()))
            }
        }
    }
}

fn event_id(value: &Value) -> Result<EventId, Refusal> {
    match value {
        Value::String(id) => {
            EventId::new(id).map_err(|error| Refusal::BadEventId(error.to_string()))
        }
        _ => Err(Refusal::BadEventId("not a string".to_owned())),
    }
}

fn number(value: &Value) -> Result<u64, Refusal> {
    value
        .as_u64()
        .ok_or_else(|| Refusal::BadSince(format!("not a sequence number: {}", short(value))))
}

fn epoch(value: &Value) -> Result<String, Refusal> {
    match value {
        Value::String(epoch) if epoch.len() <= MAX_EPOCH_BYTES => Ok(epoch.clone()),
        Value::String(_) => {
            let why = format!("epoch is longer than {MAX_EPOCH_BYTES} bytes");
            Err(Refusal::BadSince(why))
        }
        _ => Err(Refusal::BadSince("epoch is not a string".to_owned())),
    }
}

fn conflation(value: &Value) -> Result<Option<ConflationStep>, Refusal> {
    let bad = || Refusal::BadConflateMs(short(value));
    step_of(value.as_u64().ok_or_else(bad)?).ok_or_else(bad)
}

/// 0 is no conflation. `None` if the time is out of range.
fn step_of(millis: u64) -> Option<Option<ConflationStep>> {
    match millis {
        0 => Some(None),
        millis => ConflationStep::of(millis).map(Some),
    }
}

/// 0 leaves the setting of the session.
fn heartbeat(value: &Value) -> Result<Option<Duration>, Refusal> {
    let bad = || Refusal::BadHeartbeatMs(short(value));
    interval_of(value.as_u64().ok_or_else(bad)?).ok_or_else(bad)
}

/// 0 is no heartbeat. `None` if the time is out of range.
fn interval_of(millis: u64) -> Option<Option<Duration>> {
    match millis {
        0 => Some(None),
        millis if HEARTBEAT_MS.contains(&millis) => Some(Some(Duration::from_millis(millis))),
        _ => None,
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}
