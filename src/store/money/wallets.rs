//! Wallets with their reservations and transfers.

use uuid::Uuid;

use super::{Page, RequestKey};
use crate::domain::ids::{Reference, UserId};
use crate::domain::timestamp::Timestamp;
use crate::domain::wallet::amount::Amount;
use crate::domain::wallet::ledger::{
    Account, Balance, HoldResolution, ReservationStatus, TransferKind,
};
use crate::store::StoreError;
use crate::store::movements::{Moved, Movement};

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

/// Stores wallets.
pub trait WalletStore: Send + Sync {
    /// A user's wallet, with both balances read at one point in time.
    fn wallet(&self, user_id: &UserId) -> Result<Option<Wallet>, StoreError> {
        let wallet = self.wallet_and_debt(user_id)?;
        Ok(wallet.map(|(wallet, _)| wallet))
    }

    /// A user's wallet and what the user owes, in cents, read at one point in time.
    fn wallet_and_debt(&self, user_id: &UserId) -> Result<Option<(Wallet, i64)>, StoreError>;

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

    /// A user's transfers, newest first.
    fn transfers(&self, user_id: &UserId, page: Page<i64>) -> Result<Vec<Transfer>, StoreError>;

    /// A user's reservations, newest first, ordered by their time-based ids.
    fn reservations(
        &self,
        user_id: &UserId,
        status: Option<ReservationStatus>,
        page: Page<Uuid>,
    ) -> Result<Vec<Reservation>, StoreError>;
}
