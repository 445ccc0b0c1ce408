//! A record of a market's results, and why bytes are not one.

mod error;
mod json;

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantNames};

pub use self::error::RecordError;
use crate::domain::ids::{EventId, MarketKey, SelectionId, Source};
use crate::domain::odds::update::{MAX_SELECTIONS, Revision};
use crate::domain::timestamp::Timestamp;
use crate::domain::unknown_variant::UnknownVariant;

/// Maximum size of the JSON form, in bytes. The largest valid record, with every character escaped,
/// is smaller.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;
/// Maximum length of the reason of a cancellation, in characters.
pub const MAX_REASON_CHARS: usize = 64;
/// Maximum length of a note, in bytes.
pub const MAX_NOTE_BYTES: usize = 500;
/// Maximum number of selections that share a place in a dead heat.
pub const MAX_DEAD_HEAT: u16 = 1_000;

/// What a source says about the results of a market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultRecord {
    /// The event.
    pub event_id: EventId,
    /// The market.
    pub market: MarketKey,
    /// The source's time and version of the record.
    pub revision: Revision,
    /// The source.
    pub source: Source,
    /// What it says.
    pub content: RecordContent,
    /// Why an operator wrote it. It has no effect.
    pub note: Option<Note>,
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordContent {
    /// The results of selections.
    Settlement(Settlement),
    /// Takes back the results of these selections; of all if `None`.
    RollbackSettlement {
        /// The selections, each once, ordered.
        selections: Option<Vec<SelectionId>>,
        /// As [`Settlement::bets_from`].
        bets_from: Option<Timestamp>,
    },
    /// Bets placed within the window are void.
    Cancel {
        /// When the bets were placed.
        window: Window,
        /// Why they are void.
        reason: CancelReason,
    },
    /// Takes back the cancellation of bets placed within the window.
    RollbackCancel {
        /// When the bets were placed.
        window: Window,
    },
}

/// The kind of a record: the `type` of its JSON form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantNames
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownVariant, parse_err_fn = unknown_kind)]
pub enum RecordKind {
    /// [`RecordContent::Settlement`].
    Settlement,
    /// [`RecordContent::RollbackSettlement`].
    RollbackSettlement,
    /// [`RecordContent::Cancel`].
    Cancel,
    /// [`RecordContent::RollbackCancel`].
    RollbackCancel,
}

fn unknown_kind(text: &str) -> UnknownVariant {
    UnknownVariant::new("type of record", text)
}

impl RecordContent {
    /// Its kind.
    pub fn kind(&self) -> RecordKind {
        match self {
            RecordContent::Settlement(_) => RecordKind::Settlement,
            RecordContent::RollbackSettlement { .. } => RecordKind::RollbackSettlement,
            RecordContent::Cancel { .. } => RecordKind::Cancel,
            RecordContent::RollbackCancel { .. } => RecordKind::RollbackCancel,
        }
    }

    /// The start of the round of bets that a settlement, or the rollback of one, concerns.
    pub fn bets_from(&self) -> Option<Timestamp> {
        match self {
            RecordContent::Settlement(settlement) => settlement.bets_from,
            RecordContent::RollbackSettlement { bets_from, .. } => *bets_from,
            RecordContent::Cancel { .. } | RecordContent::RollbackCancel { .. } => None,
        }
    }
}

/// The results of selections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Settlement {
    /// At least one; each selection once, ordered by id, so that equal contents are equal.
    pub selections: Vec<SelectionResult>,
    /// How certain they are.
    pub certainty: Certainty,
    /// It concerns only bets placed then or later, and of those only the ones placed before the next
    /// `bets_from` of the market. `None`: bets placed before the first one.
    pub bets_from: Option<Timestamp>,
    /// When the result could be known: bets placed then or later are void.
    pub bets_until: Option<Timestamp>,
}

/// The result of a selection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SelectionResult {
    /// The selection.
    pub id: SelectionId,
    /// Its result.
    pub outcome: Outcome,
}

/// How certain a settlement is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(Serialize, Deserialize, Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Certainty {
    /// Seen live.
    Scouted,
    /// Confirmed.
    #[default]
    Confirmed,
}

/// The result of a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It has won.
    Won(Won),
    /// It has lost.
    Lost {
        /// The part of the stake that is returned.
        void: VoidFactor,
    },
    /// Bets on it are void.
    Void {
        /// Set if it was removed and the other selections gained by that.
        removal: Option<Removal>,
    },
    /// The result is not known yet.
    Undecided,
}

