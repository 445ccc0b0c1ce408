//! What stands in Redis and what goes over its channel; and the script that writes it.
//!
//! - `odds:book:{event_id}`, a hash: market key -> `{"order":…,"seq":…,"payload":{…}}`
//! - `odds:current:{event_id}`: the event's last `1x2`, else its last market, in the original's shape
//! - `odds:damaged`, a set: the events whose entries a reader could not read, until a processor takes note
//! - the channel: `{"eventId":…,"payload":{…},"seq":…}`, with `"conflated":true` where changes before it may have been left
//!   out; the original's has no `seq`
//! - the channel's name and `:alive`: a message of any content from each processor that follows the bus. Not on the channel
//!   itself, whose readers in the original expect nothing but changes.

use redis::Cmd;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cache::{Broadcast, Change};
use crate::domain::book::{MarketState, number_of};
use crate::domain::ids::EventId;
use crate::domain::update::{OddsUpdate, Revision};

/// Keeps one state where it is newer than what is held, and tells it, in one step.
///
/// Decides as [`crate::cache::kept`] does. Orders are texts of one length, so that comparing texts compares numbers that
/// Lua has no type for. Gives 0 where nothing changed.
pub(super) const SCRIPT: &str = r#"
local field, order, seq, payload = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ttl, channel, event, main, more = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local held = redis.call('HGET', KEYS[1], field)
local renumbered = false
if held then
  local held_order, held_seq = string.match(held, '^{"order":"(%d+)","seq":(%d+),')
  if held_order then
    local larger = #seq > #held_seq or (#seq == #held_seq and seq > held_seq)
    if held_order > order or (held_order == order and not larger) then return 0 end
    renumbered = held_order == order
    if not larger then seq = string.format('%.0f', tonumber(held_seq) + 1) end
  end
end
redis.call('HSET', KEYS[1], field, '{"order":"' .. order .. '","seq":' .. seq .. ',"payload":' .. payload .. '}')
redis.call('PEXPIRE', KEYS[1], ttl)
if renumbered then return 1 end
if main == '1' or redis.call('HEXISTS', KEYS[1], '1x2') == 0 then
  redis.call('SET', KEYS[2], payload, 'PX', ttl)
else
  redis.call('PEXPIRE', KEYS[2], ttl)
end
redis.call('PUBLISH', channel, '{"eventId":' .. event .. ',"payload":' .. payload .. ',"seq":' .. seq .. more .. '}')
return 2
"#;

pub(super) fn book_key(event_id: &EventId) -> String {
    format!("odds:book:{event_id}")
}

/// A set of the events whose entries a reader found damaged. Their processor writes them again.
pub(super) const DAMAGED: &str = "odds:damaged";

pub(super) fn current_key(event_id: &EventId) -> String {
    format!("odds:current:{event_id}")
}

/// Where processors say that they are alive.
pub(super) fn alive_channel(channel: &str) -> String {
    format!("{channel}:alive")
}

/// The call of the script for one state.
pub(super) fn write_command(hash: &str, change: &Change, ttl_millis: u64, channel: &str) -> Cmd {
    let Change { state, conflated } = change;
    let update = &state.update;
    let event = serde_json::to_string(&update.event_id).unwrap_or_default();
    let mut command = redis::cmd("EVALSHA");
    command.arg(hash).arg(2).arg(book_key(&update.event_id)).arg(current_key(&update.event_id));
    command.arg(update.market.to_string()).arg(order(update.revision)).arg(state.seq.to_string());
    command.arg(update.to_json()).arg(ttl_millis).arg(channel).arg(event);
    command.arg(if update.market.name.as_str() == "1x2" { "1" } else { "0" });
    command.arg(if *conflated { r#","conflated":true"# } else { "" });
    command
}

/// A revision as a text of 40 digits; a later one is the larger text.
fn order(revision: Revision) -> String {
    let unsigned = |number: i64| (number as u64) ^ (1 << 63);
    format!("{:020}{:020}", unsigned(revision.updated_at.micros()), unsigned(revision.version))
}

#[derive(Deserialize)]
struct WireState<'a> {
    seq: u64,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct WireBroadcast<'a> {
    #[serde(rename = "eventId")]
    event_id: EventId,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    conflated: bool,
}

/// Reads a field of the hash of an event.
pub(super) fn read_state(event_id: &EventId, field: &[u8], value: &[u8]) -> Result<MarketState, String> {
    let wire: WireState = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let update = read_update(event_id, wire.payload)?;
    if update.market.to_string().as_bytes() != field {
        return Err(format!("the payload is of the market `{}`", update.market));
    }
    Ok(MarketState { update, seq: wire.seq })
}

/// Ours, which the original's has not.
#[derive(Deserialize)]
struct WireCurrent<'a> {
    #[serde(borrow)]
    selections: Option<&'a RawValue>,
}

