//! Why bytes are not a record.

use strum::{IntoStaticStr, VariantNames};

use super::{MAX_DEAD_HEAT, MAX_NOTE_BYTES, MAX_REASON_CHARS, MAX_RECORD_BYTES};
use crate::domain::ids::SelectionId;
use crate::domain::odds::price::DecimalError;
use crate::domain::odds::update::MAX_SELECTIONS;
use crate::domain::timestamp::Timestamp;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[derive(IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum RecordError {
    /// Longer than [`MAX_RECORD_BYTES`].
    #[error("{0} bytes exceed the limit of {MAX_RECORD_BYTES}")]
    TooLarge(usize),
    /// Not JSON, or a field is missing or has the wrong type.
    #[error("malformed record: {0}")]
    Malformed(String),
    /// The record names no selection.
    #[error("`selections` is empty")]
    NoSelections,
    /// The record names a selection twice.
    #[error("duplicate selection `{0}`")]
    DuplicateSelection(SelectionId),
    /// More than [`MAX_SELECTIONS`].
    #[error("{0} selections exceed the limit of {MAX_SELECTIONS}")]
    TooManySelections(usize),
    /// A `void_factor` is not a number of exact thousandths from 0 to 1.
    #[error("bad void_factor of selection `{selection}`: {cause}")]
    BadVoidFactor {
        /// The selection.
        selection: SelectionId,
        /// What is wrong with it.
        cause: DecimalError,
    },
    /// A `void_factor` does not fit the result.
    #[error("selection `{selection}` is {result} and cannot have this void_factor")]
    UnfitVoidFactor {
        /// The selection.
        selection: SelectionId,
        /// Its result.
        result: &'static str,
    },
    /// A `dead_heat` is not a share.
    #[error(
        "bad dead_heat `{got}` of selection `{selection}`: expected \"n/d\" with 0 < n <= d <= {MAX_DEAD_HEAT}, or a number of exact thousandths"
    )]
    BadDeadHeat {
        /// The selection.
        selection: SelectionId,
        /// The value, truncated.
        got: String,
    },
    /// A `dead_heat` of a selection that has not won, or has won in part.
    #[error("selection `{0}` has a dead_heat, but has not won with the whole stake")]
    UnfitDeadHeat(SelectionId),
    /// A `reduction` is not a percentage with at most three decimals.
    #[error("bad reduction of selection `{selection}`: {cause}")]
    BadReduction {
        /// The selection.
        selection: SelectionId,
        /// What is wrong with it.
        cause: DecimalError,
    },
    /// A removal of a selection that is not void, or only one of `reduction` and `removed_at`.
    #[error("selection `{0}` needs both reduction and removed_at, and only if it is void")]
    UnfitRemoval(SelectionId),
    /// No bet can be placed from `bets_from` on and before `bets_until`.
    #[error("no bet is placed from `bets_from` {from} on and before `bets_until` {until}")]
    EmptyRound {
        /// Its start.
        from: Timestamp,
        /// Its end.
        until: Timestamp,
    },
    /// The window of a cancellation contains no time.
    #[error("the window from {from} until {until} is empty")]
    EmptyWindow {
        /// Its start.
        from: Timestamp,
        /// Its end.
        until: Timestamp,
    },
    /// The reason of a cancellation is not a short text.
    #[error(
        "`reason` is empty, contains a control character or is longer than {MAX_REASON_CHARS} characters"
    )]
    BadReason,
    /// The note of an operator is not one line of text.
    #[error("`note` is not one line of at most {MAX_NOTE_BYTES} bytes")]
    BadNote,
}

impl RecordError {
    /// The label in metrics and dead letters.
    pub fn reason(&self) -> &'static str {
        self.into()
    }
}
