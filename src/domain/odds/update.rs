//! One change of one market, and why bytes are not one.

mod json;

use std::sync::Arc;

use serde::Serialize;
use strum::{IntoStaticStr, VariantNames};

pub use self::json::{check_kind, read_selections, read_sport};
use super::price::{DecimalError, Price};
use super::status::{MarketStatus, SelectionStatus};
use crate::domain::ids::{EventId, MarketKey, SelectionId, Source};
use crate::domain::timestamp::Timestamp;
use crate::domain::trace_parent::TraceParent;

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

impl OddsUpdate {
    /// The price of a selection, if the market has the selection and it has a price.
    pub fn price_of(&self, selection: &str) -> Option<Price> {
        self.selections
            .iter()
            .find(|candidate| candidate.id.as_str() == selection)?
            .price
    }

    /// Whether two updates show the same to a client: everything but the revision is equal.
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
    /// The span that it follows from, if it is traced.
    pub trace: Option<TraceParent>,
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

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