/// Reads what the original keeps of an event, which has no number. Ours may outlive the hash that knows its number, as Redis
/// lets go key by key when its memory is full: it is refused, since the number of the original's lies beyond any of ours.
pub(super) fn read_current(event_id: &EventId, value: &[u8]) -> Result<MarketState, String> {
    let payload: &RawValue = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let current: WireCurrent = serde_json::from_str(payload.get()).map_err(|error| error.to_string())?;
    if current.selections.is_some() {
        return Err("it is not the original's".to_owned());
    }
    let update = read_update(event_id, payload)?;
    Ok(MarketState { seq: number_of(update.revision), update })
}

/// Reads a message of the channel.
pub(super) fn read_broadcast(message: &[u8]) -> Result<Broadcast, String> {
    let wire: WireBroadcast = serde_json::from_slice(message).map_err(|error| error.to_string())?;
    Ok(Broadcast { update: read_update(&wire.event_id, wire.payload)?, seq: wire.seq, conflated: wire.conflated })
}

fn read_update(event_id: &EventId, payload: &RawValue) -> Result<OddsUpdate, String> {
    let update = OddsUpdate::from_json(payload.get().as_bytes()).map_err(|error| error.to_string())?;
    if update.event_id == *event_id {
        Ok(update)
    } else {
        Err(format!("the payload is of the event `{}`", update.event_id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORIGINAL: &str = r#"{"eventId":"MATCH_001","payload":{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.528,"draw":2.574,"away":3.144},"updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":978}}"#;

    #[test]
    fn reads_the_originals_broadcast_and_ours() {
        let broadcast = read_broadcast(ORIGINAL.as_bytes()).unwrap();
        assert_eq!((broadcast.seq, broadcast.update.revision.version), (None, 978));
        let ours = format!("{},\"seq\":42}}", &ORIGINAL[..ORIGINAL.len() - 1]);
        assert_eq!(read_broadcast(ours.as_bytes()).unwrap().seq, Some(42));
    }

    /// Captured from the original's processor; the README beside them says how.
    #[test]
    fn reads_what_the_originals_processor_wrote() {
        let told = read_broadcast(include_bytes!("../../../tests/data/original/redis-broadcast.json")).unwrap();
        let event = EventId::new("MATCH_002").unwrap();
        let kept = include_bytes!("../../../tests/data/original/redis-odds-current.json");
        let kept = read_current(&event, kept).unwrap();
        assert_eq!((told.seq, &told.update), (None, &kept.update));
        // The time of the change in milliseconds: the same number in every process, and a later change has a larger one.
        assert_eq!(kept.seq, 1_795_392_219_563);
        assert_eq!(kept.update.price_of("home").map(|price| price.thousandths()), Some(2_345));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert!(read_broadcast(ORIGINAL.replacen("MATCH_001", "MATCH_002", 1).as_bytes()).is_err());
        let event = EventId::new("MATCH_001").unwrap();
        let payload = &ORIGINAL[33..ORIGINAL.len() - 1];
        let state = format!(r#"{{"order":"0","seq":7,"payload":{payload}}}"#);
        assert_eq!(read_state(&event, b"1x2", state.as_bytes()).unwrap().seq, 7);
        assert!(read_state(&event, b"btts", state.as_bytes()).is_err());
    }

    #[test]
    fn what_stands_alone_is_read_where_the_original_wrote_it_and_not_where_we_did() {
        let event = EventId::new("MATCH_001").unwrap();
        let original = &ORIGINAL[33..ORIGINAL.len() - 1];
        let read = read_current(&event, original.as_bytes()).unwrap();
        assert!(read_current(&event, read.update.to_json().as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn orders_compare_as_revisions(one in (0i64..9_000_000_000_000_000, any::<i64>()), other in (0i64..9_000_000_000_000_000, any::<i64>())) {
            let revision = |(micros, version)| Revision {
                updated_at: crate::domain::timestamp::Timestamp::from_micros(micros).unwrap(),
                version,
            };
            let (one, other) = (revision(one), revision(other));
            prop_assert_eq!(order(one).cmp(&order(other)), one.cmp(&other));
            prop_assert_eq!(order(one).len(), 40);
        }

        #[test]
        fn any_bytes_are_read_or_refused_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let event = EventId::new("E").unwrap();
            let _ = (read_broadcast(&bytes), read_state(&event, b"1x2", &bytes), read_current(&event, &bytes));
        }
    }
}
