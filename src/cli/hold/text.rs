//! The output of `sports-bet hold`.

use std::io::{Result, Write};

use serde_json::{Value, json};

use crate::domain::odds::hold::HoldScope;
use crate::domain::timestamp::Timestamp;
use crate::store::holds::{HoldOrder, StoredHold};

/// A hold was set.
pub(super) fn set(id: i64, order: &HoldOrder, out: &mut dyn Write) -> Result<()> {
    write!(out, "hold {id} set: {}", order.scope)?;
    if let Some(until) = order.until {
        write!(out, ", until {until}")?;
    }
    writeln!(out)
}

/// How many open markets a new hold covers.
pub(super) fn covered(open_markets: u64, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "open markets that it covers now: {open_markets}")
}

/// A hold was released.
pub(super) fn released(hold: &StoredHold, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "hold {} released: {}", hold.hold.id, hold.hold.scope)
}

/// One line per hold.
pub(super) fn lines(holds: &[StoredHold], now: Timestamp, out: &mut dyn Write) -> Result<()> {
    if holds.is_empty() {
        return writeln!(out, "no holds");
    }
    for stored in holds {
        let StoredHold {
            hold,
            set,
            released,
        } = stored;
        let state = state(stored, now);
        write!(
            out,
            "{}  {state}  {}  set {} by {}: {}",
            hold.id, hold.scope, set.at, set.by, set.reason
        )?;
        if let Some(until) = hold.until {
            write!(out, "  until {until}")?;
        }
        if let Some(step) = released {
            write!(
                out,
                "  released {} by {}: {}",
                step.at, step.by, step.reason
            )?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A JSON array. The fields have the names of the columns.
pub(super) fn json(holds: &[StoredHold], now: Timestamp, out: &mut dyn Write) -> Result<()> {
    let holds: Vec<_> = holds.iter().map(|hold| object(hold, now)).collect();
    writeln!(out, "{}", Value::Array(holds))
}

fn object(stored: &StoredHold, now: Timestamp) -> Value {
    let (source, event_id, market, selection) = match &stored.hold.scope {
        HoldScope::All => (None, None, None, None),
        HoldScope::Source(source) => (Some(source), None, None, None),
        HoldScope::Event(event) => (None, Some(event), None, None),
        HoldScope::Market(event, market) => (None, Some(event), Some(market), None),
        HoldScope::Selection(event, market, selection) => {
            (None, Some(event), Some(market), Some(selection))
        }
    };
    let released = stored.released.as_ref();
    json!({
        "id": stored.hold.id,
        "state": state(stored, now),
        "scope": stored.hold.scope.kind(),
        "source": source,
        "event_id": event_id,
        "market": market.map(|market| &market.name),
        "line": market.and_then(|market| market.line),
        "selection": selection,
        "until": stored.hold.until,
        "reason": stored.set.reason,
        "created_by": stored.set.by,
        "created_at": stored.set.at,
        "release_reason": released.map(|step| &step.reason),
        "released_by": released.map(|step| &step.by),
        "released_at": released.map(|step| step.at),
    })
}

fn state(stored: &StoredHold, now: Timestamp) -> &'static str {
    match stored.released {
        Some(_) => "released",
        None if stored.hold.is_in_force(now) => "in force",
        None => "ended",
    }
}
