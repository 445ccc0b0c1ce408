//! Settling the bets of markets that have results.

use uuid::Uuid;

use super::ResultStore;
use crate::domain::bets::bet::BetId;
use crate::domain::ids::{EventId, EventMarket, SelectionId, UserId};
use crate::domain::odds::price::Price;
use crate::domain::settlement::payout::SettledAs;
use crate::domain::settlement::plan::{SettleableBet, SettlementReason};
use crate::domain::settlement::postings::BetPosition;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::store::StoreError;

/// A market that is due, leased to one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MarketLease {
    /// The market.
    pub market: EventMarket,
    /// Its generation when it was leased. A new record ends the lease.
    pub generation: u64,
    /// Since when the market is due.
    pub due_since: Timestamp,
    /// Identifies the lease.
    pub id: Uuid,
}

/// The open or the settled bets of a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BetState {
    /// Confirmed and not settled.
    Open,
    /// Settled.
    Settled,
}

/// A position in the due bets of a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueCursor {
    /// The generation that the bet was settled by.
    pub settled_by: u64,
    /// The bet.
    pub bet_id: BetId,
}

impl DueCursor {
    /// Before all bets.
    pub(crate) const START: DueCursor = DueCursor {
        settled_by: 0,
        bet_id: BetId(Uuid::nil()),
    };
}

/// A bet whose market has a later generation than the one it was settled by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DueBet {
    /// Its id.
    pub id: BetId,
    /// Who placed it.
    pub user_id: UserId,
    /// The selection.
    pub selection: SelectionId,
    /// The stake.
    pub stake: Amount,
    /// The price at which it was accepted.
    pub price: Price,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// What it has had.
    pub position: BetPosition,
    /// How it is settled.
    pub outcome: Option<SettledAs>,
    /// How often it was settled.
    pub settlements: u32,
    /// The generation that it was settled by.
    pub settled_by: u64,
}

impl DueBet {
    /// The bet, as a bet on this market.
    pub(crate) fn on<'a>(&'a self, market: &'a EventMarket) -> SettleableBet<'a> {
        SettleableBet {
            market: &market.market.name,
            selection: &self.selection,
            stake: self.stake,
            price: self.price,
            placed_at: self.placed_at,
            position: self.position,
            outcome: self.outcome,
        }
    }

    /// The position behind this bet.
    pub(crate) fn cursor(&self) -> DueCursor {
        DueCursor {
            settled_by: self.settled_by,
            bet_id: self.id,
        }
    }
}

/// Which due bets to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueBets<'a> {
    /// The market.
    pub market: &'a EventMarket,
    /// Bets that were settled by an earlier generation.
    pub generation: u64,
    /// Open or settled ones.
    pub state: BetState,
    /// Those behind this position.
    pub after: Option<DueCursor>,
    /// Maximum number.
    pub limit: usize,
}

impl DueBets<'_> {
    /// Calls `work` with the bets, page by page, until it returns false. Returns whether it never did.
    pub(crate) fn for_each_page<S: SettlementStore + ?Sized, E: From<StoreError>>(
        mut self,
        store: &S,
        mut work: impl FnMut(&[DueBet]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        loop {
            let page = store.due_bets(&self)?;
            if !page.is_empty() && !work(&page)? {
                return Ok(false);
            }
            self.after = page.last().map(DueBet::cursor);
            if page.len() < self.limit {
                return Ok(true);
            }
        }
    }
}

/// A settlement of one bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SettleBet {
    /// The bet.
    pub bet_id: BetId,
    /// How often it was settled when this was decided. If another settlement came first, nothing is
    /// done.
    pub settlements: u32,
    /// How it is settled and what it is owed in all, in cents; `None` opens it again.
    pub becomes: Option<(SettledAs, i64)>,
    /// Why.
    pub reason: SettlementReason,
    /// The record to publish.
    pub payload: String,
}

/// What is common to the settlements of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SettleCall {
    /// The generation that they apply.
    pub generation: u64,
    /// Until this time only this process publishes the records.
    pub leased_until: Timestamp,
    /// When.
    pub at: Timestamp,
}

/// The result of settling a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettledNow {
    /// It is settled now.
    Settled {
        /// The outbox row of its record.
        outbox: i64,
    },
    /// It was settled or examined by somebody else meanwhile, or is not confirmed.
    Changed,
    /// The balance would exceed 64 bits. Nothing was done.
    BalanceTooHigh,
}

