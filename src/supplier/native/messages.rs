//! The messages of the native format besides updates: each has a `type`.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::domain::ids::{EventId, MarketKey, MarketName, Source};
use crate::domain::odds::price::Line;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::Revision;
use crate::domain::timestamp::Timestamp;

/// A message with a known `type`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum NativeMessage {
    Alive(Alive),
    Recovered(Recovered),
    BetStop(BetStop),
}

/// The types of [`NativeMessage`], as they stand in a frame.
const TYPES: [&str; 3] = [r#""alive""#, r#""recovered""#, r#""bet_stop""#];

/// The source lives; nothing has changed.
#[derive(Debug, Deserialize)]
pub(super) struct Alive {
    pub at: Timestamp,
    #[serde(default)]
    pub source: Option<Source>,
}

/// Everything that a `recover` requested has been sent.
#[derive(Debug, Deserialize)]
pub(super) struct Recovered {
    pub request: String,
}

/// Open markets of an event are suspended.
#[derive(Debug, Deserialize)]
pub(super) struct BetStop {
    pub event_id: EventId,
    /// All markets if absent.
    #[serde(default)]
    pub markets: Option<Vec<MarketName>>,
    /// Every source of the connection if absent.
    #[serde(default)]
    pub source: Option<Source>,
    #[serde(default = "suspended")]
    status: MarketStatus,
    updated_at: Timestamp,
    #[serde(default)]
    version: i64,
}

fn suspended() -> MarketStatus {
    MarketStatus::Suspended
}

impl BetStop {
    pub(super) fn revision(&self) -> Revision {
        Revision {
            updated_at: self.updated_at,
            version: self.version,
        }
    }

    pub(super) fn concerns(&self, market: &MarketKey) -> bool {
        let names = self.markets.as_ref();
        names.is_none_or(|names| names.contains(&market.name))
    }
}

/// Reads a message whose `type` is `kind`, as it stands in the frame. `None` if the type is not
/// known.
pub(super) fn read(kind: &str, frame: &[u8]) -> Option<Result<NativeMessage, String>> {
    if !TYPES.contains(&kind) {
        return None;
    }
    let message = serde_json::from_slice(frame).map_err(|error| error.to_string());
    Some(message.and_then(|message| match &message {
        NativeMessage::BetStop(stop) if stop.status != MarketStatus::Suspended => {
            Err(format!("a bet stop cannot set the status {}", stop.status))
        }
        _ => Ok(message),
    }))
}

/// The request for what has changed since `after`, or for everything.
pub(super) fn recover(request: &str, after: Option<Timestamp>) -> String {
    let mut message = json!({"type": "recover", "request": request});
    if let Some(after) = after {
        message["after"] = json!(after);
    }
    message.to_string()
}

/// An update with the status `handed_over`, as the same update with the status `suspended`. `None`
/// if the frame has another status.
pub(super) fn without_handover(frame: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct WireStatus<'a> {
        #[serde(borrow)]
        status: &'a RawValue,
    }
    let text = std::str::from_utf8(frame).ok()?;
    let wire: WireStatus<'_> = serde_json::from_str(text).ok()?;
    let status = wire.status.get();
    if status != r#""handed_over""# {
        return None;
    }
    // The text is a part of the frame.
    let start = (status.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let (before, rest) = text.split_at_checked(start)?;
    let after = rest.get(status.len()..)?;
    Some([before, r#""suspended""#, after].concat().into_bytes())
}

/// The market named by an update that cannot be decoded completely. An unreadable part matches any
/// value.
pub(super) struct Named {
    pub event: EventId,
    pub source: Option<Source>,
    market: Option<MarketName>,
    line: Option<Option<Line>>,
}

#[derive(Deserialize)]
struct WireNames<'a> {
    event_id: EventId,
    #[serde(default, borrow)]
    market: Option<&'a RawValue>,
    #[serde(default, borrow)]
    line: Option<&'a RawValue>,
    #[serde(default, borrow)]
    source: Option<&'a RawValue>,
}

impl Named {
    pub(super) fn read(frame: &[u8]) -> Option<Named> {
        let wire: WireNames<'_> = serde_json::from_slice(frame).ok()?;
        Some(Named {
            event: wire.event_id,
            source: wire
                .source
                .and_then(|text| serde_json::from_str(text.get()).ok()),
            market: wire
                .market
                .and_then(|text| serde_json::from_str(text.get()).ok()),
            line: wire.line.map_or(Some(None), |text| {
                serde_json::from_str(text.get()).ok().map(Some)
            }),
        })
    }

    pub(super) fn matches(&self, key: &MarketKey) -> bool {
        let Some(market) = &self.market else {
            return true;
        };
        *market == key.name && self.line.is_none_or(|line| line == key.line)
    }
}
