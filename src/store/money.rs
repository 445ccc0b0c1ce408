//! The store of money: wallets with their ledger, bets, and what is on its way to the bus and to
//! the supplier.
//!
//! Every operation is one transaction, holds the user's wallet locked while it decides, and is safe
//! to repeat: the same reference is the same movement, for ever. Time is given in.

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

/// Why a movement of money was not made. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// The user has no wallet.
    #[error("the user has no wallet; a deposit makes one")]
    WalletNotFound,
    /// The available balance is lower than the amount.
    #[error("the available balance is below the amount")]
    InsufficientFunds,
    /// The balance would be more than 64 bits hold.
    #[error("the balance would be more than can be held")]
    BalanceTooHigh,
    /// The user has no reservation with this reference.
    #[error("the user has no reservation with this reference")]
    ReservationNotFound,
    /// The reservation has ended in another way.
    #[error("the reservation is {0} already")]
    AlreadySettled(ReservationStatus),
    /// The reservation is held for a bet, whose own decision ends it.
    #[error("the reservation is held for a bet, and ends with it")]
    HeldByBet,
    /// The reference stands for the same kind of movement with another amount.
    #[error("the reference was used with another amount")]
    IdempotencyConflict,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The database's reason.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// Its id.
    pub wallet_id: Uuid,
    /// Its balances, as one moment had them.
    pub balance: Balance,
}

/// A movement of money that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRequest {
    /// Whose money.
    pub user_id: UserId,
    /// How much.
    pub amount: Amount,
    /// What the movement is known by.
    pub reference: Reference,
    /// Now.
    pub at: Timestamp,
}

/// A reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub id: Uuid,
    /// What it is known by.
    pub reference: Reference,
    /// How much is or was held.
    pub amount: Amount,
    /// What has become of it.
    pub status: ReservationStatus,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ended.
    pub settled_at: Option<Timestamp>,
}

/// A transfer of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its number; those of a user grow in the order in which they happened.
    pub id: i64,
    /// What it was for.
    pub kind: TransferKind,
    /// The account that was debited.
    pub debit: Account,
    /// The account that was credited.
    pub credit: Account,
    /// How much.
    pub amount: Amount,
    /// What it is known by.
    pub reference: Reference,
    /// The user's balances behind it.
    pub balance: Balance,
    /// When.
    pub at: Timestamp,
}

/// A page of a list, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Behind this one: the last of the page before.
    pub before: Option<T>,
    /// At most so many.
    pub limit: usize,
}

/// What a request is known by to the user who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key.
    pub key: String,
    /// What is asked for, in one fixed form: the same key with another is refused.
    pub fingerprint: String,
}

/// What is to be published with a change, in the same transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxMessage {
    /// The record's content.
    pub payload: String,
    /// Until then this process publishes it; after that any process may.
    pub leased_until: Timestamp,
}

/// A bet that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BetPlacement {
    /// The bet, pending.
    pub bet: Bet,
    /// What the request is known by.
    pub key: Option<RequestKey>,
    /// Its record for the bus.
    pub notice: OutboxMessage,
}

/// How a bet is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecideBet {
    /// The bet.
    pub bet_id: BetId,
    /// What becomes of it.
    pub verdict: BetOutcome,
    /// Its record for the bus.
    pub notice: OutboxMessage,
    /// When.
    pub at: Timestamp,
}

/// What was answered to a request for a bet: now, or when its key was seen first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BetAnswer {
    /// The bet stands.
    Placed {
        /// Its id.
        bet_id: BetId,
        /// The price that it was taken at.
        price: Price,
        /// The available balance behind it, in cents.
        new_balance: i64,
        /// The number of its record in the outbox; none where this is an answer from before.
        outbox: Option<i64>,
    },
    /// The bet was not taken.
    Refused(BetRefusal),
    /// The key stands for another request.
    KeyReused,
}