/// How a selection has won.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Won {
    /// A part of the stake is returned, the rest has won.
    Part {
        /// The part that is returned.
        void: VoidFactor,
    },
    /// It shares its place with others.
    DeadHeat(DeadHeat),
}

impl Won {
    /// All of the stake has won, and no other selection shares the place.
    pub const WHOLE: Won = Won::Part {
        void: VoidFactor::NONE,
    };
}

/// The part of a stake that is void, in thousandths: 0 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoidFactor(u16);

impl VoidFactor {
    /// Nothing is void.
    pub const NONE: VoidFactor = VoidFactor(0);

    /// A factor from its thousandths; `None` above 1000.
    pub fn from_thousandths(thousandths: u16) -> Option<VoidFactor> {
        (thousandths <= 1_000).then_some(VoidFactor(thousandths))
    }

    /// The factor in thousandths.
    pub fn thousandths(self) -> u16 {
        self.0
    }
}

/// The share of a stake that has won in a dead heat: the places left, divided by the selections that
/// share them. Less than 1, in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadHeat {
    places: u16,
    tied: u16,
}

impl DeadHeat {
    /// A share, if 0 < `places` < `tied` ≤ [`MAX_DEAD_HEAT`].
    pub fn new(places: u16, tied: u16) -> Option<DeadHeat> {
        let is_share = places > 0 && places < tied && tied <= MAX_DEAD_HEAT;
        let common = greatest_common_divisor(places, tied);
        is_share.then(|| DeadHeat {
            places: places / common,
            tied: tied / common,
        })
    }

    /// The places left, in lowest terms.
    pub fn places(self) -> u16 {
        self.places
    }

    /// The selections that share them, in lowest terms.
    pub fn tied(self) -> u16 {
        self.tied
    }
}

fn greatest_common_divisor(mut one: u16, mut other: u16) -> u16 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one.max(1)
}

impl fmt::Display for DeadHeat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.places, self.tied)
    }
}

/// The removal of a selection, by which bets on the others that were placed before are reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removal {
    /// By how much.
    pub reduction: Reduction,
    /// When it was removed.
    pub removed_at: Timestamp,
}

/// A percentage in thousandths of a percent: 7.14 % is stored as 7140. At most 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reduction(u32);

impl Reduction {
    /// 100 %.
    pub const MAX: Reduction = Reduction(100_000);

    /// A reduction from thousandths of a percent; `None` above 100 %.
    pub fn from_thousandths(thousandths: u32) -> Option<Reduction> {
        (thousandths <= Reduction::MAX.0).then_some(Reduction(thousandths))
    }

    /// Thousandths of a percent.
    pub fn thousandths(self) -> u32 {
        self.0
    }
}

/// When bets were placed: from `from`, before `until`. An absent end is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    from: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Window {
    /// A window, unless it is empty.
    pub fn new(from: Option<Timestamp>, until: Option<Timestamp>) -> Result<Window, RecordError> {
        match (from, until) {
            (Some(start), Some(end)) if start >= end => Err(RecordError::EmptyWindow {
                from: start,
                until: end,
            }),
            _ => Ok(Window { from, until }),
        }
    }

    /// Its start.
    pub fn from(&self) -> Option<Timestamp> {
        self.from
    }

    /// Its end.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// Whether a bet placed at this time is within the window.
    pub fn contains(&self, placed_at: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= placed_at)
            && self.until.is_none_or(|until| placed_at < until)
    }
}

/// Why bets are cancelled: a code such as `incorrect_odds`, or another text of at most
/// [`MAX_REASON_CHARS`] characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CancelReason(String);

impl CancelReason {
    /// Checks a reason.
    pub fn new(text: &str) -> Result<CancelReason, RecordError> {
        let is_valid = !text.trim().is_empty()
            && text.chars().count() <= MAX_REASON_CHARS
            && !text.chars().any(char::is_control);
        if is_valid {
            Ok(CancelReason(text.to_owned()))
        } else {
            Err(RecordError::BadReason)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for CancelReason {
    fn default() -> CancelReason {
        CancelReason("other".to_owned())
    }
}

/// Why an operator wrote a record: one line of at most [`MAX_NOTE_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Note(String);

impl Note {
    /// Checks a note.
    pub fn new(text: &str) -> Result<Note, RecordError> {
        let is_line = !text.trim().is_empty() && !text.chars().any(char::is_control);
        if is_line && text.len() <= MAX_NOTE_BYTES {
            Ok(Note(text.to_owned()))
        } else {
            Err(RecordError::BadNote)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests;
