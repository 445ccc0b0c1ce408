//! The money store: wallets with their ledger, bets, the outbox, and cancel requests to the
//! supplier.
//!
//! Every operation is one transaction, locks the user's wallet while it decides, and is safe to
//! repeat: a reference identifies the same movement permanently. Callers pass in the current time.

use strum::{EnumIter, EnumString, IntoStaticStr, VariantNames};
use uuid::Uuid;

use super::StoreError;
use super::movements::{Moved, Movement};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetRefusal, BetStatus, BetStep};
use crate::domain::ids::{Reference, UserId};
use crate::domain::odds::price::Price;
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{
    Account, Balance, HoldResolution, ReservationStatus, TransferKind,
};

/// Why a money movement was rejected. A rejected movement changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// The user has no wallet.
    #[error("the user has no wallet; a deposit creates it")]
    WalletNotFound,
    /// The available balance is lower than the amount.
    #[error("the available balance is below the amount")]
    InsufficientFunds,
    /// The balance would exceed 64 bits.
    #[error("the balance would exceed the maximum")]
    BalanceTooHigh,
    /// The user has no reservation with this reference.
    #[error("the user has no reservation with this reference")]
    ReservationNotFound,
    /// The reservation has already ended in another way.
    #[error("the reservation is already {0}")]
    AlreadySettled(ReservationStatus),
    /// The reservation is held for a bet; only the decision of the bet ends it.
    #[error("the reservation is held for a bet and ends when the bet is decided")]
    HeldByBet,
    /// The reference was used for the same kind of movement with another amount.
    #[error("the reference was used with another amount")]
    IdempotencyConflict,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// Its id.
    pub wallet_id: Uuid,
    /// Its balances, read at one point in time.
    pub balance: Balance,
}

/// A requested money movement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRequest {
    /// The owner of the wallet.
    pub user_id: UserId,
    /// How much.
    pub amount: Amount,
    /// The idempotent identifier of the movement.
    pub reference: Reference,
    /// The current time.
    pub at: Timestamp,
}

/// A reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub id: Uuid,
    /// Its identifier, chosen by the caller.
    pub reference: Reference,
    /// The amount that is or was held.
    pub amount: Amount,
    /// Its status.
    pub status: ReservationStatus,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ended.
    pub settled_at: Option<Timestamp>,
}

/// A transfer of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its row number; a user's transfers have increasing numbers in the order of execution.
    pub id: i64,
    /// The kind of movement.
    pub kind: TransferKind,
    /// The account that was debited.
    pub debit: Account,
    /// The account that was credited.
    pub credit: Account,
    /// How much.
    pub amount: Amount,
    /// The reference of the movement.
    pub reference: Reference,
    /// The user's balances after the transfer.
    pub balance: Balance,
    /// When it was executed.
    pub at: Timestamp,
}

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

/// A message to publish with a change, written in the same transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxMessage {
    /// The payload of the record.
    pub payload: String,
    /// Until this time only this process publishes it; afterwards any process may.
    pub leased_until: Timestamp,
}

/// A requested bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BetPlacement {
    /// The bet, pending.
    pub bet: Bet,
    /// The idempotency key of the request.
    pub key: Option<RequestKey>,
    /// The record to publish.
    pub notice: OutboxMessage,
}

/// A decision about a bet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecideBet {
    /// The bet.
    pub bet_id: BetId,
    /// The outcome.
    pub verdict: BetOutcome,
    /// The record to publish.
    pub notice: OutboxMessage,
    /// When.
    pub at: Timestamp,
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

/// The result of deciding a bet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
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

/// A topic that the outbox is published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(EnumIter, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum OutboxTopic {
    /// Bets that were placed.
    BetPlaced,
    /// Bets that were decided.
    BetConfirmed,
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
}

/// How many rows the outbox holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxDepth {
    /// Rows that are not yet known to be published.
    pub rows: u64,
    /// When the oldest of them was written.
    pub oldest: Option<Timestamp>,
}

/// A bet to cancel at the supplier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The bet.
    pub bet_id: BetId,
    /// Number of attempts so far.
    pub attempts: u32,
}

/// The result of one rule of [`MoneyStore::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The rule.
    pub rule: &'static str,
    /// Number of rows that were checked.
    pub checked: u64,
    /// Number of rows that violate the rule.
    pub violations: u64,
    /// The first violations, one line each.
    pub examples: Vec<String>,
}

/// The result of verifying the whole ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The result of each rule.
    pub checks: Vec<Check>,
}

impl Verification {
    /// The number of violations of all rules.
    pub fn violations(&self) -> u64 {
        self.checks.iter().map(|check| check.violations).sum()
    }
}

/// Stores wallets, bets and the outbox.
pub trait MoneyStore: Send + Sync {
    /// A user's wallet, with both balances read at one point in time.
    fn wallet(&self, user_id: &UserId) -> Result<Option<Wallet>, StoreError>;

    /// Deposits money, and creates the wallet if it does not exist. Returns the wallet as it was
    /// after this deposit, also for a repeated request.
    fn deposit(&self, order: &TransferRequest) -> Result<Wallet, WalletError>;

