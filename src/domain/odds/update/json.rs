//! The JSON form of an update, used for the frames of a native supplier and the records on the bus.
//!
//! The form is the original's with `selections`, `status`, `line`, `in_play`, `sport` and
//! `start_time` added. Readers use `selections`, or `odds` if there are none; writers add `odds`
//! only for a market with priced home, draw and away.

use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    DecodeError, MAX_NAME_BYTES, MAX_SELECTIONS, MAX_UPDATE_BYTES, OddsUpdate, Revision, Selection,
};
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId, Source};
use crate::domain::json::{self, Object};
use crate::domain::odds::price::{Line, Price};
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::timestamp::Timestamp;

/// The kind of a message. Read separately if the message is not an update, since other kinds lack
/// its fields.
#[derive(Deserialize)]
struct WireKind<'a> {
    #[serde(default, rename = "type", borrow)]
    kind: Option<&'a RawValue>,
}

/// Refuses a message that has a kind: updates have none, and kinds added by later versions must not
/// be read as updates.
pub fn check_kind(kind: Option<&RawValue>) -> Result<(), DecodeError> {
    match kind {
        Some(kind) => Err(DecodeError::UnknownType(
            kind.get().chars().take(40).collect(),
        )),
        None => Ok(()),
    }
}

/// Why a text is not an update: it is another kind of message, or malformed.
fn refusal(text: &str, error: &serde_json::Error) -> DecodeError {
    let kind = json::from_str::<WireKind<'_>>(text)
        .ok()
        .and_then(|wire| wire.kind);
    check_kind(kind)
        .err()
        .unwrap_or_else(|| DecodeError::Malformed(error.to_string()))
}

#[derive(Deserialize)]
struct WireUpdate<'a> {
    #[serde(default, rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    event_id: EventId,
    #[serde(default)]
    home_team: String,
    #[serde(default)]
    away_team: String,
    #[serde(default)]
    sport: Option<String>,
    #[serde(default)]
    start_time: Option<Timestamp>,
    market: MarketName,
    #[serde(default)]
    line: Option<Line>,
    #[serde(default)]
    status: MarketStatus,
    #[serde(default)]
    in_play: bool,
    #[serde(default, borrow)]
    selections: Option<Vec<Object<WireSelection<'a>>>>,
    #[serde(default, borrow)]
    odds: Option<Object<WireOdds<'a>>>,
    updated_at: Timestamp,
    source: Source,
    version: i64,
}

#[derive(Deserialize)]
struct WireSelection<'a> {
    id: SelectionId,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, borrow)]
    price: Option<&'a RawValue>,
    #[serde(default)]
    status: SelectionStatus,
}

#[derive(Deserialize)]
struct WireOdds<'a> {
    #[serde(default, borrow)]
    home: Option<&'a RawValue>,
    #[serde(default, borrow)]
    draw: Option<&'a RawValue>,
    #[serde(default, borrow)]
    away: Option<&'a RawValue>,
}

impl OddsUpdate {
    /// Reads an update from its JSON form. Unknown fields are ignored.
    pub fn from_json(json: &[u8]) -> Result<OddsUpdate, DecodeError> {
        if json.len() > MAX_UPDATE_BYTES {
            return Err(DecodeError::TooLarge(json.len()));
        }
        let text =
            std::str::from_utf8(json).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        let wire: WireUpdate = json::from_str(text).map_err(|error| refusal(text, &error))?;
        check_kind(wire.kind)?;

        let selections = match (wire.selections.filter(|list| !list.is_empty()), wire.odds) {
            (Some(list), _) => list
                .into_iter()
                .map(|Object(one)| one.read())
                .collect::<Result<Vec<_>, _>>()?,
            (None, Some(Object(odds))) => odds.read(&wire.home_team, &wire.away_team)?,
            (None, None) => Vec::new(),
        };
        check_name("home_team", &wire.home_team)?;
        check_name("away_team", &wire.away_team)?;
        let sport = wire.sport.as_deref().map(read_sport).transpose()?.flatten();
        check_selections(&selections)?;

        Ok(OddsUpdate {
            event_id: wire.event_id,
            home_team: wire.home_team,
            away_team: wire.away_team,
            sport,
            start_time: wire.start_time,
            market: MarketKey {
                name: wire.market,
                line: wire.line,
            },
            status: wire.status,
            in_play: wire.in_play,
            selections,
            revision: Revision {
                updated_at: wire.updated_at,
                version: wire.version,
            },
            source: wire.source,
        })
    }

