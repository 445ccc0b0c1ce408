//! Totals for the reports of operators.

use crate::domain::settlement::payout::SettledAs;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::ledger::TransferKind;
use crate::store::StoreError;

/// The settlements with one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutcomeTotal {
    /// The outcome; `None` for bets that were opened again.
    pub outcome: Option<SettledAs>,
    /// How many settlements.
    pub settlements: u64,
    /// What they paid less what they took back, in cents.
    pub difference_cents: i128,
}

/// The transfers of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransferTotal {
    /// The kind.
    pub kind: TransferKind,
    /// How many transfers.
    pub transfers: u64,
    /// Their sum, in cents.
    pub cents: i128,
}

/// What settlements did within some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SettledTotals {
    /// By outcome, ordered.
    pub outcomes: Vec<OutcomeTotal>,
    /// By kind of transfer, ordered.
    pub transfers: Vec<TransferTotal>,
}

/// Reads totals. A report reads whole tables.
pub(crate) trait ReportStore: Send + Sync {
    /// What settlements did from `from` until before `to`, read at one point in time.
    fn settled_totals(&self, from: Timestamp, to: Timestamp) -> Result<SettledTotals, StoreError>;
}
