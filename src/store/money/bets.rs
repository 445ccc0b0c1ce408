//! Bets: placing and reading them.

use super::{OutboxMessage, Page, RequestKey};
use crate::domain::bets::bet::{Bet, BetId, BetRefusal, BetStatus, BetStep};
use crate::domain::ids::{Source, UserId};
use crate::domain::odds::price::Price;
use crate::domain::settlement::payout::SettledAs;
use crate::domain::timestamp::Timestamp;
use crate::store::StoreError;

/// A requested bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BetPlacement {
    /// The bet, pending.
    pub bet: Bet,
    /// The source of its price.
    pub source: Source,
    /// The idempotency key of the request.
    pub key: Option<RequestKey>,
    /// The record to publish.
    pub notice: OutboxMessage,
}

/// The answer to a bet request: of this request, or of the first request with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BetAnswer {
    /// The bet was placed.
    Placed {
        /// Its id.
        bet_id: BetId,
        /// The price at which it was placed.
        price: Price,
        /// The available balance afterwards, in cents.
        new_balance: i64,
        /// The outbox row of its record; `None` if this is the stored answer of an earlier request.
        outbox: Option<i64>,
    },
    /// The bet was rejected.
    Refused(BetRefusal),
    /// The key was used for another request.
    KeyReused,
}

/// Which bets of a user are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BetFilter {
    /// Only bets with this status.
    pub status: Option<BetStatus>,
    /// Only bets settled in this way.
    pub outcome: Option<SettledAs>,
}

/// Reads bets by their ids.
pub trait BetReader: Send + Sync {
    /// A bet.
    fn bet(&self, bet_id: BetId) -> Result<Option<Bet>, StoreError>;

    /// Bets, in the order of the given ids.
    fn bets_by_id(&self, bet_ids: &[BetId]) -> Result<Vec<Option<Bet>>, StoreError>;
}

/// Places and lists bets.
pub trait BetStore: BetReader {
    /// Places a pending bet: writes the bet, its reservation (whose reference is the bet's id), the
    /// answer to its key and its outbox record in one transaction. If the key already has an
    /// answer, returns that answer. A bet that a hold covers is refused: no bet is placed after the
    /// hold was committed and before it ends.
    fn place_bet(&self, placement: &BetPlacement) -> Result<BetAnswer, StoreError>;

    /// Places several bets as [`BetStore::place_bet`] does, for little more than the cost of one.
    /// All are placed in one transaction, so an error leaves none of them placed. Returns the
    /// answers in the same order. This call never waits for a wallet lock: a bet whose wallet is
    /// locked at this moment, or is used by another bet of this call, gets no answer and must be
    /// placed alone.
    fn place_bets(&self, placements: &[BetPlacement])
    -> Result<Vec<Option<BetAnswer>>, StoreError>;

    /// Stores a rejection as the answer to a key, unless the key has an answer; returns the first
    /// answer.
    fn refuse_bet(
        &self,
        user_id: &UserId,
        key: &RequestKey,
        refusal: &BetRefusal,
        at: Timestamp,
    ) -> Result<BetAnswer, StoreError>;

    /// The first answer to a key.
    fn first_answer(
        &self,
        user_id: &UserId,
        key: &RequestKey,
    ) -> Result<Option<BetAnswer>, StoreError>;

    /// The steps of a bet, oldest first.
    fn bet_history(&self, bet_id: BetId) -> Result<Vec<BetStep>, StoreError>;

    /// A user's bets, newest first.
    fn bets(
        &self,
        user_id: &UserId,
        filter: BetFilter,
        page: Page<BetId>,
    ) -> Result<Vec<Bet>, StoreError>;
}

/// Serialises a rejection for its column.
pub(in crate::store) fn refusal_text(refusal: &BetRefusal) -> Result<String, StoreError> {
    serde_json::to_string(refusal)
        .map_err(|error| StoreError::Refused(format!("cannot serialise a rejection: {error}")))
}

/// Parses a rejection from its column.
pub(in crate::store) fn read_refusal(text: &str) -> Result<BetRefusal, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Unreadable(format!("rejection {text}: {error}")))
}
