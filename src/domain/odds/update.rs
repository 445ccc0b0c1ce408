//! One change of one market, and its JSON form, used for the frames of a native supplier and the
//! records on the bus.
//!
//! The form is the original's with `selections`, `status`, `line`, `in_play`, `sport` and
//! `start_time` added. Readers use `selections`, or `odds` if there are none; writers add `odds`
//! only for a market with priced home, draw and away.

use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use strum::{IntoStaticStr, VariantNames};

use super::price::{DecimalError, Line, Price};
use super::status::{MarketStatus, SelectionStatus};
use crate::domain::ids::{EventId, MarketKey, MarketName, SelectionId, Source};
use crate::domain::json::{self, Object};
use crate::domain::timestamp::Timestamp;

/// Maximum number of selections of one market.
pub const MAX_SELECTIONS: usize = 1_000;
/// Maximum length of the name of a team or a selection, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Maximum size of the JSON form, in bytes. The largest valid update, with every character escaped,
/// is smaller.
pub const MAX_UPDATE_BYTES: usize = 4 * 1024 * 1024;

/// One change of one market as sent by a supplier: the whole market, not a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OddsUpdate {
    /// The event.
    pub event_id: EventId,
    /// The home side; for an event without two sides, its title.
    pub home_team: String,
    /// The away side; empty for an event without two sides.
    pub away_team: String,
    /// The sport in lower case, if the supplier gives it.
    pub sport: Option<Arc<str>>,
    /// When the event starts, if the supplier gives it.
    pub start_time: Option<Timestamp>,
    /// The market.
    pub market: MarketKey,
    /// Status of the market.
    pub status: MarketStatus,
    /// Whether the event is in play.
    pub in_play: bool,
    /// The selections, in the supplier's order.
    pub selections: Vec<Selection>,
    /// The supplier's time and version of the change.
    pub revision: Revision,
    /// The source of the update.
    pub source: Source,
}

/// The order of the updates of a market: by the supplier's time, then by its version.
///
/// A supplier that restarts counts versions from 1 again with a later time, so the time comes
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The supplier's time of the change.
    pub updated_at: Timestamp,
    /// The supplier's count of changes.
    pub version: i64,
}

/// A possible outcome of a market.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// Its id within the market.
    pub id: SelectionId,
    /// Its display name.
    pub name: String,
    /// The price; `None` if no price is offered.
    pub price: Option<Price>,
    /// Its status.
    pub status: SelectionStatus,
}

/// An update and its position on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionedUpdate {
    /// The update.
    pub update: OddsUpdate,
    /// Its partition.
    pub partition: u32,
    /// Its offset there.
    pub position: u64,
}

/// Why bytes are not an update.
#[derive(Debug, Clone, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum DecodeError {
    /// A message of another kind, such as `settlement`. An update has no `type`.
    #[error("`type` is {0}, but an odds update has no type")]
    UnknownType(String),
    /// Longer than [`MAX_UPDATE_BYTES`].
    #[error("{0} bytes exceed the limit of {MAX_UPDATE_BYTES}")]
    TooLarge(usize),
    /// Not JSON, or a field is missing or has the wrong type.
    #[error("malformed update: {0}")]
    Malformed(String),
    /// A price is not a number, or is outside the valid range.
    #[error("bad price of selection `{selection}`: {cause}")]
    BadPrice {
        /// The selection's id.
        selection: String,
        /// What is wrong with its price.
        cause: DecimalError,
    },
    /// The market has no selections.
    #[error("no selections in `selections` or `odds`")]
    NoSelections,
    /// Two selections have the same id.
    #[error("duplicate selection `{0}`")]
    DuplicateSelection(SelectionId),
    /// More than [`MAX_SELECTIONS`].
    #[error("{0} selections exceed the limit of {MAX_SELECTIONS}")]
    TooManySelections(usize),
    /// A name contains a control character, or is longer than [`MAX_NAME_BYTES`]. (PostgreSQL
    /// cannot store U+0000 in a text.)
    #[error("{0} contains a control character or is longer than {MAX_NAME_BYTES} bytes")]
    BadName(&'static str),
}

