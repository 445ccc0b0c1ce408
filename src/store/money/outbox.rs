//! The outbox: records that were committed with a change and are not on the bus yet.

use strum::{EnumIter, EnumString, IntoStaticStr, VariantNames};

use crate::domain::timestamp::Timestamp;
use crate::domain::trace_parent::TraceParent;
use crate::store::StoreError;

/// A message to publish with a change, written in the same transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxMessage {
    /// The payload of the record.
    pub payload: String,
    /// Until this time only this process publishes it; afterwards any process may.
    pub leased_until: Timestamp,
    /// The span that it follows from, if it is traced.
    pub trace: Option<TraceParent>,
}

/// A topic that the outbox is published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(EnumIter, EnumString, IntoStaticStr, VariantNames)]
pub enum OutboxTopic {
    /// Bets that were placed.
    #[strum(serialize = "bet_placed")]
    Placed,
    /// Bets that were decided.
    #[strum(serialize = "bet_confirmed")]
    Confirmed,
    /// Bets that were settled, or opened again.
    #[strum(serialize = "bet_settled")]
    Settled,
}

impl OutboxTopic {
    /// The topic's name in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A row of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number.
    pub id: i64,
    /// The topic to publish it to.
    pub topic: OutboxTopic,
    /// The record's key: the bet's id.
    pub key: String,
    /// The payload of the record.
    pub payload: String,
    /// The span that it follows from, if it is traced.
    pub trace: Option<TraceParent>,
}

/// How many rows the outbox holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutboxDepth {
    /// Rows that are not yet known to be published.
    pub rows: u64,
    /// When the oldest of them was written.
    pub oldest: Option<Timestamp>,
}

/// Stores the outbox.
pub(crate) trait OutboxStore: Send + Sync {
    /// Takes outbox rows whose lease has expired, oldest first, and leases them to the caller until
    /// `leased_until`.
    fn take_outbox(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, StoreError>;

    /// Marks outbox rows as published.
    fn published(&self, rows: &[i64]) -> Result<(), StoreError>;

    /// The number of unpublished outbox rows, and the age of the oldest.
    fn outbox_depth(&self) -> Result<OutboxDepth, StoreError>;
}