    /// Writes the JSON form.
    pub fn to_json(&self) -> String {
        // Serializing strings, numbers and lists to memory cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Reads selections from the JSON form written by an update, as stored in a database.
pub fn read_selections(json: &str) -> Result<Vec<Selection>, DecodeError> {
    let list: Vec<Object<WireSelection>> =
        serde_json::from_str(json).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    list.into_iter().map(|Object(one)| one.read()).collect()
}

impl WireSelection<'_> {
    fn read(self) -> Result<Selection, DecodeError> {
        let price = read_price(&self.id, self.price)?;
        let name = self.name.unwrap_or_else(|| self.id.to_string());
        Ok(Selection {
            id: self.id,
            name,
            price,
            status: self.status,
        })
    }
}

impl WireOdds<'_> {
    fn read(self, home_team: &str, away_team: &str) -> Result<Vec<Selection>, DecodeError> {
        let outcomes = [
            ("home", home_team, self.home),
            ("draw", "Draw", self.draw),
            ("away", away_team, self.away),
        ];
        outcomes
            .into_iter()
            .filter_map(|(id, name, price)| price.map(|price| (id, name, price)))
            .map(|(id, name, price)| {
                let id = SelectionId::new(id)
                    .map_err(|error| DecodeError::Malformed(error.to_string()))?;
                let price = read_price(&id, Some(price))?;
                let name = if name.is_empty() {
                    id.to_string()
                } else {
                    name.to_owned()
                };
                Ok(Selection {
                    id,
                    name,
                    price,
                    status: SelectionStatus::Active,
                })
            })
            .collect()
    }
}

fn read_price(
    selection: &SelectionId,
    price: Option<&RawValue>,
) -> Result<Option<Price>, DecodeError> {
    price
        .map(|text| text.get().parse())
        .transpose()
        .map_err(|cause| DecodeError::BadPrice {
            selection: selection.to_string(),
            cause,
        })
}

/// The sport as stored and compared: trimmed and in lower case. `None` if the text is empty.
pub fn read_sport(text: &str) -> Result<Option<Arc<str>>, DecodeError> {
    check_name("sport", text)?;
    let sport = text.trim().to_lowercase();
    check_name("sport", &sport)?;
    Ok(if sport.is_empty() {
        None
    } else {
        Some(sport.into())
    })
}

fn check_name(what: &'static str, name: &str) -> Result<(), DecodeError> {
    let bad = name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control);
    if bad {
        Err(DecodeError::BadName(what))
    } else {
        Ok(())
    }
}

fn check_selections(selections: &[Selection]) -> Result<(), DecodeError> {
    selections
        .iter()
        .try_for_each(|selection| check_name("a selection's name", &selection.name))?;
    if selections.is_empty() {
        return Err(DecodeError::NoSelections);
    }
    if selections.len() > MAX_SELECTIONS {
        return Err(DecodeError::TooManySelections(selections.len()));
    }
    let mut seen = std::collections::HashSet::with_capacity(selections.len());
    match selections
        .iter()
        .find(|selection| !seen.insert(&selection.id))
    {
        Some(twice) => Err(DecodeError::DuplicateSelection(twice.id.clone())),
        None => Ok(()),
    }
}

#[derive(Serialize)]
struct HomeDrawAway {
    home: Price,
    draw: Price,
    away: Price,
}

impl Serialize for OddsUpdate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let odds = match (
            self.price_of("home"),
            self.price_of("draw"),
            self.price_of("away"),
        ) {
            (Some(home), Some(draw), Some(away)) => Some(HomeDrawAway { home, draw, away }),
            _ => None,
        };
        let mut out = serializer.serialize_struct("OddsUpdate", 14)?;
        out.serialize_field("event_id", &self.event_id)?;
        out.serialize_field("home_team", &self.home_team)?;
        out.serialize_field("away_team", &self.away_team)?;
        if let Some(sport) = &self.sport {
            out.serialize_field("sport", &**sport)?;
        }
        if let Some(start_time) = &self.start_time {
            out.serialize_field("start_time", start_time)?;
        }
        out.serialize_field("market", &self.market.name)?;
        if let Some(line) = &self.market.line {
            out.serialize_field("line", line)?;
        }
        if let Some(odds) = &odds {
            out.serialize_field("odds", odds)?;
        }
        out.serialize_field("selections", &self.selections)?;
        out.serialize_field("status", &self.status)?;
        if self.in_play {
            out.serialize_field("in_play", &true)?;
        }
        out.serialize_field("updated_at", &self.revision.updated_at)?;
        out.serialize_field("source", &self.source)?;
        out.serialize_field("version", &self.revision.version)?;
        out.end()
    }
}