/// What has come of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It is as was decided; the number of its record in the outbox.
    Now {
        /// The number.
        outbox: i64,
    },
    /// It had been decided before, and stays so.
    Before(BetStatus),
    /// There is no such bet.
    Unknown,
}

/// A topic that the outbox is published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboxTopic {
    /// Bets that were placed.
    BetPlaced,
    /// Bets that were decided.
    BetConfirmed,
}

impl OutboxTopic {
    /// Both.
    pub const ALL: [OutboxTopic; 2] = [OutboxTopic::BetPlaced, OutboxTopic::BetConfirmed];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            OutboxTopic::BetPlaced => "bet_placed",
            OutboxTopic::BetConfirmed => "bet_confirmed",
        }
    }
}

/// A row of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number.
    pub id: i64,
    /// Where it is to be published.
    pub topic: OutboxTopic,
    /// The record's key: the bet's id.
    pub key: String,
    /// The record's content.
    pub payload: String,
}

/// How the outbox stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxDepth {
    /// Rows that are not known to be published.
    pub rows: u64,
    /// When the oldest was written.
    pub oldest: Option<Timestamp>,
}

/// A bet that the supplier is to be told to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The bet.
    pub bet_id: BetId,
    /// How often it was tried.
    pub attempts: u32,
}

/// One of the things that [`MoneyStore::verify`] looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What must hold.
    pub rule: &'static str,
    /// How many rows it was held against.
    pub checked: u64,
    /// How many it does not hold for.
    pub violations: u64,
    /// The first of those, a line each.
    pub examples: Vec<String>,
}

/// What a look at the whole ledger found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Everything that was checked.
    pub checks: Vec<Check>,
}

impl Verification {
    /// Violations of all rules.
    pub fn violations(&self) -> u64 {
        self.checks.iter().map(|check| check.violations).sum()
    }
}

/// A store of money.
pub trait MoneyStore: Send + Sync {
    /// A user's wallet; both balances of one moment.
    fn wallet(&self, user_id: &UserId) -> Result<Option<Wallet>, StoreError>;

    /// Puts money in, and makes the wallet where there is none. Gives the wallet as it was behind
    /// this deposit, also when it is asked for again.
    fn deposit(&self, order: &TransferRequest) -> Result<Wallet, WalletError>;

    /// Takes money out.
    fn withdraw(&self, order: &TransferRequest) -> Result<Wallet, WalletError>;

    /// Holds money. The same order again gives the reservation as it stands now.
    fn reserve(&self, order: &TransferRequest) -> Result<Reservation, WalletError>;

    /// Ends a pending reservation; one that ended in the same way is given as it is.
    fn settle(
        &self,
        user_id: &UserId,
        reference: &Reference,
        settlement: HoldResolution,
        at: Timestamp,
    ) -> Result<Reservation, WalletError>;

    /// Makes a movement.
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

    /// Makes a movement and keeps its answer, a refusal too, in one transaction, unless the key has
    /// an answer: then gives that. Keys are the user's, and each operation has its own.
    fn apply_once(&self, movement: &Movement, key: &RequestKey) -> Result<Moved, WalletError>;

    /// Ends pending reservations that were made before a moment, at most `limit`, each in a
    /// transaction of its own; never one that is held for a bet. Gives how many.
    fn expire_reservations(
        &self,
        made_before: Timestamp,
        limit: usize,
        at: Timestamp,
    ) -> Result<usize, StoreError>;

    /// A user's transfers, newest first.
    fn transfers(&self, user_id: &UserId, page: Page<i64>) -> Result<Vec<Transfer>, StoreError>;

    /// A user's reservations, newest first; their ids are ordered by time.
    fn reservations(
        &self,
        user_id: &UserId,
        status: Option<ReservationStatus>,
        page: Page<Uuid>,
    ) -> Result<Vec<Reservation>, StoreError>;