    /// Withdraws money.
    fn withdraw(&self, order: &TransferRequest) -> Result<Wallet, WalletError>;

    /// Reserves money. A repeated request returns the reservation in its current state.
    fn reserve(&self, order: &TransferRequest) -> Result<Reservation, WalletError>;

    /// Ends a pending reservation. One that already ended in the same way is returned as it is.
    fn settle(
        &self,
        user_id: &UserId,
        reference: &Reference,
        settlement: HoldResolution,
        at: Timestamp,
    ) -> Result<Reservation, WalletError>;

    /// Executes a movement.
    fn apply(&self, movement: &Movement) -> Result<Moved, WalletError> {
        match movement {
            Movement::Deposit(order) => self.deposit(order).map(Moved::Wallet),
            Movement::Withdraw(order) => self.withdraw(order).map(Moved::Wallet),
            Movement::Reserve(order) => self.reserve(order).map(Moved::Reservation),
            Movement::Settle {
                user_id,
                reference,
                settlement,
                at,
            } => self
                .settle(user_id, reference, *settlement, *at)
                .map(Moved::Reservation),
        }
    }

    /// Executes a movement and stores its answer (also a rejection) in one transaction. If the key
    /// already has an answer, returns that answer. Keys are scoped to a user and an operation.
    fn apply_once(&self, movement: &Movement, key: &RequestKey) -> Result<Moved, WalletError>;

    /// Expires up to `limit` pending reservations made before a time, each in its own transaction,
    /// and returns how many. Never expires one that is held for a bet.
    fn expire_reservations(
        &self,
        made_before: Timestamp,
        limit: usize,
        at: Timestamp,
    ) -> Result<usize, StoreError>;

    /// A user's transfers, newest first.
    fn transfers(&self, user_id: &UserId, page: Page<i64>) -> Result<Vec<Transfer>, StoreError>;

    /// A user's reservations, newest first, ordered by their time-based ids.
    fn reservations(
        &self,
        user_id: &UserId,
        status: Option<ReservationStatus>,
        page: Page<Uuid>,
    ) -> Result<Vec<Reservation>, StoreError>;

    /// Places a pending bet: writes the bet, its reservation (whose reference is the bet's id), the
    /// answer to its key and its outbox record in one transaction. If the key already has an
    /// answer, returns that answer.
    fn place_bet(
        &self,
        bet: &Bet,
        key: Option<&RequestKey>,
        notice: &OutboxMessage,
    ) -> Result<BetAnswer, StoreError>;

    /// Places several bets as [`MoneyStore::place_bet`] does, for little more than the cost of one.
    /// All are placed in one transaction, so an error leaves none of them placed. Returns the
    /// answers in the same order. This call never waits for a wallet lock: a bet whose wallet is
    /// locked at this moment, or is used by another bet of this call, gets no answer and must be
    /// placed alone.
    fn place_bets(&self, slips: &[BetPlacement]) -> Result<Vec<Option<BetAnswer>>, StoreError>;

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

    /// Decides a bet. One transaction sets the status (only from pending), adds the history step,
    /// commits or refunds the reservation, adds a cancel request if the bet timed out, and writes
    /// the outbox record.
    fn decide_bet(
        &self,
        bet_id: BetId,
        verdict: &BetOutcome,
        notice: &OutboxMessage,
        at: Timestamp,
    ) -> Result<Decided, StoreError>;

    /// Decides several bets as [`MoneyStore::decide_bet`] does, batched as in
    /// [`MoneyStore::place_bets`].
    fn decide_bets(&self, decisions: &[DecideBet]) -> Result<Vec<Option<Decided>>, StoreError>;

    /// A bet.
    fn bet(&self, bet_id: BetId) -> Result<Option<Bet>, StoreError>;

    /// Bets, in the order of the given ids.
    fn bets_by_id(&self, bet_ids: &[BetId]) -> Result<Vec<Option<Bet>>, StoreError>;

    /// The steps of a bet, oldest first.
    fn bet_history(&self, bet_id: BetId) -> Result<Vec<BetStep>, StoreError>;

    /// A user's bets, newest first.
    fn bets(
        &self,
        user_id: &UserId,
        status: Option<BetStatus>,
        page: Page<BetId>,
    ) -> Result<Vec<Bet>, StoreError>;

    /// Pending bets whose deadline had passed at a time, oldest first.
    fn overdue_bets(&self, at: Timestamp, limit: usize) -> Result<Vec<Bet>, StoreError>;

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

    /// Checks the ledger, the reservations and the bets for consistency, in one snapshot of the
    /// live database. A pending bet is a violation if its deadline passed more than `grace` before
    /// `at`.
    fn verify(&self, at: Timestamp, grace: std::time::Duration)
    -> Result<Verification, StoreError>;
}

/// Serialises a rejection for its column.
pub(super) fn refusal_text(refusal: &BetRefusal) -> Result<String, StoreError> {
    serde_json::to_string(refusal)
        .map_err(|error| StoreError::Refused(format!("cannot serialise a rejection: {error}")))
}

/// Parses a rejection from its column.
pub(super) fn read_refusal(text: &str) -> Result<BetRefusal, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Unreadable(format!("rejection {text}: {error}")))
}
