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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// Every value of [`DecodeError::reason`].
    pub const REASONS: [&str; 8] = [
        "unknown_type",
        "too_large",
        "malformed",
        "bad_price",
        "no_selections",
        "duplicate_selection",
        "too_many_selections",
        "bad_name",
    ];

    /// The label in metrics and dead letters.
    pub fn reason(&self) -> &'static str {
        match self {
            DecodeError::UnknownType(_) => "unknown_type",
            DecodeError::TooLarge(_) => "too_large",
            DecodeError::Malformed(_) => "malformed",
            DecodeError::BadPrice { .. } => "bad_price",
            DecodeError::NoSelections => "no_selections",
            DecodeError::DuplicateSelection(_) => "duplicate_selection",
            DecodeError::TooManySelections(_) => "too_many_selections",
            DecodeError::BadName(_) => "bad_name",
        }
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
                status: SelectionStatus::ALL[status],
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
                        status: MarketStatus::ALL[status],
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
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::testing::*;
    use super::*;

    const ORIGINAL: &str = r#"{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.528,"draw":2.574,"away":3.144},"updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":978}"#;

    #[test]
    fn reads_the_originals_frame() {
        let update = OddsUpdate::from_json(ORIGINAL.as_bytes()).unwrap();
        assert_eq!(update.event_id.as_str(), "MATCH_001");
        assert_eq!(update.market.to_string(), "1x2");
        assert_eq!(update.status, MarketStatus::Open);
        let prices: Vec<_> = update
            .selections
            .iter()
            .map(|s| (s.id.as_str(), s.price.unwrap().thousandths()))
            .collect();
        assert_eq!(prices, [("home", 1_528), ("draw", 2_574), ("away", 3_144)]);
        assert_eq!(update.selections[0].name, "Flamengo");
        assert_eq!(update.revision.version, 978);
    }

    #[test]
    fn sport_and_start_time_are_read() {
        let with = |fields: &str| {
            OddsUpdate::from_json(
                ORIGINAL
                    .replacen('{', &format!("{{{fields},"), 1)
                    .as_bytes(),
            )
        };
        let detailed =
            with(r#""sport":" Horse Racing ","start_time":"2026-12-01T18:30:00+01:00""#).unwrap();
        assert_eq!(detailed.sport.as_deref(), Some("horse racing"));
        assert_eq!(
            detailed.start_time.unwrap().to_string(),
            "2026-12-01T17:30:00Z"
        );
        assert_eq!(
            OddsUpdate::from_json(detailed.to_json().as_bytes()),
            Ok(detailed.clone())
        );
        for nothing in [r#""sport":null,"start_time":null"#, r#""sport":" ""#] {
            let update = with(nothing).unwrap();
            assert_eq!(
                (&update.sport, update.start_time),
                (&None, None),
                "{nothing}"
            );
            assert!(!update.to_json().contains("sport\":"), "{nothing}");
            assert!(!update.shows_the_same_as(&detailed));
        }
        let reason = |fields: &str| with(fields).unwrap_err().reason();
        assert_eq!(
            reason(&format!(r#""sport":"{}""#, "x".repeat(MAX_NAME_BYTES + 1))),
            "bad_name"
        );
        assert_eq!(reason(r#""sport":"soc\u0000cer""#), "bad_name");
        assert_eq!(reason(r#""sport":7"#), "malformed");
        assert_eq!(reason(r#""start_time":"soon""#), "malformed");
    }

    #[test]
    fn writes_original_and_added_fields() {
        let update = OddsUpdate::from_json(ORIGINAL.as_bytes()).unwrap();
        insta::assert_snapshot!(update.to_json(), @r#"{"event_id":"MATCH_001","home_team":"Flamengo","away_team":"Palmeiras","market":"1x2","odds":{"home":1.528,"draw":2.574,"away":3.144},"selections":[{"id":"home","name":"Flamengo","price":1.528,"status":"active"},{"id":"draw","name":"Draw","price":2.574,"status":"active"},{"id":"away","name":"Palmeiras","price":3.144,"status":"active"}],"status":"open","updated_at":"2025-11-09T21:07:45Z","source":"supplier-simulator","version":978}"#);
    }

    #[test]
    fn stored_selections_read_back() {
        let update = OddsUpdate::from_json(ORIGINAL.as_bytes()).unwrap();
        let json = serde_json::to_string(&update.selections).unwrap();
        assert_eq!(read_selections(&json).unwrap(), update.selections);
        assert_eq!(read_selections("[]").unwrap(), []);
        assert_eq!(
            read_selections(&json.replace("1.528", "0.5"))
                .unwrap_err()
                .reason(),
            "bad_price"
        );
        assert_eq!(read_selections("{}").unwrap_err().reason(), "malformed");
    }

    #[test]
    fn selections_take_precedence_over_odds() {
        let json = r#"{"event_id":"E","market":"total_goals","line":2.5,"status":"suspended","in_play":true,
            "selections":[{"id":"over","name":"Over 2.5","price":1.9},{"id":"under","price":null,"status":"suspended"}],
            "odds":{"home":9,"draw":9,"away":9},"updated_at":"2025-11-09T21:07:45Z","source":"s","version":1,"unknown":[]}"#;
        let update = OddsUpdate::from_json(json.as_bytes()).unwrap();
        assert_eq!(update.market.to_string(), "total_goals@2.5");
        assert_eq!(update.selections.len(), 2);
        assert_eq!(update.selections[1].price, None);
        assert_eq!(update.selections[1].name, "under");
        assert!(!update.to_json().contains("\"odds\""));
        assert!(update.to_json().contains(r#""line":2.5"#));
    }

    #[test]
    fn error_names_the_fault() {
        let refuse = |json: String| OddsUpdate::from_json(json.as_bytes()).unwrap_err();
        let bad_price = refuse(ORIGINAL.replace("2.574", "0.5"));
        assert_eq!(
            bad_price.to_string(),
            "bad price of selection `draw`: 0.5 is outside the range 1.001 to 1000.000"
        );
        assert_eq!(bad_price.reason(), "bad_price");
        assert_eq!(
            refuse(ORIGINAL.replace("1.528", "\"1.5\"")).reason(),
            "bad_price"
        );
        assert_eq!(
            refuse(ORIGINAL.replace("\"event_id\"", "\"id\"")).reason(),
            "malformed"
        );
        assert_eq!(
            refuse(ORIGINAL.replace("MATCH_001", "")).reason(),
            "malformed"
        );
        assert_eq!(refuse(ORIGINAL.replace("978", "9.5")).reason(), "malformed");
        assert_eq!(
            refuse(ORIGINAL.replace("\"odds\"", "\"sods\"")),
            DecodeError::NoSelections
        );
        assert_eq!(refuse(ORIGINAL[..50].to_owned()).reason(), "malformed");
        let twice = r#""selections":[{"id":"a","price":2},{"id":"a","price":3}],"version""#;
        assert_eq!(
            refuse(ORIGINAL.replace("\"version\"", twice)).reason(),
            "duplicate_selection"
        );
        let many: Vec<_> = (0..=MAX_SELECTIONS)
            .map(|id| format!(r#"{{"id":"{id}"}}"#))
            .collect();
        let many = format!(r#""selections":[{}],"version""#, many.join(","));
        assert_eq!(
            refuse(ORIGINAL.replace("\"version\"", &many)),
            DecodeError::TooManySelections(MAX_SELECTIONS + 1)
        );
        assert_eq!(
            OddsUpdate::from_json(b"\xff\xfe").unwrap_err().reason(),
            "malformed"
        );
        assert_eq!(
            refuse(ORIGINAL.replace("Flamengo", r"Fla\u0000mengo")),
            DecodeError::BadName("home_team")
        );
        assert_eq!(
            refuse(ORIGINAL.replace("Palmeiras", &"x".repeat(257))),
            DecodeError::BadName("away_team")
        );
    }

    /// The native feed will carry other kinds of messages. None of them opens a market, even if it
    /// has every field of an update.
    #[test]
    fn other_message_kinds_are_refused() {
        let kinds = [
            "settlement",
            "rollback_settlement",
            "cancel",
            "rollback_cancel",
            "alive",
            "recover",
            "recovered",
        ];
        let kinds = kinds
            .iter()
            .chain(&["bet_stop", "odds_update", ""])
            .map(|kind| format!("\"{kind}\""));
        for kind in kinds.chain(["7", "true", "{}", "[\"odds\"]"].map(str::to_owned)) {
            for json in [
                ORIGINAL.replacen('{', &format!(r#"{{"type":{kind},"#), 1),
                format!("{},\"type\":{kind}}}", &ORIGINAL[..ORIGINAL.len() - 1]),
                format!(r#"{{"type":{kind},"at":"2026-12-01T21:52:10Z"}}"#),
                format!(
                    r#"{{"type":{kind},"event_id":"E","market":"1x2","selections":[{{"id":"home","result":"won"}}]}}"#
                ),
            ] {
                let error = OddsUpdate::from_json(json.as_bytes()).unwrap_err();
                assert_eq!(error.reason(), "unknown_type", "{json}: {error}");
            }
        }
        let null = ORIGINAL.replacen('{', r#"{"type":null,"#, 1);
        assert!(
            OddsUpdate::from_json(null.as_bytes()).is_ok(),
            "null counts as absent"
        );
    }

    #[test]
    fn unknown_statuses_are_refused() {
        let with = |field: &str| ORIGINAL.replacen('{', &format!("{{{field},"), 1);
        for field in [
            r#""status":"halted""#,
            r#""status":"OPEN""#,
            r#""status":"""#,
            r#""status":null"#,
            r#""status":1"#,
            r#""in_play":"yes""#,
            r#""selections":[{"id":"a","price":2,"status":"halted"}]"#,
            r#""selections":{"a":2}"#,
        ] {
            assert_eq!(
                OddsUpdate::from_json(with(field).as_bytes())
                    .unwrap_err()
                    .reason(),
                "malformed",
                "{field}"
            );
        }
    }

    #[test]
    fn oversized_update_is_refused() {
        let padded = |length: usize| format!("{}{}", ORIGINAL, " ".repeat(length - ORIGINAL.len()));
        assert!(OddsUpdate::from_json(padded(MAX_UPDATE_BYTES).as_bytes()).is_ok());
        let error = OddsUpdate::from_json(padded(MAX_UPDATE_BYTES + 1).as_bytes()).unwrap_err();
        assert_eq!(error.reason(), "too_large");
    }

    #[test]
    fn array_in_place_of_object_is_refused() {
        let refuse = |json: &str| OddsUpdate::from_json(json.as_bytes()).unwrap_err().reason();
        let by_position = r#"["E","H","A","1x2",null,"open",false,[["home","H",2.5,"active"]],null,"2025-11-09T21:07:45Z","s",1]"#;
        assert_eq!(refuse(by_position), "malformed");
        let with = |field: &str| ORIGINAL.replace("\"version\"", &format!("{field},\"version\""));
        assert_eq!(
            refuse(&with(r#""selections":[["home","H",2.5,"active"]]"#)),
            "malformed"
        );
        assert_eq!(
            refuse(&ORIGINAL.replace(
                r#"{"home":1.528,"draw":2.574,"away":3.144}"#,
                "[1.528,2.574,3.144]"
            )),
            "malformed"
        );
        assert_eq!(
            refuse(&with(r#""market":"other""#)),
            "malformed",
            "a field given twice"
        );
        assert!(read_selections(r#"[["home","H",2.5,"active"]]"#).is_err());
    }

    #[test]
    fn original_health_check_is_refused() {
        let json = br#"{"event_id":"","home_team":"","away_team":"","market":"","odds":{"home":0,"draw":0,"away":0},"updated_at":"0001-01-01T00:00:00Z","source":"","version":0}"#;
        assert!(OddsUpdate::from_json(json).is_err());
    }

    proptest! {
        #[test]
        fn written_update_reads_back(update in any_update()) {
            prop_assert_eq!(OddsUpdate::from_json(update.to_json().as_bytes()).unwrap(), update);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = OddsUpdate::from_json(&bytes);
        }

        #[test]
        fn truncated_frame_is_refused(length in 0usize..ORIGINAL.len()) {
            prop_assert!(OddsUpdate::from_json(&ORIGINAL.as_bytes()[..length]).is_err());
        }
    }
}
