//! Reads wallets, and moves money.

use prometheus::IntCounterVec;

use super::executor::{TurnError, WalletExecutor};
use crate::domain::ids::{Reference, UserId};
use crate::domain::wallet::ledger::ReservationStatus;
use crate::store::StoreError;
use crate::store::money::{
    Page, RequestKey, Reservation, Transfer, Wallet, WalletError, WalletStore,
};
use crate::store::movements::{Moved, Movement};

/// A command to move money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveMoney {
    /// The movement.
    pub movement: Movement,
    /// The reference, if the caller sent one. A generated one differs in each request.
    pub named: Option<Reference>,
    /// The idempotency key, if the caller sent one. A repeated command gets the first answer.
    pub key: Option<String>,
}

impl MoveMoney {
    /// The key with the request in canonical form, independent of how the caller wrote it.
    fn request_key(&self) -> Option<RequestKey> {
        let canonical = serde_json::json!([self.movement.amount(), self.named]);
        self.key.clone().map(|key| RequestKey {
            key,
            fingerprint: canonical.to_string(),
        })
    }
}

/// Why money was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MovementError {
    /// Another request of the user, perhaps one with the same key, has not been answered yet.
    #[error("a request with this idempotency key is still in flight; retry")]
    RequestInFlight,
    /// The movement was refused, or its turn did not come.
    #[error(transparent)]
    Turn(#[from] TurnError<WalletError>),
}

/// Reads wallets, and moves money.
pub struct WalletOperations {
    executor: WalletExecutor<dyn WalletStore>,
    /// The currency of the amounts.
    pub currency: String,
    outcomes: IntCounterVec,
}

impl WalletOperations {
    /// Works through `executor`. Counts movements by operation and outcome in `outcomes`.
    pub fn new(
        executor: WalletExecutor<dyn WalletStore>,
        currency: String,
        outcomes: IntCounterVec,
    ) -> WalletOperations {
        WalletOperations {
            executor,
            currency,
            outcomes,
        }
    }

    /// A user's wallet and what the user owes in cents, at one point in time.
    pub async fn wallet(&self, user_id: UserId) -> Result<Option<(Wallet, i64)>, StoreError> {
        self.executor
            .read(move |store| store.wallet_and_debt(&user_id))
            .await
    }

    /// A user's transfers, newest first.
    pub async fn transfers(
        &self,
        user_id: UserId,
        page: Page<i64>,
    ) -> Result<Vec<Transfer>, StoreError> {
        self.executor
            .read(move |store| store.transfers(&user_id, page))
            .await
    }

    /// A user's reservations, newest first.
    pub async fn reservations(
        &self,
        user_id: UserId,
        status: Option<ReservationStatus>,
        page: Page<uuid::Uuid>,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.executor
            .read(move |store| store.reservations(&user_id, status, page))
            .await
    }

    /// Moves money.
    pub async fn apply(&self, command: MoveMoney) -> Result<Moved, MovementError> {
        let key = command.request_key();
        let movement = command.movement;
        let (operation, user_id) = (movement.operation(), movement.user_id().clone());
        let has_key = key.is_some();
        let applied = self.executor.for_user(&user_id, move |store| match &key {
            Some(key) => store.apply_once(&movement, key),
            None => store.apply(&movement),
        });
        let moved = applied.await.map_err(|error| match error {
            // Another request of this user locks the wallet; it may be a duplicate of this one.
            TurnError::WalletLocked if has_key => MovementError::RequestInFlight,
            other => other.into(),
        });
        self.count(operation, &moved);
        moved
    }

    fn count(&self, operation: &str, moved: &Result<Moved, MovementError>) {
        let outcome = match moved {
            Ok(_) => "done",
            Err(MovementError::Turn(TurnError::Failed(WalletError::Store(_)))) => "failed",
            Err(MovementError::Turn(TurnError::Failed(_))) => "refused",
            Err(_) => "failed",
        };
        self.outcomes.with_label_values(&[operation, outcome]).inc();
    }
}
