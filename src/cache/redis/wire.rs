//! The entries in Redis, the messages on the channels, and the script that writes both.
//!
//! - `odds:book:{event_id}`, a hash: market key -> `{"order":…,"seq":…,"payload":{…}}`
//! - `odds:current:{event_id}`: the event's last `1x2` market, else its last market, in the
//!   original's format
//! - `odds:damaged`, a set: the events with entries that a reader could not read, until a processor
//!   handles them
//! - the channels (see [`crate::cache::redis::channels`]):
//!   `{"eventId":…,"payload":{…},"seq":…,"deployment":…}`, with `"conflated":true` if earlier
//!   changes may have been conflated, and `"traceparent":…` if the change is traced; the original's
//!   messages have neither `seq` nor `deployment`

use std::borrow::Cow;

use redis::Cmd;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::channels::Channels;
use crate::cache::{Broadcast, Change};
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::json;
use crate::domain::odds::book::{MarketState, SMALLEST_JUMP, number_of};
use crate::domain::odds::update::{OddsUpdate, Revision, check_kind};
use crate::domain::timestamp::Timestamp;
use crate::domain::trace_parent::{TRACEPARENT, TraceParent};

/// Stores one state and broadcasts it if it is newer than the held one, atomically.
///
/// Decides as [`crate::cache::winning_state`] does, but a held state with an implausible order or
/// number counts as missing. Orders are strings of equal length, so comparing strings compares numbers
/// that Lua has no type for. Returns 0 if nothing changed. A held state with another number is only
/// broadcast if the number is a jump over lost ones, and not to the original's clients.
pub(super) const SCRIPT: &str = r#"
local field, order, seq, payload = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ttl, channel, event, main, more = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local original, latest, largest, jump = ARGV[10], ARGV[11], ARGV[12], tonumber(ARGV[13])
local function is_larger(one, other) return #one > #other or (#one == #other and one > other) end
local held = redis.call('HGET', KEYS[1], field)
local renumbered, is_jump = false, false
if held then
  local held_order, held_seq = string.match(held, '^{"order":"(%d+)","seq":(%d+),')
  if held_order and held_order <= latest and not is_larger(held_seq, largest) then
    local larger = is_larger(seq, held_seq)
    if held_order > order or (held_order == order and not larger) then return 0 end
    renumbered = held_order == order
    is_jump = tonumber(seq) - tonumber(held_seq) >= jump
    if not larger then seq = string.format('%.0f', tonumber(held_seq) + 1) end
  end
end
redis.call('HSET', KEYS[1], field, '{"order":"' .. order .. '","seq":' .. seq .. ',"payload":' .. payload .. '}')
redis.call('PEXPIRE', KEYS[1], ttl)
local message = '{"eventId":' .. event .. ',"payload":' .. payload .. ',"seq":' .. seq .. more
if renumbered then
  if is_jump then redis.call('PUBLISH', channel, message) end
  return 1
end
if main == '1' or redis.call('HEXISTS', KEYS[1], '1x2') == 0 then
  redis.call('SET', KEYS[2], payload, 'PX', ttl)
else
  redis.call('PEXPIRE', KEYS[2], ttl)
end
redis.call('PUBLISH', channel, message)
if original ~= '' then redis.call('PUBLISH', original, message) end
return 2
"#;

/// Removes what is damaged from one entry, atomically: the key if it has the wrong type, else the
/// given fields that still have the given values.
///
/// Another processor may have written the entry since it was read, so nothing readable is removed.
/// Returns the number of removed keys and fields.
const REMOVAL_SCRIPT: &str = r#"
local kind = redis.call('TYPE', KEYS[1]).ok
local removed = 0
if kind == 'hash' then
  for i = 1, #ARGV, 2 do
    if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
      removed = removed + redis.call('HDEL', KEYS[1], ARGV[i])
    end
  end
elseif kind ~= 'none' then
  removed = redis.call('UNLINK', KEYS[1])
end
if removed > 0 and redis.call('EXISTS', KEYS[1]) == 0 then redis.call('UNLINK', KEYS[2]) end
return removed
"#;

pub(super) fn book_key(event_id: &EventId) -> String {
    format!("odds:book:{event_id}")
}

/// The set of events whose entries a reader found damaged. Their processor rewrites them.
pub(super) const DAMAGED: &str = "odds:damaged";

pub(super) fn current_key(event_id: &EventId) -> String {
    format!("odds:current:{event_id}")
}

/// Parameters of the script other than the state.
pub(super) struct Writing<'a> {
    pub hash: &'a str,
    pub ttl_millis: u64,
    pub channels: &'a Channels,
    /// The latest plausible time of a held state.
    pub latest: Timestamp,
    /// The largest plausible sequence number of a held state.
    pub largest_seq: u64,
}

/// The script call for one state.
pub(super) fn write_command(change: &Change, writing: &Writing<'_>) -> Cmd {
    let Writing {
        hash,
        ttl_millis,
        channels,
        latest,
        largest_seq,
    } = writing;
    let state = &change.state;
    let update = &state.update;
    let event = serde_json::to_string(&update.event_id).unwrap_or_default();
    let mut command = redis::cmd("EVALSHA");
    command
        .arg(hash)
        .arg(2)
        .arg(book_key(&update.event_id))
        .arg(current_key(&update.event_id));
    command
        .arg(update.market.to_string())
        .arg(order(update.revision))
        .arg(state.seq.to_string());
    command
        .arg(update.to_json())
        .arg(ttl_millis)
        .arg(&channels.own)
        .arg(event);
    command.arg(if update.market.name.as_str() == "1x2" {
        "1"
    } else {
        "0"
    });
    command.arg(more_fields(change, channels));
    command.arg(
        channels
            .original
            .as_ref()
            .map_or("", |(original, _)| original.as_str()),
    );
    command
        .arg(order(Revision {
            updated_at: *latest,
            version: i64::MAX,
        }))
        .arg(largest_seq.to_string())
        .arg(SMALLEST_JUMP);
    command
}