impl DecodeError {
    /// The label in metrics and dead letters.
    pub fn reason(&self) -> &'static str {
        self.into()
    }
}

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

    /// The price of a selection, if the market has the selection and it has a price.
    pub fn price_of(&self, selection: &str) -> Option<Price> {
        self.selections
            .iter()
            .find(|candidate| candidate.id.as_str() == selection)?
            .price
    }

    /// Whether two updates look the same to a client: everything but the revision is equal.
    pub fn shows_the_same_as(&self, other: &OddsUpdate) -> bool {
        self.status == other.status
            && self.in_play == other.in_play
            && self.selections == other.selections
            && self.market == other.market
            && self.event_id == other.event_id
            && self.home_team == other.home_team
            && self.away_team == other.away_team
            && self.sport == other.sport
            && self.start_time == other.start_time
            && self.source == other.source
    }
}

/// Reads selections from the JSON form written by an update, as kept in a store.
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

#[cfg(test)]
pub mod testing {
    //! Updates for tests.

    use proptest::prelude::*;
    use strum::VariantArray;

    use super::*;

    /// A `1x2` update of `MATCH_00<event>` at second `time` with version `version`. Its home price
    /// encodes both.
    pub fn update(event: u32, time: i64, version: i64) -> OddsUpdate {
        market_update(&format!("MATCH_{event:03}"), "1x2", None, time, version)
    }

    /// An update of any market.
    pub fn market_update(
        event: &str,
        market: &str,
        line: Option<&str>,
        time: i64,
        version: i64,
    ) -> OddsUpdate {
        let home = 1_100 + (time.rem_euclid(500) * 100 + version.rem_euclid(100)) as u32;
        let selection = |id: &str, price: u32| Selection {
            id: SelectionId::new(id).unwrap(),
            name: id.to_owned(),
            price: Price::from_thousandths(price),
            status: SelectionStatus::Active,
        };
        OddsUpdate {
            event_id: EventId::new(event).unwrap(),
            home_team: "Flamengo".to_owned(),
            away_team: "Palmeiras".to_owned(),
            sport: None,
            start_time: None,
            market: MarketKey {
                name: MarketName::new(market).unwrap(),
                line: line.map(|line| line.parse().unwrap()),
            },
            status: MarketStatus::Open,
            in_play: false,
            selections: vec![
                selection("home", home),
                selection("draw", 3_200),
                selection("away", 4_500),
            ],
            revision: Revision {
                updated_at: Timestamp::from_millis(1_762_722_465_000 + time * 1_000).unwrap(),
                version,
            },
            source: Source::new("test").unwrap(),
        }
    }

    /// Any valid update.
    pub fn any_update() -> impl Strategy<Value = OddsUpdate> {
        let selection = (
            "[a-zA-Z0-9_. ]{0,8}x",
            "\\PC{0,12}",
            proptest::option::of(1_001u32..=1_000_000),
            0usize..6,
        )
            .prop_map(|(id, name, price, status)| Selection {
                id: SelectionId::new(id.trim_start()).unwrap(),
                name,
                price: price.and_then(Price::from_thousandths),
                status: SelectionStatus::VARIANTS[status],
            });
        (
            "[A-Z0-9._]{1,20}",
            ("\\PC{0,20}", "\\PC{0,20}"),
            (
                "[a-z0-9_]{1,12}",
                proptest::option::of(-100_000i32..100_000),
            ),
            (0usize..5, any::<bool>()),
            proptest::collection::vec(selection, 1..6),
            (0i64..4_000_000_000_000_000, any::<i64>()),
            (
                proptest::option::of("[a-z]{1,8}( [a-z]{1,8})?"),
                proptest::option::of(0i64..4_000_000_000_000_000),
            ),
        )
            .prop_map(
                |(
                    event,
                    teams,
                    market,
                    (status, in_play),
                    mut selections,
                    (micros, version),
                    (sport, start),
                )| {
                    let mut seen = std::collections::HashSet::new();
                    selections.retain(|selection| seen.insert(selection.id.clone()));
                    OddsUpdate {
                        event_id: EventId::new(&event).unwrap(),
                        home_team: teams.0,
                        away_team: teams.1,
                        sport: sport.map(Into::into),
                        start_time: start.and_then(Timestamp::from_micros),
                        market: MarketKey {
                            name: MarketName::new(&market.0).unwrap(),
                            line: market.1.and_then(Line::from_thousandths),
                        },
                        status: MarketStatus::VARIANTS[status],
                        in_play,
                        selections,
                        revision: Revision {
                            updated_at: Timestamp::from_micros(micros).unwrap(),
                            version,
                        },
                        source: Source::new("any").unwrap(),
                    }
                },
            )
    }
}

#[cfg(test)]
mod tests;