/// A due bet to which nothing is paid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExaminedBet {
    /// The bet.
    pub bet_id: BetId,
    /// How often it was settled when it was examined.
    pub settlements: u32,
    /// Why it waits for an operator; `None` if it has had what it is owed.
    pub held: Option<&'static str>,
}

/// How the settlement of a market ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FinishedMarket<'a> {
    /// The rules that were applied.
    pub rules: &'a str,
    /// Why the whole market waits for an operator.
    pub held: Option<&'static str>,
    /// The open bets on selections that no record names, although the market has a result.
    pub missing: u64,
}

/// The open bets on a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenPosition {
    /// The market.
    pub market: EventMarket,
    /// The selection.
    pub selection: SelectionId,
    /// How many bets are open.
    pub bets: u64,
    /// Their stakes, in cents.
    pub stake_cents: i64,
    /// What they pay if the selection wins, in cents, including the stakes.
    pub payout_cents: i64,
}

/// Which open bets are summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionScope<'a> {
    /// All.
    All,
    /// Those of an event.
    Event(&'a EventId),
    /// Those of a market.
    Market(&'a EventMarket),
}

/// What is waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SettlementBacklog {
    /// Markets that are due.
    pub due_markets: u64,
    /// Since when the first of them is due.
    pub due_since: Option<Timestamp>,
    /// Markets that wait for an operator.
    pub held_markets: u64,
    /// Bets that wait for an operator.
    pub held_bets: u64,
    /// Records whose revision was sent with other contents as well.
    pub conflicts: u64,
    /// Open bets on selections that no record names.
    pub missing_bets: u64,
    /// What all users owe, in cents.
    pub owed_cents: u64,
}

/// Settles bets.
pub(crate) trait SettlementStore: ResultStore {
    /// Leases the market that has been waiting longest.
    fn lease_due_market(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
    ) -> Result<Option<MarketLease>, StoreError>;

    /// Extends a lease, or ends it early with a time that is near. False if it has ended: another
    /// worker has the market, or a new record arrived.
    fn extend_lease(&self, lease: &MarketLease, until: Timestamp) -> Result<bool, StoreError>;

    /// Ends a lease: all bets are settled by its generation, or the market is held. False if the lease
    /// had ended, or if a worker whose lease had ended settled bets by an earlier generation: the
    /// market stays due.
    fn finish_market(
        &self,
        lease: &MarketLease,
        finished: &FinishedMarket<'_>,
    ) -> Result<bool, StoreError>;

    /// Whether bets of the market are pending: they may be confirmed by a transaction that does not
    /// see the market's results.
    fn has_pending_bets(&self, market: &EventMarket) -> Result<bool, StoreError>;

    /// Bets that are due, in the order of their positions.
    fn due_bets(&self, query: &DueBets<'_>) -> Result<Vec<DueBet>, StoreError>;

    /// What the bets that were settled by this generation have been paid, in cents; those placed at
    /// `placed_from` or later, if it is set.
    fn paid_by(
        &self,
        market: &EventMarket,
        generation: u64,
        placed_from: Option<Timestamp>,
    ) -> Result<i128, StoreError>;

    /// Settles bets of different users in one transaction. This call never waits for a wallet lock: a
    /// bet whose wallet is locked at this moment gets no answer and must be settled alone.
    fn settle_bets(
        &self,
        bets: &[SettleBet],
        call: &SettleCall,
    ) -> Result<Vec<Option<SettledNow>>, StoreError>;

    /// Settles one bet, and waits for its wallet.
    fn settle_bet(&self, bet: &SettleBet, call: &SettleCall) -> Result<SettledNow, StoreError>;

    /// Marks bets as examined by this generation, except those that another worker settled or
    /// examined meanwhile.
    fn mark_examined(&self, bets: &[ExaminedBet], generation: u64) -> Result<(), StoreError>;

    /// Makes the markets of bets due that were confirmed after a result arrived; at most `limit` bets.
    /// Returns their number.
    fn reopen_markets(&self, at: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Makes the settled markets due that have open bets and were settled by other rules. Returns
    /// their number.
    fn apply_rules(&self, rules: &str, at: Timestamp) -> Result<usize, StoreError>;

    /// The open bets, by market and selection.
    fn open_positions(&self, scope: PositionScope<'_>) -> Result<Vec<OpenPosition>, StoreError>;

    /// What is waiting.
    fn settlement_backlog(&self) -> Result<SettlementBacklog, StoreError>;
}
