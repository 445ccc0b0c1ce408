//! Decisions about bets.

use super::{BetReader, OutboxMessage};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetStatus};
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;

/// A decision about a bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecideBet {
    /// The bet.
    pub bet_id: BetId,
    /// The outcome.
    pub outcome: BetOutcome,
    /// The record to publish.
    pub notice: OutboxMessage,
    /// When.
    pub at: Timestamp,
}

/// The result of deciding a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// The bet is decided now.
    Now {
        /// The outbox row of its record.
        outbox: i64,
    },
    /// The bet was already decided, and keeps that status.
    Before(BetStatus),
    /// The bet does not exist.
    Unknown,
}

/// Decides bets.
pub(crate) trait DecisionStore: BetReader {
    /// Decides a bet. One transaction sets the status (only from pending), adds the history step,
    /// commits or refunds the reservation, adds a cancel request if the bet timed out, and writes
    /// the outbox record.
    fn decide_bet(
        &self,
        bet_id: BetId,
        outcome: &BetOutcome,
        notice: &OutboxMessage,
        at: Timestamp,
    ) -> Result<Decided, StoreError>;

    /// Decides several bets as [`DecisionStore::decide_bet`] does, batched as in
    /// [`BetStore::place_bets`](super::BetStore::place_bets).
    fn decide_bets(&self, decisions: &[DecideBet]) -> Result<Vec<Option<Decided>>, StoreError>;

    /// Pending bets whose deadline had passed at a time, oldest first.
    fn overdue_bets(&self, at: Timestamp, limit: usize) -> Result<Vec<Bet>, StoreError>;
}
