//! Cancel requests to the supplier.

use crate::domain::bets::bet::BetId;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;

/// A bet to cancel at the supplier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cancel {
    /// The bet.
    pub bet_id: BetId,
    /// Number of attempts so far.
    pub attempts: u32,
}

/// Queues the bets to cancel at the supplier.
pub(crate) trait CancelQueue: Send + Sync {
    /// Takes the bets to cancel at the supplier now. Counts one more attempt for each, and leases
    /// them to the caller until `next_attempt_at`.
    fn take_cancels(
        &self,
        at: Timestamp,
        next_attempt_at: Timestamp,
        limit: usize,
    ) -> Result<Vec<Cancel>, StoreError>;

    /// Records that the supplier has cancelled a bet.
    fn cancelled(&self, bet_id: BetId, at: Timestamp) -> Result<(), StoreError>;

    /// Number of bets that are still to be cancelled at the supplier.
    fn open_cancels(&self) -> Result<u64, StoreError>;
}
