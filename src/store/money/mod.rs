//! The money store: wallets with their ledger, bets, the outbox, and cancel requests to the
//! supplier. One trait per kind of caller, each with the types that it exchanges.
//!
//! Every operation is one transaction, locks the user's wallet while it decides, and is safe to
//! repeat: a reference identifies the same movement permanently. Callers pass in the current time.

mod audit;
mod bets;
mod cancels;
mod decisions;
mod outbox;
mod reports;
mod results;
mod settlements;
mod wallets;

pub(crate) use self::audit::{Check, LedgerAudit, Verification};
pub(crate) use self::bets::{BetAnswer, BetFilter, BetPlacement, BetReader, BetStore};
pub(super) use self::bets::{read_refusal, refusal_text};
pub(crate) use self::cancels::{Cancel, CancelQueue};
pub(crate) use self::decisions::{DecideBet, Decided, DecisionStore};
pub(crate) use self::outbox::{OutboxDepth, OutboxMessage, OutboxRow, OutboxStore, OutboxTopic};
pub(crate) use self::reports::{OutcomeTotal, ReportStore, SettledTotals, TransferTotal};
pub(super) use self::results::in_market_order;
pub(crate) use self::results::{ResultStore, StoredRecord, StoredResults};
pub(crate) use self::settlements::{
    BetState, DueBet, DueBets, DueCursor, ExaminedBet, FinishedMarket, MarketLease, OpenPosition,
    PositionScope, SettleBet, SettleCall, SettledNow, SettlementBacklog, SettlementStore,
};
pub(crate) use self::wallets::{
    Reservation, Transfer, TransferRequest, Wallet, WalletError, WalletStore,
};

use super::holds::HoldStore;

/// A page of a list, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Returns entries before this one: the last of the previous page.
    pub before: Option<T>,
    /// Maximum number of entries.
    pub limit: usize,
}

/// The idempotency key of a request. Keys are per user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key.
    pub key: String,
    /// The canonical form of the request. The same key with another fingerprint is rejected.
    pub fingerprint: String,
}

/// Stores all that concerns money.
pub(crate) trait MoneyStore:
    WalletStore
    + BetStore
    + HoldStore
    + DecisionStore
    + SettlementStore
    + OutboxStore
    + CancelQueue
    + LedgerAudit
{
}

impl<T> MoneyStore for T where
    T: WalletStore
        + BetStore
        + HoldStore
        + DecisionStore
        + SettlementStore
        + OutboxStore
        + CancelQueue
        + LedgerAudit
{
}