/// The end of the message, after the number.
fn more_fields(change: &Change, channels: &Channels) -> String {
    let conflated = if change.conflated {
        r#","conflated":true"#
    } else {
        ""
    };
    let ending = &channels.ending;
    match change.trace {
        None => format!("{conflated}{ending}"),
        Some(trace) => format!(r#"{conflated},"{TRACEPARENT}":"{trace}"{ending}"#),
    }
}

/// The script call that removes what is damaged from an entry. Rare, so the script is sent with it.
pub(super) fn removal_command(event_id: &EventId, fields: &[(Vec<u8>, Vec<u8>)]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command
        .arg(REMOVAL_SCRIPT)
        .arg(2)
        .arg(book_key(event_id))
        .arg(current_key(event_id));
    for (field, value) in fields {
        command.arg(field).arg(value);
    }
    command
}

/// A revision as a string of 40 digits; a later revision is a larger string.
fn order(revision: Revision) -> String {
    let unsigned = |number: i64| (number as u64) ^ (1 << 63);
    format!(
        "{:020}{:020}",
        unsigned(revision.updated_at.micros()),
        unsigned(revision.version)
    )
}

#[derive(Deserialize)]
struct WireState<'a> {
    seq: u64,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// A broadcast whose update is not parsed yet.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(default, rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(rename = "eventId")]
    event_id: EventId,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    conflated: bool,
    /// Kept as it is: a damaged one must not make the change unreadable.
    #[serde(default, borrow)]
    traceparent: Option<&'a RawValue>,
    /// The sender's deployment.
    #[serde(default, borrow)]
    pub deployment: Option<Cow<'a, str>>,
}

impl Envelope<'_> {
    /// Parses the envelope of a channel message.
    pub(super) fn open(message: &[u8]) -> Result<Envelope<'_>, String> {
        let envelope: Envelope<'_> =
            json::from_slice(message).map_err(|error| error.to_string())?;
        check_kind(envelope.kind).map_err(|error| error.to_string())?;
        Ok(envelope)
    }

    /// Parses the update as well.
    pub(super) fn read(self) -> Result<Broadcast, String> {
        let update = read_update(&self.event_id, self.payload)?;
        Ok(Broadcast {
            update,
            seq: self.seq,
            conflated: self.conflated,
            trace: self.traceparent.and_then(read_trace),
        })
    }
}

fn read_trace(field: &RawValue) -> Option<TraceParent> {
    let text = field.get().strip_prefix('"')?.strip_suffix('"')?;
    TraceParent::sampled(text.as_bytes())
}

/// Reads a field of an event's hash.
pub(super) fn read_state(
    event_id: &EventId,
    field: &[u8],
    value: &[u8],
) -> Result<MarketState, String> {
    let wire: WireState = json::from_slice(value).map_err(|error| error.to_string())?;
    let update = read_update(event_id, wire.payload)?;
    let is_own_field =
        std::str::from_utf8(field).is_ok_and(|field| is_field_of(field, &update.market));
    if !is_own_field {
        return Err(format!("the payload is of the market `{}`", update.market));
    }
    Ok(MarketState {
        update,
        seq: wire.seq,
    })
}

/// Whether a hash field belongs to this market. Earlier versions did not escape the name; their
/// fields are read as well, and the later state wins if a market has both.
fn is_field_of(field: &str, market: &MarketKey) -> bool {
    let unescaped = || match market.line {
        Some(line) => format!("{}@{line}", market.name),
        None => market.name.to_string(),
    };
    field.parse().is_ok_and(|key: MarketKey| key == *market) || field == unescaped()
}

/// The part that only our entries have.
#[derive(Deserialize)]
struct WireCurrent<'a> {
    #[serde(borrow)]
    selections: Option<&'a RawValue>,
}

/// Reads the original's `odds:current` entry, which has no sequence number. Our own entries are
/// rejected: they can outlive the hash that holds their number, because Redis evicts key by key
/// when memory is full, and the number derived for an original entry exceeds all of ours.
pub(super) fn read_current(event_id: &EventId, value: &[u8]) -> Result<MarketState, String> {
    let payload: &RawValue = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let current: WireCurrent = json::from_str(payload.get()).map_err(|error| error.to_string())?;
    if current.selections.is_some() {
        return Err("the entry was not written by the original".to_owned());
    }
    let update = read_update(event_id, payload)?;
    Ok(MarketState {
        seq: number_of(update.revision),
        update,
    })
}

fn read_update(event_id: &EventId, payload: &RawValue) -> Result<OddsUpdate, String> {
    let update =
        OddsUpdate::from_json(payload.get().as_bytes()).map_err(|error| error.to_string())?;
    if update.event_id == *event_id {
        Ok(update)
    } else {
        Err(format!("the payload is of the event `{}`", update.event_id))
    }
}

#[cfg(test)]
mod tests;