    /// Places a bet that is pending: the bet, its reservation (whose reference is the bet's id),
    /// the answer to its key and its record for the bus in one transaction. Where the key was
    /// answered before, gives that answer.
    fn place_bet(
        &self,
        bet: &Bet,
        key: Option<&RequestKey>,
        notice: &OutboxMessage,
    ) -> Result<BetAnswer, StoreError>;

    /// Places bets as [`MoneyStore::place_bet`] does, for little more than one of them costs: all
    /// in one transaction, so that an error leaves none of them placed. Gives the answers in the
    /// same order. Nobody waits for another's wallet here: a bet whose wallet is in use at this
    /// moment, or for which another of these bets uses it, has no answer, and is to be placed by
    /// itself.
    fn place_bets(&self, slips: &[BetPlacement]) -> Result<Vec<Option<BetAnswer>>, StoreError>;

    /// Keeps a refusal as the answer to a key, unless there is one already; gives the first one.
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

    /// Decides a bet: its status (only from pending), its history, commit or refund of its
    /// reservation, the order to cancel where it timed out, and its record for the bus in one
    /// transaction.
    fn decide_bet(
        &self,
        bet_id: BetId,
        verdict: &BetOutcome,
        notice: &OutboxMessage,
        at: Timestamp,
    ) -> Result<Decided, StoreError>;

    /// Decides bets as [`MoneyStore::decide_bet`] does, together as in [`MoneyStore::place_bets`].
    fn decide_bets(&self, decisions: &[DecideBet]) -> Result<Vec<Option<Decided>>, StoreError>;

    /// A bet.
    fn bet(&self, bet_id: BetId) -> Result<Option<Bet>, StoreError>;

    /// Bets, in the order of their ids here.
    fn bets_by_id(&self, bet_ids: &[BetId]) -> Result<Vec<Option<Bet>>, StoreError>;

    /// The steps of a bet, in their order.
    fn bet_history(&self, bet_id: BetId) -> Result<Vec<BetStep>, StoreError>;

    /// A user's bets, newest first.
    fn bets(
        &self,
        user_id: &UserId,
        status: Option<BetStatus>,
        page: Page<BetId>,
    ) -> Result<Vec<Bet>, StoreError>;

    /// Pending bets whose time was over at a moment, the oldest first.
    fn overdue_bets(&self, at: Timestamp, limit: usize) -> Result<Vec<Bet>, StoreError>;

    /// Rows of the outbox that nobody publishes, the oldest first. They are the caller's until
    /// `leased_until`.
    fn take_outbox(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, StoreError>;

    /// These rows of the outbox are on the bus.
    fn published(&self, rows: &[i64]) -> Result<(), StoreError>;

    /// How much waits in the outbox.
    fn outbox_depth(&self) -> Result<OutboxDepth, StoreError>;

    /// Bets that the supplier is to be told to cancel now. Until `next_attempt_at` nobody else is
    /// given them; each is counted as tried once more.
    fn take_cancels(
        &self,
        at: Timestamp,
        next_attempt_at: Timestamp,
        limit: usize,
    ) -> Result<Vec<Cancel>, StoreError>;

    /// The supplier has cancelled a bet.
    fn cancelled(&self, bet_id: BetId, at: Timestamp) -> Result<(), StoreError>;

    /// How many bets the supplier has still to be told to cancel.
    fn open_cancels(&self) -> Result<u64, StoreError>;

    /// Holds the ledger, the reservations and the bets against each other, in one snapshot of the
    /// database, while it is in use. A bet is too late where its time was over `grace` before `at`.
    fn verify(&self, at: Timestamp, grace: std::time::Duration)
    -> Result<Verification, StoreError>;
}

/// A refusal as its column holds it.
pub(super) fn refusal_text(refusal: &BetRefusal) -> Result<String, StoreError> {
    serde_json::to_string(refusal)
        .map_err(|error| StoreError::Refused(format!("cannot write a refusal: {error}")))
}

/// A refusal out of its column.
pub(super) fn read_refusal(text: &str) -> Result<BetRefusal, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Unreadable(format!("refusal {text}: {error}")))
}
